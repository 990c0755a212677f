mod changes;
mod members;

use super::*;
use crate::layers::{CallMetrics, ChannelOptions};
use crate::meta::MetaMachine;
use crate::router::{Heard, ShardWriter, ShardWriters};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_model::{Clock, NodeId, ShardId, SystemClock};
use gnomon_proto::ServiceError;
use gnomon_proto::service::{MetaService, SelectStream, ShardReadService, ShardWriteService};
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::*;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

mod replicas;

const DEADLINE: Duration = Duration::from_secs(20);

fn metrics() -> CallMetrics {
    CallMetrics::register(&prometheus::Registry::new()).unwrap()
}

fn clock() -> Arc<dyn Clock> {
    SystemClock::shared()
}

/// Waits for a condition; never forever.
async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap();
}

/// One node's listener; stops when dropped.
struct Node {
    address: String,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Clone, Default)]
struct Services {
    meta: Option<Arc<dyn MetaService>>,
    write: Option<Arc<dyn ShardWriteService>>,
    read: Option<Arc<dyn ShardReadService>>,
}

async fn serve(services: Services) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let router = Server::builder()
        .add_optional_service(services.meta.map(meta_server))
        .add_optional_service(services.write.map(shard_write_server))
        .add_optional_service(services.read.map(shard_read_server));
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async move {
        // Not a graceful stop: connections are cut as when a process dies.
        tokio::select! {
            () = stopped => {}
            served = router.serve_with_incoming(TcpListenerStream::new(listener)) => served.unwrap(),
        }
    });
    Node { address, stop }
}

/// A replica of a metadata "group" of nodes 1 and 2 that share one machine.
struct Replica {
    id: u64,
    leader: Arc<Mutex<u64>>,
    machine: Arc<MetaMachine>,
    /// How often one passed on.
    passed_on: Arc<Mutex<usize>>,
}

impl Replica {
    fn check(&self) -> Result<(), ServiceError> {
        let leader = *self.leader.lock();
        if leader == self.id {
            return Ok(());
        }
        Err(ServiceError::NotLeader {
            leader: (leader != 0).then_some(leader),
        })
    }
}

#[async_trait]
impl MetaService for Replica {
    async fn propose(&self, command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        self.check()?;
        Ok(self.machine.apply_command(&command))
    }
    /// As if the leader were reached from here.
    async fn propose_through(&self, command: MetaCommand, _: u64) -> Result<MetaResponse, ServiceError> {
        *self.passed_on.lock() += 1;
        Ok(self.machine.apply_command(&command))
    }
    /// Any may, once it has asked the leader.
    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        if *self.leader.lock() == 0 {
            return Err(ServiceError::NotLeader { leader: None });
        }
        Ok(self.machine.state())
    }
    async fn watch(
        &self,
        after: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        let states = tokio_stream::wrappers::WatchStream::new(self.machine.watch());
        let newer = move |s: Arc<MetaState>| std::future::ready((s.revision > after).then_some(Ok(s)));
        Ok(states.filter_map(newer).boxed())
    }
}

fn register(id: u64, address: &str, incarnation: u64) -> MetaCommand {
    register_as("ingester", id, address, incarnation)
}

fn register_as(role: &str, id: u64, address: &str, incarnation: u64) -> MetaCommand {
    let node = gnomon_proto::v1::Node {
        id,
        address: address.into(),
        roles: vec![role.into()],
        incarnation,
        feature_level: 1,
        ..Default::default()
    };
    MetaCommand {
        proposed_at_ms: 0,
        command: Some(Command::RegisterNode(RegisterNode {
            node: Some(node),
            lease_ms: 60_000,
        })),
    }
}

/// Two shards, both on nodes 1 and 2.
fn initialized() -> Arc<MetaMachine> {
    let machine = Arc::new(MetaMachine::default());
    let init = InitCluster {
        cluster_id: "0000000000000000000000000000002a".into(),
        epoch: Some(PlacementEpoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: vec![0, 1],
            by_labels: vec!["job".into()],
            spreads: vec![],
        }),
        shards: [0, 1]
            .map(|shard| ShardReplicas {
                shard,
                nodes: vec![1, 2],
            })
            .into(),
        ..InitCluster::default()
    };
    let answer = machine.apply_command(&MetaCommand {
        proposed_at_ms: 0,
        command: Some(Command::InitCluster(init)),
    });
    assert_eq!(answer.refused, "");
    machine
}

