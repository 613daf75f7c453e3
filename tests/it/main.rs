//! The whole system over a real socket, on every store.
//!
//! What is promised of one layer is tested there; here is what only the whole can show: that the pieces fit, that every
//! store behaves the same, what happens while a database is away, and what a client can do to a socket.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these are tests, helpers included: what does not hold ends them"
)]

mod backup;
mod file;
mod gateways;
mod lifecycle;
mod nodes;
mod outage;
mod reference;
mod sockets;
mod support;
