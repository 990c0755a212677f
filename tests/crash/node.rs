//! One node in this process: its store, its groups, its bucket in a folder, its roles, without listeners and without
//! clockwork of their own: the script says when what is done.

use crate::engine::CountedEngine;
use crate::injector::Injector;
use crate::ledger::Samples;
use crate::services::{CountedLog, CountedMeta};
use axum::body::Body;
use gnomon_cluster::deletes::KnownDeletes;
use gnomon_cluster::meta::{MetaMachine, MetaNode};
use gnomon_cluster::raft::{Group, GroupHost, HostOptions, LocalNetwork, RaftTiming, StateMachine};
use gnomon_cluster::retention::{Budget, Retention};
use gnomon_cluster::store::{Backend, Identity, MemoryBackend, NodeStore, SharedBackend, StoreOptions, open_rocksdb};
use gnomon_compactor::plan::Policy;
use gnomon_compactor::{Compactor, Grace, Settings};
use gnomon_ingester::{Duties, DutyContext, DutyOptions, IngesterMetrics, Shard, ShardMachine, Shards, WriteOptions};
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::{Clock, ClusterId, GroupId, ManualClock, NodeId, ShardId, SystemClock, TenantId, TimestampMs};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{InitCluster, MetaCommand, MetaState, Node, PlacementEpoch, RegisterNode, ShardReplicas};
use gnomon_querier::{
    AdminOptions, ApiState, BuildInfo, ConfigInfo, Fanout, NodeInfo, Notifications, QueryOptions, RuntimeInfo,
    StoredBlocks, WebOptions, api_router,
};
use gnomon_tsdb::Bucket;
use gnomon_tsdb::bucket::faults::FaultyStore;
use http::{Request, StatusCode};
use object_store::ObjectStore;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

pub const HOUR_MS: i64 = 3_600_000;
const NODE: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId(0xc0ffee);

/// What outlives a process.
pub struct World {
    folder: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub injector: Arc<Injector>,
    /// In its stead, where crashes are power cuts: what was not synced is lost.
    memory: Option<parking_lot::Mutex<Arc<MemoryBackend>>>,
    /// Larger objects are uploaded in parts.
    part_bytes: usize,
}

/// How nodes of a matrix are.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Crashes are power cuts: what was not synced is lost.
    pub power_cuts: bool,
    /// Larger objects are uploaded in parts of so many bytes.
    pub part_bytes: usize,
}

impl World {
    pub fn new(injector: Injector, setting: Setting) -> Self {
        // Whole windows before now: files of the bucket have the real time.
        let now = SystemClock::new().now().0 / (6 * HOUR_MS) * (6 * HOUR_MS) + 6 * HOUR_MS;
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(TimestampMs(now))),
            injector: Arc::new(injector),
            memory: setting.power_cuts.then(parking_lot::Mutex::default),
            part_bytes: setting.part_bytes,
        }
    }

    pub fn bucket_folder(&self) -> PathBuf {
        self.folder.path().join("bucket")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.folder.path().join("snapshots")
    }

    fn engine(&self) -> SharedBackend {
        match &self.memory {
            Some(memory) => {
                let memory = memory.lock().clone();
                memory.reopen().unwrap();
                memory
            }
            None => open_rocksdb(&self.folder.path().join("rocksdb"), StoreOptions::default()).unwrap(),
        }
    }

    /// What the end of a process leaves.
    fn after_crash(&self) {
        if let Some(memory) = &self.memory {
            let mut memory = memory.lock();
            let left = memory.after_power_cut(0);
            *memory = Arc::new(left);
        }
        if self.injector.revive() && self.memory.is_none() {
            self.tear_log();
        }
    }

    /// Cuts the end off the newest write-ahead log, as if the process had ended in the middle of its last write.
    fn tear_log(&self) {
        let files = std::fs::read_dir(self.folder.path().join("rocksdb")).unwrap();
        let logs = files.map(|entry| entry.unwrap().path());
        let newest = logs.filter(|path| path.extension().is_some_and(|e| e == "log")).max();
        let file = std::fs::File::options().write(true).open(newest.unwrap()).unwrap();
        let bytes = file.metadata().unwrap().len();
        assert!(bytes > 3, "there was a write");
        file.set_len(bytes - 3).unwrap();
    }
}

