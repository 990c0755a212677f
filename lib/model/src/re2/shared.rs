//! Expressions in use: the shards of a process, and queries at the same time, share what is compiled of the same text.

use super::Compiled;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

type Known = HashMap<String, Weak<Compiled>>;

/// By text. Nothing is kept alive by being known.
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

fn known() -> MutexGuard<'static, Known> {
    // Whoever panicked meanwhile has left the map whole.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn find(expression: &str) -> Option<Arc<Compiled>> {
    known().get(expression)?.upgrade()
}

/// Makes it known, if it has an engine: the others cost as little as looking them up.
pub(super) fn enter(compiled: &Arc<Compiled>) {
    if compiled.engine.is_some() {
        known().insert(compiled.source.clone(), Arc::downgrade(compiled));
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        if self.engine.is_none() {
            return;
        }
        let mut known = known();
        // Another may have been compiled since the last owner of this one let it go.
        if known.get(&self.source).is_some_and(|same| same.strong_count() == 0) {
            known.remove(&self.source);
        }
    }
}

#[cfg(test)]
pub(super) fn is_known(expression: &str) -> bool {
    known().contains_key(expression)
}
