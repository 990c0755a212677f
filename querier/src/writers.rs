//! Places of those who write large answers: each keeps a thread, and slow readers must not take all there are.
//!
//! Invariant: while somebody waits for a place, nobody keeps one whose reader takes nothing for much longer than
//! [`MAY_STAND_STILL`].

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::timeout;

/// A reader that takes nothing for longer gives way to those that wait for a place.
pub(crate) const MAY_STAND_STILL: Duration = Duration::from_secs(1);

/// How often who waits for a place looks for one that stands still.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Of this process.
pub(crate) static WRITERS: Writers = Writers::new(256);

/// See the module.
#[derive(Debug)]
pub(crate) struct Writers {
    places: Semaphore,
    still: Mutex<Still>,
}

/// Writers whose readers take nothing, in the order in which they came to stand still.
#[derive(Debug)]
struct Still {
    next: u64,
    /// Told, they end.
    ends: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Writers {
    pub(crate) const fn new(places: usize) -> Self {
        Self {
            places: Semaphore::const_new(places),
            still: Mutex::new(Still {
                next: 0,
                ends: BTreeMap::new(),
            }),
        }
    }

    /// A place, in the order of those that ask; where all are taken, of writers that stand still.
    pub(crate) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        let mut place = pin!(self.places.acquire());
        loop {
            match timeout(LOOK_EVERY, place.as_mut()).await {
                // None: closed, which it never is.
                Ok(place) => return place.ok(),
                Err(_) => self.end_stillest(),
            }
        }
    }

    fn end_stillest(&self) {
        let stillest = self.still.lock().ends.pop_first();
        if let Some((_, end)) = stillest {
            // An error is that it goes on, or has ended, just now.
            let _ = end.send(());
        }
    }

    /// To be held by a writer whose reader has taken nothing for [`MAY_STAND_STILL`], until it takes something.
    pub(crate) fn stands_still(&self) -> StandsStill<'_> {
        let (end, ended) = oneshot::channel();
        let mut still = self.still.lock();
        let number = still.next;
        still.next += 1;
        still.ends.insert(number, end);
        StandsStill {
            writers: self,
            number,
            ended,
        }
    }
}

/// A writer among those that stand still.
#[derive(Debug)]
pub(crate) struct StandsStill<'w> {
    writers: &'w Writers,
    number: u64,
    ended: oneshot::Receiver<()>,
}

impl StandsStill<'_> {
    /// Returns once its place is another's.
    pub(crate) async fn ended(&mut self) {
        // The other side goes by saying so only, as long as this one is there.
        let _ = (&mut self.ended).await;
    }
}

impl Drop for StandsStill<'_> {
    fn drop(&mut self) {
        self.writers.still.lock().ends.remove(&self.number);
    }
}
