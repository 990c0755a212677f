//! Who did not answer, and is not asked for a while where somebody else passes on to it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// As long as a silence lasts; then one call tries again.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(10);

/// Times are those of the machine's monotonic clock.
pub(super) struct Silence<K>(HashMap<K, Duration>);

impl<K> Default for Silence<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Silence<K> {
    /// It has just not answered, or is tried again by one who will say.
    pub(super) fn begin(&mut self, of: K, now: Duration) {
        self.0.insert(of, now + SILENT_FOR);
    }

    pub(super) fn end(&mut self, of: K) {
        self.0.remove(&of);
    }

    pub(super) fn lasts(&self, of: K, now: Duration) -> bool {
        self.0.get(&of).is_some_and(|until| *until > now)
    }

    /// It has not answered since its silence began, which may be over.
    pub(super) fn is_known(&self, of: K) -> bool {
        self.0.contains_key(&of)
    }
}
