//! Three nodes in one process: three folders, gRPC on loopback.

use super::*;
use crate::tls::tests::pki::{Authority, replace};
use crate::tls::{ClusterTls, HandshakeLimits, HandshakeMetrics, TlsFiles, accept};
use futures::StreamExt;
use std::collections::HashMap;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;

type Book = Arc<Mutex<HashMap<NodeId, String>>>;

struct Node {
    id: NodeId,
    host: GroupHost,
    group: Group,
    kv: Arc<Kv>,
    server: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

async fn start(id: u64, folder: &Path, book: &Book) -> Node {
    start_with(id, folder, book, None).await
}

/// Where there is TLS, the node speaks nothing else.
async fn start_with(id: u64, folder: &Path, book: &Book, tls: Option<Arc<ClusterTls>>) -> Node {
    let id = NodeId(id);
    let addresses = book.clone();
    let transport = GrpcTransport::new(
        Arc::new(move |node: NodeId| addresses.lock().get(&node).cloned()),
        tls.clone(),
    );
    let mut options = options(id.0, on_disk(&folder.join(id.to_string())), Arc::new(transport));
    options.flush_log_bytes = 256 << 10;
    let host = GroupHost::new(options).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    book.lock().insert(id, listener.local_addr().unwrap().to_string());
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let server = tonic::transport::Server::builder().add_service(raft_server(host.service()));
    let server = tokio::spawn(async move {
        let served = match tls {
            None => {
                let incoming = TcpListenerStream::new(listener);
                server.serve_with_incoming_shutdown(incoming, stopped).await
            }
            Some(tls) => {
                let metrics = HandshakeMetrics::register(&prometheus::Registry::new()).unwrap();
                let (limits, clock) = (HandshakeLimits::default(), SystemClock::shared());
                let accepted = accept(listener, "cluster", tls, limits, metrics, clock);
                let incoming = ReceiverStream::new(accepted).map(|(stream, _)| Ok::<_, std::io::Error>(stream));
                server.serve_with_incoming_shutdown(incoming, stopped).await
            }
        };
        served.unwrap();
    });
    let kv = Arc::new(Kv::default());
    let group = host.open(GROUP, kv.clone()).await.unwrap();
    Node {
        id,
        host,
        group,
        kv,
        server,
        stop,
    }
}

impl Node {
    /// Goes away without a word to the others.
    async fn stop(self) {
        self.server.abort();
        self.stop.cancel();
        self.host.shutdown().await;
    }
}

async fn three(folder: &Path, book: &Book) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(id, folder, book).await);
    }
    let ids: Vec<_> = nodes.iter().map(|node| node.id).collect();
    nodes[0].group.initialize(&ids).await.unwrap();
    nodes
}

