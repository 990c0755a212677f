//! How long and how much is kept, and what counts against the size.
//!
//! ```text
//! retention size = room for blocks + this node's log and head (one node only) + slack for their growth
//!                  + copies of the catalogue in the bucket
//! used           = staged (what is reserved) + live + condemned, each rounded up as file systems do
//! ```
//! Invariant: a block is staged only where `used` with it is within the room for blocks; the metadata group refuses it
//! otherwise. A record is forgotten after its object was deleted. So the bucket never holds more than the room.

use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, MetaState};
use parking_lot::Mutex;
use prost::Message;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What file systems round sizes up to.
const CLUSTER_BYTES: u64 = 4096;
/// The part of the retention size by which a node's log and head may grow between two looks at them.
const SLACK_FRACTION: u64 = 10;
/// Copies of the catalogue that the bucket may hold: those that are kept, one being written, one being deleted.
const CATALOGUE_COPIES: u64 = 5;
/// How often a node looks how much its folder holds.
const MEASURE_EVERY: Duration = Duration::from_millis(500);
/// Looks of one span; the most seen in this span and in the one before counts, since a store rewrites its files and
/// then holds some of them twice.
const LOOKS_PER_SPAN: u32 = 1200;

/// What is kept: the first of both to trigger wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Samples older than this are let go, milliseconds; none keeps all.
    pub time_ms: Option<i64>,
    /// All that is stored, bytes; none is no limit.
    pub size_bytes: Option<u64>,
}

/// What a block of so many bytes counts for.
#[must_use]
pub fn charged_bytes(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(CLUSTER_BYTES).unwrap_or(bytes)
}

/// Bytes that the bucket holds or may come to hold by what is staged.
#[must_use]
pub fn used_bytes(blocks: &[BlockRecord]) -> u64 {
    blocks.iter().map(|b| charged_bytes(b.bytes)).sum()
}

/// Bytes that stay once everything condemned is deleted.
#[must_use]
pub fn kept_bytes(blocks: &[BlockRecord]) -> u64 {
    let kept = blocks.iter().filter(|b| b.state() != State::Condemned);
    kept.map(|b| charged_bytes(b.bytes)).sum()
}

/// Live blocks in the order in which retention by size lets them go: the oldest first.
#[must_use]
pub fn oldest_first(blocks: &[BlockRecord]) -> Vec<&BlockRecord> {
    let mut live: Vec<_> = blocks.iter().filter(|b| b.state() == State::Live).collect();
    live.sort_by(|a, b| (a.end_ms, a.start_ms, &a.id).cmp(&(b.end_ms, b.start_ms, &b.id)));
    live
}

/// What has to happen before a part can be staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Free,
    /// There will be, once what is condemned is deleted and these are as well (none: only wait).
    After(Vec<String>),
    /// There will never be: all that is older together is smaller than what is needed. The part itself is what
    /// retention lets go.
    Never,
}

/// How `needed_bytes` for the window that ends at `end_ms` find room below `budget_bytes`.
#[must_use]
pub fn room_for(blocks: &[BlockRecord], budget_bytes: u64, needed_bytes: u64, end_ms: i64) -> Room {
    let needed = charged_bytes(needed_bytes);
    if used_bytes(blocks).saturating_add(needed) <= budget_bytes {
        return Room::Free;
    }
    let mut kept = kept_bytes(blocks).saturating_add(needed);
    let mut condemned = Vec::new();
    for block in oldest_first(blocks).into_iter().take_while(|b| b.end_ms < end_ms) {
        if kept <= budget_bytes {
            break;
        }
        kept -= charged_bytes(block.bytes);
        condemned.push(block.id.clone());
    }
    let staged = || blocks.iter().any(|b| b.state() == State::Staged);
    if kept <= budget_bytes {
        Room::After(condemned)
    } else if needed <= budget_bytes && staged() {
        // What is being written now may turn out smaller than what is reserved for it, or fail.
        Room::After(Vec::new())
    } else {
        Room::Never
    }
}

/// The retention in force, and what this node itself takes of its size.
#[derive(Clone, Debug)]
pub struct Budget {
    retention: watch::Receiver<Retention>,
    own: Option<Arc<OwnBytes>>,
}

impl Budget {
    /// `own` counts where one node is all there is.
    #[must_use]
    pub fn new(retention: watch::Receiver<Retention>, own: Option<Arc<OwnBytes>>) -> Self {
        Self { retention, own }
    }

    /// One that does not change.
    #[must_use]
    pub fn fixed(retention: Retention) -> Self {
        Self::new(watch::channel(retention).1, None)
    }

    #[must_use]
    pub fn retention(&self) -> Retention {
        *self.retention.borrow()
    }

    /// Bytes that blocks may take together; none is no limit.
    ///
    /// What the node's log and head need is not the blocks'. They cannot be made smaller by letting blocks go, so that
    /// half of the size is for blocks in any case: a size that small is said to be so ([`Self::is_too_small`]).
    #[must_use]
    pub fn for_blocks(&self, state: &MetaState) -> Option<u64> {
        let size = self.retention().size_bytes?;
        let own = self.own.as_ref().map_or(0, |own| own.bytes() + size / SLACK_FRACTION);
        let for_blocks = size.saturating_sub(own).max(size / 2);
        let copy = state.encoded_len() as u64;
        Some(for_blocks.saturating_sub(CATALOGUE_COPIES * charged_bytes(copy) + CLUSTER_BYTES))
    }

