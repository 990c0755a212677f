//! Connections that did not come about, for the log: of each peer each reason now and then, however often it is tried.

use gnomon_model::Clock;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// A reason is said again of the same peer after this.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Peers with a reason that are known at the same time; of others nothing is said until these are old.
const MOST: usize = 64;

/// What was said, of `P`s.
pub(super) struct Refusals<P> {
    said: Mutex<HashMap<(P, String), Said>>,
    clock: Arc<dyn Clock>,
}

struct Said {
    /// On the monotonic clock.
    at: Duration,
    kept_quiet: u64,
}

impl<P: Eq + Hash> Refusals<P> {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            said: Mutex::default(),
            clock,
        }
    }

    /// Whether to say now that there was no connection with `peer`, as of `why`; and how often that was so since it was
    /// last said.
    pub(super) fn tell(&self, peer: P, why: &str) -> Option<u64> {
        let now = self.clock.monotonic();
        let is_new = |said: &Said| now.saturating_sub(said.at) < SAY_EVERY;
        let mut all = self.said.lock();
        let key = (peer, lasting(why).to_owned());
        if let Some(said) = all.get_mut(&key) {
            if is_new(said) {
                said.kept_quiet += 1;
                return None;
            }
            said.at = now;
            return Some(std::mem::take(&mut said.kept_quiet));
        }
        if all.len() >= MOST {
            all.retain(|_, said| is_new(said));
        }
        if all.len() >= MOST {
            return None;
        }
        all.insert(key, Said { at: now, kept_quiet: 0 });
        Some(0)
    }

    /// All that was said lately.
    #[cfg(test)]
    pub(super) fn said(&self) -> Vec<(P, String)>
    where
        P: Clone,
    {
        self.said.lock().keys().cloned().collect()
    }
}

/// What of a reason is the same at the next try: of certificates whose time it is not, the library tells the time too.
fn lasting(why: &str) -> &str {
    why.split_once(": verification time")
        .map_or(why, |(lasting, _)| lasting)
}

impl<P> std::fmt::Debug for Refusals<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refusals")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{ManualClock, TimestampMs};

    #[test]
    fn each_reason_of_each_peer_is_said_now_and_then_and_memory_is_bounded() {
        let clock = Arc::new(ManualClock::at(TimestampMs(0)));
        let refusals = Refusals::new(clock.clone());
        assert_eq!(refusals.tell(1, "expired"), Some(0));
        assert_eq!(refusals.tell(1, "expired"), None);
        assert_eq!(refusals.tell(1, "not yet: verification time 1 (UNIX)"), Some(0));
        assert_eq!(refusals.tell(1, "not yet: verification time 2 (UNIX)"), None);
        assert_eq!(refusals.tell(1, "unknown authority"), Some(0));
        assert_eq!(refusals.tell(2, "expired"), Some(0));
        clock.advance(SAY_EVERY);
        assert_eq!(refusals.tell(1, "expired"), Some(1));
        let told = (0..10 * MOST).filter(|peer| refusals.tell(10 + peer, "expired").is_some());
        assert_eq!(told.count(), MOST - 1);
        assert_eq!(refusals.said().len(), MOST);
        clock.advance(SAY_EVERY);
        assert_eq!(refusals.tell(3, "expired"), Some(0), "there is room again");
    }
}
