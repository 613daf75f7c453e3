//! Whether the process is able to serve.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A switch that start-up turns on, once the store has its schema and its operator, and shutdown turns off. Its clones
/// are the same switch.
///
/// Requests are not turned away by it: while the store is away they fail by themselves, and tell a load balancer less
/// politely.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says that the process is able to serve, or is not.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Has start-up finished, and shutdown not begun?
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
