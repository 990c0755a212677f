//! Which shard owns a sample: a pure function of (tenant, final series labels, placement epoch), the epoch chosen by
//! the sample's time. Nothing about load or liveness goes in, so that every node, every release and every retry agree.
//!
//! ```text
//! seed = XXH3-64(tenant)
//! key  = XXH3-64(seed, {uvarint(len(value)) value} of the epoch's placement labels)     where all are present
//!      = XXH3-64(seed, canonical bytes of the whole set)                                where one is absent
//! slot = key * slots / 2^64      shard = slots[slot]
//! ```
//! A spread rule for the series' `job` moves the slot on by `XXH3-64(seed, whole set) mod ways`.
//!
//! Invariant: data is where this function says; a change of it loses series. The golden test holds it in place.

use gnomon_model::ids::START_TIMES_FEATURE_LEVEL;
use gnomon_model::labels::put_uvarint;
use gnomon_model::{LabelsRef, PlacementEpoch, ShardId, TenantId, TimestampMs};
use gnomon_proto::v1;
use std::collections::HashMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Epochs after the first begin at multiples of this, which is a window of the heads: no window, part or block is in two.
pub const EPOCH_STEP_MS: i64 = 2 * 60 * 60 * 1000;
/// Labels that choose the shard unless the epoch says otherwise.
pub const DEFAULT_PLACEMENT_LABELS: [&str; 2] = ["job", "instance"];

/// All epochs of a cluster, ready to be asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// Ascending by `from_ms`.
    epochs: Vec<Epoch>,
    keeps_starts: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Epoch {
    number: PlacementEpoch,
    from_ms: i64,
    slots: Vec<ShardId>,
    by_labels: Vec<String>,
    /// Ways by job; only those above 1.
    spreads: HashMap<String, u32>,
}

/// The owner of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub epoch: PlacementEpoch,
    pub shard: ShardId,
}

/// What a tenant contributes to every hash; computed once per batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantSeed(u64);

impl TenantSeed {
    #[must_use]
    pub fn of(tenant: &TenantId) -> Self {
        Self(xxh3_64(tenant.as_str().as_bytes()))
    }

    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

/// An epoch record that no sample can be placed by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEpoch {
    #[error("placement epoch {0} names no shards")]
    NoShards(u32),
    #[error("placement epoch {epoch} begins at {from_ms}, which is not after the one before")]
    NotAscending { epoch: u32, from_ms: i64 },
    #[error("placement epoch {epoch} spreads job {job:?} {ways} ways: 1 to {shards} (its shards) are possible")]
    Spread {
        epoch: u32,
        job: String,
        ways: u32,
        shards: usize,
    },
}

impl Placement {
    /// # Errors
    /// When an epoch is not usable; see [`BadEpoch`].
    pub fn from_records(records: &[v1::PlacementEpoch]) -> Result<Self, BadEpoch> {
        let mut epochs: Vec<Epoch> = Vec::with_capacity(records.len());
        for record in records {
            let ascending = epochs
                .last()
                .is_none_or(|last| last.from_ms < record.from_ms && last.number.0 < record.epoch);
            if !ascending {
                return Err(BadEpoch::NotAscending {
                    epoch: record.epoch,
                    from_ms: record.from_ms,
                });
            }
            epochs.push(Epoch::from_record(record)?);
        }
        Ok(Self {
            epochs,
            keeps_starts: false,
        })
    }

    /// The epochs that samples are placed by: those in force.
    ///
    /// # Errors
    /// As [`Self::from_records`].
    pub fn in_force(state: &v1::MetaState) -> Result<Self, BadEpoch> {
        let keeps_starts = state.feature_level >= START_TIMES_FEATURE_LEVEL.0;
        Self::from_records(epochs_in_force(state)).map(|placed| placed.with_starts(keeps_starts))
    }

    /// The same where shards take start timestamps, or do not.
    #[must_use]
    pub fn with_starts(self, keeps_starts: bool) -> Self {
        Self { keeps_starts, ..self }
    }

    /// Whether all replicas of all shards understand start timestamps.
    #[must_use]
    pub const fn keeps_starts(&self) -> bool {
        self.keeps_starts
    }

