//! What a block of another program becomes: windows, and the parts that stand for them. No I/O, no clock.
//!
//! Invariant: a part's number depends on the source and its window only, so that a second import of the same block finds
//! what the first one has published.

use gnomon_model::{PartId, ShardId, TimeRange, TimestampMs};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, MetaState};
use gnomon_tsdb::prometheus::TsdbMeta;
use xxhash_rust::xxh3::Xxh3;

/// More windows of one block are a sign that its times are wrong: 57 years of 2 h.
const MAX_WINDOWS: i64 = 250_000;

/// No imported block is wider: it has to be written within the time that a staged block has, which is an hour. Compaction
/// makes wider ones of them.
const MAX_WIDTH_MS: i64 = 18 * 3_600_000;

/// The windows of a block, aligned, newest first: those that end after `oldest_ms`. The width is the largest of
/// `widths_ms` (ascending, not empty) that is not above the block's own nor [`MAX_WIDTH_MS`]. None belongs to two
/// placement epochs.
pub(super) fn windows(
    meta: &TsdbMeta,
    widths_ms: &[i64],
    epochs_from_ms: &[i64],
    oldest_ms: Option<i64>,
) -> Result<Vec<TimeRange>, String> {
    let end_ms = meta.max_time.max(meta.min_time.saturating_add(1));
    let start_ms = meta.min_time.max(oldest_ms.unwrap_or(i64::MIN));
    let span_ms = meta.max_time.saturating_sub(meta.min_time);
    let widest_ms = span_ms.min(MAX_WIDTH_MS);
    let fitting = widths_ms.iter().copied().filter(|width| *width <= widest_ms).max();
    let width_ms = fitting.or(widths_ms.first().copied()).unwrap_or(7_200_000).max(1);
    if end_ms.saturating_sub(start_ms) / width_ms > MAX_WINDOWS {
        return Err(format!(
            "its meta.json says that it lasts from {} to {} ms, which no block does",
            meta.min_time, meta.max_time
        ));
    }
    let mut windows = Vec::new();
    let mut at = start_ms;
    while at < end_ms {
        let mut window = TimeRange::window_of(TimestampMs(at), width_ms);
        for from_ms in epochs_from_ms {
            if (window.start.0 + 1..=at).contains(from_ms) {
                window.start.0 = *from_ms;
            }
            if (at + 1..window.end.0).contains(from_ms) {
                window.end.0 = *from_ms;
            }
        }
        at = window.end.0;
        windows.push(window);
    }
    windows.reverse();
    Ok(windows)
}

/// The part that stands for samples of a source in one window and one shard; `batch` counts a source's batches of series.
/// It is never one that a shard counts, and comes after all of those: of two samples of one series and time the one that
/// the shard took itself counts.
pub(super) fn part_number(meta: &TsdbMeta, window: TimeRange, batch: u64) -> u64 {
    let mut hash = Xxh3::new();
    let mut put = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    put(meta.ulid.as_bytes());
    for (name, value) in meta.external_labels() {
        put(name.as_bytes());
        put(value.as_bytes());
    }
    for number in [window.start.0, window.end.0] {
        put(&number.to_le_bytes());
    }
    put(&batch.to_le_bytes());
    hash.digest() | PartId::FIRST_IMPORTED
}

/// What the catalogue says of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing, or no more.
    No,
    /// Blocks that an import began and did not finish: ids and paths.
    Begun(Vec<(String, String)>),
    /// It was imported, by itself or merged with others; or it was and has been let go since.
    Imported,
}

