//! Replicas move as nodes come, are drained, and lose their disks; nothing acknowledged is lost on the way.

use super::*;
use gnomon_cluster::assign::{replicas_of, voters as voters_of};

/// A further place, with all others as peers.
fn another(folder: &Path, nodes: &[Running]) -> Place {
    let grpc = free_port();
    Place {
        folder: folder.join(format!("node{grpc}")),
        http: free_port(),
        grpc,
        peers: nodes[0].place.peers.clone(),
        bucket: nodes[0].place.bucket.clone(),
        flags: Vec::new(),
    }
}

/// All shards are where they are to be, with three voters each, and none of them is `without`.
async fn settled(node: &Running, without: Option<NodeId>) {
    eventually("replicas to be where they are wished", async || {
        let state = node.node.handle().meta_watch.borrow().clone();
        let is_settled = |shard: &gnomon_proto::v1::ShardReplicas| {
            let mut wished = shard.nodes.clone();
            wished.sort_unstable();
            let told = voters_of(&state, GroupId::of_shard(ShardId(shard.shard)));
            wished.len() == NODES && told == wished && without.is_none_or(|node| !told.contains(&node.0))
        };
        let meta = voters_of(&state, GroupId::METADATA);
        let votes = without.is_some_and(|node| meta.contains(&node.0));
        (state.shards.iter().all(is_settled) && meta.len() >= NODES && !votes).then_some(())
    })
    .await;
}

fn has(node: &Running) -> usize {
    let state = node.node.handle().meta_watch.borrow().clone();
    replicas_of(&state, node.id.0).count()
}

async fn post(node: &Running, path: &str) -> String {
    let sent = node
        .http
        .client()
        .post(node.http.url(path))
        .send()
        .await
        .expect("an answer");
    let status = sent.status();
    let text = sent.text().await.expect("a whole answer");
    assert!(status.is_success(), "{path}: {status} {text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_takes_its_share_and_one_that_is_drained_gives_it_away() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut nodes = replicas(folder.path()).await;
    let mut ledger = Ledger::new();
    for at in 0..20 {
        ledger.write(&nodes[at % NODES].http).await;
    }
    let new = Running::start(another(folder.path(), &nodes)).await;
    nodes.push(new);
    eventually("the new node to have a replica", async || {
        (has(&nodes[3]) > 0).then_some(())
    })
    .await;
    settled(&nodes[0], None).await;
    ledger.write(&nodes[3].http).await;
    ledger.check(&nodes[3].http).await;

    // Written to while it moves; whoever is asked answers rightly.
    let drained = nodes[0].id;
    post(&nodes[3], &format!("/api/v1/cluster/drain?node={drained}")).await;
    for at in 0..10 {
        ledger.write(&nodes[at % 4].http).await;
    }
    settled(&nodes[3], Some(drained)).await;
    for shard in 0..SHARDS {
        eventually("its replica to be removed", async || {
            nodes[0]
                .group(GroupId::of_shard(ShardId(shard)))
                .is_none()
                .then_some(())
        })
        .await;
    }
    for node in &nodes {
        ledger.write(&node.http).await;
        ledger.check(&node.http).await;
    }
    let left = nodes[0]
        .node
        .handle()
        .ingester
        .as_ref()
        .expect("an ingester")
        .host
        .stored();
    assert_eq!(
        left.await.expect("the store"),
        [GroupId::METADATA],
        "its own copy is not anybody's"
    );

    // Gone for good; the others do not miss it.
    nodes.remove(0).stop().await;
    for node in &nodes {
        ledger.write(&node.http).await;
        ledger.check(&node.http).await;
    }
    let text = nodes[0].http.get("/api/v1/cluster/nodes").await.1;
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(shown["data"]["nodes"].as_array().map(Vec::len), Some(4), "{text}");
    let text = nodes[0].http.get("/api/v1/cluster/shards").await.1;
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for shard in shown["data"]["shards"].as_array().expect("shards") {
        assert_eq!(
            (&shard["settled"], shard["leader"].is_u64()),
            (&true.into(), true),
            "{text}"
        );
        assert_eq!(shard["members"].as_array().map(Vec::len), Some(NODES), "{text}");
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_lost_comes_back_as_another_and_is_filled() {
    comes_back_as_another("data").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_one_that_still_knows_who_it_was() {
    comes_back_as_another("data/store").await;
}

async fn comes_back_as_another(without: &str) {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut nodes = replicas(folder.path()).await;
    let mut ledger = Ledger::new();
    for at in 0..10 {
        ledger.write(&nodes[at % NODES].http).await;
    }
    let lost = nodes[1].id;
    let place = nodes.remove(1).kill().await;
    std::fs::remove_dir_all(place.folder.join(without)).expect("its data");
    ledger.write(&nodes[0].http).await;
    let new = Running::start(place).await;
    assert!(new.id > nodes[1].id, "ids are never used again");
    // Once the lease of the lost one is over: its address is another's.
    settled(&new, Some(lost)).await;
    nodes.push(new);
    ledger.write(&nodes[2].http).await;
    // It is its own data that counts now.
    nodes.remove(0).kill().await;
    for node in &nodes {
        ledger.write(&node.http).await;
        ledger.check(&node.http).await;
    }
    for node in nodes {
        node.stop().await;
    }
}
