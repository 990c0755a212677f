//! Calls between members of a cluster, and others.

use super::*;
use crate::layers::{Members, Membership, ServeLayer, ServeMetrics};
use gnomon_model::ClusterId;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tower::Layer;

/// As `initialized` has it.
const OURS: ClusterId = ClusterId(0x2a);

/// A node that is careful, as those of real processes are.
async fn careful(id: u64, machine: &Arc<MetaMachine>) -> Node {
    let replica = Replica {
        id,
        leader: Arc::new(Mutex::new(id)),
        machine: machine.clone(),
        passed_on: Arc::default(),
    };
    serve_as(id, machine, Arc::new(replica)).await
}

async fn serve_as(id: u64, machine: &Arc<MetaMachine>, meta: Arc<dyn MetaService>) -> Node {
    let metrics = ServeMetrics::register(&prometheus::Registry::new()).unwrap();
    let members = Members::new(Membership::of(OURS), NodeId(id)).among(machine.watch());
    let layer = ServeLayer::new(16, metrics, clock()).for_members(members);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let router = Server::builder()
        .add_service(layer.layer(meta_server(meta)))
        .add_service(layer.layer(shard_write_server(Arc::new(ShardNode { id: 2 }))));
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped));
    Node { address, stop }
}

fn of(peers: &[&Node], membership: Membership) -> MetaClient {
    let channel = ChannelOptions {
        membership,
        ..ChannelOptions::default()
    };
    let peers: Vec<_> = peers.iter().map(|node| node.address.clone()).collect();
    MetaClient::new(None, &peers, channel, metrics(), clock()).unwrap()
}

fn nothing() -> MetaCommand {
    register(2, "127.0.0.1:1", 0)
}

/// Whether the command came through; what became of it there is another matter.
async fn is_heard(client: &MetaClient) -> Result<(), ServiceError> {
    let asked = tokio::time::timeout(DEADLINE, client.propose(nothing())).await.unwrap();
    asked.map(drop)
}

#[tokio::test]
async fn a_node_without_a_cluster_may_ask_which_and_then_is_of_it() {
    let machine = initialized();
    let node = careful(1, &machine).await;
    let membership = Membership::default();
    let client = of(&[&node], membership.clone());
    let refused = is_heard(&client).await.unwrap_err();
    assert!(
        matches!(&refused, ServiceError::OtherCluster(why) if why.contains("does not say which")),
        "{refused}"
    );
    assert_eq!(membership.cluster(), None);
    client.read().await.unwrap();
    assert_eq!(membership.cluster(), Some(OURS));
    assert_eq!(is_heard(&client).await, Ok(()));
}

#[tokio::test]
async fn one_of_another_cluster_is_told_so_and_gets_nothing() {
    let machine = initialized();
    let (node, other) = (careful(1, &machine).await, careful(2, &machine).await);
    let stranger = of(&[&node, &other], Membership::of(ClusterId(7)));
    let asked = tokio::time::timeout(DEADLINE, stranger.read()).await.unwrap();
    let refused = asked.unwrap_err().to_string();
    assert!(
        refused.contains(&OURS.to_string()) && refused.contains(&ClusterId(7).to_string()),
        "{refused}"
    );
    assert!(matches!(is_heard(&stranger).await, Err(ServiceError::OtherCluster(_))));
}

#[tokio::test]
async fn a_peer_whose_address_another_cluster_has_by_now_is_passed_over() {
    let machine = initialized();
    let node = careful(1, &machine).await;
    let foreign = {
        let metrics = ServeMetrics::register(&prometheus::Registry::new()).unwrap();
        let members = Members::new(Membership::of(ClusterId(7)), NodeId(1));
        let layer = ServeLayer::new(16, metrics, clock()).for_members(members);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let replica = Replica {
            id: 1,
            leader: Arc::new(Mutex::new(1)),
            machine: Arc::new(MetaMachine::default()),
            passed_on: Arc::default(),
        };
        let router = Server::builder().add_service(layer.layer(meta_server(Arc::new(replica))));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped));
        Node { address, stop }
    };
    let client = of(&[&foreign, &node], Membership::of(OURS));
    assert_eq!(client.read().await.unwrap().cluster_id, OURS.to_string());
}

