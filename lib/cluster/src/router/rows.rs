//! Writes that are no ticks: remote write, OTLP, imports.

use super::Router;
use super::cache::{CacheKey, Known};
use super::chunk::{ChunkWriter, ITEM_BYTES, MAX_ITEM_BYTES, NamedSeries};
use super::reroute::no_place;
use super::send::{Lane, add_refused};
use super::types::{LabelSource, MetricInfo, Refused, SeriesIdentity, WriteOutcome, is_exemplar_kept};
use crate::placement::{Owner, Placement, TenantSeed};
use gnomon_model::{LabelsRef, PlacementEpoch, TenantId, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::batch::SeriesKey;
use gnomon_proto::v1::rejection::Reason;
use std::sync::Arc;
use std::time::Duration;

/// The items of one write, encoded per shard as they come. [`RouterBatch::series`] says which series the items after
/// it are of.
pub struct RouterBatch<'a> {
    router: &'a Router,
    tenant: &'a TenantId,
    seed: TenantSeed,
    placement: Arc<Placement>,
    labels: &'a dyn LabelSource,
    lanes: Vec<(Owner, ChunkWriter)>,
    /// What is known of series that were announced, by the caller's number, in one epoch.
    announced: (Option<PlacementEpoch>, Vec<Option<Known>>),
    identity: SeriesIdentity,
    series: u32,
    /// Of the samples that come; 0 where it is not known.
    start_ms: i64,
    current: Current,
    scratch: Vec<u8>,
    refused: Vec<Refused>,
    /// No epoch was there to place a sample by.
    unplaced: bool,
    only_newer: bool,
    hits: u64,
    misses: u64,
}

/// The series that items are added to.
#[derive(Clone, Copy)]
enum Current {
    /// Not looked up yet in this epoch.
    Unresolved,
    Resolved {
        epoch: PlacementEpoch,
        lane: usize,
        key: SeriesKey,
    },
    /// Its labels are not a label set, or too long.
    Refused,
}

impl<'a> RouterBatch<'a> {
    pub(super) fn new(router: &'a Router, tenant: &'a TenantId, labels: &'a dyn LabelSource) -> Self {
        Self {
            router,
            tenant,
            seed: TenantSeed::of(tenant),
            placement: router.placement.borrow().clone(),
            labels,
            lanes: Vec::new(),
            announced: (None, Vec::new()),
            identity: 0,
            series: 0,
            start_ms: 0,
            current: Current::Refused,
            scratch: Vec::new(),
            refused: Vec::new(),
            unplaced: false,
            only_newer: false,
            hits: 0,
            misses: 0,
        }
    }

    /// Of each series only what is newer than its newest sample is taken, whatever the out-of-order window; the rest is refused
    /// as out of order. Needs feature level 8.
    #[must_use]
    pub fn only_newer(mut self) -> Self {
        self.only_newer = true;
        self
    }

    /// Says which series will come: `identities[n]` is that of the one whose number is `n`. They are looked up together,
    /// which is faster than one by one; it need not be done.
    pub fn announce(&mut self, identities: &[SeriesIdentity]) {
        if let Some(epoch) = self.placement.newest() {
            let keys: Vec<_> = identities.iter().map(|id| cache_key(*id, self.seed, epoch)).collect();
            self.announced = (Some(epoch), self.router.cache.get_many(&keys));
        }
    }

    /// Begins a series: `identity` as [`SeriesIdentity`] says, `series` the caller's number of it for the label source.
    #[inline]
    pub fn series(&mut self, identity: SeriesIdentity, series: u32) {
        self.identity = identity;
        self.series = series;
        self.start_ms = 0;
        self.current = Current::Unresolved;
    }

    /// Says since when the counters of the samples and histograms count that follow, in milliseconds; 0 where that is not
    /// known, as it is at the begin of each series. It is left out while the cluster has nodes that do not understand it.
    #[inline]
    pub fn since(&mut self, start_ms: i64) {
        if start_ms != 0 {
            self.router.saw_start();
        }
        self.start_ms = if self.placement.keeps_starts() { start_ms } else { 0 };
    }

