//! Shards with their heads, a metadata group, a router, duties, a bucket and the HTTP API over them: all but Raft and
//! the network, in memory, with a clock that the test moves.

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
use gnomon_ingester::{Duties, DutyContext, DutyOptions, IngesterMetrics, Shard, Shards, WriteOptions};
use gnomon_model::{Clock, ManualClock, ShardId, TenantId, TimestampMs};
use gnomon_promql::ParseOptions;
use gnomon_proto::ServiceError;
use gnomon_proto::service::{MetaService, ShardWriteService};
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{
    InitCluster, MetaCommand, MetaResponse, MetaState, Node, PlacementEpoch, RaiseFeatureLevel, RegisterNode,
    ShardReplicas, SpreadRule,
};
use gnomon_querier::{
    AdminOptions, ApiState, BuildInfo, ConfigInfo, Fanout, NodeInfo, Notifications, QueryOptions, RuntimeInfo,
    StoredBlocks, WebOptions, api_router,
};
use object_store::memory::InMemory;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tower::ServiceExt;

/// The metadata group without its log.
pub(crate) struct Meta {
    machine: MetaMachine,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl MetaService for Meta {
    async fn propose(&self, mut command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        command.proposed_at_ms = self.clock.now().0;
        Ok(self.machine.apply_command(&command))
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        Ok(self.machine.state())
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
        ConfigInfo::default()
    }

    fn runtime(&self) -> RuntimeInfo {
        RuntimeInfo::default()
    }
}

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) meta: Arc<Meta>,
    pub(crate) router: Arc<Router>,
    context: DutyContext,
    shards: Arc<Shards>,
    logs: BTreeMap<ShardId, (Arc<MemoryLog>, Duties)>,
    api: axum::Router,
    map: watch::Sender<Arc<Placement>>,
    /// What queriers have heard of.
    view: watch::Sender<Arc<MetaState>>,
    /// Shards whose leaders do nothing but answer.
    held: BTreeSet<ShardId>,
}

impl World {
    /// A cluster of one node with so many shards, at `now_ms`.
    pub(crate) fn new(shards: u32, now_ms: i64) -> Self {
        let clock = Arc::new(ManualClock::at(TimestampMs(now_ms)));
        let registry = prometheus::Registry::new();
        let metrics = IngesterMetrics::register(&registry).expect("metrics");
        let meta = Arc::new(Meta {
            machine: MetaMachine::default(),
            clock: clock.clone(),
        });
        found(&meta, shards);
        let bucket = Arc::new(InMemory::new());
        let context = DutyContext {
            options: DutyOptions {
                quiet: Duration::ZERO,
                ..DutyOptions::default()
            },
            states: meta.machine.watch(),
            meta: meta.clone(),
            bucket: bucket.clone(),
            claim: None,
            budget: Budget::fixed(Retention::default()),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let shards = Arc::new(Shards::new(WriteOptions::default(), clock.clone(), metrics));
        let placement = Placement::in_force(&meta.machine.state()).expect("an epoch");
        let (map, watched) = watch::channel(Arc::new(placement));
        let (view, viewed) = watch::channel(meta.machine.state());
        let writers = Arc::new(Writers(shards.clone()));
        let router = Router::new(RouterOptions::default(), watched, writers, &registry).expect("a router");
        let mut world = Self {
            api: api(&meta, shards.clone(), bucket, clock.clone(), viewed),
            clock,
            meta,
            router: Arc::new(router),
            context,
            shards,
            logs: BTreeMap::new(),
            map,
            view,
            held: BTreeSet::new(),
        };
        world.open_shards();
        world
    }

    pub(crate) fn state(&self) -> Arc<MetaState> {
        self.meta.machine.state()
    }

    pub(crate) fn commit(&self, command: Command) {
        commit(&self.meta, command);
    }

    /// As the ingester does: every shard that the map gives to this node.
    fn open_shards(&mut self) {
        for replicas in &self.state().shards {
            let id = ShardId(replicas.shard);
            if !self.shards.has(id) {
                let (log, machine) = MemoryLog::of(id);
                self.run_shard(id, log, machine);
            }
        }
    }

    fn run_shard(&mut self, id: ShardId, log: Arc<MemoryLog>, machine: Arc<gnomon_ingester::ShardMachine>) {
        let shard = Arc::new(Shard::new(machine, log.clone(), self.clock.clone()));
        self.shards.add(shard.clone());
        self.logs.insert(id, (log, Duties::new(self.context.clone(), shard)));
    }

    /// Kills every shard and starts it again, some of them a while after their last flush.
    pub(crate) fn restart_shards(&mut self) {
        let ids: Vec<_> = self.logs.keys().copied().collect();
        for id in ids {
            if let Some((old, _)) = self.logs.remove(&id) {
                if id.0.is_multiple_of(2) {
                    old.flush();
                }
                let (log, machine) = old.restarted(id);
                self.run_shard(id, log, machine);
            }
        }
    }

    /// The leader of a shard does nothing but answer.
    pub(crate) fn hold(&mut self, shard: u32) {
        self.held.insert(ShardId(shard));
    }

    pub(crate) fn release(&mut self, shard: u32) {
        self.held.remove(&ShardId(shard));
    }

    /// What duties do, and all hear of it: routers at once; queriers where `tell`.
    pub(crate) async fn round(&mut self, tell: bool) {
        self.open_shards();
        for (id, (_, duties)) in &mut self.logs {
            if !self.held.contains(id) {
                duties.round().await;
            }
        }
        let placement = Placement::in_force(&self.state()).expect("usable epochs");
        self.map.send_if_modified(|shown| {
            let changed = **shown != placement;
            if changed {
                *shown = Arc::new(placement);
            }
            changed
        });
        if tell {
            self.view.send_replace(self.state());
        }
    }

    /// The body of an answer.
    pub(crate) async fn get(&self, path: &str) -> String {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = self.api.clone().oneshot(request).await;
        let response = response.unwrap_or_else(|never| match never {});
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 30)
            .await
            .expect("a body");
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }
}