    /// Whether the node's log and head alone take more than half of the size.
    #[must_use]
    pub fn is_too_small(&self) -> bool {
        let (Some(size), Some(own)) = (self.retention().size_bytes, &self.own) else {
            return false;
        };
        own.bytes() + size / SLACK_FRACTION > size / 2
    }
}

/// How much a folder of this node holds: the most that was seen lately.
#[derive(Debug)]
pub struct OwnBytes {
    folder: PathBuf,
    seen: Mutex<Peaks>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peaks {
    looks: u32,
    now: u64,
    before: u64,
}

impl Peaks {
    fn saw(&mut self, bytes: u64) {
        if self.looks >= LOOKS_PER_SPAN {
            *self = Self {
                looks: 0,
                now: 0,
                before: self.now,
            };
        }
        self.looks += 1;
        self.now = self.now.max(bytes);
    }
}

impl OwnBytes {
    /// Looks once; [`Self::follow`] keeps looking.
    #[must_use]
    pub fn of(folder: PathBuf) -> Arc<Self> {
        let own = Self {
            folder,
            seen: Mutex::default(),
        };
        own.look();
        Arc::new(own)
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        let seen = self.seen.lock();
        seen.now.max(seen.before)
    }

    fn look(&self) {
        let bytes = folder_bytes(&self.folder);
        self.seen.lock().saw(bytes);
    }

    /// Until told to stop.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(MEASURE_EVERY) => {}
            }
            let own = Arc::clone(&self);
            // A disk that hangs holds up this task only.
            if tokio::task::spawn_blocking(move || own.look()).await.is_err() {
                return;
            }
        }
    }
}

/// What the files below a folder take of the disk. Files come and go meanwhile: what cannot be read is not there.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
        Ok(meta) => allocated_bytes(&meta),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Space may be reserved beyond a file's end.
fn allocated_bytes(meta: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    meta.len().max(meta.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(id: &str, end_ms: i64, bytes: u64, state: State) -> BlockRecord {
        BlockRecord {
            id: id.into(),
            start_ms: end_ms - 10,
            end_ms,
            bytes,
            state: state as i32,
            ..BlockRecord::default()
        }
    }

    const K: u64 = 4096;

    #[test]
    fn room_is_made_by_the_oldest_and_only_by_older_ones() {
        let blocks = [
            block("new", 30, 2 * K, State::Live),
            block("old", 10, K, State::Live),
            block("mid", 20, K + 1, State::Live),
            block("gone", 5, 3 * K, State::Condemned),
        ];
        let room = |budget: u64, needed: u64, end| room_for(&blocks, budget * K, needed * K, end);
        assert_eq!(room(10, 2, 40), Room::Free, "5 live, 3 condemned, 2 needed");
        assert_eq!(room(9, 2, 40), Room::After(vec![]), "once the condemned one is deleted");
        assert_eq!(room(6, 2, 40), Room::After(vec!["old".into()]));
        assert_eq!(room(5, 2, 40), Room::After(vec!["old".into(), "mid".into()]));
        assert_eq!(room(5, 2, 20), Room::Never, "only what is older makes room");
        assert_eq!(room(1, 2, 40), Room::Never, "larger than everything");
    }

    #[test]
    fn what_is_being_written_is_waited_for() {
        let blocks = [block("s", 10, 4 * K, State::Staged)];
        assert_eq!(room_for(&blocks, 5 * K, 2 * K, 20), Room::After(vec![]));
        assert_eq!(room_for(&blocks, 5 * K, 6 * K, 20), Room::Never);
    }

    #[test]
    fn the_nodes_own_bytes_are_not_the_blocks() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("below/log"), vec![1; 100 * 4096]).unwrap();
        let own = OwnBytes::of(folder.path().to_owned());
        assert!((100 * K..=101 * K).contains(&own.bytes()), "{}", own.bytes());
        let (sender, retention) = watch::channel(Retention::default());
        let budget = Budget::new(retention, Some(own.clone()));
        let state = MetaState::default();
        assert_eq!(budget.for_blocks(&state), None);
        let size = |size: u64| {
            sender.send_replace(Retention {
                time_ms: None,
                size_bytes: Some(size * K),
            });
            (budget.for_blocks(&state).unwrap() / K, budget.is_too_small())
        };
        let own = own.bytes() / K;
        assert_eq!(size(1000), (1000 - own - 100 - 1, false));
        assert_eq!(size(100), (50 - 1, true), "half is for blocks in any case");
    }

    #[test]
    fn a_peak_counts_for_a_while() {
        let mut peaks = Peaks::default();
        peaks.saw(9);
        for _ in 0..LOOKS_PER_SPAN {
            peaks.saw(1);
        }
        assert_eq!((peaks.now, peaks.before), (1, 9));
        for _ in 0..LOOKS_PER_SPAN {
            peaks.saw(2);
        }
        assert_eq!((peaks.now, peaks.before), (2, 2));
    }
}
