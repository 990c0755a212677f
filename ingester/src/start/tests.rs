use super::*;
use crate::head::WINDOW_MS;
use futures::StreamExt;
use gnomon_cluster::raft::{HostOptions, LocalNetwork};
use gnomon_cluster::store::{Identity, MemoryBackend, NodeStore};
use gnomon_model::{ClusterId, Labels, PlacementEpoch, SystemClock, TenantId};
use gnomon_proto::ServiceError;
use gnomon_proto::batch::BatchBuilder;
use gnomon_proto::service::{ShardReadService, ShardWriteService};
use gnomon_proto::v1::{AppendRequest, MetaCommand, MetaResponse, SelectRequest};
use gnomon_tsdb::page::{Page, PageSamples};
use object_store::memory::InMemory;
use std::collections::BTreeMap;

/// A catalogue that nobody asks for here.
struct NoMeta;

impl OtherNodes for NoMeta {
    fn shard_write(&self, _: NodeId) -> Result<Arc<dyn ShardWriteService>, ServiceError> {
        unreachable!("this node is alone")
    }
    fn meta(&self, _: NodeId) -> Result<Arc<dyn MetaService>, ServiceError> {
        unreachable!("this node is alone")
    }
}

#[async_trait]
impl MetaService for NoMeta {
    async fn propose(&self, _: MetaCommand) -> Result<MetaResponse, ServiceError> {
        Err(ServiceError::Unavailable("no metadata group in this test".into()))
    }
    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        Err(ServiceError::Unavailable("no metadata group in this test".into()))
    }
    async fn watch(
        &self,
        _: u64,
    ) -> Result<futures::stream::BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        Err(ServiceError::Unavailable("no metadata group in this test".into()))
    }
}

struct Running {
    host: GroupHost,
    ingester: Ingester,
    _map: watch::Sender<Arc<MetaState>>,
}

async fn start(backend: Arc<MemoryBackend>, flush_log_bytes: u64) -> Running {
    let clock: Arc<dyn Clock> = SystemClock::shared();
    let registry = prometheus::Registry::new();
    let identity = Identity {
        cluster: ClusterId(9),
        node: NodeId(1),
    };
    let store = NodeStore::over(backend, clock.clone(), &registry).unwrap();
    store.bind(identity).unwrap();
    let network = LocalNetwork::new(1);
    let transport = network.transport(NodeId(1));
    let mut options = HostOptions::new(identity, store, transport, clock.clone(), registry.clone());
    options.flush_log_bytes = flush_log_bytes;
    let host = GroupHost::new(options).unwrap();
    network.join(NodeId(1), host.service());
    let replicas = ShardReplicas {
        shard: 0,
        nodes: vec![1],
    };
    let map = MetaState {
        shards: vec![replicas],
        ..MetaState::default()
    };
    let (sender, meta_watch) = watch::channel(Arc::new(map));
    let ingester = Ingester::start(IngesterOptions {
        node: NodeId(1),
        host: host.clone(),
        meta: Arc::new(NoMeta),
        meta_watch,
        bucket: Arc::new(InMemory::new()),
        claim: None,
        budget: gnomon_cluster::retention::Budget::fixed(gnomon_cluster::retention::Retention::default()),
        clock,
        registry,
        write: WriteOptions::default(),
        duties: DutyOptions::default(),
        read_memory: gnomon_promql::QueryMemory::unlimited(),
        prefer_after: gnomon_cluster::raft::PREFER_AFTER,
        feature_level: gnomon_model::ids::CURRENT_FEATURE_LEVEL,
        others: Arc::new(NoMeta),
        stop: CancellationToken::new(),
    });
    Running {
        host,
        ingester: ingester.unwrap(),
        _map: sender,
    }
}