fn commit(meta: &Meta, command: Command) {
    let answer = meta.machine.apply_command(&MetaCommand {
        proposed_at_ms: meta.clock.now().0,
        command: Some(command),
    });
    assert_eq!(answer.refused, "");
}

fn found(meta: &Meta, shards: u32) {
    let spreads = SpreadRule {
        job: "big".into(),
        ways: 2.min(shards),
    };
    let epoch = PlacementEpoch {
        epoch: 1,
        from_ms: i64::MIN,
        shards: (0..shards).collect(),
        by_labels: vec!["job".into(), "instance".into()],
        spreads: vec![spreads],
    };
    let replicas = |shard| ShardReplicas {
        shard,
        nodes: vec![NODE.0],
    };
    commit(
        meta,
        Command::InitCluster(InitCluster {
            cluster_id: "0123456789abcdef0123456789abcdef".into(),
            epoch: Some(epoch),
            shards: (0..shards).map(replicas).collect(),
            ..InitCluster::default()
        }),
    );
    let node = Node {
        id: NODE.0,
        address: "127.0.0.1:9095".into(),
        roles: vec!["ingester".into()],
        incarnation: 1,
        feature_level: 4,
        ..Node::default()
    };
    commit(
        meta,
        Command::RegisterNode(RegisterNode {
            node: Some(node),
            lease_ms: 600_000,
        }),
    );
    commit(meta, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 }));
}

fn api(
    meta: &Arc<Meta>,
    shards: Arc<Shards>,
    bucket: Arc<InMemory>,
    clock: Arc<dyn Clock>,
    view: watch::Receiver<Arc<MetaState>>,
) -> axum::Router {
    let registry = prometheus::Registry::new();
    let state = ApiState {
        results: None,
        clock: Arc::clone(&clock),
        registry: registry.clone(),
        fanout: Arc::new(Fanout {
            tenant: TenantId::anonymous(),
            shards,
            blocks: Arc::new(StoredBlocks::new(bucket.clone(), 1 << 20, clock.clone(), &registry).expect("metrics")),
            meta: meta.clone(),
            view,
            deletes: KnownDeletes::default(),
        }),
        scrapers: Arc::new(Vec::new),
        node: Arc::new(Ready),
        notifications: Notifications::new(clock, 1).expect("metrics"),
        query: QueryOptions {
            language: ParseOptions::everything(),
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
