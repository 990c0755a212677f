mod busy;
mod epochs;
mod memo;

use super::*;
use crate::placement::{DEFAULT_PLACEMENT_LABELS, TenantSeed};
use async_trait::async_trait;
use gnomon_model::{Labels, LabelsRef, NodeId, ShardId, TargetId, TimestampMs};
use gnomon_proto::batch::{BatchView, Item, SeriesKey, TickHeader};
use gnomon_proto::service::ShardWriteService;
use gnomon_proto::v1;
use gnomon_proto::v1::rejection::Reason;
use gnomon_proto::v1::{AppendRequest, AppendResponse, Rejection, TargetShards as ProtoTargetShards};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a shard took, and what it is told to do wrong.
#[derive(Default)]
struct ShardState {
    refs: HashMap<Vec<u8>, u64>,
    labels: HashMap<u64, Labels>,
    next: u64,
    samples: BTreeMap<(String, i64), u64>,
    ticks: Vec<(TickHeader, usize)>,
    others: HashMap<TargetId, Vec<ShardId>>,
    /// The times it owns, half-open, where that is not all.
    owned: Option<(i64, i64)>,
    requests: usize,
    asked_at: Vec<tokio::time::Instant>,
    largest: usize,
    /// Taken from the front, one per request.
    faults: VecDeque<Fault>,
}

enum Fault {
    Before(ServiceError),
    After(ServiceError),
    Hang,
}

#[derive(Default)]
struct Shard(Mutex<ShardState>);

impl ShardState {
    fn apply(&mut self, bytes: &[u8]) -> AppendResponse {
        let view = BatchView::parse(bytes).unwrap();
        view.check().unwrap();
        let mut response = AppendResponse::default();
        let new: Vec<u64> = view.new_series().iter().map(|l| self.reference(*l)).collect();
        response.refs.clone_from(&new);
        for group in view.groups() {
            let group = group.unwrap();
            let items: Vec<Item<'_>> = group.items().map(Result::unwrap).collect();
            let reference = |item: &Item<'_>| match item {
                Item::Sample { key, .. } | Item::Histogram { key, .. } | Item::Exemplar { key, .. } => match key {
                    SeriesKey::Known(r) => r.0,
                    SeriesKey::New(i) => new[*i as usize],
                },
                Item::Metadata { .. } => 0,
            };
            let is_unknown = |r: &u64| *r != 0 && !self.labels.contains_key(r);
            let mut unknown: Vec<u64> = items.iter().map(reference).filter(is_unknown).collect();
            unknown.sort_unstable();
            unknown.dedup();
            let owned = self.owned;
            let owns = |ms: i64| owned.is_none_or(|(from_ms, until_ms)| from_ms <= ms && ms < until_ms);
            let misrouted = |ms: i64| Rejection {
                reason: Reason::Misrouted as i32,
                count: 1,
                example_labels: Vec::new().into(),
                example_timestamp_ms: ms,
            };
            if let Some(tick) = &group.tick {
                if tick.names_only == owns(tick.tick_ms) {
                    response.ticks_taken.push(false);
                    response.rejections.push(misrouted(tick.tick_ms));
                    continue;
                }
                if !unknown.is_empty() {
                    response.unknown_refs = unknown;
                    response.ticks_taken.push(false);
                    continue;
                }
                // Pieces in the middle look alike.
                let is_later = |t: &TickHeader| t.target == tick.target && t.tick_ms > tick.tick_ms;
                let earlier = self.ticks.iter().any(|(t, _)| is_later(t));
                response.tick_earlier |= earlier;
                let repeated = earlier || (tick.first || tick.last) && self.ticks.iter().any(|(t, _)| t == tick);
                response.ticks_taken.push(!repeated);
                if tick.home {
                    self.others.entry(tick.target).or_default().extend(&tick.other_shards);
                    response.target_shards.push(ProtoTargetShards {
                        target: tick.target.0,
                        shards: self.others[&tick.target].iter().map(|s| s.0).collect(),
                    });
                }
                if repeated {
                    continue;
                }
                self.ticks.push((tick.clone(), items.len()));
                if tick.names_only {
                    continue;
                }
            }
            for item in &items {
                let r = reference(item);
                let (Item::Sample { timestamp_ms, .. } | Item::Histogram { timestamp_ms, .. }) = item else {
                    continue;
                };
                if unknown.contains(&r) {
                    continue;
                }
                let value = if let Item::Sample { value, .. } = item {
                    value.to_bits()
                } else {
                    0
                };
                if !owns(*timestamp_ms) {
                    response.rejections.push(misrouted(*timestamp_ms));
                } else if *timestamp_ms < 0 {
                    response.rejections.push(Rejection {
                        reason: Reason::TooOld as i32,
                        count: 1,
                        example_labels: self.labels[&r].as_bytes().to_vec().into(),
                        example_timestamp_ms: *timestamp_ms,
                    });
                } else if self
                    .samples
                    .insert((self.labels[&r].to_string(), *timestamp_ms), value)
                    .is_some()
                {
                    response.duplicates += 1;
                } else {
                    response.samples_taken += 1;
                }
            }
            if group.tick.is_none() {
                response.unknown_refs.extend(unknown);
            }
        }
        response
    }

    fn reference(&mut self, labels: LabelsRef<'_>) -> u64 {
        if let Some(r) = self.refs.get(labels.as_bytes()) {
            return *r;
        }
        self.next += 1;
        self.refs.insert(labels.as_bytes().to_vec(), self.next);
        self.labels.insert(self.next, labels.to_owned());
        self.next
    }

    /// As a new incarnation would: it knows no references, and gives others.
    fn forget(&mut self) {
        self.refs.clear();
        self.labels.clear();
        self.next += 1000;
    }

    fn forget_one(&mut self, labels: &Labels) {
        let reference = self.refs.remove(labels.as_bytes()).unwrap();
        self.labels.remove(&reference);
        self.next += 1000;
    }
}

