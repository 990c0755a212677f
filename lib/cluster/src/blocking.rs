//! Work that blocks: on threads for it, or at once where it is asked for, on a thread that simulates a cluster.

use std::cell::Cell;
use std::io;

thread_local! {
    static AT_ONCE: Cell<bool> = const { Cell::new(false) };
}

/// From here on, on this thread, what blocks is done at once, and a store that is made here writes in a task rather than
/// on a thread of its own: all that a cluster does happens on one thread then, in an order that can be had again.
pub fn do_at_once_here() {
    AT_ONCE.set(true);
}

pub(crate) fn is_at_once() -> bool {
    AT_ONCE.get()
}

/// Runs the work where blocking is allowed; it is done even if nobody waits for it any more.
///
/// # Errors
/// When it panics, or the process is ending.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if is_at_once() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