/// A process.
pub struct Running {
    pub world: Arc<World>,
    host: GroupHost,
    pub meta: Arc<dyn MetaService>,
    pub machine: Arc<MetaMachine>,
    pub groups: [Group; 2],
    pub shards: Arc<Shards>,
    pub duties: Duties,
    pub compactor: Compactor,
    pub bucket: Arc<dyn ObjectStore>,
    registry: prometheus::Registry,
    pub api: axum::Router,
}

impl Running {
    pub async fn start(world: Arc<World>) -> Self {
        let clock: Arc<dyn Clock> = world.clock.clone();
        let registry = prometheus::Registry::new();
        let injector = world.injector.clone();
        let folder = Bucket::folder(&world.bucket_folder()).unwrap();
        let bucket: Arc<dyn ObjectStore> = Arc::new(FaultyStore::by(folder.store().clone(), injector.clone()));
        let host = open_host(&world, &clock, &registry);
        let machine = Arc::new(MetaMachine::default());
        let meta_group = open_group(&host, GroupId::METADATA, machine.clone()).await;
        let replica = MetaNode::new(Arc::new(meta_group.clone()), machine.clone(), clock.clone());
        if machine.state().epochs.is_empty() {
            found(&replica).await;
        }
        let meta: Arc<dyn MetaService> = Arc::new(CountedMeta {
            inner: Arc::new(replica),
            injector: injector.clone(),
        });
        let shard_machine = Arc::new(ShardMachine::new(ShardId(0)));
        let group = open_group(&host, GroupId::of_shard(ShardId(0)), shard_machine.clone()).await;
        let metrics = IngesterMetrics::register(&registry).unwrap();
        let shards = Arc::new(Shards::new(WriteOptions::default(), clock.clone(), metrics.clone()));
        let log = CountedLog {
            inner: group.clone(),
            injector,
        };
        let shard = Arc::new(Shard::new(shard_machine, Arc::new(log), clock.clone()));
        shards.add(shard.clone());
        let budget = Budget::fixed(Retention::default());
        let context = DutyContext {
            options: DutyOptions {
                quiet: Duration::ZERO,
                part_bytes: world.part_bytes,
                ..DutyOptions::default()
            },
            meta: meta.clone(),
            states: machine.watch(),
            bucket: bucket.clone(),
            claim: None,
            budget: budget.clone(),
            clock: clock.clone(),
            metrics,
        };
        let shared = Bucket::from_store(bucket.clone(), "bucket");
        let compactor = Compactor::new(
            meta.clone(),
            NODE,
            shared,
            clock.clone(),
            settings(&world),
            budget,
            &registry,
        );
        let blocks = StoredBlocks::new(bucket.clone(), 1 << 20, clock.clone(), &registry).unwrap();
        let fanout = Fanout {
            tenant: TenantId::anonymous(),
            shards: shards.clone(),
            blocks: Arc::new(blocks),
            meta: meta.clone(),
            view: machine.watch(),
            deletes: KnownDeletes::default(),
        };
        let api = api_router(api_state(&world, fanout, bucket.clone(), registry.clone())).unwrap();
        Self {
            world,
            host,
            meta,
            machine,
            groups: [meta_group, group],
            duties: Duties::new(context, shard),
            shards,
            compactor: compactor.unwrap(),
            bucket,
            registry,
            api,
        }
    }

    /// Ends it: in good order, or, after a crash, so that nothing of what it still does has an effect.
    pub async fn stop(self) -> Arc<World> {
        let Self { world, host, .. } = self;
        host.shutdown().await;
        drop(host);
        if world.injector.is_dead() {
            world.after_crash();
        }
        world
    }

    pub fn state(&self) -> Arc<MetaState> {
        self.machine.state()
    }

    /// A gauge or counter, over all its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().filter(|family| family.name() == name);
        let metrics = family.flat_map(|family| family.get_metric());
        metrics
            .map(|m| m.get_gauge().get_value() + m.get_counter().get_value())
            .sum()
    }

    /// Asks the API: the status and the body.
    pub async fn ask(&self, method: &str, path: &str) -> (StatusCode, String) {
        Self::ask_of(&self.api, method, path).await
    }

    /// The same while other parts of the process are in use.
    pub async fn ask_of(api: &axum::Router, method: &str, path: &str) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty());
        let response = api.clone().oneshot(request.unwrap()).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 64 << 20).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// Everything there is, through the querier.
    pub async fn read(&self) -> Result<Samples, String> {
        // One of ten days, as URLs write {x=~".+"}[240h].
        let now = self.world.clock.now().0 as f64 / 1e3;
        let path = format!("/api/v1/query?query=%7B__name__%3D~%22.%2B%22%7D%5B240h%5D&time={now}");
        let (status, body) = self.ask("GET", &path).await;
        let answer: serde_json::Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?;
        if status != StatusCode::OK || answer.get("warnings").is_some() {
            return Err(body);
        }
        let mut samples = Samples::new();
        for series in answer["data"]["result"].as_array().unwrap() {
            let name = series["metric"]["__name__"].as_str().unwrap();
            for pair in series["values"].as_array().unwrap() {
                let at = (pair[0].as_f64().unwrap() * 1e3).round() as i64;
                let value = pair[1].as_str().unwrap().parse().unwrap();
                let there = samples.insert((name.to_owned(), at), value);
                assert!(there.is_none(), "{name} at {at} is there twice");
            }
        }
        Ok(samples)
    }
}