    /// Whether there is an epoch at all, which is so once the cluster is initialized.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.epochs.is_empty()
    }

    /// The newest epoch.
    #[must_use]
    pub fn newest(&self) -> Option<PlacementEpoch> {
        self.epochs.last().map(|e| e.number)
    }

    /// Every shard that any epoch names, ascending.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardId> {
        let mut all: Vec<_> = self.epochs.iter().flat_map(|e| e.slots.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The epoch that samples at `at` belong to. Before the first epoch it is the first.
    #[must_use]
    #[inline]
    pub fn epoch_at(&self, at: TimestampMs) -> Option<PlacementEpoch> {
        self.find(at).map(|e| e.number)
    }

    /// When the epoch after this one begins (inclusive, milliseconds); none after the newest.
    #[must_use]
    pub fn end_of(&self, epoch: PlacementEpoch) -> Option<i64> {
        let at = self.epochs.iter().position(|e| e.number == epoch)?;
        self.epochs.get(at + 1).map(|next| next.from_ms)
    }

    #[inline]
    fn find(&self, at: TimestampMs) -> Option<&Epoch> {
        let later = self.epochs.iter().rev().find(|e| e.from_ms <= at.0);
        later.or_else(|| self.epochs.first())
    }

    /// The owner of a sample of the series at `at`; none before the cluster is initialized.
    #[must_use]
    pub fn owner(&self, tenant: TenantSeed, labels: LabelsRef<'_>, at: TimestampMs) -> Option<Owner> {
        let epoch = self.find(at)?;
        Some(Owner {
            epoch: epoch.number,
            shard: epoch.place(tenant, labels),
        })
    }

    /// The owner of a metric's metadata that comes without a series: by its name, in the newest epoch.
    #[must_use]
    pub fn owner_of_metric(&self, tenant: TenantSeed, metric: &str) -> Option<Owner> {
        let epoch = self.epochs.last()?;
        Some(Owner {
            epoch: epoch.number,
            shard: epoch.slots[slot_of(xxh3_64_with_seed(metric.as_bytes(), tenant.0), epoch.slots.len())],
        })
    }
}

/// The epochs without one that is listed but not in force yet: until then samples of its time have no place.
#[must_use]
pub fn epochs_in_force(state: &v1::MetaState) -> &[v1::PlacementEpoch] {
    match state.epochs.split_last() {
        Some((last, before)) if coming(state).is_some_and(|coming| coming.epoch == last.epoch) => before,
        _ => &state.epochs,
    }
}

/// The epoch that is announced or listed, and not in force.
#[must_use]
pub fn coming(state: &v1::MetaState) -> Option<&v1::PlacementEpoch> {
    state.epoch_change.as_ref()?.epoch.as_ref()
}

impl Epoch {
    fn from_record(record: &v1::PlacementEpoch) -> Result<Self, BadEpoch> {
        if record.shards.is_empty() {
            return Err(BadEpoch::NoShards(record.epoch));
        }
        let mut spreads = HashMap::new();
        for rule in &record.spreads {
            if rule.ways == 0 || rule.ways as usize > record.shards.len() {
                return Err(BadEpoch::Spread {
                    epoch: record.epoch,
                    job: rule.job.clone(),
                    ways: rule.ways,
                    shards: record.shards.len(),
                });
            }
            if rule.ways > 1 {
                spreads.insert(rule.job.clone(), rule.ways);
            }
        }
        Ok(Self {
            number: PlacementEpoch(record.epoch),
            from_ms: record.from_ms,
            slots: record.shards.iter().copied().map(ShardId).collect(),
            by_labels: record.by_labels.clone(),
            spreads,
        })
    }

    fn place(&self, tenant: TenantSeed, labels: LabelsRef<'_>) -> ShardId {
        let mut slot = slot_of(self.key(tenant, labels), self.slots.len());
        if !self.spreads.is_empty()
            && let Some(ways) = labels.get("job").and_then(|job| self.spreads.get(job))
        {
            let step = xxh3_64_with_seed(labels.as_bytes(), tenant.0) % u64::from(*ways);
            slot = (slot + step as usize) % self.slots.len();
        }
        self.slots[slot]
    }