    #[inline]
    pub fn sample(&mut self, timestamp_ms: i64, value: f64) {
        let start_ms = self.start_ms;
        if let Some((writer, key)) = self.place(timestamp_ms, ITEM_BYTES) {
            writer.items().since(start_ms);
            writer.items().sample(key, timestamp_ms, value);
        }
    }

    /// `encoded` is remote write's `prometheus.Histogram`; the times within are not used.
    pub fn histogram(&mut self, timestamp_ms: i64, encoded: &[u8]) {
        let start_ms = self.start_ms;
        if encoded.len() > MAX_ITEM_BYTES {
            self.refuse(Reason::InvalidHistogram, timestamp_ms);
        } else if let Some((writer, key)) = self.place(timestamp_ms, ITEM_BYTES + encoded.len()) {
            writer.items().since(start_ms);
            writer.items().histogram(key, timestamp_ms, encoded);
        }
    }

    /// Placed with the samples of its time. One with longer labels than are kept is left out.
    pub fn exemplar(&mut self, timestamp_ms: i64, value: f64, labels: LabelsRef<'_>) {
        if !is_exemplar_kept(labels) {
            return;
        }
        let bytes = labels.as_bytes().len();
        if bytes > MAX_ITEM_BYTES {
            self.refuse(Reason::InvalidLabels, timestamp_ms);
        } else if let Some((writer, key)) = self.place(timestamp_ms, ITEM_BYTES + bytes) {
            writer.items().exemplar(key, timestamp_ms, value, labels);
        }
    }

    /// Metadata of a metric, of whatever series. More than an entry holds is left out.
    pub fn metadata(&mut self, info: &MetricInfo<'_>) {
        let bytes = info.metric.len() + info.kind.len() + info.unit.len() + info.help.len();
        let Some(owner) = self.placement.owner_of_metric(self.seed, info.metric) else {
            self.unplaced = true;
            return;
        };
        if bytes <= MAX_ITEM_BYTES {
            let lane = self.lane(owner);
            let writer = &mut self.lanes[lane].1;
            if writer.make_room(ITEM_BYTES + bytes) {
                self.current = Current::Unresolved;
            }
            writer.items().metadata(info.metric, info.kind, info.unit, info.help);
        }
    }

    fn refuse(&mut self, reason: Reason, timestamp_ms: i64) {
        self.scratch.clear();
        self.labels.write_labels(self.series, &mut self.scratch);
        let example = LabelsRef::checked(&self.scratch).ok();
        let example = example.map(|labels| (labels.to_owned(), timestamp_ms));
        let refused = Refused {
            reason,
            count: 1,
            example,
        };
        add_refused(&mut self.refused, refused);
    }

    /// Room for an item of the current series at a time, and the series' key there.
    #[inline]
    fn place(&mut self, timestamp_ms: i64, bytes: usize) -> Option<(&mut ChunkWriter, SeriesKey)> {
        let Some(now) = self.placement.epoch_at(TimestampMs(timestamp_ms)) else {
            self.unplaced = true;
            return None;
        };
        for _ in 0..2 {
            match self.current {
                Current::Resolved { epoch, lane, .. } if epoch == now => {
                    if self.lanes[lane].1.make_room(bytes) {
                        self.resolve(now, timestamp_ms);
                    }
                    break;
                }
                Current::Refused => break,
                _ => self.resolve(now, timestamp_ms),
            }
        }
        match self.current {
            Current::Resolved { lane, key, .. } => Some((&mut self.lanes[lane].1, key)),
            _ => {
                self.refuse(Reason::InvalidLabels, timestamp_ms);
                None
            }
        }
    }

    fn look_up(&self, key: CacheKey, epoch: PlacementEpoch) -> Option<Known> {
        let (announced_in, announced) = &self.announced;
        match announced.get(self.series as usize) {
            // One that was not known then may be by now: another request may have brought it, or this one.
            Some(Some(known)) if *announced_in == Some(epoch) => Some(*known),
            _ => self.router.cache.get(key),
        }
    }