pub(super) fn known(state: &MetaState, tenant: &str, shard: ShardId, part: u64) -> Known {
    let of_part = |b: &&BlockRecord| b.shard == shard.0 && b.tenant == tenant && b.parts.binary_search(&part).is_ok();
    let mut begun = Vec::new();
    for block in state.blocks.iter().filter(of_part) {
        // Publication says how many samples there are; an imported block has some.
        if block.state() == State::Live || block.samples > 0 || !block.inputs.is_empty() {
            return Known::Imported;
        }
        begun.push((block.id.clone(), block.path.clone()));
    }
    if begun.is_empty() {
        Known::No
    } else {
        Known::Begun(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: i64 = 3_600_000;

    fn meta(from: i64, to: i64) -> TsdbMeta {
        TsdbMeta {
            ulid: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
            min_time: from,
            max_time: to,
            version: 1,
            ..TsdbMeta::default()
        }
    }

    fn hours(windows: &[TimeRange]) -> Vec<(i64, i64)> {
        windows.iter().map(|w| (w.start.0 / H, w.end.0 / H)).collect()
    }

    #[test]
    fn windows_are_aligned_and_as_wide_as_the_block() {
        let widths = [2 * H, 6 * H, 18 * H, 54 * H, 162 * H];
        let of = |from, to, epochs: &[i64], oldest| hours(&windows(&meta(from, to), &widths, epochs, oldest).unwrap());
        assert_eq!(of(2 * H, 4 * H, &[i64::MIN], None), [(2, 4)]);
        assert_eq!(of(3 * H, 5 * H, &[i64::MIN], None), [(4, 6), (2, 4)]);
        assert_eq!(of(4 * H + 5, 4 * H + 5, &[i64::MIN], None), [(4, 6)], "one sample");
        assert_eq!(of(0, 18 * H, &[], None), [(0, 18)]);
        assert_eq!(of(-H, 6 * H, &[], None), [(0, 6), (-6, 0)]);
        assert_eq!(of(0, 54 * H, &[], None), [(36, 54), (18, 36), (0, 18)]);
        // Only what retention keeps, and no window in two epochs.
        assert_eq!(of(0, 36 * H, &[], Some(20 * H)), [(18, 36)]);
        assert_eq!(of(0, 18 * H, &[i64::MIN, 8 * H], None), [(8, 18), (0, 8)]);
        assert_eq!(of(0, 18 * H, &[i64::MIN, 8 * H], Some(9 * H)), [(8, 18)]);
        assert!(windows(&meta(i64::MIN, i64::MAX), &widths, &[], None).is_err());
    }

    #[test]
    fn parts_are_known_again_and_apart_from_those_of_shards() {
        let window = TimeRange::new(TimestampMs(0), TimestampMs(H));
        let part = part_number(&meta(0, H), window, 0);
        assert!(part >= PartId::FIRST_IMPORTED);
        assert_eq!(part, part_number(&meta(0, 7), window, 0));
        assert_ne!(part, part_number(&meta(0, H), window, 1));
        let other = TimeRange::new(TimestampMs(H), TimestampMs(2 * H));
        assert_ne!(part, part_number(&meta(0, H), other, 0));

        let block = |id: &str, state: State, samples, inputs: &[&str]| BlockRecord {
            id: id.into(),
            tenant: "t".into(),
            shard: 3,
            parts: vec![1, part],
            state: state as i32,
            samples,
            inputs: inputs.iter().map(|id| (*id).to_owned()).collect(),
            ..BlockRecord::default()
        };
        let of = |blocks: Vec<BlockRecord>| {
            let state = MetaState {
                blocks,
                ..MetaState::default()
            };
            known(&state, "t", ShardId(3), part)
        };
        assert_eq!(of(vec![]), Known::No);
        assert_eq!(of(vec![block("a", State::Live, 1, &[])]), Known::Imported);
        assert_eq!(of(vec![block("a", State::Condemned, 1, &[])]), Known::Imported);
        assert_eq!(of(vec![block("a", State::Staged, 0, &["b"])]), Known::Imported);
        let begun = vec![block("a", State::Staged, 0, &[]), block("b", State::Condemned, 0, &[])];
        assert!(matches!(of(begun), Known::Begun(ids) if ids.len() == 2));
        assert_eq!(known(&MetaState::default(), "other", ShardId(3), part), Known::No);
    }
}
