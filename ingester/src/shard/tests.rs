//! The shard's promises: what was acknowledged is readable, equal logs give equal shards, a restored shard is the one
//! that was flushed.

mod counting;
mod deleting;
mod epochs;
mod exemplars;
mod hand_over;
mod ordering;
mod random_log;
mod ticks;

use super::ShardMachine;
use super::apply::ApplyError;
use super::entry::{Command, Entry, Limits, SilentTarget};
use super::flush::{RestoreError, StateSink, StateSource, Visit};
use super::state::ShardState;
use crate::head::{Head, MarkerPlace, Stop, WINDOW_MS};
use crate::testing::MemoryState;
use bytes::Bytes;
use gnomon_cluster::raft::{Applied, StateMachine};
use gnomon_model::{
    FeatureLevel, Labels, LabelsRef, MatchOp, Matcher, PlacementEpoch, STALE_NAN, SeriesRef, ShardId, TargetId,
    TenantId, TimeRange, TimestampMs, is_stale_nan,
};
use gnomon_proto::batch::{BatchBuilder, SeriesKey, TickHeader};
use gnomon_proto::v1::AppendResponse;
use gnomon_proto::v1::rejection::Reason;
use gnomon_tsdb::page::PageSamples;
use prost::Message;
use std::collections::BTreeMap;

const T0: i64 = 1_699_999_200_000 / WINDOW_MS * WINDOW_MS;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct MemoryStore(pub(super) BTreeMap<Vec<u8>, Vec<u8>>);

impl StateSink for MemoryStore {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key.to_vec(), value.to_vec());
    }
    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
    fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        self.0.retain(|k, _| !(from <= k.as_slice() && k.as_slice() < to));
    }
}

impl StateSource for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RestoreError> {
        Ok(self.0.get(key).cloned())
    }
    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), RestoreError> {
        let pairs = self.0.iter().filter(|(k, _)| k.starts_with(prefix));
        pairs.into_iter().try_for_each(|(k, v)| visit(k, v))
    }
}

/// A shard with its store, and a log that only grows.
struct Rig {
    state: ShardState,
    store: MemoryStore,
    now_ms: i64,
    limits: Limits,
}

impl Rig {
    fn new() -> Self {
        Self {
            state: ShardState::new(ShardId(0)),
            store: MemoryStore::default(),
            now_ms: T0 + WINDOW_MS,
            limits: Limits::default(),
        }
    }

    fn entry(&self, command: Command) -> Bytes {
        let entry = Entry {
            feature_level: command.feature_level(),
            proposed_at: TimestampMs(self.now_ms),
            command,
        };
        entry.encode()
    }

    fn apply(&mut self, command: Command) -> Bytes {
        let entry = self.entry(command);
        self.state.apply(self.state.applied + 1, &entry).unwrap()
    }

    fn append(&mut self, batch: BatchBuilder) -> AppendResponse {
        let limits = self.limits;
        let batch = batch.finish();
        AppendResponse::decode(self.apply(Command::Batch { limits, batch })).unwrap()
    }

    fn rows(&mut self, rows: &[(&Labels, i64, f64)]) -> AppendResponse {
        let mut batch = builder();
        batch.begin_rows();
        for (labels, timestamp_ms, value) in rows {
            let key = batch.new_series(labels.as_ref());
            batch.sample(key, *timestamp_ms, *value);
        }
        self.append(batch)
    }

    fn tick(&mut self, header: &TickHeader, series: &[&str]) -> AppendResponse {
        let mut batch = builder();
        batch.begin_tick(header);
        for name in series {
            let key = batch.new_series(named(name).as_ref());
            batch.sample(key, header.tick_ms, 1.0);
        }
        self.now_ms = self.now_ms.max(header.tick_ms);
        self.append(batch)
    }

    fn flush(&mut self) {
        self.state.write_changes(&mut self.store).unwrap();
        self.state.set_flushed();
        self.state.release_flushed();
    }

    fn restored(&self) -> ShardState {
        ShardState::restore(ShardId(0), self.state.applied, &self.store).unwrap()
    }

