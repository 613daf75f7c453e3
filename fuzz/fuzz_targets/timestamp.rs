//! The target `timestamp` of tests/hostile.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = leadr_auth_hostile::timestamp(data);
});
