//! Where the series of one target are, by the numbers that its scraper gives them: a scrape of series that are known looks
//! nothing up.

use super::cache::Known;
use super::types::SeriesIdentity;
use crate::placement::TenantSeed;
use gnomon_model::{PlacementEpoch, SeriesRef, ShardId};
use parking_lot::{Mutex, MutexGuard};

/// Series with greater numbers are looked up each time.
const MAX_SERIES: usize = 1 << 20;
/// No series has it.
const NO_REFERENCE: SeriesRef = SeriesRef(0);

/// Kept by who numbers the series ([`super::LabelSource::memo`]), read and filled by the router alone. Losing it costs
/// look-ups. 24 bytes a series.
#[derive(Debug, Default)]
pub struct TickMemo(Mutex<Places>);

#[derive(Debug, Default)]
pub(super) struct Places {
    /// Whose series they are, placed by which epoch.
    of: Option<(u64, PlacementEpoch)>,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    reference: SeriesRef,
    /// Half of it: a number is used again once its series is gone.
    identity: u64,
    shard: ShardId,
}

impl TickMemo {
    /// What is known of series of this tenant in this epoch; what was known in another is forgotten.
    pub(super) fn open(&self, tenant: TenantSeed, epoch: PlacementEpoch) -> MutexGuard<'_, Places> {
        let mut places = self.0.lock();
        let of = Some((tenant.value(), epoch));
        if places.of != of {
            places.places.clear();
            places.of = of;
        }
        places
    }

    /// Forgets what a shard does not know: series by their numbers, each as far as it is still sent by that reference.
    pub(super) fn forget(&self, shard: ShardId, unknown: impl Iterator<Item = (u32, SeriesRef)>) {
        let mut places = self.0.lock();
        for (series, reference) in unknown {
            let place = places.places.get_mut(series as usize);
            if let Some(place) = place.filter(|place| (place.shard, place.reference) == (shard, reference)) {
                place.reference = NO_REFERENCE;
            }
        }
    }
}

impl Places {
    #[inline]
    pub(super) fn get(&self, series: u32, identity: SeriesIdentity) -> Option<Known> {
        let place = self.places.get(series as usize)?;
        let is_it = place.identity == identity as u64 && place.reference != NO_REFERENCE;
        is_it.then_some(Known {
            reference: place.reference,
            shard: place.shard,
        })
    }

    pub(super) fn set(&mut self, series: u32, identity: SeriesIdentity, known: Known) {
        let at = series as usize;
        if at >= MAX_SERIES {
            return;
        }
        if at >= self.places.len() {
            let nothing = Place {
                reference: NO_REFERENCE,
                identity: 0,
                shard: ShardId(0),
            };
            self.places.resize(at + 1, nothing);
        }
        self.places[at] = Place {
            reference: known.reference,
            identity: identity as u64,
            shard: known.shard,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::TenantId;

    #[test]
    fn what_was_set_is_known_in_its_epoch_and_of_its_series_only() {
        let memo = TickMemo::default();
        let tenant = TenantSeed::of(&TenantId::anonymous());
        let known = Known {
            reference: SeriesRef(5),
            shard: ShardId(1),
        };
        let mut places = memo.open(tenant, PlacementEpoch(1));
        places.set(3, 77, known);
        places.set(u32::MAX, 78, known);
        drop(places);
        let get = |epoch, series, identity| memo.open(tenant, PlacementEpoch(epoch)).get(series, identity);
        assert_eq!(get(1, 3, 77), Some(known));
        // Another series has the number, others have none, or one that is too great.
        assert_eq!((get(1, 3, 78), get(1, 0, 0), get(1, u32::MAX, 78)), (None, None, None));
        assert_eq!(get(2, 3, 77), None);
        assert_eq!(get(1, 3, 77), None, "forgotten with the epoch");
    }

    #[test]
    fn what_a_shard_does_not_know_is_forgotten_and_nothing_else() {
        let memo = TickMemo::default();
        let tenant = TenantSeed::of(&TenantId::anonymous());
        let known = |reference| Known {
            reference: SeriesRef(reference),
            shard: ShardId(1),
        };
        let mut places = memo.open(tenant, PlacementEpoch(1));
        for series in 0..4 {
            places.set(series, 77, known(10 + u64::from(series)));
        }
        drop(places);
        let unknown = [(0, 10), (1, 10), (3, 13), (9, 19)].map(|(series, r)| (series, SeriesRef(r)));
        memo.forget(ShardId(2), unknown.into_iter());
        let there = |series| memo.open(tenant, PlacementEpoch(1)).get(series, 77);
        assert!(
            (0..4).all(|series| there(series).is_some()),
            "another shard's references"
        );
        memo.forget(ShardId(1), unknown.into_iter());
        assert_eq!((there(0), there(3)), (None, None));
        // It has got another meanwhile.
        assert_eq!((there(1), there(2)), (Some(known(11)), Some(known(12))));
    }
}
