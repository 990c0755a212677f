//! What to merge and what to let go, decided from the catalogue alone: no I/O, no clock.

use gnomon_cluster::deletes::masks;
use gnomon_cluster::retention::{charged_bytes, kept_bytes, oldest_first, used_bytes};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, MetaState};
use std::collections::{BTreeMap, BTreeSet};

/// How long and how much to keep, and how large blocks may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Width of a part's window, milliseconds.
    pub window_ms: i64,
    /// Samples older than this are let go, milliseconds; none keeps all.
    pub retention_ms: Option<i64>,
    /// Bytes that staged, live and condemned blocks may take together; none is no limit.
    pub retention_bytes: Option<u64>,
    /// Inputs of one merge together, bytes.
    pub max_merge_bytes: u64,
    /// How long after its end a window waits for late parts before its blocks are merged, milliseconds.
    pub settle_ms: i64,
}

/// The part of the bytes for blocks that is kept free, so that parts and merges find room at once.
const HEADROOM_FRACTION: u64 = 20;

impl Policy {
    /// What is kept free of [`Self::retention_bytes`].
    #[must_use]
    pub fn headroom_bytes(&self) -> u64 {
        self.retention_bytes.map_or(0, |cap| cap / HEADROOM_FRACTION)
    }

    /// Inputs of one merge together. Its output has to fit into the headroom: a merge evicts nothing, and a larger
    /// one would wait for ever.
    #[must_use]
    pub fn max_input_bytes(&self) -> u64 {
        let fitting = |_| self.headroom_bytes() / 5 * 4;
        self.max_merge_bytes.min(self.retention_bytes.map_or(u64::MAX, fitting))
    }

    /// Whether what is condemned must go soon, for the headroom to be there.
    #[must_use]
    pub fn is_pressed(&self, blocks: &[BlockRecord]) -> bool {
        let used = || used_bytes(blocks).saturating_add(self.headroom_bytes());
        self.retention_bytes.is_some_and(|cap| used() > cap)
    }

    /// The widths that blocks may have, ascending: the window, then three times as much at each level, while a block
    /// spans no more than a tenth of the retention time.
    #[must_use]
    pub fn widths_ms(&self) -> Vec<i64> {
        // Without a limit of time, as if it were 15 days.
        let widest = self.retention_ms.unwrap_or(15 * 86_400_000) / 10;
        let mut widths = vec![self.window_ms];
        let mut next = self.window_ms.saturating_mul(3);
        while next <= widest {
            widths.push(next);
            next = next.saturating_mul(3);
        }
        widths
    }
}

/// One merge: the inputs are blocks of one tenant and shard within `start_ms..end_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    pub tenant: String,
    pub shard: u32,
    pub start_ms: i64,
    pub end_ms: i64,
    /// Above the highest level of the inputs; that of the input where there is one.
    pub level: u32,
    /// Ids, oldest window first; within a window by part.
    pub inputs: Vec<String>,
    /// Bytes of the inputs: what the output may take at most.
    pub input_bytes: u64,
}

/// Blocks that are let go, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evictions {
    /// All samples are older than the retention time.
    pub by_time: Vec<String>,
    /// The oldest, so that the rest is within the retention size.
    pub by_size: Vec<String>,
}

impl Evictions {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty() && self.by_size.is_empty()
    }

    /// Ids of all.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.by_time.iter().chain(&self.by_size).cloned().collect()
    }
}

fn is(block: &BlockRecord, state: State) -> bool {
    block.state == state as i32
}

