//! The machine as a Raft group's state, and its records in the store.
//!
//! ```text
//! "state"        MetaState without blocks
//! "block/" id    BlockRecord
//! ```
//! Both are protobuf. A flush writes what differs from what is stored.

use super::machine::{Inner, MetaMachine};
use crate::raft::{Applied, StateError, StateMachine, StateReader, StateWriter};
use bytes::Bytes;
use gnomon_model::FeatureLevel;
use gnomon_proto::v1::{BlockRecord, MetaState};
use prost::Message;
use std::cmp::Ordering;
use std::sync::Arc;

const STATE_KEY: &[u8] = b"state";
const BLOCK_PREFIX: &[u8] = b"block/";
/// The first key after all blocks'.
const BLOCK_END: &[u8] = b"block0";

fn block_key(id: &str) -> Vec<u8> {
    [BLOCK_PREFIX, id.as_bytes()].concat()
}

impl MetaMachine {
    const fn newer(&self, found: FeatureLevel) -> StateError {
        StateError::Newer {
            found,
            understands: self.understands,
        }
    }
}

impl StateMachine for MetaMachine {
    fn apply(&self, entries: &[Applied<'_>]) -> Vec<Bytes> {
        let mut inner = self.inner.lock();
        let apply = |entry: &Applied<'_>| {
            let response = inner.apply_encoded(entry.payload);
            inner.stop_beyond(self.understands);
            Bytes::from(response.encode_to_vec())
        };
        let responses = entries.iter().map(apply).collect();
        drop(inner);
        self.publish();
        responses
    }

    fn flush(&self, out: &mut dyn StateWriter) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        if let Some(level) = inner.beyond {
            return Err(self.newer(level));
        }
        let (old, new) = (inner.stored.clone(), inner.state.clone());
        if old.revision != new.revision {
            let without_blocks = MetaState {
                blocks: Vec::new(),
                ..new.as_ref().clone()
            };
            out.put(STATE_KEY, &without_blocks.encode_to_vec());
            write_blocks(&old.blocks, &new.blocks, out);
        }
        inner.flushing = Some(new);
        Ok(())
    }

    fn flushed(&self, _index: u64) {
        let mut inner = self.inner.lock();
        if let Some(stored) = inner.flushing.take() {
            inner.stored = stored;
        }
    }

    fn restore(&self, from: &dyn StateReader) -> Result<(), StateError> {
        let mut state = match from.get(STATE_KEY)? {
            None => MetaState::default(),
            Some(bytes) => {
                MetaState::decode(bytes).map_err(|e| StateError::Corrupt(format!("metadata state record: {e}")))?
            }
        };
        if state.feature_level > self.understands.0 {
            return Err(self.newer(FeatureLevel(state.feature_level)));
        }
        let mut bad = None;
        from.scan(
            BLOCK_PREFIX,
            Some(BLOCK_END),
            &mut |key, value| match BlockRecord::decode(value) {
                Ok(block) => {
                    state.blocks.push(block);
                    true
                }
                Err(error) => {
                    let key = String::from_utf8_lossy(key);
                    bad = Some(format!("metadata record {key}: {error}"));
                    false
                }
            },
        )?;
        if let Some(bad) = bad {
            return Err(StateError::Corrupt(bad));
        }
        let state = Arc::new(state);
        *self.inner.lock() = Inner::restored(state);
        self.publish();
        Ok(())
    }
}

/// Both ascending by id.
fn write_blocks(old: &[BlockRecord], new: &[BlockRecord], out: &mut dyn StateWriter) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.id.cmp(&b.id),
        };
        let was = if order == Ordering::Greater { None } else { old.next() };
        let is = if order == Ordering::Less { None } else { new.next() };
        match (was, is) {
            (Some(was), None) => out.delete(&block_key(&was.id)),
            (was, Some(is)) if was != Some(is) => out.put(&block_key(&is.id), &is.encode_to_vec()),
            _ => {}
        }
    }
}
