//! The suite that judges every store.
//!
//! An adapter runs it by one line in its tests: [`store_contract!`](crate::store_contract) with the path of an
//! `async fn() -> (guard, Stores)` that gives a fresh, empty store; the guard is dropped when the case is over. Each case
//! becomes a test of its own. The macro `cases!` that declares a case also lists it, so that none can exist without being
//! run.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "this module is test code, though other crates' tests call it: a failed expectation is a failed test"
)]

pub mod fixtures;

mod cases;

pub use cases::*;
