use super::super::ServedBlocks;
use super::*;
use futures::TryStreamExt;
use gnomon_model::{ManualClock, TenantId, TimestampMs};
use gnomon_proto::service::{BlockReadService, EvaluateStream};
use gnomon_tsdb::{FloatPageBuilder, Tombstone};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SERIES: usize = 10;

/// Every block is this one: some series, given in pieces of several sizes, of which deletes take whole ones.
#[derive(Default)]
struct Store {
    reads: AtomicUsize,
    /// The object store is away.
    fails: AtomicBool,
    /// It gives nothing, for ever.
    hangs: AtomicBool,
}

fn series(i: usize) -> SeriesPages {
    let mut page = FloatPageBuilder::new();
    for at in 0..5 {
        page.append(at * 1000, (i * 7) as f64 + at as f64 / 3.0).unwrap();
    }
    let i = format!("{i:02}");
    SeriesPages {
        labels: Labels::from_pairs([("__name__", "m"), ("i", i.as_str())]),
        pages: page.page().into_iter().collect(),
    }
}

#[async_trait]
impl BlockReads for Store {
    async fn select(
        &self,
        _: &v1::BlockRecord,
        selection: &Selection,
        deletes: Deletes,
        skipped: &Skipped,
    ) -> Result<SeriesStream, ServiceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.fails.load(Ordering::Relaxed) {
            return Err(ServiceError::Unavailable("the store is away".into()));
        }
        if self.hangs.load(Ordering::Relaxed) {
            return Ok(futures::stream::pending().boxed());
        }
        let all = (0..SERIES).map(series);
        let wanted = all.filter(|series| {
            let labels = series.labels.as_ref();
            let matches = selection.matchers.iter().all(|m| m.matches_labels(labels));
            matches && !deletes.of(labels).covers(0, 5000)
        });
        let wanted: Vec<_> = wanted.collect();
        let batches: Vec<_> = wanted.chunks(3).map(|series| Ok(series.to_vec())).collect();
        skipped.add(4);
        Ok(futures::stream::iter(batches).boxed())
    }

    async fn labels(
        &self,
        _: &v1::BlockRecord,
        name: Option<&str>,
        _: &[Vec<Matcher>],
    ) -> Result<Vec<String>, ServiceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(vec![name.unwrap_or("names").to_owned()])
    }

    async fn exemplars(&self, _: &v1::BlockRecord, _: ExemplarFilter) -> Result<ExemplarStream, ServiceError> {
        Ok(futures::stream::empty().boxed())
    }

    async fn metadata(
        &self,
        _: &v1::BlockRecord,
        _: Option<&str>,
        memory: &gnomon_promql::MemoryBudget,
    ) -> Result<(Vec<(String, MetricMetadata)>, gnomon_promql::Reserved), ServiceError> {
        Ok((Vec::new(), memory.reserve(0).unwrap()))
    }
}

/// Another querier.
struct Other {
    served: ServedBlocks,
    /// Gives so many messages, then breaks off, or stands still.
    gives: Mutex<Option<usize>>,
    stands_still: AtomicBool,
    refuses: Mutex<Option<ServiceError>>,
    hangs: AtomicBool,
    asked: AtomicUsize,
}

impl Other {
    async fn may_answer(&self) -> Result<(), ServiceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.refuses.lock().clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl BlockReadService for Other {
    async fn select(&self, request: v1::BlockSelectRequest) -> Result<SelectStream, ServiceError> {
        self.may_answer().await?;
        let stream = self.served.select(request).await?;
        let Some(gives) = *self.gives.lock() else {
            return Ok(stream);
        };
        let end = if self.stands_still.load(Ordering::Relaxed) {
            futures::stream::pending().boxed()
        } else {
            futures::stream::iter([Err(ServiceError::Unknown("connection: reset".into()))]).boxed()
        };
        Ok(stream.take(gives).chain(end).boxed())
    }

    async fn labels(&self, request: v1::BlockLabelsRequest) -> Result<v1::LabelsResponse, ServiceError> {
        self.may_answer().await?;
        self.served.labels(request).await
    }

    async fn evaluate(&self, request: v1::BlockEvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        self.may_answer().await?;
        self.served.evaluate(request).await
    }
}

struct Known {
    live: Mutex<Vec<NodeId>>,
    other: Arc<Other>,
}

impl Queriers for Known {
    fn own(&self) -> NodeId {
        NodeId(1)
    }

    fn live(&self) -> Vec<NodeId> {
        self.live.lock().clone()
    }