    fn read(&self, labels: &Labels) -> Vec<(i64, u64)> {
        read(&self.state, labels, &self.store)
    }

    fn values(&self, name: &str) -> Vec<(i64, f64)> {
        let samples = self.read(&named(name)).into_iter();
        samples.map(|(t, v)| (t, f64::from_bits(v))).collect()
    }

    fn seal(&mut self, start_ms: i64) {
        let window = TimeRange::window_of(TimestampMs(start_ms), WINDOW_MS);
        self.apply(Command::Seal {
            window,
            with_exemplars: true,
        });
    }
}

fn builder() -> BatchBuilder {
    BatchBuilder::new(&TenantId::anonymous(), PlacementEpoch(1))
}

fn named(name: &str) -> Labels {
    Labels::from_pairs([("__name__", name), ("job", "test")])
}

fn head(state: &ShardState) -> &Head {
    state.head(&TenantId::anonymous()).unwrap()
}

/// All samples of a series, open windows and sealed parts, as bits.
fn read(state: &ShardState, labels: &Labels, store: &MemoryStore) -> Vec<(i64, u64)> {
    let Some(tenant) = state.tenants.get(&TenantId::anonymous()) else {
        return Vec::new();
    };
    let head = &tenant.head;
    let Some(ordinal) = head.find_labels(labels.as_ref()) else {
        return Vec::new();
    };
    let series = head.series(ordinal).unwrap();
    let mut pages = Vec::new();
    for part in head.sealed.values().filter(|p| p.members.contains(ordinal)) {
        let of_part = match &part.pages {
            Some(_) => part.pages_of(ordinal).unwrap(),
            None => {
                let key = super::keys::part_series(tenant.number, part.number, series.reference);
                super::records::read_pages(&store.0[&key]).unwrap()
            }
        };
        pages.extend(gnomon_tsdb::deletes::remove(of_part, &head.deleted_in(part, ordinal)).unwrap());
    }
    for (window, open) in head.open_pages(ordinal) {
        pages.extend(open.pages(i64::MIN, i64::MAX, &window.room).unwrap());
    }
    let mut samples: BTreeMap<i64, u64> = BTreeMap::new();
    for page in pages {
        match page.decode().unwrap() {
            PageSamples::Floats { timestamps, values } => {
                for (t, v) in timestamps.into_iter().zip(values) {
                    samples.entry(t).or_insert(v.to_bits());
                }
            }
            PageSamples::Histograms(histograms) => {
                for h in histograms {
                    samples.entry(h.timestamp_ms).or_insert(h.histogram.count.to_bits());
                }
            }
        }
    }
    samples.into_iter().collect()
}

fn header(tick_ms: i64) -> TickHeader {
    TickHeader {
        target: TargetId(7),
        term: 1,
        tick_ms,
        interval_ms: 15_000,
        first: true,
        last: true,
        complete: true,
        home: false,
        track_timestamps_staleness: false,
        names_only: false,
        other_shards: Vec::new(),
    }
}

fn reasons(response: &AppendResponse) -> Vec<(Reason, u64)> {
    response.rejections.iter().map(|r| (r.reason(), r.count)).collect()
}

