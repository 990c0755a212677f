//! Groups under test, with a small key-value machine.

mod cluster;
mod full;
mod partition;
mod recover;
mod single;
mod suite;

use super::*;
use crate::store::{Identity, MemoryBackend, NodeStore, StoreOptions};
use bytes::Bytes;
use gnomon_model::{ClusterId, GroupId, NodeId, SystemClock};
use parking_lot::Mutex;
use prometheus::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const GROUP: GroupId = GroupId(3);
const CLUSTER: ClusterId = ClusterId(0xc1);

/// Entries are `key=value`; the response is what the key held before. Counts how often each key was set, so that an
/// entry applied twice shows.
#[derive(Default)]
struct Kv {
    state: Mutex<KvState>,
}

#[derive(Default)]
struct KvState {
    values: BTreeMap<String, (String, u64)>,
    dirty: BTreeSet<String>,
    restores: u64,
    fail_next_flush: bool,
}

impl Kv {
    fn get(&self, key: &str) -> Option<String> {
        self.state.lock().values.get(key).map(|(value, _)| value.clone())
    }

    fn sets(&self, key: &str) -> u64 {
        self.state.lock().values.get(key).map_or(0, |(_, sets)| *sets)
    }

    fn len(&self) -> usize {
        self.state.lock().values.len()
    }
}

impl StateMachine for Kv {
    fn apply(&self, entries: &[Applied<'_>]) -> Vec<Bytes> {
        let mut state = self.state.lock();
        let mut answers = Vec::new();
        for entry in entries {
            let text = std::str::from_utf8(entry.payload).unwrap();
            let (key, value) = text.split_once('=').unwrap();
            let slot = state.values.entry(key.into()).or_default();
            let before = std::mem::replace(&mut slot.0, value.into());
            slot.1 += 1;
            state.dirty.insert(key.into());
            answers.push(before.into());
        }
        answers
    }

    fn flush(&self, out: &mut dyn StateWriter) -> Result<(), StateError> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.fail_next_flush) {
            return Err(StateError::Failed("told to".into()));
        }
        for key in std::mem::take(&mut state.dirty) {
            let (value, sets) = &state.values[&key];
            out.put(key.as_bytes(), format!("{sets} {value}").as_bytes());
        }
        Ok(())
    }

    fn restore(&self, from: &dyn StateReader) -> Result<(), StateError> {
        let mut values = BTreeMap::new();
        from.scan(b"", None, &mut |key, value| {
            let value = std::str::from_utf8(value).unwrap();
            let (sets, value) = value.split_once(' ').unwrap();
            values.insert(
                String::from_utf8(key.to_vec()).unwrap(),
                (value.into(), sets.parse().unwrap()),
            );
            true
        })?;
        let mut state = self.state.lock();
        state.values = values;
        state.dirty.clear();
        state.restores += 1;
        Ok(())
    }
}

fn timing() -> RaftTiming {
    RaftTiming {
        heartbeat_ms: 100,
        heartbeat_min_ms: 0,
        election_min_ms: 600,
        election_max_ms: 900,
    }
}

fn options(node: u64, store: Arc<NodeStore>, transport: Arc<dyn RaftTransport>) -> HostOptions {
    let identity = Identity {
        cluster: CLUSTER,
        node: NodeId(node),
    };
    HostOptions {
        timing: timing(),
        ..HostOptions::new(identity, store, transport, SystemClock::shared(), Registry::new())
    }
}

fn on_disk(folder: &Path) -> Arc<NodeStore> {
    NodeStore::open(folder, StoreOptions::default(), SystemClock::shared(), &Registry::new()).unwrap()
}

fn in_memory(backend: Arc<MemoryBackend>) -> Arc<NodeStore> {
    NodeStore::over(backend, SystemClock::shared(), &Registry::new()).unwrap()
}

/// Waits until the condition holds; fails after half a minute.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 30 s: {what}");
}

async fn set(group: &Group, key: &str, value: &str) -> Result<Bytes, ProposeError> {
    group.propose(format!("{key}={value}").into()).await
}
