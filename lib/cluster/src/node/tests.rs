//! Founding a cluster, joining it, and coming back to it.

mod taken_over;

use super::*;
use crate::clients::meta_server;
use gnomon_model::SystemClock;
use gnomon_proto::v1::Node;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use std::path::Path;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

fn options(folder: &Path, bucket: &Arc<InMemory>, roles: &[&str]) -> NodeOptions {
    let bucket: Arc<dyn ObjectStore> = bucket.clone();
    let roles = roles.iter().map(|r| (*r).to_owned()).collect();
    let mut options = NodeOptions::new(
        folder.to_owned(),
        bucket,
        roles,
        "127.0.0.1:9095".into(),
        SystemClock::shared(),
        prometheus::Registry::new(),
    );
    options.shards = Some(3);
    options.bucket_name = "file:///bucket".into();
    options.join_timeout = Duration::from_secs(20);
    options
}

fn nodes(handle: &NodeHandle) -> Vec<Node> {
    handle.meta_watch.borrow().nodes.clone()
}

async fn until(handle: &NodeHandle, holds: impl FnMut(&Arc<MetaState>) -> bool) {
    let mut watch = handle.meta_watch.clone();
    let waiting = watch.wait_for(holds);
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap()
        .unwrap();
}

/// Serves the node's replica of the metadata group.
async fn serve(handle: &NodeHandle, stop: CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let replica = handle.ingester.as_ref().unwrap().meta_replica.clone();
    let server = Server::builder().add_service(meta_server(replica));
    tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned()));
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_founds_its_cluster_and_comes_back_to_it() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let first = start_node(options(folder.path(), &bucket, &["ingester", "querier"]))
        .await
        .unwrap();
    assert_eq!((first.node_id, first.incarnation), (NodeId(1), 1));
    let state = first.meta_watch.borrow().clone();
    assert_eq!(state.epochs[0].shards, [0, 1, 2]);
    assert_eq!(state.cluster_id, first.cluster_id.to_string());
    assert_eq!(nodes(&first)[0].roles, ["ingester", "querier"]);
    assert_eq!(first.directory.live_nodes("querier").len(), 1);
    assert!(first.directory.placement().borrow().is_ready());
    first.shutdown().await;
    let mut again = options(folder.path(), &bucket, &["ingester"]);
    again.shards = Some(5);
    let second = start_node(again).await.unwrap();
    assert_eq!((second.node_id, second.incarnation), (NodeId(1), 2));
    assert_eq!(second.cluster_id, first.cluster_id);
    until(&second, |s| s.nodes.first().is_some_and(|n| n.incarnation == 2)).await;
    assert_eq!(second.meta_watch.borrow().epochs[0].shards.len(), 3, "frozen");
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_of_one_cluster() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bucket = Arc::new(InMemory::new());
    let first = start_node(options(a.path(), &bucket, &["ingester"])).await.unwrap();
    first.shutdown().await;
    let error = start_node(options(b.path(), &bucket, &["ingester"]))
        .await
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(matches!(error, NodeError::Taken { .. }), "{text}");
    assert!(
        text.contains("file:///bucket") && text.contains(&first.cluster_id.to_string()),
        "{text}"
    );
    assert!(!b.path().join("node.json").exists());
    // Another cluster in that folder, then the first one's bucket.
    let second = start_node(options(b.path(), &Arc::new(InMemory::new()), &["ingester"]))
        .await
        .unwrap();
    second.shutdown().await;
    let error = start_node(options(b.path(), &bucket, &["ingester"]))
        .await
        .err()
        .unwrap()
        .to_string();
    for part in [
        first.cluster_id.to_string(),
        second.cluster_id.to_string(),
        "file:///bucket".into(),
    ] {
        assert!(error.contains(&part), "{error}");
    }
    // An empty one: its disk is not mounted, it may be. What the user is told to write makes it the cluster's.
    let empty = Arc::new(InMemory::new());
    let error = start_node(options(a.path(), &empty, &["ingester"]))
        .await
        .err()
        .unwrap();
    let NodeError::Unmarked { mark, .. } = error else {
        panic!("{error}");
    };
    assert!(identity::read_mark(empty.as_ref()).await.unwrap().is_none());
    let path = object_store::path::Path::from("cluster.json");
    empty.put(&path, mark.into()).await.unwrap();
    let again = start_node(options(a.path(), &empty, &["ingester"])).await.unwrap();
    assert_eq!(again.cluster_id, first.cluster_id);
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_that_died_half_way_goes_on_and_a_beaten_one_does_not() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let file = identity::IdentityFile::of(folder.path());
    let half = NodeIdentity {
        cluster_id: ClusterId(77),
        node_id: NodeId(1),
        incarnation: 0,
        founding: true,
        generation: 0,
    };
    file.write(&half).unwrap();
    let node = start_node(options(folder.path(), &bucket, &["ingester"]))
        .await
        .unwrap();
    assert_eq!(node.cluster_id, ClusterId(77));
    node.shutdown().await;
    assert!(!file.read().unwrap().unwrap().founding);
    let beaten = tempfile::tempdir().unwrap();
    let file = identity::IdentityFile::of(beaten.path());
    file.write(&NodeIdentity {
        cluster_id: ClusterId(78),
        ..half
    })
    .unwrap();
    let error = start_node(options(beaten.path(), &bucket, &["ingester"]))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            NodeError::Taken {
                found: ClusterId(77),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(file.read().unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_taken_away_is_not_begun_anew() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let node = start_node(options(folder.path(), &bucket, &["ingester"]))
        .await
        .unwrap();
    node.shutdown().await;
    std::fs::remove_dir_all(folder.path().join("store")).unwrap();
    let error = start_node(options(folder.path(), &bucket, &["ingester"]))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("is gone"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_roles_join_through_their_peers_and_keep_their_ids() {
    let (founder, joiner) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bucket = Arc::new(InMemory::new());
    let alone = start_node(options(joiner.path(), &bucket, &["querier"]))
        .await
        .err()
        .unwrap();
    assert!(matches!(alone, NodeError::NoPeers(_)), "{alone}");
    let ingester = start_node(options(founder.path(), &bucket, &["ingester"]))
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let peer = serve(&ingester, stop.clone()).await;
    let joining = |folder: &Path| {
        let mut options = options(folder, &bucket, &["querier"]);
        options.peers = vec!["127.0.0.1:1".into(), peer.clone()];
        options.address = "127.0.0.1:9096".into();
        options.lease = Duration::from_millis(300);
        options
    };
    let querier = start_node(joining(joiner.path())).await.unwrap();
    assert_eq!((querier.node_id, querier.incarnation), (NodeId(2), 1));
    assert_eq!(querier.cluster_id, ingester.cluster_id);
    let lease = |s: &Arc<MetaState>| s.nodes.iter().find(|n| n.id == 2).map_or(0, |n| n.lease_until_ms);
    let first = lease(&querier.meta_watch.borrow());
    until(&querier, |s| lease(s) > first + 400).await;
    until(&ingester, |s| lease(s) > first + 400).await;
    querier.shutdown().await;
    let querier = start_node(joining(joiner.path())).await.unwrap();
    assert_eq!((querier.node_id, querier.incarnation), (NodeId(2), 2));
    querier.shutdown().await;
    let wiped = tempfile::tempdir().unwrap();
    let querier = start_node(joining(wiped.path())).await.unwrap();
    assert_eq!(querier.node_id, NodeId(3), "a wiped folder is a new node");
    querier.shutdown().await;
    stop.cancel();
    ingester.shutdown().await;
}

/// Its bucket is a folder of its own, into which nothing is put.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_scrapes_needs_no_bucket() {
    let [founder, folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let ingester = start_node(options(founder.path(), &Arc::new(InMemory::new()), &["ingester"]))
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let peer = serve(&ingester, stop.clone()).await;
    for life in 1..=3 {
        let mut options = options(folder.path(), &Arc::new(InMemory::new()), &["scraper"]);
        options.peers = vec![peer.clone()];
        options.address = "127.0.0.1:9096".to_owned();
        let scraper = start_node(options).await.unwrap();
        assert_eq!((scraper.node_id, scraper.incarnation), (NodeId(2), life));
        scraper.shutdown().await;
    }
    stop.cancel();
    ingester.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_data_folder_does_not_live_beside_it() {
    let [founder, folder, copy] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let bucket = Arc::new(InMemory::new());
    let ingester = start_node(options(founder.path(), &bucket, &["ingester"]))
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let peer = serve(&ingester, stop.clone()).await;
    let joining = |folder: &Path, port: u16| {
        let mut options = options(folder, &bucket, &["querier"]);
        options.peers = vec![peer.clone()];
        options.address = format!("127.0.0.1:{port}");
        options.lease = Duration::from_millis(300);
        options
    };
    let querier = start_node(joining(folder.path(), 9096)).await.unwrap();
    std::fs::copy(folder.path().join("node.json"), copy.path().join("node.json")).unwrap();
    let second = start_node(joining(copy.path(), 9097)).await.unwrap();
    assert_eq!((second.node_id, second.incarnation), (querier.node_id, 2));
    let told = querier.over().await;
    assert!(told.contains("was started again since, at 127.0.0.1:9097"), "{told}");
    querier.shutdown().await;
    // However often it is tried: a start that is refused does not count.
    for _ in 0..3 {
        let again = start_node(joining(folder.path(), 9096)).await.err().unwrap();
        assert!(
            matches!(&again, NodeError::Copied { address, .. } if address == "127.0.0.1:9097"),
            "{again}"
        );
        let file = identity::IdentityFile::of(folder.path());
        assert_eq!(file.read().unwrap().unwrap().incarnation, 1);
    }
    second.shutdown().await;
    stop.cancel();
    ingester.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_the_clusters_lets_nobody_in_who_uses_it() {
    let (founder, bucket) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let ingester = start_node(options(founder.path(), &bucket, &["ingester"]))
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let peer = serve(&ingester, stop.clone()).await;
    let (empty, other) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
    let elsewhere = tempfile::tempdir().unwrap();
    let second = start_node(options(elsewhere.path(), &other, &["ingester"]))
        .await
        .unwrap();
    second.shutdown().await;
    for wrong in [&empty, &other] {
        for role in ["ingester", "querier", "compactor"] {
            let folder = tempfile::tempdir().unwrap();
            let mut joining = options(folder.path(), wrong, &[role]);
            joining.peers = vec![peer.clone()];
            joining.address = "127.0.0.1:9096".into();
            let error = start_node(joining).await.err().unwrap();
            assert!(matches!(error, NodeError::OtherBucket { .. }), "{role}: {error}");
            let error = error.to_string();
            assert!(error.contains(&ingester.cluster_id.to_string()), "{error}");
            assert!(!folder.path().join("node.json").exists());
        }
    }
    assert_eq!(nodes(&ingester).len(), 1);
    let folder = tempfile::tempdir().unwrap();
    let mut scraper = options(folder.path(), &empty, &["scraper"]);
    scraper.peers = vec![peer.clone()];
    scraper.address = "127.0.0.1:9096".into();
    start_node(scraper).await.unwrap().shutdown().await;
    stop.cancel();
    ingester.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_for_a_cluster_ends() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let mut nowhere = options(folder.path(), &bucket, &["scraper"]);
    nowhere.peers = vec!["127.0.0.1:1".into()];
    nowhere.join_timeout = Duration::from_millis(300);
    let error = start_node(nowhere).await.err().unwrap();
    assert!(matches!(error, NodeError::Meta(_)), "{error}");
    let mut stopped = options(folder.path(), &bucket, &["scraper"]);
    stopped.peers = vec!["127.0.0.1:1".into()];
    let stop = stopped.stop.clone();
    let starting = tokio::spawn(start_node(stopped));
    stop.cancel();
    assert!(matches!(starting.await.unwrap(), Err(NodeError::Stopped)));
}

/// The whole state is in the bucket, a moment after each change, and few copies of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_keeps_copies_of_the_catalogue_in_the_bucket() {
    use gnomon_proto::v1::meta_command::Command;
    use gnomon_proto::v1::{BlockRecord, MetaCommand, StageBlock};
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let mut quick = options(folder.path(), &bucket, &["ingester"]);
    quick.checkpoint_pause = Duration::from_millis(10);
    let node = start_node(quick).await.unwrap();
    let copies = async || {
        use futures::TryStreamExt;
        let folder = object_store::path::Path::from("catalogue");
        bucket.list(Some(&folder)).try_collect::<Vec<_>>().await.unwrap().len()
    };
    for number in 1..=8_u64 {
        let block = BlockRecord {
            id: format!("{number:032x}"),
            tenant: "anonymous".into(),
            end_ms: 1,
            bytes: 1,
            parts: vec![number],
            path: format!("a/{number}"),
            ..BlockRecord::default()
        };
        let stage = Command::StageBlock(StageBlock {
            block: Some(block),
            cap_bytes: 0,
        });
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(stage),
        };
        assert_eq!(node.meta.propose(command).await.unwrap().refused, "");
        let written = async {
            loop {
                let newest = crate::meta::read_newest_checkpoint(bucket.as_ref()).await.unwrap();
                if newest.is_some_and(|state| state.blocks.len() as u64 == number) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), written).await.unwrap();
        // A fourth may be there until the oldest is deleted.
        assert!(copies().await <= 4);
    }
    node.shutdown().await;
    assert!((3..=4).contains(&copies().await));
}
