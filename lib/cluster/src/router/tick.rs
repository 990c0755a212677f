//! One scrape of one target: usually one shard and one batch.

use super::Router;
use super::cache::{CacheKey, Known};
use super::chunk::{Chunk, ChunkWriter, ITEM_BYTES, MAX_ITEM_BYTES, NamedSeries};
use super::reroute::no_place;
use super::rows::cache_key;
use super::send::{Lane, Misrouted, Tally, add_refused};
use super::types::{Refused, SeriesIdentity, Tick, TickOutcome, WriteOutcome};
use crate::placement::{Owner, Placement, TenantSeed};
use gnomon_model::{LabelsRef, PlacementEpoch, SeriesRef, ShardId, TargetId, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::batch::{SeriesKey, TickHeader};
use gnomon_proto::v1::rejection::Reason;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Targets whose other shards are remembered; the home shard says it again where one is not.
const MAX_TARGETS: usize = 200_000;
/// Scratch memory kept for the next ticks, and the most slots one of them may keep.
const MAX_SCRATCHES: usize = 8;
const MAX_SCRATCH_SLOTS: usize = 1 << 20;
/// What a sample costs at most: head, value, and the time where samples of the tick have times of their own.
const SAMPLE_BYTES: usize = 19;
const TIME_BYTES: usize = 10;
/// Its start, where the tick has some.
const START_BYTES: usize = 11;

/// Which shards of an epoch besides its home hold series of a target; only targets that have such.
#[derive(Default)]
pub(super) struct TargetShards(Mutex<ShardsByTarget>);

type ShardsByTarget = HashMap<(TargetId, PlacementEpoch), Arc<[ShardId]>>;

impl TargetShards {
    fn get(&self, target: TargetId, epoch: PlacementEpoch) -> Option<Arc<[ShardId]>> {
        self.0.lock().get(&(target, epoch)).cloned()
    }

    #[cfg(test)]
    pub(super) fn has(&self, target: TargetId, epoch: PlacementEpoch) -> bool {
        self.0.lock().contains_key(&(target, epoch))
    }

    fn set(&self, target: TargetId, epoch: PlacementEpoch, shards: &[ShardId]) {
        let mut all = self.0.lock();
        if shards.is_empty() {
            all.remove(&(target, epoch));
        } else {
            if all.len() >= MAX_TARGETS {
                all.clear();
            }
            all.insert((target, epoch), shards.into());
        }
    }
}

/// What the first pass finds out about an item.
#[derive(Clone, Copy)]
struct Slot {
    lane: u32,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Known(SeriesRef),
    /// Range of the arena.
    New(u32, u32),
    Refused,
}

/// Memory used again by the next tick.
#[derive(Default)]
pub(super) struct TickScratch {
    slots: Vec<Slot>,
    /// Canonical labels of the series that are not known.
    arena: Vec<u8>,
    lanes: Vec<TickLane>,
}

impl TickScratch {
    /// Shards that get the tick, the home first.
    fn tick_shards(&self, home: Owner) -> impl Iterator<Item = ShardId> {
        let in_epoch = self.lanes.iter().filter(move |lane| lane.owner.epoch == home.epoch);
        in_epoch.map(|lane| lane.owner.shard)
    }
}

struct TickLane {
    owner: Owner,
    /// Upper bound of the bytes of its items.
    bytes: usize,
    /// Items of series that are known.
    known: usize,
}

/// The first pass over a tick: who owns each item.
struct Resolver<'a> {
    router: &'a Router,
    placement: &'a Placement,
    seed: TenantSeed,
    tick: &'a Tick<'a>,
    /// Where series are placed as of this time, whatever time a sample has.
    as_of: Option<TimestampMs>,
    /// That of the tick's own time.
    epoch: PlacementEpoch,
    scratch: TickScratch,
    refused: Vec<Refused>,
    sample_bytes: usize,
    hits: u64,
    misses: u64,
}