/// What retention lets go at `now_ms`, so that `reserve_bytes` more can be staged below the cap.
///
/// Condemned objects still count until they are deleted, but evicting more would not hasten that: the cap is held by
/// not staging while they are there.
#[must_use]
pub fn evictions(blocks: &[BlockRecord], policy: &Policy, now_ms: i64, reserve_bytes: u64) -> Evictions {
    let mut live = oldest_first(blocks);
    let mut out = Evictions::default();
    if let Some(retention) = policy.retention_ms {
        let oldest = now_ms.saturating_sub(retention);
        live.retain(|block| {
            let expired = block.max_sample_ms < oldest;
            if expired {
                out.by_time.push(block.id.clone());
            }
            !expired
        });
    }
    if let Some(cap) = policy.retention_bytes {
        let evicted: u64 = blocks
            .iter()
            .filter(|b| out.by_time.contains(&b.id))
            .map(|b| charged_bytes(b.bytes))
            .sum();
        let mut kept = (kept_bytes(blocks) - evicted).saturating_add(reserve_bytes);
        for block in live {
            if kept <= cap {
                break;
            }
            kept -= charged_bytes(block.bytes);
            out.by_size.push(block.id.clone());
        }
    }
    out
}

/// Blocks that retention will let go soon: merging them would be work for nothing.
fn doomed(blocks: &[BlockRecord], policy: &Policy, now_ms: i64) -> BTreeSet<String> {
    let soon_ms = now_ms.saturating_add(policy.window_ms);
    let reserve_bytes = policy.headroom_bytes().saturating_mul(2);
    evictions(blocks, policy, soon_ms, reserve_bytes)
        .ids()
        .into_iter()
        .collect()
}

/// Merges that can be made now, the narrowest and oldest first; no block is in two of them.
#[must_use]
pub fn merges(blocks: &[BlockRecord], policy: &Policy, now_ms: i64) -> Vec<Merge> {
    let doomed = doomed(blocks, policy, now_ms);
    let mut shards: BTreeMap<(&str, u32), Vec<&BlockRecord>> = BTreeMap::new();
    let busy: BTreeSet<&str> = blocks
        .iter()
        .filter(|b| is(b, State::Staged))
        .flat_map(|b| &b.inputs)
        .map(String::as_str)
        .collect();
    for block in blocks
        .iter()
        .filter(|b| is(b, State::Live) && !busy.contains(b.id.as_str()) && !doomed.contains(&b.id))
    {
        shards.entry((&block.tenant, block.shard)).or_default().push(block);
    }
    let mut out = Vec::new();
    for blocks in shards.into_values() {
        let mut taken = BTreeSet::new();
        for width in policy.widths_ms() {
            out.extend(merges_of_width(&blocks, policy, now_ms, width, &mut taken));
        }
    }
    out.sort_by_key(|m| (m.end_ms - m.start_ms, m.start_ms, m.shard));
    out
}

/// Blocks that are to be written anew, by themselves, without what the deletes mask that are to be carried out now; the
/// oldest first.
#[must_use]
pub fn rewrites(state: &MetaState) -> Vec<Merge> {
    let wanted: Vec<_> = state
        .tombstones
        .iter()
        .filter(|tombstone| tombstone.revision <= state.clean_revision)
        .collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let staged = state.blocks.iter().filter(|b| is(b, State::Staged));
    let busy: BTreeSet<&str> = staged.flat_map(|b| &b.inputs).map(String::as_str).collect();
    let is_due = |block: &&BlockRecord| {
        is(block, State::Live)
            && !busy.contains(block.id.as_str())
            && wanted.iter().any(|tombstone| masks(tombstone, block))
    };
    let rewrite = |block: &BlockRecord| Merge {
        tenant: block.tenant.clone(),
        shard: block.shard,
        start_ms: block.start_ms,
        end_ms: block.end_ms,
        level: block.level,
        inputs: vec![block.id.clone()],
        input_bytes: block.bytes,
    };
    let mut out: Vec<Merge> = state.blocks.iter().filter(is_due).map(rewrite).collect();
    out.sort_by_key(|m| (m.start_ms, m.shard));
    out
}

