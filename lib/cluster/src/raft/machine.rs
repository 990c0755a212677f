//! What a group replicates: the state machine's side of the contract.

use bytes::Bytes;

/// A committed entry on its way into the state.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    /// Position in the group's log; ascending, with gaps where Raft's own entries (blank, membership) lie.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// The bytes that were proposed.
    pub payload: &'a [u8],
}

/// The replicated state of one group.
///
/// Calls of `apply`, `flush`, `flushed` and `restore` never overlap within one group. `flush` and `restore` are made
/// where blocking is allowed; `apply` only computes. A panic in any of them ends this incarnation of the group: it is
/// restarted and restored.
pub trait StateMachine: Send + Sync + 'static {
    /// A deterministic function of the log alone. Returns exactly one response per entry, in order.
    fn apply(&self, entries: &[Applied<'_>]) -> Vec<Bytes>;

    /// Writes everything that changed since the last flush. All of it becomes durable in one batch, together with the
    /// log id it stands at; if that fails, the group is restarted from what is stored ([`Self::restore`]).
    ///
    /// # Errors
    /// What cannot be written; the group is then restarted.
    fn flush(&self, out: &mut dyn StateWriter) -> Result<(), StateError>;

    /// The batch of the last flush is durable: a restart replays strictly after `index`.
    fn flushed(&self, index: u64) {
        let _ = index;
    }

    /// Replaces the whole state by what is stored: at the start (where nothing may be stored yet), after a snapshot
    /// was installed, after a restart of the group. Whatever was in memory is void.
    ///
    /// # Errors
    /// When what is stored cannot be understood; the group does not start then.
    fn restore(&self, from: &dyn StateReader) -> Result<(), StateError>;

    /// Asked after every apply: whether to flush now rather than when enough log has gathered (after a seal, say).
    fn wants_flush(&self) -> bool {
        false
    }
}

/// Where a flush writes. Keys are the machine's own: other groups' and older generations' cannot be reached.
pub trait StateWriter {
    fn put(&mut self, key: &[u8], value: &[u8]);
    fn delete(&mut self, key: &[u8]);
    /// Deletes the keys in `from..to`, `to` exclusive.
    fn delete_range(&mut self, from: &[u8], to: &[u8]);
}

/// Reads what flushes have made durable. Cheap to keep: a machine may hold one to serve sealed data from the store.
pub trait StateReader: Send + Sync {
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError>;

    /// Visits the keys in `from..to` (`to` exclusive; none: to the end) in ascending order, over one consistent view,
    /// until the visitor returns false.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError>;

    /// The log index the stored state stands at; 0 where nothing was flushed yet.
    fn index(&self) -> u64;

    /// A reader for keeping.
    fn share(&self) -> std::sync::Arc<dyn StateReader>;
}

/// Why state could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// What is stored is not what this build understands; says which key or record.
    #[error("stored state cannot be used: {0}")]
    Corrupt(String),
    /// What is stored, or came by the log, is of a newer build.
    #[error(
        "it is at feature level {found}, which a newer build wrote; this build understands {understands} only: start the \
         newer one, or one after it"
    )]
    Newer {
        found: gnomon_model::FeatureLevel,
        understands: gnomon_model::FeatureLevel,
    },
    /// The machine failed in a way that concerns the whole group.
    #[error("{0}")]
    Failed(String),
}