impl Resolver<'_> {
    fn run(&mut self, home: Owner) -> Result<(), ServiceError> {
        let tick = self.tick;
        self.lane(home);
        if tick.samples.iter().any(|s| s.timestamp_ms != tick.tick_ms) {
            self.sample_bytes += TIME_BYTES;
        }
        let found = self.find_samples()?;
        for (sample, known) in tick.samples.iter().zip(found) {
            self.place(known, sample.series, sample.timestamp_ms, self.sample_bytes)?;
        }
        for h in tick.histograms {
            if h.encoded.len() > MAX_ITEM_BYTES {
                self.refuse(Reason::InvalidHistogram, None, h.timestamp_ms);
            } else {
                self.resolve(h.identity, h.series, h.timestamp_ms, ITEM_BYTES + h.encoded.len())?;
            }
        }
        for e in tick.exemplars {
            let bytes = e.labels.as_bytes().len();
            if bytes > MAX_ITEM_BYTES {
                self.refuse(Reason::InvalidLabels, None, e.timestamp_ms);
            } else {
                self.resolve(e.identity, e.series, e.timestamp_ms, ITEM_BYTES + bytes)?;
            }
        }
        let metadata = tick
            .metadata
            .iter()
            .map(metadata_bytes)
            .filter(|b| *b <= MAX_ITEM_BYTES);
        self.scratch.lanes[0].bytes += metadata.map(|b| b + ITEM_BYTES).sum::<usize>();
        Ok(())
    }

    /// What is known of the series of the samples.
    fn find_samples(&self) -> Result<Vec<Option<Known>>, ServiceError> {
        let samples = self.tick.samples;
        let mut memo = match self.tick.labels.memo() {
            Some(memo) if self.as_of.is_none() => Some(memo.open(self.seed, self.epoch)),
            _ => None,
        };
        let mut found = Vec::with_capacity(samples.len());
        let (mut missing, mut keys) = (Vec::new(), Vec::new());
        for sample in samples {
            let epoch = self.epoch_of(sample.timestamp_ms)?;
            let memo = memo.as_ref().filter(|_| epoch == self.epoch);
            let known = memo.and_then(|memo| memo.get(sample.series, sample.identity));
            if known.is_none() {
                missing.push(found.len());
                keys.push(cache_key(sample.identity, self.seed, epoch));
            }
            found.push(known);
        }
        // All at once: looked up one by one, each would wait for memory by itself.
        for (at, known) in missing.into_iter().zip(self.router.cache.get_many(&keys)) {
            found[at] = known;
            let sample = &samples[at];
            if let Some((memo, known)) = memo.as_mut().zip(known)
                && self.epoch_of(sample.timestamp_ms)? == self.epoch
            {
                memo.set(sample.series, sample.identity, known);
            }
        }
        Ok(found)
    }

    fn lane(&mut self, owner: Owner) -> u32 {
        let lanes = &mut self.scratch.lanes;
        let at = lanes.iter().position(|lane| lane.owner == owner).unwrap_or_else(|| {
            let (bytes, known) = (0, 0);
            lanes.push(TickLane { owner, bytes, known });
            lanes.len() - 1
        });
        at as u32
    }

    fn refuse(&mut self, reason: Reason, labels: Option<LabelsRef<'_>>, timestamp_ms: i64) {
        let refused = Refused {
            reason,
            count: 1,
            example: labels.map(|l| (l.to_owned(), timestamp_ms)),
        };
        add_refused(&mut self.refused, refused);
        let place = Place::Refused;
        self.scratch.slots.push(Slot { lane: 0, place });
    }

    #[inline]
    fn epoch_of(&self, at: i64) -> Result<PlacementEpoch, ServiceError> {
        if at == self.tick.tick_ms {
            return Ok(self.epoch);
        }
        let placed_at = self.as_of.unwrap_or(TimestampMs(at));
        self.placement.epoch_at(placed_at).ok_or_else(no_shards)
    }

    #[inline]
    fn key(&self, identity: SeriesIdentity, at: i64) -> Result<CacheKey, ServiceError> {
        Ok(cache_key(identity, self.seed, self.epoch_of(at)?))
    }

    fn resolve(&mut self, identity: SeriesIdentity, series: u32, at: i64, bytes: usize) -> Result<(), ServiceError> {
        let known = self.router.cache.get(self.key(identity, at)?);
        self.place(known, series, at, bytes)
    }

    /// Where an item goes, by what the cache knows of its series.
    #[inline]
    fn place(&mut self, known: Option<Known>, series: u32, at: i64, bytes: usize) -> Result<(), ServiceError> {
        let Some(known) = known else {
            return self.resolve_new(series, at, bytes);
        };
        self.hits += 1;
        let (epoch, shard) = (self.epoch_of(at)?, known.shard);
        let lane = self.lane(Owner { epoch, shard });
        let there = &mut self.scratch.lanes[lane as usize];
        there.bytes += bytes;
        there.known += 1;
        let place = Place::Known(known.reference);
        self.scratch.slots.push(Slot { lane, place });
        Ok(())
    }

    fn resolve_new(&mut self, series: u32, at: i64, bytes: usize) -> Result<(), ServiceError> {
        self.misses += 1;
        let arena = &mut self.scratch.arena;
        let start = arena.len();
        self.tick.labels.write_labels(series, arena);
        let (from, to) = (u32::try_from(start), u32::try_from(arena.len()));
        let (Ok(from), Ok(to)) = (from, to) else {
            return Err(ServiceError::Invalid(
                "the new series of one scrape have more than 4 GiB of labels".into(),
            ));
        };
        let made = &arena[start..];
        let usable = !made.is_empty() && made.len() <= MAX_ITEM_BYTES;
        let Some(labels) = LabelsRef::checked(made).ok().filter(|_| usable) else {
            arena.truncate(start);
            self.refuse(Reason::InvalidLabels, None, at);
            return Ok(());
        };
        let owner = self
            .placement
            .owner(self.seed, labels, self.as_of.unwrap_or(TimestampMs(at)))
            .ok_or_else(no_shards)?;
        let lane = self.lane(owner);
        self.scratch.lanes[lane as usize].bytes += bytes + (to - from) as usize;
        let place = Place::New(from, to);
        self.scratch.slots.push(Slot { lane, place });
        Ok(())
    }
}

