//! The adapter on files in temporary folders.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which the lints do not see"
)]

mod audit;
mod backups;
mod change_feed;
mod files;
mod foreign_rows;
mod migrations;
mod races;
mod reading;
mod secrets;
mod support;

mod contract {
    leadr_auth_ports::store_contract!(super::support::fresh);
}