    fn block_read(&self, _: NodeId) -> Result<Arc<dyn BlockReadService>, ServiceError> {
        Ok(Arc::clone(&self.other) as _)
    }
}

const SMALL_BYTES: u64 = 4096;

struct Rig {
    here: Arc<Store>,
    there: Arc<Store>,
    known: Arc<Known>,
    clock: Arc<ManualClock>,
    spread: SpreadBlocks,
}

/// This querier is node 1; the other one is node 2, and is all there is at first.
fn rig() -> Rig {
    let (here, there) = (Arc::new(Store::default()), Arc::new(Store::default()));
    let other = Arc::new(Other {
        served: ServedBlocks::new(Arc::clone(&there) as _, 0),
        gives: Mutex::new(None),
        stands_still: AtomicBool::new(false),
        refuses: Mutex::new(None),
        hangs: AtomicBool::new(false),
        asked: AtomicUsize::new(0),
    });
    let known = Arc::new(Known {
        live: Mutex::new(vec![NodeId(2)]),
        other,
    });
    let clock = Arc::new(ManualClock::at(TimestampMs(0)));
    let registry = Registry::new();
    let spread = SpreadBlocks::new(
        Arc::clone(&here) as _,
        Arc::clone(&known) as _,
        SMALL_BYTES,
        clock.clone(),
        &registry,
    );
    Rig {
        here,
        there,
        known,
        clock,
        spread: spread.unwrap(),
    }
}

fn block(id: &str) -> v1::BlockRecord {
    v1::BlockRecord {
        id: id.to_owned(),
        tenant: "anonymous".into(),
        end_ms: 10_000,
        ..v1::BlockRecord::default()
    }
}

/// One of the series is deleted, another not asked for.
fn deletes() -> Deletes {
    let delete = Tombstone {
        revision: 7,
        tenant: TenantId::anonymous(),
        sets: vec![vec![Matcher::equal("i", "04")]],
        start_ms: 0,
        end_ms: 9000,
    };
    [Arc::new(delete)].into_iter().collect()
}

impl Rig {
    async fn read(&self) -> Result<Vec<SeriesPages>, ServiceError> {
        let selection = Selection {
            matchers: vec![Matcher::new("i", gnomon_model::MatchOp::NotRegex, "08|zz.*").unwrap()],
            start_ms: 0,
            end_ms: 9000,
            labels_only: false,
        };
        let skipped = Skipped::default();
        let stream = self.spread.select(&block("b"), &selection, deletes(), &skipped).await?;
        let all: Vec<Vec<SeriesPages>> = stream.try_collect().await?;
        assert!(skipped.get() >= 4, "what was skipped is told");
        Ok(all.into_iter().flatten().collect())
    }