fn no_shards() -> ServiceError {
    ServiceError::Unavailable("the cluster has no shards yet".into())
}

fn metadata_bytes(info: &super::MetricInfo<'_>) -> usize {
    info.metric.len() + info.kind.len() + info.unit.len() + info.help.len()
}

fn header(tick: &Tick<'_>, home: bool, other_shards: Vec<ShardId>) -> TickHeader {
    TickHeader {
        target: tick.target,
        term: tick.term,
        tick_ms: tick.tick_ms,
        interval_ms: tick.interval_ms,
        first: true,
        last: true,
        complete: tick.complete,
        home,
        track_timestamps_staleness: tick.track_timestamps_staleness,
        names_only: false,
        other_shards,
    }
}

/// The second pass: the items into their lanes' writers.
struct Encoder<'a> {
    tick: &'a Tick<'a>,
    seed: TenantSeed,
    scratch: &'a TickScratch,
    writers: Vec<ChunkWriter>,
    /// Which series there are is all that matters: histograms stand there as numbers, exemplars do not.
    names_only: bool,
    /// Whether all nodes understand start timestamps.
    keeps_starts: bool,
}

impl<'a> Encoder<'a> {
    fn new(
        tick: &'a Tick<'a>,
        seed: TenantSeed,
        scratch: &'a TickScratch,
        names_only: bool,
        keeps_starts: bool,
    ) -> Self {
        let home = scratch.lanes[0].owner;
        let others: Vec<ShardId> = scratch.tick_shards(home).filter(|s| *s != home.shard).collect();
        // A series that is in the tick by a sample of another epoch is not missing from it.
        let is_mixed = scratch.lanes.iter().any(|lane| lane.owner.epoch != home.epoch);
        let writer = |lane: &TickLane| {
            let is_home = lane.owner == home;
            if lane.owner.epoch != home.epoch {
                // Samples that bring a time of another epoch: one shard may be in both, and takes one tick only.
                return ChunkWriter::rows(tick.tenant, lane.owner.epoch);
            }
            let mut header = header(tick, is_home, if is_home { others.clone() } else { Vec::new() });
            header.names_only = names_only;
            header.complete &= !(is_mixed && tick.track_timestamps_staleness);
            ChunkWriter::tick(tick.tenant, lane.owner.epoch, header, lane.bytes).expecting(lane.known)
        };
        Self {
            tick,
            seed,
            scratch,
            writers: scratch.lanes.iter().map(writer).collect(),
            names_only,
            keeps_starts,
        }
    }

