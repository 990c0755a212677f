//! Reading a shard from whichever replica answers.

use super::*;
use gnomon_model::Labels;
use gnomon_proto::service::EvaluateStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SERIES: usize = 12;

/// A replica of shard 0, which node 1 leads.
#[derive(Default)]
struct Copy {
    leads: bool,
    /// Gives so many messages, then breaks off.
    breaks_after: Mutex<Option<usize>>,
    /// Never answers.
    hangs: AtomicBool,
    /// Has as much to do as it may.
    is_busy: AtomicBool,
    asked: AtomicUsize,
}

impl Copy {
    async fn may_answer(&self, any_replica: bool) -> Result<(), ServiceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.is_busy.load(Ordering::Relaxed) {
            return Err(ServiceError::Busy("1024 calls are under way already".into()));
        }
        if self.leads || any_replica {
            return Ok(());
        }
        Err(ServiceError::NotLeader { leader: Some(1) })
    }

    fn broken<T>(&self, mut items: Vec<Result<T, ServiceError>>) -> Vec<Result<T, ServiceError>> {
        if let Some(after) = *self.breaks_after.lock() {
            items.truncate(after);
            items.push(Err(ServiceError::Unavailable("restarting".into())));
        }
        items
    }
}

fn labels(i: usize) -> Vec<u8> {
    let i = format!("{i:02}");
    let labels = Labels::from_pairs([("__name__", "m"), ("i", i.as_str())]);
    labels.as_bytes().to_vec()
}

#[async_trait]
impl ShardReadService for Copy {
    async fn select(&self, request: SelectRequest) -> Result<SelectStream, ServiceError> {
        self.may_answer(request.any_replica).await?;
        if request.counting.is_some() {
            let counts = SelectBatch {
                counts: true,
                ..SelectBatch::default()
            };
            return Ok(futures::stream::iter(self.broken(vec![Ok(counts.clone()), Ok(counts)])).boxed());
        }
        let batch = |range: std::ops::Range<usize>| SelectBatch {
            series: range
                .map(|i| Series {
                    labels: labels(i).into(),
                    pages: vec![],
                })
                .collect(),
            ..SelectBatch::default()
        };
        // Not cut alike by both.
        let (first, many) = if self.leads { (1, 2) } else { (2, 5) };
        let mut batches = vec![Ok(batch(0..first))];
        let more = (first..SERIES).step_by(many);
        batches.extend(more.map(|i| Ok(batch(i..SERIES.min(i + many)))));
        Ok(futures::stream::iter(self.broken(batches)).boxed())
    }

    async fn evaluate(&self, request: EvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        self.may_answer(request.select.unwrap_or_default().any_replica).await?;
        let batches = (1..=3).map(|series| {
            Ok(EvaluateBatch {
                series,
                ..EvaluateBatch::default()
            })
        });
        Ok(futures::stream::iter(self.broken(batches.collect())).boxed())
    }

    async fn labels(&self, request: LabelsRequest) -> Result<LabelsResponse, ServiceError> {
        self.may_answer(request.any_replica).await?;
        Ok(LabelsResponse {
            values: vec!["v".into()],
        })
    }

    async fn exemplars(&self, _: ExemplarsRequest) -> Result<ExemplarsResponse, ServiceError> {
        Ok(ExemplarsResponse::default())
    }

    async fn metric_metadata(&self, _: MetricMetadataRequest) -> Result<MetricMetadataResponse, ServiceError> {
        Ok(MetricMetadataResponse::default())
    }

    async fn head_stats(&self, _: HeadStatsRequest) -> Result<HeadStatsResponse, ServiceError> {
        Ok(HeadStatsResponse::default())
    }
}

struct Rig {
    nodes: Vec<Node>,
    first: Arc<Copy>,
    second: Arc<Copy>,
    directory: Arc<Directory>,
    reads: Arc<dyn ShardReadService>,
}

async fn rig() -> Rig {
    let machine = initialized();
    let copy = |leads| {
        Arc::new(Copy {
            leads,
            ..Copy::default()
        })
    };
    let (first, second) = (copy(true), copy(false));
    let mut nodes = Vec::new();
    for (id, copy) in [(1, &first), (2, &second)] {
        let node = serve(Services {
            read: Some(Arc::clone(copy) as _),
            ..Services::default()
        })
        .await;
        assert_eq!(machine.apply_command(&register(id, &node.address, 1)).refused, "");
        nodes.push(node);
    }
    let directory = directory(&machine);
    Rig {
        nodes,
        first,
        second,
        reads: directory.shard_reads(),
        directory,
    }
}

impl Rig {
    async fn select(&self) -> Result<Vec<Vec<u8>>, ServiceError> {
        let mut stream = self.reads.select(SelectRequest::default()).await?;
        let mut all = Vec::new();
        while let Some(batch) = stream.next().await {
            all.extend(batch?.series.into_iter().map(|series| series.labels.to_vec()));
        }
        Ok(all)
    }
}