async fn leader(nodes: &[Node]) -> usize {
    let mut found = None;
    eventually("someone leads", || {
        found = nodes.iter().position(|node| node.group.is_leader());
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Sets through whoever leads, as a client would.
async fn set_somewhere(nodes: &[Node], key: &str, value: &str) {
    for _ in 0..100 {
        let at = leader(nodes).await;
        match set(&nodes[at].group, key, value).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "again"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{key} could not be set");
}

async fn read_somewhere(nodes: &[Node]) -> usize {
    for _ in 0..100 {
        let at = leader(nodes).await;
        if nodes[at].group.read_index().await.is_ok() {
            return at;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody can be read from");
}

/// A node's certificate, its files below `folder`.
fn certificate(authority: &Authority, folder: &Path) -> Arc<ClusterTls> {
    std::fs::create_dir(folder).unwrap();
    let ca = folder.join("ca.pem");
    replace(&ca, &authority.cert);
    let (cert, key) = authority.pair(&["127.0.0.1"]).write(folder);
    ClusterTls::open(TlsFiles { cert, key, ca }, SystemClock::shared()).unwrap()
}

/// Logs, votes and heartbeats each have their connections; a node of another authority has part in none of it.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_with_certificates_replicate_and_one_with_anothers_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let book = Book::default();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let authority = if id == 3 { &theirs } else { &ours };
        let tls = certificate(authority, &folder.path().join(format!("tls{id}")));
        nodes.push(start_with(id, folder.path(), &book, Some(tls)).await);
    }
    let ids: Vec<_> = nodes.iter().map(|node| node.id).collect();
    nodes[0].group.initialize(&ids).await.unwrap();
    for i in 0..20 {
        set_somewhere(&nodes, &format!("a{i}"), "1").await;
    }
    let of_two = |node: &Node| node.kv.get("a19").is_some();
    eventually("two to have it", || nodes[..2].iter().all(of_two)).await;
    assert!(nodes[2].kv.get("a0").is_none());
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_has_everything_and_the_old_one_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let book = Book::default();
    let mut nodes = three(folder.path(), &book).await;
    for i in 0..50 {
        set_somewhere(&nodes, &format!("a{i}"), "1").await;
    }
    let at = leader(&nodes).await;
    let old = nodes.remove(at);
    let id = old.id;
    old.stop().await;

    let at = read_somewhere(&nodes).await;
    assert!((0..50).all(|i| nodes[at].kv.get(&format!("a{i}")).is_some()));
    for i in 0..50 {
        set_somewhere(&nodes, &format!("b{i}"), "1").await;
    }
    let back = start(id.0, folder.path(), &book).await;
    eventually("it has caught up", || back.kv.len() == 100).await;
    assert_eq!(back.host.shared_metrics().snapshots_received.get(), 0);
    nodes.push(back);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_away_too_long_gets_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let book = Book::default();
    let mut nodes = three(folder.path(), &book).await;
    set_somewhere(&nodes, "first", "1").await;
    let at = (leader(&nodes).await + 1) % 3;
    let away = nodes.remove(at);
    let (id, seen) = (away.id, away.group.status().last_log);
    away.stop().await;
    // Much more log than a leader keeps for one that does not answer.
    let value = "v".repeat(64 << 10);
    for i in 0..120 {
        set_somewhere(&nodes, &format!("{}", i % 40), &value).await;
    }
    let at = leader(&nodes).await;
    eventually("the log is purged", || nodes[at].group.status().purged > seen).await;
    let back = start(id.0, folder.path(), &book).await;
    eventually("it has caught up", || back.kv.len() == 41).await;
    let received = || back.host.shared_metrics().snapshots_received.get();
    eventually("the snapshot is counted", || received() == 1).await;
    set_somewhere(&nodes, "last", "1").await;
    eventually("it follows", || back.kv.get("last").is_some()).await;
    assert!((0..40).all(|i| back.kv.sets(&i.to_string()) == 3));
    // What it was sent is durable, and the generation before is gone.
    back.stop().await;
    let back = start(id.0, folder.path(), &book).await;
    eventually("it is all there again", || back.kv.len() == 42).await;
    nodes.push(back);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_and_leadership_moves() {
    let folder = tempfile::tempdir().unwrap();
    let book = Book::default();
    let first = start(1, folder.path(), &book).await;
    first.group.initialize(&[NodeId(1)]).await.unwrap();
    eventually("it leads", || first.group.is_leader()).await;
    set(&first.group, "a", "1").await.unwrap();
    let mut nodes = vec![
        first,
        start(2, folder.path(), &book).await,
        start(3, folder.path(), &book).await,
    ];
    for id in [2, 3] {
        nodes[0].group.add_learner(NodeId(id)).await.unwrap();
    }
    nodes[0]
        .group
        .change_membership(&[NodeId(1), NodeId(2), NodeId(3)])
        .await
        .unwrap();
    assert_eq!(nodes[0].group.status().voters.len(), 3);
    eventually("all have it", || nodes.iter().all(|node| node.kv.get("a").is_some())).await;
    nodes[0].group.transfer_leader(NodeId(2)).await.unwrap();
    eventually("the other leads", || nodes[1].group.is_leader()).await;
    let refused = set(&nodes[0].group, "b", "1").await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    assert!(matches!(
        nodes[0].group.read_index().await,
        Err(ReadError::NotLeader { .. })
    ));
    set(&nodes[1].group, "b", "1").await.unwrap();
    nodes[1].group.change_membership(&[NodeId(2), NodeId(3)]).await.unwrap();
    nodes.remove(0).stop().await;
    set_somewhere(&nodes, "c", "1").await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let book = Book::default();
    let node = start(1, folder.path(), &book).await;
    let service = node.host.service();
    let header = gnomon_proto::v1::RaftHeader {
        cluster_id: CLUSTER.0.to_be_bytes().to_vec().into(),
        from: 2,
        to: 1,
        group: GROUP.0,
    };
    let ask = |change: fn(&mut gnomon_proto::v1::RaftHeader)| {
        let mut header = header.clone();
        change(&mut header);
        let vote = gnomon_proto::v1::RaftVote {
            term: 9,
            node: 2,
            committed: false,
        };
        service.vote(gnomon_proto::v1::RaftVoteRequest {
            header: Some(header),
            vote: Some(vote),
            pre_vote: true,
            ..Default::default()
        })
    };
    let why = |answer: Result<_, RpcError>| {
        answer
            .map(|_: gnomon_proto::v1::RaftVoteResponse| ())
            .unwrap_err()
            .to_string()
    };
    assert!(why(ask(|h| h.cluster_id = vec![0; 16].into()).await).contains("cluster"));
    assert!(why(ask(|h| h.to = 5).await).contains("for node 5"));
    assert!(why(ask(|h| h.from = 1).await).contains("to itself"));
    assert!(why(ask(|h| h.group = 99).await).contains("group 99 is not open"));
    assert!(ask(|_| ()).await.is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_lead_reads_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let book = Book::default();
    let mut nodes = three(folder.path(), &book).await;
    let at = leader(&nodes).await;
    for i in 0..20 {
        let key = format!("a{i}");
        set(&nodes[at].group, &key, "1").await.unwrap();
        for node in &nodes {
            let index = node.group.read_index_here().await.unwrap();
            assert!(node.kv.get(&key).is_some(), "{key} on {} at {index}", node.id);
        }
        let follower = &nodes[(at + 1) % 3];
        let refused = follower.group.read_index().await;
        assert!(matches!(refused, Err(ReadError::NotLeader { .. })), "{refused:?}");
    }
    // Many at once share rounds, and each has what was acknowledged before it.
    let (leading, follower) = (&nodes[at].group, &nodes[(at + 1) % 3]);
    let reads = (0..200).map(|i| async move {
        let key = format!("b{i}");
        let sets = i % 50 == 0;
        if sets {
            set(leading, &key, "1").await.unwrap();
        }
        follower.group.read_index_here().await.unwrap();
        assert_eq!(follower.kv.get(&key).is_some(), sets);
    });
    futures::future::join_all(reads).await;
    // The leader goes: whoever stays asks the next one.
    nodes.remove(at).stop().await;
    let mut read = 0;
    eventually("somebody leads", || nodes.iter().any(|node| node.group.is_leader())).await;
    for node in &nodes {
        for _ in 0..100 {
            if node.group.read_index_here().await.is_ok() {
                read += 1;
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(node.kv.len(), 24);
    }
    assert_eq!(read, 2);
    for node in nodes {
        node.stop().await;
    }
}