    #[inline]
    fn key(
        &mut self,
        slot: Slot,
        identity: SeriesIdentity,
        series: u32,
        bytes: usize,
    ) -> Option<(&mut ChunkWriter, SeriesKey)> {
        let lane = slot.lane as usize;
        let key = cache_key(identity, self.seed, self.scratch.lanes[lane].owner.epoch);
        let writer = &mut self.writers[lane];
        let made = match slot.place {
            Place::Known(reference) => {
                writer.make_room(bytes);
                writer.known(NamedSeries { key, reference, series })
            }
            Place::New(from, to) => {
                writer.make_room(bytes + (to - from) as usize);
                let labels = LabelsRef::from_canonical(&self.scratch.arena[from as usize..to as usize]);
                writer.new_series(key, series, labels)
            }
            Place::Refused => return None,
        };
        Some((writer, made))
    }

    fn run(mut self, sample_bytes: usize) -> Vec<Vec<Chunk>> {
        let tick = self.tick;
        let scratch = self.scratch;
        let keeps_starts = self.keeps_starts;
        let mut slots = scratch.slots.iter().copied();
        for (sample, slot) in tick.samples.iter().zip(&mut slots) {
            if let Some((writer, key)) = self.key(slot, sample.identity, sample.series, sample_bytes) {
                writer.items().since(if keeps_starts { sample.start_ms } else { 0 });
                writer.items().sample(key, sample.timestamp_ms, sample.value);
            }
        }
        let names_only = self.names_only;
        for (h, slot) in tick.histograms.iter().zip(&mut slots) {
            if names_only {
                if let Some((writer, key)) = self.key(slot, h.identity, h.series, ITEM_BYTES) {
                    writer.items().sample(key, h.timestamp_ms, 0.0);
                }
            } else if let Some((writer, key)) = self.key(slot, h.identity, h.series, ITEM_BYTES + h.encoded.len()) {
                writer.items().since(if keeps_starts { h.start_ms } else { 0 });
                writer.items().histogram(key, h.timestamp_ms, &h.encoded);
            }
        }
        let exemplars = tick.exemplars.iter().filter(|_| !names_only);
        for (e, slot) in exemplars.zip(&mut slots) {
            let bytes = ITEM_BYTES + e.labels.as_bytes().len();
            if let Some((writer, key)) = self.key(slot, e.identity, e.series, bytes) {
                writer.items().exemplar(key, e.timestamp_ms, e.value, e.labels.as_ref());
            }
        }
        for info in tick.metadata {
            let bytes = metadata_bytes(info);
            if bytes <= MAX_ITEM_BYTES {
                self.writers[0].make_room(bytes + ITEM_BYTES);
                let items = self.writers[0].items();
                items.metadata(info.metric, info.kind, info.unit, info.help);
            }
        }
        self.writers.into_iter().map(ChunkWriter::finish).collect()
    }
}

/// A tick, ready to be sent.
struct Encoded {
    lanes: Vec<Lane>,
    /// Shards that get the tick, the home first.
    shards: Vec<ShardId>,
    /// What was refused before sending.
    refused: Vec<Refused>,
}

/// What of a tick the shards are told that own its series at `as_of`, where an epoch begins: no samples.
pub(super) fn encode_names(
    router: &Router,
    tick: &Tick<'_>,
    placement: &Placement,
    as_of: TimestampMs,
) -> Result<Vec<Lane>, ServiceError> {
    Ok(encode(router, tick, placement, Some(as_of))?.lanes)
}

