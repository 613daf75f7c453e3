//! The binary itself, as a user starts it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::string_slice,
    reason = "these are tests, helpers included: what does not hold ends them"
)]

mod audit;
mod binary;
mod canaries;
mod doctor;
mod first_start;
mod framing;
mod operations;
#[cfg(feature = "otlp")]
mod otlp;
mod peppers;
mod refusals;
mod rotation;
mod secrets;
mod service_manager;
mod slow_clients;
mod support;
mod tls;
mod tools;
mod transfer;
mod trouble;
