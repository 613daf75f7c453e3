//! The binary on stores that last: from one to the other and back, and on a disk that has no room.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "these are tests, helpers included: what does not hold ends them"
)]

#[cfg(target_os = "linux")]
mod full_disk;
mod round_trip;
mod support;