/// Everything a shard holds, in a form that does not depend on the process.
fn dump(state: &ShardState) -> MemoryStore {
    // What is written from nothing is all there is.
    let mut all = MemoryStore::default();
    all.put(b"c", &super::records::counters(&state.counters, state.shard));
    all.put(b"d", &super::records::dropped(state.dropped.iter()));
    for tenant in state.tenants.values() {
        let head = &tenant.head;
        for ordinal in head.index.all() {
            let series = head.series(ordinal).unwrap();
            let mut labels = Vec::new();
            head.write_labels(ordinal, &mut labels);
            let mut record = labels.clone();
            record.extend_from_slice(format!(" {} {}", series.sealed_last_ms, series.last_ms).as_bytes());
            for (start_ms, window) in &head.windows {
                let Some(open) = window.pages_of(ordinal) else {
                    continue;
                };
                record.extend_from_slice(format!(" {start_ms}:").as_bytes());
                let pages = open.pages(i64::MIN, i64::MAX, &window.room).unwrap();
                record.extend_from_slice(&super::records::pages(pages.iter().map(|p| &p.bytes[..])));
            }
            assert_eq!(head.find_labels(LabelsRef::from_canonical(&labels)), Some(ordinal));
            all.put(&super::keys::series(tenant.number, series.reference), &record);
        }
        for (id, target) in &head.targets {
            let record = super::records::target(target, head);
            all.put(&super::keys::target(tenant.number, *id), &record);
        }
        for part in head.sealed.values() {
            let record = super::records::part(part, head);
            all.put(&super::keys::part(tenant.number, part.number), &record);
        }
        for (revision, tombstone) in &head.deletes {
            let record = super::records::delete(tombstone);
            all.put(&super::keys::delete(tenant.number, *revision), &record);
        }
        for (metric, info) in &head.metadata {
            let record = super::records::metadata(info);
            all.put(&super::keys::metadata(tenant.number, metric), &record);
        }
        for exemplar in head.exemplars.within(i64::MIN, i64::MAX) {
            let mut key = super::keys::exemplar(tenant.number, exemplar.series.0);
            key.extend_from_slice(&exemplar.timestamp_ms.to_be_bytes());
            all.put(&key, &super::records::exemplar(exemplar));
        }
        let ends = super::records::exemplar_ends(head.exemplars.ends());
        all.put(&super::keys::exemplar_ends(tenant.number), &ends);
        let windows: Vec<_> = head
            .windows
            .iter()
            .map(|(s, w)| (*s, w.members.len(), w.samples))
            .collect();
        all.put(
            format!("windows {}", tenant.number).as_bytes(),
            format!("{windows:?}").as_bytes(),
        );
    }
    all
}

#[test]
fn series_get_references_that_find_them_again() {
    let mut rig = Rig::new();
    let first = rig.rows(&[
        (&named("a"), T0, 1.0),
        (&named("b"), T0, 2.0),
        (&named("a"), T0 + 1, 3.0),
    ]);
    assert_eq!((first.refs.clone(), first.samples_taken), (vec![1, 2, 1], 3));
    let mut batch = builder();
    batch.begin_rows();
    batch.sample(SeriesKey::Known(SeriesRef(2)), T0 + 5, 9.0);
    batch.sample(SeriesKey::Known(SeriesRef(99)), T0 + 5, 9.0);
    let second = rig.append(batch);
    assert_eq!((second.samples_taken, second.unknown_refs), (1, vec![99]));
    assert_eq!(rig.values("b"), [(T0, 2.0), (T0 + 5, 9.0)]);
}

#[test]
fn time_rules() {
    let mut rig = Rig::new();
    let (a, b) = (named("a"), named("b"));
    let now = T0 + WINDOW_MS;
    assert_eq!(rig.rows(&[(&a, now, 1.0)]).samples_taken, 1);
    // Equal again, and in conflict.
    assert_eq!(rig.rows(&[(&a, now, 1.0)]).duplicates, 1);
    assert_eq!(reasons(&rig.rows(&[(&a, now, 2.0)])), [(Reason::DuplicateTimestamp, 1)]);
    // Out of order within 30 minutes, then beyond.
    assert_eq!(rig.rows(&[(&a, now - 1_800_000, 3.0)]).samples_taken, 1);
    assert_eq!(rig.rows(&[(&a, now - 1_800_000, 3.0)]).duplicates, 1);
    assert_eq!(reasons(&rig.rows(&[(&a, now - 1_800_001, 3.0)])), [(Reason::TooOld, 1)]);
    // Late but in order, up to 12 hours.
    assert_eq!(rig.rows(&[(&b, now - 43_200_000, 4.0)]).samples_taken, 1);
    assert_eq!(rig.rows(&[(&b, now - 43_200_000, 4.0)]).duplicates, 1);
    let c = named("c");
    let refused = rig.rows(&[(&c, now - 43_200_001, 4.0)]);
    assert_eq!((reasons(&refused), refused.refs), (vec![(Reason::TooOld, 1)], vec![0]));
    assert!(head(&rig.state).find_labels(c.as_ref()).is_none());
    // Ahead of the leader's clock.
    assert_eq!(rig.rows(&[(&b, now + 600_000, 5.0)]).samples_taken, 1);
    let refused = rig.rows(&[(&b, now + 600_001, 5.0), (&b, now + 600_002, 5.0)]);
    assert_eq!(reasons(&refused), [(Reason::TooFarInFuture, 2)]);
    assert_eq!(refused.rejections[0].example_labels, b.as_bytes());
    rig.limits.out_of_order_ms = 0;
    assert_eq!(reasons(&rig.rows(&[(&a, now - 1, 3.0)])), [(Reason::OutOfOrder, 1)]);
}

