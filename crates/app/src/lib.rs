//! Puts the pieces together: configuration, wiring, command line, telemetry, start and end.
//!
//! [`Application::build`] is what `main` and the tests both use. This crate knows every other, and none knows it; it
//! decides nothing about keys.
//!
//! To add a setting: a row in [`config::SETTINGS`], a field in [`Config`], its parsing in `Config::read`, and a line in
//! `docs/configuration.md`, which a test compares with the table.

pub mod application;
pub mod archive;
pub mod cli;
pub mod config;
mod connection;
mod descriptors;
pub mod keyring_file;
mod new_file;
#[cfg_attr(not(feature = "otlp"), path = "no_otlp.rs")]
pub mod otlp;
pub mod secret_file;
mod server;
pub mod storage;
pub mod system;
pub mod telemetry;
pub mod tls;

pub use application::{Application, Event};
pub use config::Config;