fn encode(
    router: &Router,
    tick: &Tick<'_>,
    placement: &Placement,
    as_of: Option<TimestampMs>,
) -> Result<Encoded, ServiceError> {
    let seed = TenantSeed::of(tick.tenant);
    let home = placement
        .owner(seed, tick.target_labels, as_of.unwrap_or(TimestampMs(tick.tick_ms)))
        .ok_or_else(no_shards)?;
    let starts = tick.samples.iter().map(|sample| sample.start_ms);
    let mut starts = starts.chain(tick.histograms.iter().map(|histogram| histogram.start_ms));
    let has_starts = starts.any(|start_ms| start_ms != 0);
    if has_starts {
        router.saw_start();
    }
    let keeps_starts = has_starts && placement.keeps_starts();
    let mut resolver = Resolver {
        router,
        placement,
        seed,
        tick,
        as_of,
        epoch: home.epoch,
        scratch: router.take_scratch(),
        refused: Vec::new(),
        sample_bytes: SAMPLE_BYTES + if keeps_starts { START_BYTES } else { 0 },
        hits: 0,
        misses: 0,
    };
    resolver.run(home)?;
    for shard in router
        .targets
        .get(tick.target, home.epoch)
        .iter()
        .flat_map(|s| s.iter())
    {
        let (epoch, shard) = (home.epoch, *shard);
        resolver.lane(Owner { epoch, shard });
    }
    let Resolver {
        scratch,
        refused,
        sample_bytes,
        hits,
        misses,
        ..
    } = resolver;
    router.count(hits, misses);
    let chunks = Encoder::new(tick, seed, &scratch, as_of.is_some(), keeps_starts).run(sample_bytes);
    let shards = scratch.lanes.iter().map(|lane| lane.owner.shard);
    let lanes = shards
        .zip(chunks)
        .map(|(shard, chunks)| Lane { shard, chunks })
        .collect();
    let shards = scratch.tick_shards(home).collect();
    router.give_back(scratch);
    Ok(Encoded { lanes, shards, refused })
}

/// What a shard gets that holds series of the target, none of which is in the tick.
fn empty_lane(tick: &Tick<'_>, placement: &Placement, shard: ShardId) -> Option<Lane> {
    let epoch = placement.epoch_at(TimestampMs(tick.tick_ms))?;
    let chunks = ChunkWriter::tick(tick.tenant, epoch, header(tick, false, Vec::new()), 0).finish();
    Some(Lane { shard, chunks })
}

pub(super) async fn push(router: &Router, tick: &Tick<'_>, deadline: Duration) -> Result<TickOutcome, ServiceError> {
    let time_is_up = tokio::time::sleep(deadline);
    tokio::pin!(time_is_up);
    let mut outcome = TickOutcome::default();
    let mut again = false;
    loop {
        let placement = router.placement.borrow().clone();
        let Some(shard) = push_once(router, tick, &placement, deadline, again, &mut outcome).await? else {
            break;
        };
        again = true;
        tokio::select! {
            () = router.newer_map(&placement) => {}
            () = &mut time_is_up => return Err(no_place(shard)),
        }
    }
    if outcome.taken {
        router.tell_names(tick).await;
    }
    Ok(outcome)
}