    fn counts(&self) -> [usize; 2] {
        [&self.here, &self.there].map(|store| store.reads.load(Ordering::Relaxed))
    }
}

fn expected() -> Vec<SeriesPages> {
    (0..SERIES).filter(|i| *i != 4 && *i != 8).map(series).collect()
}

#[tokio::test]
async fn a_block_is_read_by_its_owner_and_the_series_are_the_same() {
    let rig = rig();
    assert_eq!(rig.read().await, Ok(expected()));
    assert_eq!(rig.counts(), [0, 1]);
    assert_eq!(
        rig.spread.labels(&block("b"), Some("i"), &[]).await,
        Ok(vec!["i".to_owned()])
    );
    assert_eq!(rig.counts(), [0, 2]);
    // Each of several blocks has one owner.
    *rig.known.live.lock() = vec![NodeId(1), NodeId(2)];
    for i in 0..40 {
        let read = rig.spread.labels(&block(&i.to_string()), None, &[]).await;
        assert_eq!(read, Ok(vec!["names".to_owned()]));
    }
    let [here, there] = rig.counts();
    assert!(here > 5 && there > 7, "{here} and {there}");
    // One that is small has all of them.
    let small = v1::BlockRecord {
        bytes: SMALL_BYTES,
        ..block("b")
    };
    *rig.known.live.lock() = vec![NodeId(2)];
    assert!(rig.spread.are_spread(&[small.clone(), block("b")]));
    assert!(!rig.spread.are_spread(std::slice::from_ref(&small)) && !rig.spread.are_spread(&[]));
    let read = rig.spread.labels(&small, None, &[]).await;
    assert_eq!((read, rig.counts()), (Ok(vec!["names".to_owned()]), [here + 1, there]));
    let larger = v1::BlockRecord {
        bytes: small.bytes + 1,
        ..small
    };
    assert!(rig.spread.are_spread(&[larger]));
    let here = here + 1;
    // Alone, or before it has joined.
    for live in [vec![NodeId(1)], Vec::new()] {
        *rig.known.live.lock() = live;
        assert_eq!(rig.read().await, Ok(expected()));
    }
    assert_eq!(rig.counts(), [here + 2, there]);
}

#[tokio::test]
async fn what_breaks_off_is_read_on_here() {
    for gives in 0..4 {
        let rig = rig();
        *rig.known.other.gives.lock() = Some(gives);
        assert_eq!(rig.read().await, Ok(expected()), "after {gives} messages");
        assert_eq!(rig.counts(), [1, 1]);
        // With nobody left who could read it, it is an error, and not short.
        let rig = self::rig();
        *rig.known.other.gives.lock() = Some(gives);
        rig.here.fails.store(true, Ordering::Relaxed);
        assert!(rig.read().await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_still_is_read_on_here() {
    let rig = rig();
    *rig.known.other.gives.lock() = Some(1);
    rig.known.other.stands_still.store(true, Ordering::Relaxed);
    assert_eq!(rig.read().await, Ok(expected()));
    assert_eq!(rig.counts(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_not_waited_for_nor_asked_again_at_once() {
    let rig = rig();
    rig.known.other.hangs.store(true, Ordering::Relaxed);
    let began = tokio::time::Instant::now();
    assert_eq!(rig.read().await, Ok(expected()));
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(rig.read().await, Ok(expected()));
    assert_eq!(rig.known.other.asked.load(Ordering::Relaxed), 1);
    rig.known.other.hangs.store(false, Ordering::Relaxed);
    rig.clock.advance(Duration::from_secs(6));
    assert_eq!(rig.read().await, Ok(expected()));
    assert_eq!(rig.known.other.asked.load(Ordering::Relaxed), 2);
    assert_eq!(rig.counts(), [2, 1]);
}

#[tokio::test]
async fn who_says_no_is_replaced_and_one_without_the_service_left_alone_for_longer() {
    for (error, asked_again) in [
        (ServiceError::Unavailable("away".into()), true),
        (ServiceError::Invalid("unimplemented".into()), false),
    ] {
        let rig = rig();
        *rig.known.other.refuses.lock() = Some(error);
        assert_eq!(rig.read().await, Ok(expected()));
        rig.clock.advance(Duration::from_secs(10));
        assert_eq!(rig.read().await, Ok(expected()));
        assert_eq!(
            rig.known.other.asked.load(Ordering::Relaxed),
            1 + usize::from(asked_again)
        );
        assert_eq!(rig.counts(), [2, 0]);
    }
    // What the other says of the block is looked at here; one that is busy now has the next one, perhaps.
    for error in [
        ServiceError::NotFound("gone".into()),
        ServiceError::Busy("1024 calls".into()),
    ] {
        let rig = rig();
        *rig.known.other.refuses.lock() = Some(error);
        assert_eq!(rig.read().await, Ok(expected()));
        assert_eq!(rig.read().await, Ok(expected()));
        assert_eq!(rig.known.other.asked.load(Ordering::Relaxed), 2);
    }
}

#[tokio::test]
async fn a_querier_reads_a_bounded_number_of_blocks_for_others() {
    let rig = rig();
    let request = || v1::BlockSelectRequest {
        block: Some(block("b")),
        end_ms: 9000,
        ..v1::BlockSelectRequest::default()
    };
    let mut open = Vec::new();
    let refused = loop {
        match rig.known.other.served.select(request()).await {
            Ok(stream) => open.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(open.len(), 16);
    assert!(matches!(refused, ServiceError::LimitExceeded(_)), "{refused:?}");
    // What finds no place is read here, and the next is asked for there again.
    assert_eq!(rig.read().await, Ok(expected()));
    open.pop();
    assert_eq!(rig.read().await, Ok(expected()));
    assert_eq!(rig.counts(), [1, 17]);
    let unnamed = rig.known.other.served.select(v1::BlockSelectRequest::default()).await;
    assert!(matches!(unnamed, Err(ServiceError::Invalid(_))));
}

fn fragment() -> Fragment {
    let expr = gnomon_promql::parse("sum(m)", &gnomon_promql::ParseOptions::default()).unwrap();
    let params = gnomon_promql::EvalParams {
        end_ms: 4000,
        step_ms: 1000,
        ..gnomon_promql::EvalParams::instant(0)
    };
    let plan = gnomon_promql::Plan::new("sum(m)", &expr, params).unwrap();
    plan.pushed().next().unwrap().0.clone()
}

#[tokio::test]
async fn what_cannot_be_evaluated_apart_is_said_and_not_tried_here() {
    let rig = rig();
    let (fragment, limits) = (fragment(), Limits::default());
    *rig.known.other.refuses.lock() = Some(ServiceError::Invalid("histograms".into()));
    let evaluated = rig.spread.evaluate(&block("b"), &fragment, deletes(), &limits).await;
    assert!(matches!(evaluated, Err(ServiceError::Invalid(_))));
    assert_eq!(rig.counts(), [0, 0]);
    // That says nothing of its reading blocks.
    *rig.known.other.refuses.lock() = None;
    assert_eq!(rig.read().await, Ok(expected()));
    assert_eq!(rig.counts(), [0, 1]);
}

#[tokio::test]
async fn a_store_that_hangs_holds_no_places_of_evaluations_that_nobody_waits_for() {
    let rig = rig();
    let (fragment, limits, block) = (fragment(), Limits::default(), block("b"));
    rig.here.hangs.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        let all = (0..40).map(|_| {
            let evaluating = rig.here.evaluate(&block, &fragment, deletes(), &limits);
            tokio::time::timeout(Duration::from_millis(50), evaluating)
        });
        let all = futures::future::join_all(all).await;
        assert!(all.iter().all(Result::is_err));
    }
    rig.here.hangs.store(false, Ordering::Relaxed);
    let evaluated = rig.here.evaluate(&block, &fragment, deletes(), &limits);
    let evaluated = tokio::time::timeout(Duration::from_secs(60), evaluated).await;
    let batches = evaluated.unwrap().map(|answer| answer.batches);
    assert!(!batches.unwrap().is_empty());
}