#[async_trait]
impl ShardWriteService for Shard {
    async fn append(&self, request: AppendRequest) -> Result<AppendResponse, ServiceError> {
        let (fault, response) = {
            let mut state = self.0.lock();
            state.requests += 1;
            state.asked_at.push(tokio::time::Instant::now());
            state.largest = state.largest.max(request.batch.len());
            match state.faults.pop_front() {
                Some(Fault::Before(error)) => return Err(error),
                fault => (fault, state.apply(&request.batch)),
            }
        };
        match fault {
            Some(Fault::After(error)) => Err(error),
            Some(Fault::Hang) => std::future::pending().await,
            _ => Ok(response),
        }
    }
}

/// Each shard on nodes 1 and 2, of which `leaders` is believed to lead; node 2 is not one and says so.
struct Cluster {
    shards: Vec<Arc<Shard>>,
    leader: Mutex<NodeId>,
    /// How often a node was said not to lead.
    denied: AtomicUsize,
}

struct Follower;

#[async_trait]
impl ShardWriteService for Follower {
    async fn append(&self, _: AppendRequest) -> Result<AppendResponse, ServiceError> {
        Err(ServiceError::NotLeader { leader: Some(1) })
    }
}

impl ShardWriters for Cluster {
    fn leader(&self, shard: ShardId) -> Result<ShardWriter, ServiceError> {
        let node = *self.leader.lock();
        let client: Arc<dyn ShardWriteService> = match node {
            NodeId(1) => self.shards[shard.0 as usize].clone(),
            _ => Arc::new(Follower),
        };
        Ok(ShardWriter { node, client, to: None })
    }
    fn heard(&self, _: ShardId, asked: &ShardWriter, heard: Heard) {
        let hint = match heard {
            Heard::Answer => return,
            Heard::OtherLeads(hint) => hint,
            Heard::Nothing => None,
        };
        self.denied.fetch_add(1, Ordering::Relaxed);
        let mut leader = self.leader.lock();
        if *leader == asked.node {
            *leader = hint.unwrap_or(asked.node);
        }
    }
}

struct Fixture {
    cluster: Arc<Cluster>,
    router: Router,
    placement: Arc<Placement>,
    map: watch::Sender<Arc<Placement>>,
}

fn fixture(shards: u32) -> Fixture {
    let record = v1::PlacementEpoch {
        epoch: 1,
        from_ms: i64::MIN,
        shards: (0..shards).collect(),
        by_labels: DEFAULT_PLACEMENT_LABELS.map(str::to_owned).into(),
        spreads: vec![],
    };
    let placement = Arc::new(Placement::from_records(&[record]).unwrap());
    let (keep, watch) = watch::channel(placement.clone());
    let cluster = Arc::new(Cluster {
        shards: (0..shards).map(|_| Arc::default()).collect(),
        leader: Mutex::new(NodeId(1)),
        denied: AtomicUsize::new(0),
    });
    let registry = prometheus::Registry::new();
    Fixture {
        router: Router::new(RouterOptions::default(), watch, cluster.clone(), &registry).unwrap(),
        cluster,
        placement,
        map: keep,
    }
}

