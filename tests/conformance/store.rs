//! All that is between a remote-write body and the answer to a query, but for Raft and the network: remote write,
//! router, shards with their heads, sealing and upload to a bucket, catalogue, fan-out, HTTP API. In memory, with a
//! clock of its own.

use crate::memory_log::{MemoryLog, NODE};
use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::stream::BoxStream;
use gnomon_cluster::deletes::KnownDeletes;
use gnomon_cluster::meta::MetaMachine;
use gnomon_cluster::placement::Placement;
use gnomon_cluster::retention::{Budget, Retention};
use gnomon_cluster::router::{Router, RouterOptions, ShardWriter, ShardWriters};
use gnomon_ingester::Intake;
use gnomon_ingester::entry::Limits;
use gnomon_ingester::remote_write::{RemoteWrite, RemoteWriteOptions};
use gnomon_ingester::{Duties, DutyContext, DutyOptions, IngesterMetrics, Shard, Shards, WriteOptions};
use gnomon_model::{Clock, ManualClock, ShardId, TenantId, TimestampMs};
use gnomon_promql::ParseOptions;
use gnomon_proto::ServiceError;
use gnomon_proto::service::{MetaService, ShardWriteService};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::meta_command::Command as Change;
use gnomon_proto::v1::{InitCluster, MetaCommand, MetaResponse, MetaState, PlacementEpoch, ShardReplicas};
use gnomon_querier::{
    AdminOptions, ApiState, BuildInfo, ConfigInfo, Fanout, NodeInfo, Notifications, QueryOptions, RuntimeInfo,
    StoredBlocks, WebOptions, api_router,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tower::ServiceExt;

const SHARDS: u32 = 3;
/// 2100-01-01: after all that scripts write.
const NOW_MS: i64 = 4_102_444_800_000;
/// Scripts begin at 1970 again with each `load`.
const NO_LIMIT_MS: u64 = i64::MAX as u64;

/// The catalogue without its log.
struct Meta(MetaMachine);

#[async_trait]
impl MetaService for Meta {
    async fn propose(&self, mut command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        command.proposed_at_ms = NOW_MS;
        Ok(self.0.apply_command(&command))
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        Ok(self.0.state())
    }

    async fn watch(&self, _: u64) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        Err(ServiceError::Unavailable("it is watched without a service here".into()))
    }
}

struct Writers(Arc<Shards>);

impl ShardWriters for Writers {
    fn leader(&self, _: ShardId) -> Result<ShardWriter, ServiceError> {
        let client: Arc<dyn ShardWriteService> = self.0.clone();
        Ok(ShardWriter {
            node: NODE,
            client,
            to: None,
        })
    }
}

struct Ready;

impl NodeInfo for Ready {
    fn readiness(&self) -> Result<(), String> {
        Ok(())
    }

    fn config(&self) -> ConfigInfo {
        ConfigInfo {
            evaluation_interval_ms: 60_000,
            ..ConfigInfo::default()
        }
    }

    fn runtime(&self) -> RuntimeInfo {
        RuntimeInfo::default()
    }
}

/// One node's storage and API, empty at first.
pub(crate) struct Store {
    meta: Arc<Meta>,
    duties: Vec<Duties>,
    write: Arc<RemoteWrite>,
    api: axum::Router,
    _placement: watch::Sender<Arc<Placement>>,
}

fn initialized() -> (Arc<Meta>, Vec<PlacementEpoch>) {
    let machine = MetaMachine::default();
    let epoch = PlacementEpoch {
        epoch: 1,
        from_ms: i64::MIN,
        shards: (0..SHARDS).collect(),
        by_labels: vec!["job".into(), "instance".into()],
        spreads: Vec::new(),
    };
    let replicas = |shard| ShardReplicas {
        shard,
        nodes: vec![NODE.0],
    };
    let init = machine.apply_command(&MetaCommand {
        proposed_at_ms: NOW_MS,
        command: Some(Change::InitCluster(InitCluster {
            cluster_id: "0123456789abcdef0123456789abcdef".into(),
            epoch: Some(epoch.clone()),
            shards: (0..SHARDS).map(replicas).collect(),
            ..InitCluster::default()
        })),
    });
    assert_eq!(init.refused, "");
    (Arc::new(Meta(machine)), vec![epoch])
}

fn write_options() -> WriteOptions {
    WriteOptions {
        limits: Limits {
            out_of_order_ms: NO_LIMIT_MS,
            late_ms: NO_LIMIT_MS,
            ..Limits::default()
        },
        ..WriteOptions::default()
    }
}

