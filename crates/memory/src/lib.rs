//! The adapter that keeps everything in this process.
//!
//! It is a store like any other, judged by the same suite: names, slugs and prefixes are unique, every method is atomic,
//! lists have the documented order. What it does not do is outlive the process. It serves the first five minutes
//! (`DATABASE_URL=memory:`), and the tests of everything above the stores.
//!
//! [`system`] holds a clock and an entropy that tests can steer.
//!
//! This crate must never know of HTTP, of SQL, or of what the use cases do with it. To add a method to a port, write its
//! cases in the contract suite first, then take the lock once, decide on a copy, and replace.

mod store;
pub mod system;

pub use store::Memory;
