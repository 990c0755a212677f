//! A shard's log without Raft: what is proposed is applied at once, what is flushed stays in memory.

use async_trait::async_trait;
use axum::body::Bytes;
use gnomon_cluster::raft::{Applied, ProposeError, ReadError, StateError, StateMachine, StateReader, StateWriter};
use gnomon_ingester::{ShardLog, ShardMachine};
use gnomon_model::{NodeId, ShardId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// The node that all shards are on.
pub(crate) const NODE: NodeId = NodeId(1);

#[derive(Default)]
struct Stored {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The log index that the pairs stand at.
    index: u64,
}

#[derive(Clone, Default)]
struct MemoryState(Arc<Mutex<Stored>>);

impl StateWriter for MemoryState {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.lock().pairs.insert(key.to_vec(), value.to_vec());
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.lock().pairs.remove(key);
    }

    fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        self.0.lock().pairs.retain(|k, _| !(from <= &k[..] && &k[..] < to));
    }
}

impl StateReader for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.0.lock().pairs.get(key).cloned().map(Bytes::from))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError> {
        // A copy of what is asked for: the visitor may look things up meanwhile.
        let end = to.map_or(Bound::Unbounded, |to| Bound::Excluded(to.to_vec()));
        let range = (Bound::Included(from.to_vec()), end);
        let pairs: Vec<_> = {
            let stored = self.0.lock();
            let found = stored.pairs.range(range);
            found.map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        for (key, value) in &pairs {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn index(&self) -> u64 {
        self.0.lock().index
    }

    fn share(&self) -> Arc<dyn StateReader> {
        Arc::new(self.clone())
    }
}

/// The log of one shard.
pub(crate) struct MemoryLog {
    machine: Arc<ShardMachine>,
    store: MemoryState,
    /// Of the newest entry.
    index: Mutex<u64>,
    /// Entries that are not flushed.
    kept: Mutex<Vec<(u64, Bytes)>>,
}

impl MemoryLog {
    /// The log with the state that it is applied to.
    pub(crate) fn of(shard: ShardId) -> (Arc<Self>, Arc<ShardMachine>) {
        let machine = Arc::new(ShardMachine::new(shard));
        let store = MemoryState::default();
        machine.restore(&store).expect("an empty state");
        let log = Self {
            machine: machine.clone(),
            store,
            index: Mutex::default(),
            kept: Mutex::default(),
        };
        (Arc::new(log), machine)
    }

    /// As after a kill: what was flushed, and the entries after it once more.
    #[allow(dead_code, reason = "shared by several binaries")]
    pub(crate) fn restarted(&self, shard: ShardId) -> (Arc<Self>, Arc<ShardMachine>) {
        let machine = Arc::new(ShardMachine::new(shard));
        machine.restore(&self.store).expect("what was flushed");
        let kept = self.kept.lock().clone();
        for (index, payload) in &kept {
            let (index, term) = (*index, 1);
            machine.apply(&[Applied { index, term, payload }]);
        }
        let log = Self {
            machine: machine.clone(),
            store: self.store.clone(),
            index: Mutex::new(*self.index.lock()),
            kept: Mutex::new(kept),
        };
        (Arc::new(log), machine)
    }

    /// Makes all that was applied durable.
    #[allow(dead_code, reason = "shared by several binaries")]
    pub(crate) fn flush(&self) {
        self.flush_at(*self.index.lock());
    }

    fn flush_at(&self, index: u64) {
        let mut store = self.store.clone();
        self.machine.flush(&mut store).expect("flush to memory");
        store.0.lock().index = index;
        self.kept.lock().clear();
        self.machine.flushed(index);
    }
}

#[async_trait]
impl ShardLog for MemoryLog {
    async fn propose(&self, payload: Bytes) -> Result<Bytes, ProposeError> {
        let mut index = self.index.lock();
        *index += 1;
        let entry = Applied {
            index: *index,
            term: 1,
            payload: &payload,
        };
        let answer = self.machine.apply(&[entry]).remove(0);
        self.kept.lock().push((*index, payload));
        if self.machine.wants_flush() {
            self.flush_at(*index);
        }
        Ok(answer)
    }

    async fn read_index(&self) -> Result<u64, ReadError> {
        Ok(*self.index.lock())
    }

    fn leader(&self) -> Option<NodeId> {
        Some(NODE)
    }

    fn is_leader(&self) -> bool {
        true
    }
}
