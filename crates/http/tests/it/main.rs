//! Every route and every status code of the contract, on the memory store, without a socket but for what only one shows.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these are tests, helpers included: what does not hold ends them"
)]

mod accounts;
mod api_keys;
mod audit;
mod bodies;
mod coverage;
mod credentials;
mod draining;
mod embedding;
mod forward_auth;
mod framing;
mod hostile;
mod idempotency;
mod limits;
mod listing;
mod matrix;
mod metrics;
mod preconditions;
mod propagation;
mod service;
mod support;
mod throttle;
mod traces;
mod verify;