fn open_host(world: &World, clock: &Arc<dyn Clock>, registry: &prometheus::Registry) -> GroupHost {
    let engine = CountedEngine {
        inner: world.engine(),
        injector: world.injector.clone(),
        loses_power: world.memory.is_some(),
    };
    let store = NodeStore::over(Arc::new(engine), clock.clone(), registry).unwrap();
    let network = LocalNetwork::new(1);
    let identity = Identity {
        cluster: CLUSTER,
        node: NODE,
    };
    let options = HostOptions::new(
        identity,
        store,
        network.transport(NODE),
        clock.clone(),
        registry.clone(),
    );
    let host = GroupHost::new(HostOptions {
        // A single voter elects itself: it need not wait for others.
        timing: RaftTiming {
            heartbeat_ms: 10,
            heartbeat_min_ms: 8,
            election_min_ms: 30,
            election_max_ms: 40,
        },
        ..options
    });
    let host = host.unwrap();
    network.join(NODE, host.service());
    host
}

async fn open_group(host: &GroupHost, id: GroupId, machine: Arc<dyn StateMachine>) -> Group {
    let group = host.open(id, machine).await.unwrap();
    if !group.is_initialized().await.unwrap() {
        group.initialize(&[NODE]).await.unwrap();
    }
    let leads = async {
        while group.read_index().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), leads).await.unwrap();
    group
}

async fn found(meta: &MetaNode) {
    let epoch = PlacementEpoch {
        epoch: 1,
        from_ms: i64::MIN,
        shards: vec![0],
        ..PlacementEpoch::default()
    };
    let init = InitCluster {
        cluster_id: CLUSTER.to_string(),
        epoch: Some(epoch),
        shards: vec![ShardReplicas {
            shard: 0,
            nodes: vec![NODE.0],
        }],
        ..InitCluster::default()
    };
    let node = Node {
        address: "127.0.0.1:1".into(),
        incarnation: 1,
        feature_level: CURRENT_FEATURE_LEVEL.0,
        ..Node::default()
    };
    let register = RegisterNode {
        node: Some(node),
        lease_ms: 60_000,
    };
    for command in [Command::InitCluster(init), Command::RegisterNode(register)] {
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(command),
        };
        assert_eq!(meta.propose(command).await.unwrap().refused, "");
    }
}

fn settings(world: &World) -> Settings {
    Settings {
        policy: Policy {
            window_ms: 2 * HOUR_MS,
            retention_ms: None,
            retention_bytes: None,
            max_merge_bytes: 1 << 40,
            settle_ms: HOUR_MS,
        },
        grace: Grace {
            condemned_ms: 60_000,
            pressed_ms: 0,
            unnamed_ms: 0,
            staged_ms: HOUR_MS,
        },
        lease: Duration::from_secs(120),
        interval: Duration::from_millis(1),
        part_bytes: world.part_bytes,
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

fn api_state(world: &World, fanout: Fanout, bucket: Arc<dyn ObjectStore>, registry: prometheus::Registry) -> ApiState {
    let clock: Arc<dyn Clock> = world.clock.clone();
    let none = String::new;
    ApiState {
        results: None,
        registry,
        fanout: Arc::new(fanout),
        scrapers: Arc::new(Vec::new),
        node: Arc::new(Ready),
        notifications: Notifications::new(clock.clone(), 1).unwrap(),
        query: QueryOptions::default(),
        web: WebOptions::default(),
        admin: AdminOptions {
            enabled: true,
            bucket,
            snapshots: world.snapshots(),
        },
        build: BuildInfo {
            version: none(),
            revision: none(),
            branch: none(),
            build_user: none(),
            build_date: none(),
            rust_version: none(),
        },
        flags: BTreeMap::new(),
        clock,
    }
}