fn api(
    meta: &Arc<Meta>,
    shards: Arc<Shards>,
    bucket: Arc<InMemory>,
    clock: Arc<dyn Clock>,
    delayed_name_removal: bool,
) -> axum::Router {
    let registry = prometheus::Registry::new();
    let clock_of_notifications = Arc::clone(&clock);
    let state = ApiState {
        results: None,
        clock: Arc::clone(&clock),
        registry: registry.clone(),
        fanout: Arc::new(Fanout {
            tenant: TenantId::anonymous(),
            shards,
            blocks: Arc::new(StoredBlocks::new(bucket.clone(), 1 << 20, clock, &registry).expect("new metrics")),
            meta: meta.clone(),
            view: meta.0.watch(),
            deletes: KnownDeletes::default(),
        }),
        scrapers: Arc::new(Vec::new),
        node: Arc::new(Ready),
        notifications: Notifications::new(clock_of_notifications, 1).expect("new metrics"),
        query: QueryOptions {
            language: ParseOptions::everything(),
            delayed_name_removal,
            ..QueryOptions::default()
        },
        web: WebOptions::default(),
        admin: AdminOptions {
            enabled: false,
            bucket,
            snapshots: PathBuf::new(),
        },
        build: BuildInfo {
            version: String::new(),
            revision: String::new(),
            branch: String::new(),
            build_user: String::new(),
            build_date: String::new(),
            rust_version: String::new(),
        },
        flags: BTreeMap::new(),
    };
    api_router(state).expect("an API")
}

impl Store {
    /// With or without the feature `promql-delayed-name-removal`; all that is experimental in the language is on.
    pub(crate) fn new(delayed_name_removal: bool) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(TimestampMs(NOW_MS)));
        let registry = prometheus::Registry::new();
        let metrics = IngesterMetrics::register(&registry).expect("metrics");
        let (meta, epochs) = initialized();
        let bucket = Arc::new(InMemory::new());
        let context = DutyContext {
            options: DutyOptions {
                seal_after_ms: 0,
                quiet: Duration::ZERO,
                ..DutyOptions::default()
            },
            states: meta.0.watch(),
            meta: meta.clone(),
            bucket: bucket.clone() as Arc<dyn ObjectStore>,
            claim: None,
            budget: Budget::fixed(Retention::default()),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let shards = Arc::new(Shards::new(write_options(), clock.clone(), metrics.clone()));
        let mut duties = Vec::new();
        for id in (0..SHARDS).map(ShardId) {
            let (log, machine) = MemoryLog::of(id);
            let shard = Arc::new(Shard::new(machine, log, clock.clone()));
            shards.add(shard.clone());
            duties.push(Duties::new(context.clone(), shard));
        }
        let placement = Placement::from_records(&epochs).expect("an epoch");
        let (placement, watched) = watch::channel(Arc::new(placement));
        let options = RouterOptions {
            max_cached_series: 1 << 12,
            ..RouterOptions::default()
        };
        let router = Router::new(options, watched, Arc::new(Writers(shards.clone())), &registry).expect("a router");
        let write = RemoteWrite::new(
            Intake::new(Arc::new(router), None),
            RemoteWriteOptions::default(),
            &metrics,
            clock.clone(),
        );
        Self {
            api: api(&meta, shards, bucket, clock, delayed_name_removal),
            meta,
            duties,
            write,
            _placement: placement,
        }
    }

    /// Takes a body of remote write 1.0.
    pub(crate) async fn write(&self, body: Vec<u8>) -> Result<(), String> {
        let request = Request::post("/api/v1/write")
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .body(Body::from(body))
            .expect("a request");
        let (status, text) = read(self.write.handle(request).await).await;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("remote write: {status}: {text}"))
        }
    }

    /// Makes blocks of all that the heads have, and drops it from the heads; how many blocks that made.
    pub(crate) async fn flush(&mut self) -> Result<usize, String> {
        let before = self.meta.0.state().blocks.len();
        for duties in &mut self.duties {
            duties.round().await;
        }
        let state = self.meta.0.state();
        if state.blocks.iter().any(|block| block.state() != State::Live) {
            return Err("a block was not published".to_owned());
        }
        Ok(state.blocks.len() - before)
    }

    /// Status and body of a GET request.
    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = self.api.clone().oneshot(request).await;
        read(response.unwrap_or_else(|never| match never {})).await
    }
}

async fn read(response: axum::response::Response) -> (StatusCode, String) {
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 30)
        .await
        .expect("a body");
    (status, String::from_utf8_lossy(&body).into_owned())
}