#[tokio::test]
async fn a_call_for_another_node_at_the_same_address_is_refused() {
    let machine = initialized();
    let node = careful(1, &machine).await;
    for id in [1, 2] {
        assert_eq!(machine.apply_command(&register(id, &node.address, 1)).refused, "");
    }
    let directory = Directory::new(DirectoryOptions {
        node_id: NodeId(9),
        states: machine.watch(),
        channel: ChannelOptions {
            membership: Membership::of(OURS),
            ..ChannelOptions::default()
        },
        metrics: metrics(),
        clock: clock(),
    });
    let append = async |id| {
        let client = directory.shard_write(NodeId(id)).unwrap();
        client.append(AppendRequest::default()).await
    };
    assert_eq!(append(1).await.map(|answer| answer.log_index), Ok(2));
    let refused = append(2).await.unwrap_err();
    assert_eq!(
        refused,
        ServiceError::Unavailable("this is node 1, the call is for node 2".into())
    );
}

/// A member of an older version does not say which cluster it means.
#[tokio::test]
async fn calls_that_do_not_say_their_cluster_are_taken_as_long_as_a_member_may_be_too_old_to() {
    let machine = initialized();
    let node = careful(1, &machine).await;
    let level = |level| {
        let mut command = register(2, "127.0.0.1:1", u64::from(level));
        if let Some(Command::RegisterNode(RegisterNode { node: Some(node), .. })) = &mut command.command {
            node.feature_level = level;
        }
        assert_eq!(machine.apply_command(&command).refused, "");
    };
    let silent = || of(&[&node], Membership::default());
    assert!(is_heard(&silent()).await.is_err());
    level(3);
    assert_eq!(is_heard(&silent()).await, Ok(()));
    level(4);
    assert!(is_heard(&silent()).await.is_err());
}

/// A leader that is served, and answers nothing that helps.
struct Deaf {
    leads: Replica,
    is_deaf: AtomicBool,
    asked: AtomicUsize,
}

#[async_trait]
impl MetaService for Deaf {
    async fn propose(&self, command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        if !self.is_deaf.load(Ordering::SeqCst) {
            return self.leads.propose(command).await;
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        Err(ServiceError::Unavailable("it does not hear".into()))
    }
    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        self.leads.read().await
    }
    async fn watch(
        &self,
        after: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        self.leads.watch(after).await
    }
}

#[tokio::test]
async fn a_peer_that_was_named_otherwise_than_it_is_known_is_asked_once() {
    let machine = initialized();
    let deaf = Arc::new(Deaf {
        leads: Replica {
            id: 1,
            leader: Arc::new(Mutex::new(1)),
            machine: machine.clone(),
            passed_on: Arc::default(),
        },
        is_deaf: AtomicBool::new(false),
        asked: AtomicUsize::new(0),
    });
    let follower = Replica {
        id: 2,
        leader: Arc::new(Mutex::new(1)),
        machine: machine.clone(),
        passed_on: Arc::default(),
    };
    let nodes = [
        serve_as(1, &machine, deaf.clone()).await,
        serve_as(2, &machine, Arc::new(follower)).await,
    ];
    for (id, node) in (1..).zip(&nodes) {
        assert_eq!(machine.apply_command(&register(id, &node.address, 1)).refused, "");
    }
    // As a host is named in flags, and not as it advertises itself.
    let named: Vec<String> = nodes
        .iter()
        .map(|node| node.address.replace("127.0.0.1", "localhost"))
        .collect();
    let channel = ChannelOptions {
        membership: Membership::of(OURS),
        ..ChannelOptions::default()
    };
    let client = MetaClient::new(None, &named, channel, metrics(), clock()).unwrap();
    client.read().await.unwrap();
    deaf.is_deaf.store(true, Ordering::SeqCst);
    is_heard(&client).await.unwrap();
    assert_eq!(deaf.asked.load(Ordering::SeqCst), 1);
    is_heard(&client).await.unwrap();
    assert_eq!(
        deaf.asked.load(Ordering::SeqCst),
        1,
        "its silence lasts, by either name"
    );
}
