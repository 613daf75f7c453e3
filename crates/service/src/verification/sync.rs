//! The locks and atomics of the cache's fence and lease: the standard library's, or those of loom, which tries every order in
//! which threads can meet (`--cfg leadr_loom`).

#[cfg(leadr_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
#[cfg(not(leadr_loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// Locks. What these locks guard is whole at any time, so a thread that panicked with one does no harm.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