    fn resolve(&mut self, epoch: PlacementEpoch, timestamp_ms: i64) {
        let key = cache_key(self.identity, self.seed, epoch);
        if let Some(known) = self.look_up(key, epoch) {
            self.hits += 1;
            let lane = self.lane(Owner {
                epoch,
                shard: known.shard,
            });
            let key = self.lanes[lane].1.known(NamedSeries {
                key,
                reference: known.reference,
                series: self.series,
            });
            self.current = Current::Resolved { epoch, lane, key };
            return;
        }
        self.misses += 1;
        self.scratch.clear();
        self.labels.write_labels(self.series, &mut self.scratch);
        self.current = Current::Refused;
        let usable = !self.scratch.is_empty() && self.scratch.len() <= MAX_ITEM_BYTES;
        let Some(labels) = LabelsRef::checked(&self.scratch).ok().filter(|_| usable) else {
            return;
        };
        let Some(owner) = self.placement.owner(self.seed, labels, TimestampMs(timestamp_ms)) else {
            return;
        };
        let lane = lane_of(&mut self.lanes, self.tenant, owner, self.only_newer);
        let writer = &mut self.lanes[lane].1;
        writer.make_room(ITEM_BYTES + self.scratch.len());
        let key = writer.new_series(key, self.series, labels);
        self.current = Current::Resolved { epoch, lane, key };
    }

    fn lane(&mut self, owner: Owner) -> usize {
        lane_of(&mut self.lanes, self.tenant, owner, self.only_newer)
    }

    /// Sends everything, to all shards at once. After `deadline` whatever has no answer is reported as retryable.
    pub async fn send(self, deadline: Duration) -> WriteOutcome {
        let Self {
            router,
            labels,
            lanes,
            refused,
            unplaced,
            hits,
            misses,
            ..
        } = self;
        router.count(hits, misses);
        let time_is_up = tokio::time::sleep(deadline);
        let mut outcome = WriteOutcome {
            refused,
            ..WriteOutcome::default()
        };
        if unplaced {
            outcome.retryable = Some(ServiceError::Unavailable("the cluster has no shards yet".into()));
        }
        let sends = lanes.into_iter().map(|(owner, writer)| {
            let lane = Lane {
                shard: owner.shard,
                chunks: writer.finish(),
            };
            router.send_lane(lane, labels, deadline, false)
        });
        let mut misrouted = Vec::new();
        for mut tally in futures::future::join_all(sends).await {
            misrouted.append(&mut tally.misrouted);
            outcome.merge(tally);
        }
        if let Some(shard) = misrouted.first().map(|first| first.shard) {
            let followed = tokio::select! {
                followed = router.follow_misrouted(misrouted, labels, deadline, &mut outcome) => followed,
                () = time_is_up => Err(no_place(shard)),
            };
            if let Err(error) = followed {
                outcome.fail(error);
            }
        }
        outcome
    }
}

fn lane_of(lanes: &mut Vec<(Owner, ChunkWriter)>, tenant: &TenantId, owner: Owner, only_newer: bool) -> usize {
    if let Some(at) = lanes.iter().position(|(o, _)| *o == owner) {
        return at;
    }
    let writer = ChunkWriter::rows(tenant, owner.epoch).only_newer(only_newer);
    lanes.push((owner, writer));
    lanes.len() - 1
}

/// Mixes tenant and epoch into an identity.
#[inline]
pub(super) fn cache_key(identity: SeriesIdentity, seed: TenantSeed, epoch: PlacementEpoch) -> CacheKey {
    identity ^ (u128::from(seed.value()) << 64 | epoch_mix(epoch))
}

fn epoch_mix(epoch: PlacementEpoch) -> u128 {
    u128::from(u64::from(epoch.0).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The key of the same series in another epoch.
pub(super) fn moved_key(key: CacheKey, from: PlacementEpoch, to: PlacementEpoch) -> CacheKey {
    key ^ epoch_mix(from) ^ epoch_mix(to)
}