/// Whoever has not heard that it was taken sends it again, after the window was sealed.
#[test]
fn a_late_sample_that_is_repeated_after_its_window_was_sealed_was_taken() {
    let mut rig = Rig::new();
    let (a, b) = (named("a"), named("b"));
    let late = T0 + 1_000;
    rig.now_ms = T0 + 5 * WINDOW_MS;
    assert_eq!(rig.rows(&[(&a, T0 + 5 * WINDOW_MS, 1.0)]).samples_taken, 1);
    assert_eq!(rig.rows(&[(&b, late - 5, 1.0), (&b, late, 2.0)]).samples_taken, 2);
    rig.seal(T0);
    rig.flush();
    let again = rig.rows(&[(&b, late, 2.0)]);
    assert_eq!((again.duplicates, reasons(&again)), (1, vec![]));
    assert_eq!(rig.rows(&[(&b, late + WINDOW_MS, 3.0)]).samples_taken, 1);
    assert_eq!(
        rig.rows(&[(&b, late, 2.0)]).duplicates,
        1,
        "also when newer ones are there"
    );
    assert_eq!(reasons(&rig.rows(&[(&b, late + 1, 2.0)])), [(Reason::TooOld, 1)]);
    assert_eq!(rig.values("b"), [(late - 5, 1.0), (late, 2.0), (late + WINDOW_MS, 3.0)]);
}

#[test]
fn series_limit_is_for_new_series_only() {
    let mut rig = Rig::new();
    rig.limits.max_series = 1;
    let response = rig.rows(&[
        (&named("a"), T0, 1.0),
        (&named("b"), T0, 1.0),
        (&named("a"), T0 + 1, 1.0),
    ]);
    assert_eq!(reasons(&response), [(Reason::SeriesLimit, 1)]);
    assert_eq!(response.refs, [1, 0, 1]);
}

#[test]
fn metric_limit_is_for_new_series_of_that_metric() {
    let mut rig = Rig::new();
    rig.limits.max_series_per_metric = 2;
    let of = |name: &str, instance: &str| Labels::from_pairs([("__name__", name), ("instance", instance)]);
    let response = rig.rows(&[
        (&of("a", "1"), T0, 1.0),
        (&of("a", "2"), T0, 1.0),
        (&of("a", "3"), T0, 1.0),
        (&of("b", "3"), T0, 1.0),
        (&of("a", "1"), T0 + 1, 1.0),
    ]);
    assert_eq!(reasons(&response), [(Reason::MetricLimit, 1)]);
    assert_eq!(response.refs, [1, 2, 0, 3, 1]);
    assert_eq!(rig.rows(&[(&of("a", "2"), T0 + 1, 1.0)]).samples_taken, 1);
}

