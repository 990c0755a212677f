//! A majority is lost for good: what one ingester has goes on, by an explicit command.

use super::*;
use gnomon::flags::BucketCheck;
use gnomon::recover;
use std::process::ExitCode;

async fn recovered(place: &Place, peers: &[&Place], confirm: bool) -> ExitCode {
    let what = flags::Recover {
        bucket: BucketCheck {
            object_store: Some(format!("file://{}", place.bucket.display())),
            data_dir: place.folder.join("data"),
            data_is_named: true,
            peers: Vec::new(),
            tls: None,
            shards: None,
            grace_ms: 0,
            verify: false,
            repair: confirm,
            found_anew: confirm,
            json: false,
        },
        from_minority: true,
        confirm,
        cluster_id: None,
        peers: peers.iter().map(|peer| format!("127.0.0.1:{}", peer.grpc)).collect(),
        gone: Vec::new(),
    };
    let done = tokio::task::spawn_blocking(move || recover::run(&what)).await;
    done.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_goes_on_alone_and_is_joined_by_new_ones() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut nodes = replicas(folder.path()).await;
    let mut ledger = Ledger::new();
    for node in [0, 1, 2, 0] {
        ledger.write(&nodes[node].http).await;
    }
    until_caught_up(&nodes, &nodes[2]).await;
    let lost: Vec<NodeId> = nodes[..2].iter().map(|node| node.id).collect();
    let survivor = nodes.pop().expect("three nodes");
    let mut others = Vec::new();
    for node in nodes.drain(..) {
        others.push(node.kill().await);
    }
    // As long as one runs nothing is done, to the one that is left neither.
    let refused = recovered(&survivor.place, &[&survivor.place, &others[0]], true).await;
    assert_eq!(refused, ExitCode::FAILURE);
    let id = survivor.id;
    let place = survivor.kill().await;
    let old = Place {
        folder: folder.path().join("old"),
        ..others[0].clone()
    };
    std::fs::rename(&others[0].folder, &old.folder).expect("the data are taken for lost");
    std::fs::remove_dir_all(others[1].folder.join("data")).expect("the data are lost");
    let peers = [&others[0], &others[1], &place];
    assert_eq!(
        recovered(&others[0], &peers, true).await,
        ExitCode::FAILURE,
        "no data folder"
    );
    assert_eq!(recovered(&place, &peers, false).await, ExitCode::SUCCESS);
    assert_eq!(recovered(&place, &peers, true).await, ExitCode::SUCCESS);

    nodes.push(Running::start(place).await);
    assert_eq!(nodes[0].id, id);
    ledger.check(&nodes[0].http).await;
    ledger.write(&nodes[0].http).await;
    ledger.check(&nodes[0].http).await;

    // What was taken for lost is found again: it is refused.
    let (settings, values) = settings(&old);
    let (lifecycle, wishes) = Lifecycle::new(false);
    let refused = Node::start(settings, values, lifecycle, wishes).await.err();
    let refused = format!("{:#}", refused.expect("it is not let in"));
    assert!(refused.contains("recovered without this node"), "{refused}");

    for other in others {
        nodes.push(Running::start(other).await);
    }
    for shard in 0..SHARDS {
        eventually("three voters again", async || {
            let voters = voters(&nodes[0], GroupId::of_shard(ShardId(shard)));
            let is_new = voters.iter().all(|voter| !lost.contains(voter));
            (voters.len() == NODES && is_new).then_some(())
        })
        .await;
    }
    ledger.write(&nodes[1].http).await;
    for node in &nodes {
        ledger.check(&node.http).await;
    }
    forgets_the_lost(&nodes, &lost).await;
    for node in nodes {
        node.stop().await;
    }
}

/// Who is alive or needed is not forgotten, the others are.
async fn forgets_the_lost(nodes: &[Running], lost: &[NodeId]) {
    let forget = async |node: NodeId| {
        let path = format!("/api/v1/cluster/forget?node={node}");
        nodes[0].http.post(&path, "text/plain", Vec::new()).await
    };
    let (code, text) = forget(nodes[1].id).await;
    assert!(code == 400 && text.contains("is alive"), "{code} {text}");
    for node in lost {
        eventually("a lost node to be needed no more, and forgotten", async || {
            (forget(*node).await.0 == 200).then_some(())
        })
        .await;
    }
    let (_, text) = nodes[2].http.get("/api/v1/cluster/nodes").await;
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(shown["data"]["nodes"].as_array().map(Vec::len), Some(NODES), "{text}");
    let (code, text) = nodes[0]
        .http
        .post("/api/v1/cluster/reshard?cancel=true", "text/plain", Vec::new())
        .await;
    assert!(code == 400 && text.contains("is on its way"), "{code} {text}");
}