fn merges_of_width<'a>(
    blocks: &[&'a BlockRecord],
    policy: &Policy,
    now_ms: i64,
    width: i64,
    taken: &mut BTreeSet<&'a str>,
) -> Vec<Merge> {
    let mut spans: BTreeMap<i64, Vec<&BlockRecord>> = BTreeMap::new();
    for block in blocks {
        let start = block.start_ms.div_euclid(width) * width;
        if block.end_ms <= start.saturating_add(width) {
            spans.entry(start).or_default().push(block);
        }
    }
    let mut out = Vec::new();
    for (start, mut inputs) in spans {
        let end = start.saturating_add(width);
        let settled = end.saturating_add(policy.settle_ms) <= now_ms;
        // A narrower merge within this span comes first; the next cycle takes its output.
        let untouched = inputs.iter().all(|b| !taken.contains(b.id.as_str()));
        if inputs.len() < 2 || !settled || !untouched {
            continue;
        }
        inputs.sort_by(|a, b| (a.start_ms, &a.parts, &a.id).cmp(&(b.start_ms, &b.parts, &b.id)));
        let input_bytes = inputs.iter().map(|b| b.bytes).sum::<u64>();
        if input_bytes > policy.max_input_bytes() {
            continue;
        }
        taken.extend(inputs.iter().map(|b| b.id.as_str()));
        out.push(Merge {
            tenant: inputs[0].tenant.clone(),
            shard: inputs[0].shard,
            start_ms: start,
            end_ms: end,
            level: inputs.iter().map(|b| b.level).max().unwrap_or(0) + 1,
            inputs: inputs.iter().map(|b| b.id.clone()).collect(),
            input_bytes,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: i64 = 3_600_000;
    /// What sizes are rounded up to.
    const K: u64 = 4096;

    fn policy() -> Policy {
        Policy {
            window_ms: 2 * H,
            retention_ms: Some(15 * 24 * H),
            retention_bytes: None,
            max_merge_bytes: 1 << 40,
            settle_ms: H,
        }
    }

    fn block(id: &str, from_h: i64, to_h: i64, bytes: u64) -> BlockRecord {
        BlockRecord {
            id: id.into(),
            tenant: "anonymous".into(),
            start_ms: from_h * H,
            end_ms: to_h * H,
            min_sample_ms: from_h * H,
            max_sample_ms: to_h * H - 1,
            bytes,
            state: State::Live as i32,
            ..BlockRecord::default()
        }
    }

    fn inputs_of(merges: &[Merge]) -> Vec<Vec<String>> {
        merges.iter().map(|m| m.inputs.clone()).collect()
    }

    fn inputs(merges: &[Merge]) -> Vec<Vec<&str>> {
        merges
            .iter()
            .map(|m| m.inputs.iter().map(String::as_str).collect())
            .collect()
    }

    #[test]
    fn blocks_grow_threefold_up_to_a_tenth_of_the_retention() {
        assert_eq!(policy().widths_ms(), [2 * H, 6 * H, 18 * H]);
        let short = Policy {
            retention_ms: Some(10 * H),
            ..policy()
        };
        assert_eq!(short.widths_ms(), [2 * H]);
    }

    #[test]
    fn three_windows_become_one_once_settled() {
        let blocks = [
            block("a", 0, 2, 1),
            block("b", 2, 4, 1),
            block("c", 4, 6, 1),
            block("d", 6, 8, 1),
        ];
        assert!(
            merges(&blocks, &policy(), 6 * H).is_empty(),
            "late parts may still come"
        );
        let found = merges(&blocks, &policy(), 7 * H);
        assert_eq!(inputs(&found), [["a", "b", "c"]]);
        assert_eq!((found[0].start_ms, found[0].end_ms, found[0].level), (0, 6 * H, 1));
    }

    #[test]
    fn late_parts_of_a_window_are_merged_before_wider_spans() {
        let mut late = block("late", 0, 2, 1);
        late.parts = vec![9];
        let blocks = [block("a", 0, 2, 1), late, block("b", 2, 4, 1)];
        assert_eq!(inputs(&merges(&blocks, &policy(), 100 * H)), [["a", "late"]]);
    }

    #[test]
    fn inputs_of_a_staged_block_are_left_alone() {
        let mut staged = block("out", 0, 6, 5);
        staged.state = State::Staged as i32;
        staged.inputs = vec!["a".into(), "b".into()];
        let blocks = [block("a", 0, 2, 1), block("b", 2, 4, 1), staged];
        assert!(merges(&blocks, &policy(), 100 * H).is_empty());
    }

    #[test]
    fn shards_and_tenants_are_kept_apart() {
        let mut other = block("b", 2, 4, 1);
        other.shard = 1;
        assert!(merges(&[block("a", 0, 2, 1), other], &policy(), 100 * H).is_empty());
    }

    #[test]
    fn a_merge_stays_within_its_bytes() {
        let small = Policy {
            max_merge_bytes: 10,
            ..policy()
        };
        let blocks = [block("a", 0, 2, 6), block("b", 2, 4, 6)];
        assert!(merges(&blocks, &small, 100 * H).is_empty());
    }

    #[test]
    fn time_lets_go_what_is_wholly_older() {
        let short = Policy {
            retention_ms: Some(10 * H),
            ..policy()
        };
        let found = evictions(&[block("a", 0, 2, 1), block("b", 2, 4, 1)], &short, 12 * H, 0);
        assert_eq!(found.by_time, ["a"]);
    }

    #[test]
    fn what_retention_is_about_to_let_go_is_not_merged() {
        let blocks = [block("a", 0, 2, 1), block("b", 2, 4, 1), block("c", 4, 6, 1)];
        let found = |hours, policy: &Policy| inputs_of(&merges(&blocks, policy, hours * H));
        let days = Policy {
            retention_ms: Some(60 * H),
            ..policy()
        };
        assert_eq!(found(59, &days), [["a", "b", "c"]]);
        // "a" ends at 2 h: it goes at 62 h, and within one window of that it is left alone.
        assert_eq!(found(60, &days), [["b", "c"]]);
        assert!(found(65, &days).is_empty());
        let size = |blocks: u64| Policy {
            retention_bytes: Some(blocks * K),
            ..policy()
        };
        assert_eq!(found(100, &size(60)), [["a", "b", "c"]]);
        assert!(
            found(100, &size(2)).is_empty(),
            "the first goes, the second is about to"
        );
    }

    #[test]
    fn a_merge_fits_into_the_headroom() {
        let blocks = [block("a", 0, 2, 30 * K), block("b", 2, 4, 10 * K)];
        let size = |blocks: u64| Policy {
            retention_bytes: Some(blocks * K),
            ..policy()
        };
        // A twentieth, and a fifth of that for the output being larger than its inputs.
        assert!(merges(&blocks, &size(999), 100 * H).is_empty());
        assert_eq!(merges(&blocks, &size(1000), 100 * H).len(), 1);
    }

    #[test]
    fn no_merge_spans_more_than_a_tenth_of_the_retention_or_one_window() {
        let blocks: Vec<_> = (0..60)
            .map(|i| block(&format!("{i:02}"), i * 2, i * 2 + 2, 1))
            .collect();
        for hours in [1, 10, 59, 60, 61, 179, 180, 24 * 15, 24 * 365] {
            let policy = Policy {
                retention_ms: Some(hours * H),
                ..policy()
            };
            // As of a time at which nothing is old yet.
            let found = merges(&blocks, &policy, 118 * H);
            let widest = found.iter().map(|m| m.end_ms - m.start_ms).max().unwrap_or(0);
            assert!(widest <= (hours * H / 10).max(2 * H), "{hours} h: {widest}");
        }
    }

    #[test]
    fn size_lets_go_the_oldest_and_counts_what_is_staged_and_reserved() {
        let cap = Policy {
            retention_bytes: Some(100 * K),
            retention_ms: None,
            ..policy()
        };
        let mut staged = block("s", 4, 6, 40 * K);
        staged.state = State::Staged as i32;
        let blocks = [block("new", 2, 4, 50 * K), block("old", 0, 2, 20 * K), staged];
        assert_eq!(evictions(&blocks, &cap, 0, 0).by_size, ["old"]);
        assert_eq!(evictions(&blocks, &cap, 0, 30 * K).by_size, ["old", "new"]);
        assert!(evictions(&blocks[..2], &cap, 0, 30 * K).is_empty());
    }
}