#[test]
fn sealed_parts_stay_readable_until_published_and_unused_series_go() {
    let mut rig = Rig::new();
    rig.rows(&[
        (&named("a"), T0, 1.0),
        (&named("b"), T0, 2.0),
        (&named("b"), T0 + WINDOW_MS, 3.0),
    ]);
    rig.seal(T0);
    assert_eq!(rig.values("a"), [(T0, 1.0)]);
    rig.flush();
    assert_eq!(rig.values("b"), [(T0, 2.0), (T0 + WINDOW_MS, 3.0)]);
    assert!(head(&rig.state).sealed[&1].pages.is_none());
    // A late sample opens the window's next part.
    rig.limits.out_of_order_ms = 3 * WINDOW_MS as u64;
    assert_eq!(rig.rows(&[(&named("b"), T0 + 5, 4.0)]).samples_taken, 1);
    rig.seal(T0);
    assert_eq!(head(&rig.state).sealed.keys().copied().collect::<Vec<_>>(), [1, 2]);
    rig.apply(Command::Published {
        part: 1,
        catalogue_revision: 9,
    });
    assert_eq!(rig.values("a"), []);
    assert!(head(&rig.state).find_labels(named("a").as_ref()).is_none());
    assert_eq!(rig.values("b"), [(T0 + 5, 4.0), (T0 + WINDOW_MS, 3.0)]);
    rig.flush();
    assert_eq!(dump(&rig.restored()), dump(&rig.state));
    assert_eq!(rig.state.dropped[0].catalogue_revision, 9);
    // References are not used again.
    assert_eq!(rig.rows(&[(&named("a"), T0 + WINDOW_MS, 1.0)]).refs, [3]);
}

#[test]
fn entries_of_a_newer_build_stop_the_replica() {
    let mut rig = Rig::new();
    let mut entry: Entry = Entry {
        feature_level: FeatureLevel(1_000),
        proposed_at: TimestampMs(0),
        command: Command::FeatureLevel {
            level: FeatureLevel(1_000),
        },
    };
    let refused = rig.state.apply(1, &entry.encode());
    assert!(matches!(refused, Err(ApplyError::FeatureLevel { .. })));
    entry.feature_level = FeatureLevel(1);
    assert!(rig.state.apply(1, &entry.encode()).is_ok());
    assert!(rig.state.apply(2, b"\x02").is_err());
}

#[test]
fn a_store_of_a_newer_level_is_refused_by_an_older_build() {
    let newer = ShardMachine::new(ShardId(7));
    let mut store = MemoryState::default();
    newer.restore(&store).unwrap();
    let entry = |level: u32| {
        let entry: Entry = Entry {
            feature_level: FeatureLevel(level),
            proposed_at: TimestampMs(0),
            command: Command::FeatureLevel {
                level: FeatureLevel(level),
            },
        };
        entry.encode()
    };
    let apply = |machine: &ShardMachine, index, level| {
        let payload = entry(level);
        let applied = Applied {
            index,
            term: 1,
            payload: &payload,
        };
        let answers = machine.apply(&[applied]);
        answers.len() == 1 && machine.is_sound()
    };
    let older = || ShardMachine::new(ShardId(7)).understanding(FeatureLevel(4));
    assert!(apply(&newer, 1, 4));
    newer.flush(&mut store).unwrap();
    newer.flushed(1);
    older().restore(&store).unwrap();
    assert!(apply(&newer, 2, 5));
    newer.flush(&mut store).unwrap();
    let refused = older().restore(&store).unwrap_err().to_string();
    assert!(
        refused.contains("at feature level 5") && refused.contains("understands 4 only"),
        "{refused}"
    );
    ShardMachine::new(ShardId(7)).restore(&store).unwrap();
    // By the log it comes to the same.
    let replica = older();
    replica.restore(&MemoryState::default()).unwrap();
    assert!(apply(&replica, 1, 4) && !apply(&replica, 2, 5));
}

#[test]
fn matchers_reach_the_head() {
    let mut rig = Rig::new();
    rig.rows(&[(&named("a"), T0, 1.0), (&named("b"), T0, STALE_NAN)]);
    let matcher = Matcher::new("__name__", MatchOp::Regex, "a|x").unwrap();
    assert_eq!(head(&rig.state).select(&[matcher], &Stop::default()).len(), 1);
}