    fn key(&self, tenant: TenantSeed, labels: LabelsRef<'_>) -> u64 {
        let whole = || xxh3_64_with_seed(labels.as_bytes(), tenant.0);
        if self.by_labels.is_empty() {
            return whole();
        }
        let mut values = Vec::with_capacity(64);
        for name in &self.by_labels {
            let Some(value) = labels.get(name) else {
                return whole();
            };
            put_uvarint(&mut values, value.len() as u64);
            values.extend_from_slice(value.as_bytes());
        }
        xxh3_64_with_seed(&values, tenant.0)
    }
}

/// Maps a hash onto `slots` (> 0) evenly: the high half of the product.
fn slot_of(hash: u64, slots: usize) -> usize {
    ((u128::from(hash) * slots as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::Labels;
    use proptest::prelude::*;

    fn record(epoch: u32, from_ms: i64, shards: u32) -> v1::PlacementEpoch {
        v1::PlacementEpoch {
            epoch,
            from_ms,
            shards: (0..shards).map(|s| s + 10 * (epoch - 1)).collect(),
            by_labels: DEFAULT_PLACEMENT_LABELS.map(str::to_owned).into(),
            spreads: Vec::new(),
        }
    }

    fn sets() -> Vec<Labels> {
        vec![
            Labels::from_pairs([("__name__", "up"), ("job", "node"), ("instance", "a:9100")]),
            Labels::from_pairs([("__name__", "up"), ("job", "node"), ("instance", "b:9100")]),
            Labels::from_pairs([
                ("__name__", "other"),
                ("job", "node"),
                ("instance", "b:9100"),
                ("x", "1"),
            ]),
            Labels::from_pairs([("__name__", "no_instance"), ("job", "node")]),
            Labels::from_pairs([("__name__", "nothing")]),
            Labels::from_pairs([("job", "größer"), ("instance", "[::1]:80")]),
            Labels::empty(),
        ]
    }

    fn shards_of(placement: &Placement, tenant: &str) -> Vec<u32> {
        let seed = TenantSeed::of(&tenant.parse().unwrap());
        let shard = |set: &Labels| placement.owner(seed, set.as_ref(), TimestampMs(0)).unwrap().shard.0;
        sets().iter().map(shard).collect()
    }

    /// Data lies where these numbers say. If this fails, the change loses series: it needs a new epoch kind instead.
    #[test]
    fn placement_never_changes() {
        let placement = Placement::from_records(&[record(1, i64::MIN, 1024)]).unwrap();
        let mut spread = record(1, i64::MIN, 1024);
        spread.spreads.push(v1::SpreadRule {
            job: "node".into(),
            ways: 16,
        });
        let spread = Placement::from_records(&[spread]).unwrap();
        assert_eq!(
            [
                shards_of(&placement, "anonymous"),
                shards_of(&placement, "team-a"),
                shards_of(&spread, "anonymous")
            ],
            [
                [7, 940, 940, 758, 412, 409, 368],
                [432, 656, 656, 549, 784, 28, 911],
                [21, 950, 950, 767, 412, 409, 368]
            ]
        );
    }

    #[test]
    fn series_of_one_target_stay_together_unless_spread() {
        let golden = Placement::from_records(&[record(1, i64::MIN, 64)]).unwrap();
        let seed = TenantSeed::of(&TenantId::anonymous());
        let series = |i: u32| Labels::from_pairs([("job", "big"), ("instance", "a"), ("n", &i.to_string())]);
        let shards = |placement: &Placement| {
            let mut all: Vec<_> = (0..200)
                .map(|i| placement.owner(seed, series(i).as_ref(), TimestampMs(5)).unwrap().shard)
                .collect();
            all.sort_unstable();
            all.dedup();
            all.len()
        };
        assert_eq!(shards(&golden), 1);
        let mut spread = record(1, i64::MIN, 64);
        spread.spreads.push(v1::SpreadRule {
            job: "big".into(),
            ways: 3,
        });
        assert_eq!(shards(&Placement::from_records(&[spread]).unwrap()), 3);
    }

    #[test]
    fn slots_are_used_evenly() {
        let placement = Placement::from_records(&[record(1, i64::MIN, 5)]).unwrap();
        let seed = TenantSeed::of(&TenantId::anonymous());
        let mut counts = [0u32; 5];
        for i in 0..5000 {
            let labels = Labels::from_pairs([("job", "j"), ("instance", &format!("host-{i}:9100"))]);
            counts[placement.owner(seed, labels.as_ref(), TimestampMs(0)).unwrap().shard.0 as usize] += 1;
        }
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
    }

    #[test]
    fn the_sample_time_chooses_the_epoch() {
        let placement = Placement::from_records(&[record(1, i64::MIN, 4), record(2, 1000, 8)]).unwrap();
        for (at, epoch) in [(i64::MIN, 1), (999, 1), (1000, 2), (i64::MAX, 2)] {
            assert_eq!(placement.epoch_at(TimestampMs(at)), Some(PlacementEpoch(epoch)), "{at}");
        }
        assert_eq!(placement.newest(), Some(PlacementEpoch(2)));
        assert_eq!(placement.shards().len(), 12);
    }

    #[test]
    fn unusable_epochs_are_refused() {
        assert_eq!(Placement::from_records(&[record(1, 0, 0)]), Err(BadEpoch::NoShards(1)));
        let twice = Placement::from_records(&[record(1, 5, 1), record(2, 5, 1)]);
        assert!(matches!(twice, Err(BadEpoch::NotAscending { epoch: 2, .. })));
        let mut wide = record(1, 0, 2);
        wide.spreads.push(v1::SpreadRule {
            job: "x".into(),
            ways: 3,
        });
        assert!(matches!(
            Placement::from_records(&[wide]),
            Err(BadEpoch::Spread { ways: 3, .. })
        ));
        assert!(Placement::default().epoch_at(TimestampMs(0)).is_none());
    }

    /// Times from a few windows around the epochs' beginnings.
    fn near(beginnings: &[i64]) -> impl Strategy<Value = i64> + use<> {
        let beginnings = beginnings.to_vec();
        (
            any::<prop::sample::Index>(),
            -3i64..=3,
            prop::sample::select(vec![1, 1000, EPOCH_STEP_MS]),
        )
            .prop_map(move |(at, times, unit)| at.get(&beginnings).saturating_add(times * unit))
    }

    fn several() -> impl Strategy<Value = (Vec<v1::PlacementEpoch>, Vec<i64>)> {
        let epoch = (1u32..6, 1i64..40, prop::bool::ANY);
        prop::collection::vec(epoch, 1..5).prop_flat_map(|epochs| {
            let (mut records, mut first, mut from_ms) = (Vec::new(), 0, i64::MIN);
            for (i, (shards, windows, spread)) in epochs.into_iter().enumerate() {
                let spreads = v1::SpreadRule {
                    job: "node".into(),
                    ways: shards,
                };
                records.push(v1::PlacementEpoch {
                    epoch: 2 * i as u32 + 1,
                    from_ms,
                    shards: (first..first + shards).collect(),
                    by_labels: DEFAULT_PLACEMENT_LABELS.map(str::to_owned).into(),
                    spreads: if spread { vec![spreads] } else { Vec::new() },
                });
                first += shards;
                from_ms = from_ms.max(0) + windows * EPOCH_STEP_MS;
            }
            let beginnings: Vec<i64> = records.iter().map(|r| r.from_ms.max(0)).collect();
            let times = prop::collection::vec(near(&beginnings), 1..30);
            (Just(records), times)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Shards' own bounds and the routers' map say the same: each time of a series has one owner.
        #[test]
        fn one_shard_owns_each_time_of_a_series((records, times) in several(), series in 0usize..7) {
            let state = v1::MetaState { epochs: records.clone(), ..v1::MetaState::default() };
            let placement = Placement::in_force(&state).unwrap();
            let (set, seed) = (&sets()[series], TenantSeed::of(&TenantId::anonymous()));
            for at in times {
                let owner = placement.owner(seed, set.as_ref(), TimestampMs(at)).unwrap();
                let owns = |shard: &ShardId| {
                    let bounds = crate::bounds::bounds_of(&state, *shard).unwrap();
                    bounds.from_ms <= at && at < bounds.until_ms
                };
                prop_assert!(owns(&owner.shard), "{owner:?} at {at}");
                let epoch = records.iter().find(|r| r.epoch == owner.epoch.0).unwrap();
                prop_assert!(epoch.shards.contains(&owner.shard.0));
                let others: Vec<ShardId> = placement.shards().into_iter().filter(owns).collect();
                prop_assert_eq!(others.len(), epoch.shards.len(), "of no other epoch at {}", at);
                prop_assert_eq!(placement.end_of(owner.epoch).is_some_and(|end| end <= at), false);
            }
        }
    }
}
