//! What times a shard owns, by the metadata state: its epoch's. A pure function; the shard's leader sees to it that the
//! shard's log says the same.

use crate::placement::{coming, epochs_in_force};
use gnomon_model::ShardId;
use gnomon_proto::v1::{BlockRecord, MetaState, PlacementEpoch};

/// The samples a shard takes: half-open, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardBounds {
    pub from_ms: i64,
    /// Where the epoch after the shard's begins; the maximum where there is none.
    pub until_ms: i64,
    /// The epoch after the shard's: who reads what is at or after `until_ms` has to know it. 0 where there is none.
    pub next_epoch: u32,
}

impl ShardBounds {
    pub const ALL: Self = Self {
        from_ms: i64::MIN,
        until_ms: i64::MAX,
        next_epoch: 0,
    };
}

/// The bounds of a shard; none where no epoch has it.
#[must_use]
pub fn bounds_of(state: &MetaState, shard: ShardId) -> Option<ShardBounds> {
    let has = |epoch: &PlacementEpoch| epoch.shards.contains(&shard.0);
    let Some(at) = state.epochs.iter().position(has) else {
        let announced = coming(state).filter(|epoch| has(epoch))?;
        return Some(ShardBounds {
            from_ms: announced.from_ms,
            ..ShardBounds::ALL
        });
    };
    let next = state.epochs.get(at + 1);
    Some(ShardBounds {
        // The first owns what is before it too.
        from_ms: if at == 0 { i64::MIN } else { state.epochs[at].from_ms },
        until_ms: next.map_or(i64::MAX, |next| next.from_ms),
        next_epoch: next.map_or(0, |next| next.epoch),
    })
}

/// Why the epochs do not let a block be its shard's; none where they do. Of one that is made its samples are known,
/// else its window: that of a merge may be wider than what is in it.
#[must_use]
pub fn misplaced(state: &MetaState, block: &BlockRecord) -> Option<String> {
    let Some(bounds) = bounds_of(state, ShardId(block.shard)) else {
        return Some(format!("no placement epoch has a shard {}", block.shard));
    };
    let (from_ms, until_ms) = (bounds.from_ms, bounds.until_ms);
    let (first_ms, last_ms, is_within) = match block.samples {
        0 => {
            let (start_ms, end_ms) = (block.start_ms, block.end_ms);
            (start_ms, end_ms, start_ms < until_ms && from_ms < end_ms)
        }
        _ => {
            let (min_ms, max_ms) = (block.min_sample_ms, block.max_sample_ms);
            (min_ms, max_ms, from_ms <= min_ms && max_ms < until_ms)
        }
    };
    let text = || {
        format!(
            "block {} of shard {} is from {first_ms} to {last_ms}, but the placement epoch of the shard from {from_ms} to \
             {until_ms}",
            block.id, block.shard
        )
    };
    (!is_within).then(text)
}

/// Whether a shard's epoch is over: another one is in force after it.
#[must_use]
pub fn is_over(state: &MetaState, shard: ShardId) -> bool {
    let older = epochs_in_force(state).split_last().map_or(&[][..], |(_, older)| older);
    older.iter().any(|epoch| epoch.shards.contains(&shard.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::EpochChange;

    fn epoch(number: u32, from_ms: i64, shards: &[u32]) -> PlacementEpoch {
        PlacementEpoch {
            epoch: number,
            from_ms,
            shards: shards.to_vec(),
            ..PlacementEpoch::default()
        }
    }

    fn bounds(state: &MetaState, shard: u32) -> Option<(i64, i64, u32)> {
        let bounds = bounds_of(state, ShardId(shard))?;
        Some((bounds.from_ms, bounds.until_ms, bounds.next_epoch))
    }

    #[test]
    fn a_shard_owns_the_time_of_its_epoch() {
        let mut state = MetaState {
            epochs: vec![epoch(1, i64::MIN, &[0, 1]), epoch(3, 100, &[2])],
            ..MetaState::default()
        };
        assert_eq!(bounds(&state, 1), Some((i64::MIN, 100, 3)));
        assert_eq!(bounds(&state, 2), Some((100, i64::MAX, 0)));
        assert_eq!(bounds(&state, 3), None);
        assert!(is_over(&state, ShardId(0)) && !is_over(&state, ShardId(2)));
        // An announced epoch bounds its own shards, and the others once it is listed.
        state.epoch_change = Some(EpochChange {
            epoch: Some(epoch(4, 200, &[3, 4])),
            ..EpochChange::default()
        });
        assert_eq!(bounds(&state, 3), Some((200, i64::MAX, 0)));
        assert_eq!(bounds(&state, 2), Some((100, i64::MAX, 0)));
        state.epochs.push(epoch(4, 200, &[3, 4]));
        assert_eq!(bounds(&state, 3), Some((200, i64::MAX, 0)));
        assert_eq!(bounds(&state, 2), Some((100, 200, 4)));
        assert!(!is_over(&state, ShardId(2)), "not in force");
        state.epoch_change = None;
        assert!(is_over(&state, ShardId(2)));
        // Without the epochs before it the first has all that is older.
        state.epochs.remove(0);
        assert_eq!(bounds(&state, 2), Some((i64::MIN, 200, 4)));
    }

    #[test]
    fn blocks_are_within_the_epoch_of_their_shard() {
        let state = MetaState {
            epochs: vec![epoch(1, i64::MIN, &[0]), epoch(2, 100, &[1])],
            ..MetaState::default()
        };
        let staged = |shard, start_ms, end_ms| BlockRecord {
            shard,
            start_ms,
            end_ms,
            ..BlockRecord::default()
        };
        let made = |shard, min_sample_ms, max_sample_ms| BlockRecord {
            samples: 1,
            min_sample_ms,
            max_sample_ms,
            ..staged(shard, 0, 1000)
        };
        let fits = |block| misplaced(&state, &block).is_none();
        assert!(fits(staged(0, 0, 1000)) && fits(staged(1, 0, 1000)));
        assert!(!fits(staged(0, 100, 200)) && !fits(staged(1, 0, 100)) && !fits(staged(2, 0, 1)));
        assert!(fits(made(0, 0, 99)) && fits(made(1, 100, 900)));
        assert!(!fits(made(0, 0, 100)) && !fits(made(1, 99, 900)));
    }
}