/// Sends a tick by a map. Gives a shard that does not own it, where there is one: then it has to be sent once more, by a
/// newer map.
async fn push_once(
    router: &Router,
    tick: &Tick<'_>,
    placement: &Placement,
    deadline: Duration,
    again: bool,
    outcome: &mut TickOutcome,
) -> Result<Option<ShardId>, ServiceError> {
    let Encoded {
        lanes,
        shards: mut sent,
        refused,
    } = encode(router, tick, placement, None)?;
    let sends = lanes
        .into_iter()
        .map(|lane| router.send_lane(lane, tick.labels, deadline, again));
    let mut tallies = futures::future::join_all(sends).await;
    let missed = learn_shards(router, tick, placement, &mut sent, &tallies);
    if !missed.is_empty() {
        let lanes = missed.iter().filter_map(|shard| empty_lane(tick, placement, *shard));
        let sends = lanes.map(|lane| router.send_lane(lane, tick.labels, deadline, again));
        tallies.extend(futures::future::join_all(sends).await);
    }
    outcome.taken = true;
    outcome.refused = refused;
    let mut elsewhere = None;
    let mut rows = Vec::new();
    for mut tally in tallies {
        if let Some(error) = tally.error {
            return Err(error);
        }
        match tally.ticks_misrouted {
            0 => rows.append(&mut tally.misrouted),
            _ => elsewhere = tally.misrouted.first().map(|first| first.shard),
        }
        outcome.taken &= !tally.tick_refused;
        outcome.older_term |= tally.tick_of_older_term;
        outcome.doubled |= tally.tick_doubled;
        outcome.earlier |= tally.tick_earlier;
        outcome.samples_taken += tally.taken;
        outcome.duplicates += tally.duplicates;
        outcome.series_added += tally.series_added;
        for one in tally.refused {
            add_refused(&mut outcome.refused, one);
        }
    }
    if elsewhere.is_none()
        && let Some(shard) = rows.first().map(|first| first.shard)
    {
        // The tick was taken, but samples that bring their own time have theirs elsewhere.
        follow_rows(router, tick, rows, shard, deadline, outcome).await?;
    }
    Ok(elsewhere)
}

async fn follow_rows(
    router: &Router,
    tick: &Tick<'_>,
    rows: Vec<Misrouted>,
    shard: ShardId,
    deadline: Duration,
    outcome: &mut TickOutcome,
) -> Result<(), ServiceError> {
    let mut followed = WriteOutcome::default();
    let following = router.follow_misrouted(rows, tick.labels, deadline, &mut followed);
    match tokio::time::timeout(deadline, following).await {
        Ok(done) => done?,
        Err(_) => return Err(no_place(shard)),
    }
    if let Some(error) = followed.retryable.or(followed.failed) {
        return Err(error);
    }
    outcome.samples_taken += followed.taken;
    for one in followed.refused {
        add_refused(&mut outcome.refused, one);
    }
    Ok(())
}

/// Takes over what the home shard says of the target's other shards; gives those that were not sent the tick.
fn learn_shards(
    router: &Router,
    tick: &Tick<'_>,
    placement: &Placement,
    sent: &mut Vec<ShardId>,
    tallies: &[Tally],
) -> Vec<ShardId> {
    let home = sent.first().copied();
    let told = tallies.iter().flat_map(|t| &t.target_shards);
    let Some((_, others)) = told.into_iter().rfind(|(target, _)| *target == tick.target.0) else {
        return Vec::new();
    };
    let mut others: Vec<ShardId> = others.iter().copied().map(ShardId).collect();
    others.retain(|s| Some(*s) != home);
    if let Some(epoch) = placement.epoch_at(TimestampMs(tick.tick_ms)) {
        router.targets.set(tick.target, epoch, &others);
    }
    others.retain(|s| !sent.contains(s));
    sent.extend(&others);
    others
}

impl Router {
    /// The home shard of a tick's target, by the map as it is now; none while there are no shards.
    #[must_use]
    pub fn home(&self, tick: &Tick<'_>) -> Option<ShardId> {
        let placement = self.placement.borrow().clone();
        let seed = TenantSeed::of(tick.tenant);
        let home = placement.owner(seed, tick.target_labels, TimestampMs(tick.tick_ms))?;
        Some(home.shard)
    }

    fn take_scratch(&self) -> TickScratch {
        self.scratches.lock().pop().unwrap_or_default()
    }

    fn give_back(&self, mut scratch: TickScratch) {
        scratch.slots.clear();
        scratch.arena.clear();
        scratch.lanes.clear();
        let small = scratch.slots.capacity() <= MAX_SCRATCH_SLOTS && scratch.arena.capacity() <= 64 * MAX_SCRATCH_SLOTS;
        let mut kept = self.scratches.lock();
        if small && kept.len() < MAX_SCRATCHES {
            kept.push(scratch);
        }
    }
}