fn all() -> Vec<Vec<u8>> {
    (0..SERIES).map(labels).collect()
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_gone_on_with_and_nothing_comes_twice() {
    for after in 0..=7 {
        let rig = rig().await;
        *rig.first.breaks_after.lock() = Some(after);
        assert_eq!(rig.select().await, Ok(all()), "after {after} batches");
        assert!(rig.second.asked.load(Ordering::Relaxed) > 0);
        let resumes = rig.directory.metrics.resumes.with_label_values(&["ShardRead"]).get();
        assert_eq!(resumes, 1);
    }
}

#[tokio::test]
async fn a_stream_that_all_break_off_ends_with_an_error_and_never_short() {
    let rig = rig().await;
    *rig.first.breaks_after.lock() = Some(3);
    *rig.second.breaks_after.lock() = Some(1);
    let ended = rig.select().await;
    assert!(matches!(ended, Err(ServiceError::Unavailable(_))), "{ended:?}");
}

#[tokio::test]
async fn a_replica_that_dies_is_replaced() {
    let rig = rig().await;
    assert_eq!(rig.select().await, Ok(all()));
    assert_eq!(rig.second.asked.load(Ordering::Relaxed), 0, "the leader is enough");
    // A connection that there is would live on.
    let mut rig = self::rig().await;
    drop(rig.nodes.remove(0));
    assert_eq!(rig.select().await, Ok(all()));
    assert!(rig.second.asked.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn counts_are_of_one_moment() {
    let counting = || SelectRequest {
        counting: Some(Counting::default()),
        ..SelectRequest::default()
    };
    let rig = rig().await;
    *rig.first.breaks_after.lock() = Some(0);
    let batches: Vec<_> = rig.reads.select(counting()).await.unwrap().collect().await;
    assert_eq!(batches.iter().filter(|batch| batch.is_ok()).count(), 2);
    let rig = self::rig().await;
    *rig.first.breaks_after.lock() = Some(1);
    let batches: Vec<_> = rig.reads.select(counting()).await.unwrap().collect().await;
    assert!(
        batches.len() == 2 && batches[0].is_ok() && batches[1].is_err(),
        "{batches:?}"
    );
}

#[tokio::test]
async fn an_evaluation_begins_anew_unless_something_came_of_it() {
    let request = EvaluateRequest {
        select: Some(SelectRequest::default()),
        ..EvaluateRequest::default()
    };
    for (after, whole) in [(0, true), (1, false)] {
        let rig = rig().await;
        *rig.first.breaks_after.lock() = Some(after);
        let stream = rig.reads.evaluate(request.clone()).await.unwrap();
        let batches: Vec<_> = stream.collect().await;
        assert_eq!(batches.iter().all(Result::is_ok), whole, "{batches:?}");
        assert_eq!(batches.len(), if whole { 3 } else { 2 });
    }
}

#[tokio::test]
async fn a_replica_that_is_slow_has_another_one_asked_beside_it() {
    let rig = rig().await;
    rig.first.hangs.store(true, Ordering::Relaxed);
    assert_eq!(rig.select().await, Ok(all()));
    let hedges = &rig.directory.metrics.hedges;
    assert_eq!(hedges.with_label_values(&["ShardRead", "second"]).get(), 1);
    // For a while the other is asked at once.
    let asked = rig.first.asked.load(Ordering::Relaxed);
    assert!(rig.reads.labels(LabelsRequest::default()).await.is_ok());
    assert_eq!(rig.first.asked.load(Ordering::Relaxed), asked);
}

#[tokio::test]
async fn a_leader_that_is_busy_has_a_read_made_by_another_and_stays_the_leader() {
    let rig = rig().await;
    rig.first.is_busy.store(true, Ordering::Relaxed);
    assert_eq!(rig.select().await, Ok(all()));
    let asked = || [&rig.first, &rig.second].map(|copy| copy.asked.load(Ordering::Relaxed));
    assert_eq!(asked(), [1, 1], "the first refusal is enough");
    assert_eq!(rig.directory.leader_of(ShardId(0)), Ok(NodeId(1)));
    rig.first.is_busy.store(false, Ordering::Relaxed);
    assert_eq!(rig.select().await, Ok(all()));
    assert_eq!(asked(), [2, 1], "the next read asks it first");
}

#[tokio::test]
async fn where_all_are_busy_a_read_comes_back_until_one_is_not() {
    let rig = rig().await;
    for copy in [&rig.first, &rig.second] {
        copy.is_busy.store(true, Ordering::Relaxed);
    }
    let reads = Arc::clone(&rig.reads);
    let reading = tokio::spawn(async move { reads.labels(LabelsRequest::default()).await });
    until(|| rig.first.asked.load(Ordering::Relaxed) > 2).await;
    assert!(rig.second.asked.load(Ordering::Relaxed) > 1, "in turn");
    assert!(!reading.is_finished());
    rig.second.is_busy.store(false, Ordering::Relaxed);
    assert!(reading.await.unwrap().is_ok());
    assert_eq!(rig.directory.leader_of(ShardId(0)), Ok(NodeId(1)));
}