struct Group {
    leader: Arc<Mutex<u64>>,
    machine: Arc<MetaMachine>,
    passed_on: Arc<Mutex<usize>>,
    nodes: Vec<Node>,
}

async fn group() -> Group {
    let (machine, leader) = (initialized(), Arc::new(Mutex::new(1)));
    let passed_on = Arc::default();
    let mut nodes = Vec::new();
    for id in [1, 2] {
        let replica = Replica {
            id,
            leader: leader.clone(),
            machine: machine.clone(),
            passed_on: Arc::clone(&passed_on),
        };
        let node = serve(Services {
            meta: Some(Arc::new(replica)),
            ..Services::default()
        })
        .await;
        assert_eq!(machine.apply_command(&register(id, &node.address, 1)).refused, "");
        nodes.push(node);
    }
    Group {
        leader,
        machine,
        passed_on,
        nodes,
    }
}

fn client(peers: &[String]) -> Arc<MetaClient> {
    Arc::new(MetaClient::new(None, peers, ChannelOptions::default(), metrics(), clock()).unwrap())
}

#[tokio::test]
async fn the_metadata_client_follows_the_leader_and_survives_a_peer() {
    let mut group = group().await;
    *group.leader.lock() = 2;
    let client = client(&group.nodes.iter().map(|n| n.address.clone()).collect::<Vec<_>>());
    assert_eq!(client.read().await.unwrap(), group.machine.state());
    let answer = client.propose(register(2, "127.0.0.1:1", 0)).await.unwrap();
    assert!(answer.refused.contains("was started again since"), "{}", answer.refused);
    // Node 2 dies; node 1 leads a little later.
    drop(group.nodes.pop());
    *group.leader.lock() = 0;
    let leader = group.leader.clone();
    let elect = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        *leader.lock() = 1;
    };
    let (state, ()) = tokio::join!(client.read(), elect);
    assert_eq!(state.unwrap(), group.machine.state());
}

#[tokio::test]
async fn what_is_to_be_decided_goes_through_another_where_the_leader_is_not_reached() {
    let mut group = group().await;
    let addresses: Vec<_> = group.nodes.iter().map(|n| n.address.clone()).collect();
    let client = client(&addresses);
    client.read().await.unwrap();
    // Node 1 leads, and is not reached from here any more.
    drop(group.nodes.remove(0));
    for life in 1..4 {
        let (before, command) = (group.machine.state().revision, register(2, &addresses[1], life));
        let answer = client.propose(command.clone()).await;
        // Of the first it may not be known what became of it.
        let answer = if answer.is_err() {
            client.propose(command).await
        } else {
            answer
        };
        assert_eq!(answer.unwrap().refused, "");
        assert!(group.machine.state().revision > before);
    }
}

#[tokio::test]
async fn a_leader_of_whom_nothing_is_known_yet_is_reached_through_who_names_it() {
    let group = group().await;
    // Node 1 leads; this one was told of node 2 and of one that is gone, and has seen no state.
    let gone = serve(Services::default()).await.address.clone();
    let client = client(&[group.nodes[1].address.clone(), gone]);
    let answer = client.propose(register(2, &group.nodes[1].address, 2)).await;
    assert_eq!(answer.unwrap().refused, "");
    // Once it knows where node 1 is it asks that itself.
    client.read().await.unwrap();
    *group.passed_on.lock() = 0;
    let answer = client.propose(register(2, &group.nodes[1].address, 3)).await;
    assert_eq!(answer.unwrap().refused, "");
    assert_eq!(*group.passed_on.lock(), 0);
}

#[tokio::test]
async fn a_batch_is_passed_on_by_a_replica_that_is_asked_to() {
    let machine = initialized();
    let _nodes = shard_nodes(&machine).await;
    let directory = directory(&machine);
    let first = directory.shard_write(NodeId(1)).unwrap();
    let refused = first.append(AppendRequest::default()).await;
    assert_eq!(refused, Err(ServiceError::NotLeader { leader: Some(2) }));
    let passed_on = first.append_through(AppendRequest::default(), 2).await;
    assert_eq!(passed_on.unwrap().log_index, 2);
    let writer = |node, client| ShardWriter {
        node: NodeId(node),
        client,
        to: None,
    };
    let second = directory.shard_write(NodeId(2)).unwrap();
    directory.heard(
        ShardId(0),
        &writer(1, first.clone()),
        Heard::OtherLeads(Some(NodeId(2))),
    );
    directory.heard(ShardId(0), &writer(2, second), Heard::Nothing);
    directory.heard(ShardId(0), &writer(1, first), Heard::OtherLeads(Some(NodeId(2))));
    let next = directory.leader(ShardId(0)).unwrap();
    assert_eq!((next.node, next.to), (NodeId(1), Some(NodeId(2))));
}