const DEADLINE: Duration = Duration::from_secs(30);

impl Fixture {
    fn shard(&self, at: usize) -> parking_lot::MutexGuard<'_, ShardState> {
        self.cluster.shards[at].0.lock()
    }

    fn all_samples(&self) -> usize {
        (0..self.cluster.shards.len())
            .map(|i| self.shard(i).samples.len())
            .sum()
    }

    fn owner(&self, labels: &Labels) -> usize {
        let seed = TenantSeed::of(&TenantId::anonymous());
        self.placement
            .owner(seed, labels.as_ref(), TimestampMs(0))
            .unwrap()
            .shard
            .0 as usize
    }

    async fn write(&self, labels: &[Labels], at: i64) -> WriteOutcome {
        self.write_within(labels, at, DEADLINE).await
    }

    async fn write_within(&self, labels: &[Labels], at: i64, deadline: Duration) -> WriteOutcome {
        let tenant = TenantId::anonymous();
        let mut batch = self.router.batch(&tenant, &labels);
        for (i, set) in labels.iter().enumerate() {
            batch.series(identity(set), i as u32);
            batch.sample(at, i as f64);
            batch.sample(at + 1, i as f64);
        }
        batch.send(deadline).await
    }

    async fn push(&self, labels: &[Labels], at: i64, complete: bool) -> Result<TickOutcome, ServiceError> {
        let samples: Vec<_> = labels.iter().enumerate().map(|(i, l)| sample(l, i, at)).collect();
        self.push_samples(labels, &samples, at, complete).await
    }

    async fn push_samples(
        &self,
        labels: &[Labels],
        samples: &[TickSample],
        at: i64,
        complete: bool,
    ) -> Result<TickOutcome, ServiceError> {
        self.push_from(&labels, samples, at, complete).await
    }

    async fn push_from(
        &self,
        labels: &dyn LabelSource,
        samples: &[TickSample],
        at: i64,
        complete: bool,
    ) -> Result<TickOutcome, ServiceError> {
        let tenant = TenantId::anonymous();
        let target = Labels::from_pairs([("job", "node"), ("instance", "a:9100")]);
        let tick = Tick {
            tenant: &tenant,
            target: TargetId(7),
            term: 1,
            tick_ms: at,
            interval_ms: 15_000,
            complete,
            track_timestamps_staleness: false,
            target_labels: target.as_ref(),
            samples,
            histograms: &[],
            exemplars: &[],
            metadata: &[MetricInfo {
                metric: "m",
                kind: "gauge",
                unit: "",
                help: "",
            }],
            labels,
        };
        self.router.push_tick(&tick, DEADLINE).await
    }
}

fn identity(labels: &Labels) -> u128 {
    xxhash_rust::xxh3::xxh3_128(labels.as_bytes())
}

fn sample(labels: &Labels, i: usize, timestamp_ms: i64) -> TickSample {
    TickSample {
        start_ms: 0,
        identity: identity(labels),
        series: i as u32,
        timestamp_ms,
        value: i as f64 + 0.5,
    }
}

fn many(instances: usize, each: usize) -> Vec<Labels> {
    let series = |i: usize, n: usize| {
        Labels::from_pairs([
            ("__name__", format!("metric_{n}")),
            ("job", "node".to_owned()),
            ("instance", format!("host-{i}:9100")),
        ])
    };
    (0..instances)
        .flat_map(|i| (0..each).map(move |n| series(i, n)))
        .collect()
}

fn of_target(count: usize) -> Vec<Labels> {
    let series = |n: usize| {
        Labels::from_pairs([
            ("__name__", format!("metric_{n}").as_str()),
            ("job", "node"),
            ("instance", "a:9100"),
        ])
    };
    (0..count).map(series).collect()
}

#[tokio::test]
async fn rows_reach_their_owners_and_labels_go_once() {
    let f = fixture(3);
    let labels = many(20, 10);
    let first = f.write(&labels, 1000).await;
    assert_eq!(
        (first.taken, first.retryable.clone(), first.failed.clone()),
        (400, None, None)
    );
    for (at, set) in labels.iter().enumerate() {
        let key = (set.to_string(), 1000);
        let found: Vec<usize> = (0..3).filter(|s| f.shard(*s).samples.contains_key(&key)).collect();
        assert_eq!(found, [f.owner(set)], "series {at}");
    }
    let misses = f.router.metrics.cache_misses.get();
    let largest = f.shard(0).largest;
    let second = f.write(&labels, 2000).await;
    assert_eq!(second.taken, 400);
    assert_eq!(f.router.metrics.cache_misses.get(), misses, "every series is known");
    assert!(f.shard(0).largest == largest, "references are smaller than labels");
    let again = f.write(&labels, 2000).await;
    assert_eq!((again.taken, again.duplicates), (0, 400));
}