impl Running {
    /// Appends until it is acknowledged, as a router would.
    async fn append(&self, series: usize, timestamp_ms: i64) {
        let mut batch = BatchBuilder::new(&TenantId::anonymous(), PlacementEpoch(1));
        batch.begin_rows();
        let labels = Labels::from_pairs([("__name__", "m"), ("n", &series.to_string())]);
        let key = batch.new_series(labels.as_ref());
        batch.sample(key, timestamp_ms, timestamp_ms as f64);
        let request = AppendRequest {
            shard: 0,
            batch: batch.finish(),
            starts_left_out: false,
            only_newer: false,
        };
        let acknowledged = async {
            loop {
                match self.ingester.shards().append(request.clone()).await {
                    Ok(response) => return response,
                    Err(error) if error.is_retryable() => {}
                    Err(error) => panic!("{error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let response = tokio::time::timeout(Duration::from_secs(30), acknowledged)
            .await
            .unwrap();
        assert_eq!(response.samples_taken + response.duplicates, 1);
    }

    async fn read(&self) -> BTreeMap<String, Vec<i64>> {
        let request = SelectRequest {
            tenant: "anonymous".into(),
            start_ms: i64::MIN,
            end_ms: i64::MAX,
            ..SelectRequest::default()
        };
        let opened = async {
            loop {
                match self.ingester.shards().select(request.clone()).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let mut stream = tokio::time::timeout(Duration::from_secs(30), opened).await.unwrap();
        let mut all = BTreeMap::new();
        while let Some(batch) = stream.next().await {
            for series in batch.unwrap().series {
                let labels = gnomon_model::LabelsRef::checked(&series.labels).unwrap();
                let mut times = Vec::new();
                for page in series.pages {
                    if let PageSamples::Floats { timestamps, .. } = Page::parse(page.data).unwrap().decode().unwrap() {
                        times.extend(timestamps);
                    }
                }
                all.insert(labels.to_string(), times);
            }
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_samples_survive_a_power_cut() {
    // Flushes never, often, and after nearly every entry.
    for flush_log_bytes in [u64::MAX, 4096, 64] {
        let backend = Arc::new(MemoryBackend::new());
        let running = start(backend.clone(), flush_log_bytes).await;
        let now = SystemClock::new().now().0 / WINDOW_MS * WINDOW_MS;
        let mut ledger: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for i in 0..120i64 {
            let (series, at) = ((i % 7) as usize, now - 600_000 + i * 1000);
            running.append(series, at).await;
            let labels = Labels::from_pairs([("__name__", "m"), ("n", &series.to_string())]);
            ledger.entry(labels.to_string()).or_default().push(at);
        }
        assert_eq!(running.read().await, ledger);
        let left = Arc::new(backend.after_power_cut(0));
        running.ingester.shutdown().await;
        running.host.shutdown().await;
        let running = start(left, flush_log_bytes).await;
        assert_eq!(
            running.read().await,
            ledger,
            "flushed every {flush_log_bytes} bytes of log"
        );
        running.append(0, now).await;
        running.ingester.shutdown().await;
        running.host.shutdown().await;
    }
}

/// A node lags behind, or sees several changes as one: what it was told before it became a member again is no reason.
#[test]
fn a_replica_goes_only_by_a_membership_that_is_newer_than_its_own() {
    use gnomon_proto::v1::GroupMembers;
    let state = |nodes: &[u64], voters: &[u64], at_index| MetaState {
        shards: vec![ShardReplicas {
            shard: 0,
            nodes: nodes.to_vec(),
        }],
        members: vec![GroupMembers {
            group: GroupId::of_shard(ShardId(0)).0,
            voters: voters.to_vec(),
            at_index,
        }],
        ..MetaState::default()
    };
    let is_removed = |state: &MetaState, known_at| is_removed(state, ShardId(0), NodeId(4), known_at);
    assert!(is_removed(&state(&[1, 2], &[1, 2], 70), 50));
    assert!(!is_removed(&state(&[1, 2], &[1, 2], 50), 50), "told before it came");
    assert!(!is_removed(&state(&[1, 4], &[1, 2], 70), 50), "it is wished");
    assert!(!is_removed(&state(&[1, 2], &[1, 2, 4], 70), 50), "it votes");
    assert!(!is_removed(
        &MetaState {
            members: vec![],
            ..state(&[1, 2], &[], 0)
        },
        50
    ));
    assert!(is_removed(&MetaState::default(), 50), "nobody knows the shard");
}
