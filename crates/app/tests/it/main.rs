//! The binary itself, as a user starts it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests, helpers included: what does not hold ends them"
)]

mod binary;
#[cfg(feature = "otlp")]
mod otlp;
mod secrets;
mod support;