#[tokio::test]
async fn a_watch_goes_on_at_another_peer_without_going_back() {
    let mut group = group().await;
    let client = client(&group.nodes.iter().map(|n| n.address.clone()).collect::<Vec<_>>());
    let (states, seen) = watch::channel(Arc::new(MetaState::default()));
    let stop = CancellationToken::new();
    let following = tokio::spawn(follow_meta(client, states, stop.clone()));
    let shown = |machine: &MetaMachine| seen.borrow().revision == machine.state().revision;
    until(|| shown(&group.machine)).await;
    for (life, dies) in [(2, true), (3, false)] {
        if dies {
            drop(group.nodes.remove(0));
        }
        let answer = group.machine.apply_command(&register(2, &group.nodes[0].address, life));
        assert_eq!(answer.refused, "");
        until(|| shown(&group.machine)).await;
    }
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_not_a_hang() {
    let gone = serve(Services::default()).await.address.clone();
    let directory = directory(&Arc::new(MetaMachine::default()));
    let write = directory.remote_at(&gone).unwrap().shard_write();
    let asked = write.append(AppendRequest::default());
    let error = tokio::time::timeout(DEADLINE, asked).await.unwrap().unwrap_err();
    assert!(matches!(error, ServiceError::Unavailable(_)), "{error:?}");
    assert!(directory.remote_at("not an address").is_err());
}

/// Leads shard 0 if it is node 2; never shard 1.
struct ShardNode {
    id: u64,
}

impl ShardNode {
    fn check(&self, shard: u32) -> Result<(), ServiceError> {
        match (shard, self.id) {
            (0, 2) => Ok(()),
            (0, _) => Err(ServiceError::NotLeader { leader: Some(2) }),
            (1, _) => Err(ServiceError::StaleView { revision: 9 }),
            _ => Err(ServiceError::NotFound(format!("there is no shard {shard} here"))),
        }
    }
}

#[async_trait]
impl ShardWriteService for ShardNode {
    async fn append(&self, request: AppendRequest) -> Result<AppendResponse, ServiceError> {
        self.check(request.shard)?;
        Ok(AppendResponse {
            log_index: self.id,
            ..AppendResponse::default()
        })
    }
    /// As if the leader were reached from here.
    async fn append_through(&self, request: AppendRequest, _: u64) -> Result<AppendResponse, ServiceError> {
        Self { id: 2 }.append(request).await
    }
}

#[async_trait]
impl ShardReadService for ShardNode {
    async fn select(&self, request: SelectRequest) -> Result<SelectStream, ServiceError> {
        self.check(request.shard)?;
        let batches = (0..3).map(|i| {
            let series = Series {
                labels: vec![i].into(),
                pages: vec![],
            };
            Ok(SelectBatch {
                series: vec![series],
                ..SelectBatch::default()
            })
        });
        let end = Err(ServiceError::LimitExceeded("3 series are enough".into()));
        Ok(futures::stream::iter(batches.chain([end]).collect::<Vec<_>>()).boxed())
    }
    async fn labels(&self, request: LabelsRequest) -> Result<LabelsResponse, ServiceError> {
        self.check(request.shard)?;
        Ok(LabelsResponse {
            values: vec![request.name],
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

fn directory(machine: &Arc<MetaMachine>) -> Arc<Directory> {
    Directory::new(DirectoryOptions {
        node_id: NodeId(9),
        states: machine.watch(),
        channel: ChannelOptions::default(),
        metrics: metrics(),
        clock: clock(),
    })
}

async fn shard_nodes(machine: &MetaMachine) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in [1, 2] {
        let node = serve(Services {
            write: Some(Arc::new(ShardNode { id })),
            read: Some(Arc::new(ShardNode { id })),
            ..Services::default()
        })
        .await;
        assert_eq!(machine.apply_command(&register(id, &node.address, 1)).refused, "");
        nodes.push(node);
    }
    nodes
}

#[tokio::test]
async fn reads_find_the_leader_and_answers_come_through_as_they_are() {
    let machine = initialized();
    let _nodes = shard_nodes(&machine).await;
    let directory = directory(&machine);
    let reads = directory.shard_reads();
    let request = |shard| SelectRequest {
        shard,
        ..SelectRequest::default()
    };
    let items: Vec<_> = reads.select(request(0)).await.unwrap().collect().await;
    let labels: Vec<_> = items.iter().flatten().map(|b| b.series[0].labels.to_vec()).collect();
    assert_eq!(labels, [[0], [1], [2]]);
    assert_eq!(
        items.last().unwrap().as_ref().unwrap_err(),
        &ServiceError::LimitExceeded("3 series are enough".into())
    );
    assert_eq!(directory.leader_of(ShardId(0)), Ok(NodeId(2)), "learnt");
    let stale = reads.select(request(1)).await.err();
    assert_eq!(stale, Some(ServiceError::StaleView { revision: 9 }));
    let unknown = reads.select(request(5)).await.err();
    assert!(matches!(unknown, Some(ServiceError::NotFound(_))), "{unknown:?}");
}

#[tokio::test]
async fn the_directory_uses_the_role_in_the_process_where_there_is_one() {
    let machine = initialized();
    let _nodes = shard_nodes(&machine).await;
    let directory = directory(&machine);
    assert_eq!(directory.shards(), [ShardId(0), ShardId(1)]);
    assert!(directory.shard_write(NodeId(9)).is_err(), "no ingester here");
    directory.set_local(LocalServices {
        shard_write: Some(Arc::new(ShardNode { id: 2 })),
        ..LocalServices::default()
    });
    for (node, index) in [
        (9, Ok(2)),
        (2, Ok(2)),
        (1, Err(ServiceError::NotLeader { leader: Some(2) })),
    ] {
        let client = directory.shard_write(NodeId(node)).unwrap();
        let answer = client.append(AppendRequest::default()).await;
        assert_eq!(answer.map(|a| a.log_index), index, "node {node}");
    }
    assert_eq!(directory.live_nodes("ingester").len(), 0, "leases ended long ago");
    // While there is no quorum that is nothing to go by: a scraper in the ring has its targets.
    let scraper = register_as("scraper", 3, "127.0.0.1:1", 1);
    assert_eq!(machine.apply_command(&scraper).refused, "");
    assert_eq!(directory.live_nodes("scraper").len(), 0);
    assert_eq!(directory.scrapers()[0].id, 3);
    let expire = ExpireLeases {};
    let expired = MetaCommand {
        proposed_at_ms: 120_000,
        command: Some(Command::ExpireLeases(expire)),
    };
    assert_eq!(machine.apply_command(&expired).refused, "");
    assert_eq!(directory.scrapers(), []);
}

#[tokio::test]
async fn a_hint_moves_the_leader_once() {
    let machine = initialized();
    let directory = directory(&machine);
    let shard = ShardId(0);
    assert_eq!(directory.leader_of(shard), Ok(NodeId(1)));
    directory.move_leader(shard, NodeId(1), None);
    assert_eq!(directory.leader_of(shard), Ok(NodeId(2)), "the next replica");
    directory.move_leader(shard, NodeId(1), Some(NodeId(7)));
    assert_eq!(directory.leader_of(shard), Ok(NodeId(2)), "old news");
    directory.move_leader(shard, NodeId(2), Some(NodeId(1)));
    assert_eq!(directory.leader_of(shard), Ok(NodeId(1)));
}

#[tokio::test]
async fn placement_follows_the_state() {
    let machine = Arc::new(MetaMachine::default());
    let directory = directory(&machine);
    let stop = CancellationToken::new();
    let task = tokio::spawn(directory.clone().run(stop.clone()));
    let placement = directory.placement();
    assert!(!placement.borrow().is_ready());
    let init = initialized().state();
    let command = InitCluster {
        cluster_id: init.cluster_id.clone(),
        epoch: init.epochs.first().cloned(),
        shards: init.shards.clone(),
        ..InitCluster::default()
    };
    machine.apply_command(&MetaCommand {
        proposed_at_ms: 0,
        command: Some(Command::InitCluster(command)),
    });
    until(|| placement.borrow().is_ready()).await;
    stop.cancel();
    task.await.unwrap();
}