#[tokio::test]
async fn refused_items_are_reported_with_an_example() {
    let f = fixture(2);
    let mut labels = many(2, 2);
    labels.push(Labels::empty());
    let outcome = f.write(&labels, -1).await;
    let of = |reason| outcome.refused.iter().find(|r| r.reason == reason).unwrap();
    assert_eq!(of(Reason::TooOld).count, 4, "-1 is too old, 0 is not");
    let (example, at) = of(Reason::TooOld).example.clone().unwrap();
    assert!(labels.contains(&example) && at == -1);
    assert_eq!(of(Reason::InvalidLabels).count, 2);
    assert_eq!((outcome.taken, outcome.retryable), (4, None));
}

#[tokio::test(start_paused = true)]
async fn a_write_follows_the_leader_and_outlives_an_election() {
    let f = fixture(1);
    *f.cluster.leader.lock() = NodeId(2);
    let busy = || Fault::Before(ServiceError::Unavailable("starting".into()));
    f.shard(0)
        .faults
        .extend([busy(), Fault::Before(ServiceError::NotLeader { leader: None }), busy()]);
    let outcome = f.write(&many(1, 1), 5).await;
    assert_eq!((outcome.taken, outcome.retryable), (2, None));
    assert_eq!(f.shard(0).requests, 4);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_asked_again_and_nothing_doubles() {
    let f = fixture(1);
    f.shard(0)
        .faults
        .extend([Fault::After(ServiceError::Unknown("reset".into())), Fault::Hang]);
    let outcome = f.write(&many(1, 1), 5).await;
    assert_eq!((outcome.taken, outcome.duplicates, outcome.retryable), (0, 2, None));
    f.shard(0)
        .faults
        .push_back(Fault::After(ServiceError::Unknown("reset".into())));
    let tick = f.push(&of_target(3), 10, true).await.unwrap();
    assert!(tick.taken, "a repeated tick after an unknown outcome was taken");
    let repeated = f.push(&of_target(3), 10, true).await.unwrap();
    assert!(!repeated.taken);
    f.shard(0)
        .faults
        .push_back(Fault::Before(ServiceError::Unknown("reset".into())));
    let earlier = f.push(&of_target(3), 9, true).await.unwrap();
    assert!(
        !earlier.taken && earlier.earlier,
        "of a tick before the newest nothing was taken, whatever became of the first attempt"
    );
}

/// Silence that is shorter than a leader may need moves nobody's idea of who leads.
#[tokio::test(start_paused = true)]
async fn a_push_of_little_patience_asks_once() {
    let f = fixture(1);
    f.shard(0).faults.push_back(Fault::Hang);
    let outcome = f.write_within(&many(1, 1), 5, Duration::from_millis(50)).await;
    assert!(
        matches!(outcome.retryable, Some(ServiceError::DeadlineExceeded(_))),
        "{:?}",
        outcome.retryable
    );
    assert_eq!(f.shard(0).requests, 1);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_answer_by_the_deadline_is_retryable() {
    let f = fixture(2);
    f.shard(0)
        .faults
        .extend((0..1000).map(|_| Fault::Before(ServiceError::Unavailable("low disk".into()))));
    let labels = many(20, 1);
    let outcome = f.write(&labels, 5).await;
    let there = labels.iter().filter(|l| f.owner(l) == 1).count() as u64;
    assert_eq!(outcome.taken, 2 * there, "the other shard's part is done");
    assert_eq!(outcome.retryable, Some(ServiceError::Unavailable("low disk".into())));
    f.shard(0).faults.clear();
    f.shard(0)
        .faults
        .push_back(Fault::Before(ServiceError::Internal("broken".into())));
    let outcome = f.write(&labels, 7).await;
    assert_eq!((outcome.retryable, outcome.failed.is_some()), (None, true));
}

#[tokio::test]
async fn references_a_shard_forgot_are_sent_again_with_labels() {
    let f = fixture(1);
    let (a, b) = (many(3, 4), of_target(5));
    f.write(&a, 100).await;
    f.push(&b, 100, true).await.unwrap();
    f.shard(0).forget();
    // Half of the batch is new to it, half was known.
    let mut more = a.clone();
    more.extend(many(6, 4).split_off(12));
    let outcome = f.write(&more, 200).await;
    assert_eq!((outcome.taken, outcome.duplicates), (48, 0));
    let tick = f.push(&b, 200, true).await.unwrap();
    assert_eq!((tick.taken, tick.samples_taken), (true, 5));
    assert_eq!(
        f.shard(0).ticks.last().map(|(_, n)| *n),
        Some(6),
        "samples and metadata, whole"
    );
    let requests = f.shard(0).requests;
    f.write(&more, 300).await;
    assert_eq!(f.shard(0).requests, requests + 1, "the new references are known");
}

#[tokio::test]
async fn a_tick_is_one_group_for_its_home() {
    let f = fixture(3);
    let labels = of_target(50);
    let outcome = f.push(&labels, 1000, true).await.unwrap();
    assert_eq!((outcome.taken, outcome.samples_taken), (true, 50));
    let home = f.owner(&labels[0]);
    let shard = f.shard(home);
    let (header, items) = &shard.ticks[0];
    assert_eq!((shard.ticks.len(), *items), (1, 51));
    assert!(header.first && header.last && header.complete && header.home && header.other_shards.is_empty());
    drop(shard);
    assert_eq!(f.all_samples(), 50);
}

#[tokio::test]
async fn shards_with_series_of_a_target_get_every_tick_even_from_a_new_router() {
    let f = fixture(8);
    let mut labels = of_target(3);
    labels.extend(many(10, 1));
    f.push(&labels, 1000, true).await.unwrap();
    let home = f.owner(&labels[0]);
    let mut owners: Vec<usize> = labels.iter().map(|l| f.owner(l)).collect();
    owners.sort_unstable();
    owners.dedup();
    assert!(owners.len() > 2);
    for shard in &owners {
        let (header, _) = &f.shard(*shard).ticks[0];
        assert_eq!(header.home, *shard == home);
        assert_eq!(
            header.other_shards.len(),
            if header.home { owners.len() - 1 } else { 0 }
        );
    }
    // The scrape fails: nothing but a report series at home. Then another scraper takes over.
    f.push(&of_target(1), 2000, true).await.unwrap();
    let (_keep, placement) = watch::channel(f.placement.clone());
    let registry = prometheus::Registry::new();
    let f = Fixture {
        router: Router::new(RouterOptions::default(), placement, f.cluster.clone(), &registry).unwrap(),
        ..f
    };
    f.push(&of_target(1), 3000, true).await.unwrap();
    for shard in &owners {
        let ticks: Vec<i64> = f.shard(*shard).ticks.iter().map(|(t, _)| t.tick_ms).collect();
        assert_eq!(ticks, [1000, 2000, 3000], "shard {shard}");
        assert!(
            f.shard(*shard)
                .ticks
                .iter()
                .all(|(t, _)| t.first && t.last && t.complete)
        );
    }
}

#[tokio::test]
async fn a_tick_too_large_for_an_entry_is_cut_into_pieces() {
    let f = fixture(1);
    let labels = of_target(60_000);
    let outcome = f.push(&labels, 1000, true).await.unwrap();
    assert_eq!((outcome.taken, outcome.samples_taken), (true, 60_000));
    let check = |f: &Fixture, at: i64| {
        let shard = f.shard(0);
        assert!(shard.largest < 1 << 20, "{}", shard.largest);
        let ticks: Vec<_> = shard.ticks.iter().filter(|(t, _)| t.tick_ms == at).collect();
        let flags: Vec<_> = ticks.iter().map(|(t, _)| (t.first, t.last)).collect();
        assert!(flags.len() > 1 && flags[0].0 && flags[flags.len() - 1].1, "{flags:?}");
        assert_eq!(flags.iter().filter(|f| f.0).count(), 1);
        assert_eq!(flags.iter().filter(|f| f.1).count(), 1);
        assert_eq!(ticks.iter().map(|(_, n)| n).sum::<usize>(), 60_001);
    };
    check(&f, 1000);
    f.shard(0).forget();
    let outcome = f.push(&labels, 2000, true).await.unwrap();
    assert_eq!((outcome.taken, outcome.samples_taken), (true, 60_000));
    let rows = f.write(&labels, 5000).await;
    assert_eq!(rows.taken, 120_000);
    assert!(f.shard(0).largest < 1 << 20);
}

#[tokio::test]
async fn without_shards_a_write_waits_for_later() {
    let f = fixture(1);
    f.map.send_replace(Arc::default());
    let outcome = f.write(&many(1, 1), 5).await;
    assert!(matches!(outcome.retryable, Some(ServiceError::Unavailable(_))));
    assert!(f.push(&of_target(1), 5, true).await.is_err());
}
