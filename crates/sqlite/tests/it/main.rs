//! The adapter on files in temporary folders.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of tests are tests, which the lints do not see"
)]

mod support;

mod contract {
    leadr_auth_ports::store_contract!(super::support::fresh);
}
