//! What requests may take of the memory, and of the threads that do everything else.

use std::sync::Arc;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Set aside in pieces of so many bytes.
const PIECE: usize = 1 << 10;

/// A body that is larger is read where no other task waits for the thread.
const LARGE_BYTES: usize = 256 << 10;

/// Memory that the requests in flight may take together.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pieces: Arc<Semaphore>,
    most_bytes: usize,
}

/// It is given back when this is dropped.
pub(crate) type SetAside = OwnedSemaphorePermit;

/// Why none is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoMemory {
    /// There will be some.
    #[error("the requests in flight have as many bytes as they may ({0})")]
    Now(usize),
    /// It is more than all of it.
    #[error("the request would take more than {0} bytes of memory: send fewer series in a request")]
    Ever(usize),
}

impl Memory {
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self {
            pieces: Arc::new(Semaphore::new(most_bytes / PIECE)),
            most_bytes,
        }
    }

    pub(crate) fn set_aside(&self, bytes: usize) -> Result<SetAside, NoMemory> {
        self.set_aside_besides(0, bytes)
    }

    /// For a request that has so much already.
    pub(crate) fn set_aside_besides(&self, held: usize, bytes: usize) -> Result<SetAside, NoMemory> {
        if held.saturating_add(bytes) > self.most_bytes {
            return Err(NoMemory::Ever(self.most_bytes));
        }
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX);
        let set_aside = Arc::clone(&self.pieces).try_acquire_many_owned(pieces);
        set_aside.map_err(|_| NoMemory::Now(self.most_bytes))
    }
}

/// Gives back what is set aside beyond so many bytes.
pub(crate) fn keep(set_aside: &mut SetAside, bytes: usize) {
    let surplus = set_aside.num_permits().saturating_sub(bytes.div_ceil(PIECE));
    drop(set_aside.split(surplus));
}

/// Reads a body of so many bytes. Where these are many, the tasks that wait for this thread go on with another one: requests
/// that take long must not hold up health checks, leases and heartbeats.
pub(crate) fn reading<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    let has_others = || Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > LARGE_BYTES && has_others() {
        tokio::task::block_in_place(read)
    } else {
        read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_set_aside_than_there_is() {
        let memory = Memory::new(10 << 10);
        let first = memory.set_aside(6 << 10).unwrap();
        assert_eq!(memory.set_aside(5 << 10).unwrap_err(), NoMemory::Now(10 << 10));
        assert_eq!(memory.set_aside((10 << 10) + 1).unwrap_err(), NoMemory::Ever(10 << 10));
        let second = memory.set_aside(4 << 10).unwrap();
        drop((first, second));
        let mut much = memory.set_aside(8 << 10).unwrap();
        keep(&mut much, 1 << 10);
        assert!(memory.set_aside(9 << 10).is_ok());
        keep(&mut much, 4 << 10);
        assert_eq!(much.num_permits(), 1, "no more than there was");
        drop(much);
        let never = memory.set_aside_besides(8 << 10, 3 << 10).unwrap_err();
        assert_eq!(never, NoMemory::Ever(10 << 10), "both are the same request's");
        assert!(memory.set_aside(10 << 10).is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_takes_long_holds_up_nobody() {
        let (tell, told) = std::sync::mpsc::channel();
        let other = tokio::spawn(async move { tell.send(()).unwrap() });
        // The only worker is here.
        let read = tokio::spawn(async move { reading(LARGE_BYTES + 1, || told.recv().unwrap()) });
        read.await.unwrap();
        other.await.unwrap();
    }
}
