//! What an operator asks of a running cluster by `gnomon cluster --json`, and what the nodes say of it.

use crate::harness::{client, eventually, remote};
use crate::trio::{NODES, Trio, now_ms};
use serde_json::{Value, json};

/// The document that a command prints.
async fn said(trio: &Trio, at: usize, args: &[&str]) -> Value {
    let out = trio.command(at, args).await;
    let out = out.unwrap_or_else(|error| panic!("{args:?}: {error}"));
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
}

async fn told(trio: &Trio, at: usize, what: &str) -> Value {
    let path = format!("/api/v1/cluster/{what}");
    eventually(&path, async || {
        trio.told_by(at, &path).await.filter(|data| data.is_object())
    })
    .await
}

/// Shards, each with the nodes that are to have it.
async fn wished(trio: &Trio, at: usize) -> Vec<(u64, Vec<u64>)> {
    let shards = told(trio, at, "shards").await;
    let ids = |list: &Value| {
        list.as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect()
    };
    let all = shards["shards"].as_array().expect("shards");
    all.iter()
        .map(|shard| (shard["shard"].as_u64().expect("its number"), ids(&shard["wished"])))
        .collect()
}

/// Whoever sends to a node that has none of the shards has it routed to those that have.
async fn a_node_without_shards_takes_samples(trio: &Trio, place: usize, other: usize) {
    let at_ms = now_ms();
    let series = (0..20).map(|n| {
        let n = n.to_string();
        remote::time_series(&[("__name__", "routed"), ("n", &n)], &[(at_ms, 1.0)])
    });
    let sent = remote::send(&trio.http(place), remote::body(series.collect())).await;
    assert_eq!(sent.expect("an answer"), (204, String::new()));
    let shards = told(trio, place, "shards").await;
    let shards = shards["shards"].as_array().expect("shards");
    assert!(shards.iter().all(|shard| shard["leader"].is_u64()), "{shards:?}");
    for asked in [place, other] {
        let found = trio.http(asked).query("count(routed)", at_ms as f64 / 1000.0).await;
        let counts: Vec<_> = client::series(&found).into_values().collect();
        assert_eq!(counts[0][0].1, "20", "{found}");
    }
}

/// Of a cluster with one replica of each shard: one node is drained and takes replicas again, all is levelled, and a
/// replica is moved.
pub(crate) async fn are_carried_out(trio: &Trio, at: usize) {
    let nodes = told(trio, at, "nodes").await;
    let ids: Vec<u64> = nodes["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|node| node["id"].as_u64())
        .collect();
    assert_eq!(ids.len(), NODES, "{nodes}");
    let (drained, id) = (ids[0], ids[0].to_string());

    let document = said(trio, at, &["drain", &id, "--wait", "--json"]).await;
    assert_eq!(document, json!({"node": drained, "draining": true, "done": true}));
    let shards = wished(trio, at).await;
    assert!(shards.iter().all(|(_, nodes)| !nodes.contains(&drained)), "{shards:?}");
    let address = nodes["nodes"][0]["address"].as_str().expect("its address");
    a_node_without_shards_takes_samples(trio, trio.place_of(address).expect("one of them"), at).await;
    let document = said(trio, at, &["drain", &id, "--undo", "--json"]).await;
    assert_eq!(document, json!({"node": drained, "draining": false, "done": true}));

    // The one that has none gets its share.
    let document = said(trio, at, &["rebalance", "--json"]).await;
    assert_eq!(document["done"], true, "{document}");
    for change in document["changes"].as_array().expect("changes") {
        assert!(change["shard"].is_u64() && change["why"].is_string(), "{document}");
    }
    let shards = wished(trio, at).await;
    let count = |node: &u64| shards.iter().filter(|(_, nodes)| nodes.contains(node)).count();
    assert!(count(&drained) > 0, "{shards:?}");
    let most = ids.iter().max_by_key(|node| count(node)).expect("nodes");
    let least = ids.iter().min_by_key(|node| count(node)).expect("nodes");
    assert!(count(most) - count(least) <= 1, "{shards:?}");

    let (shard, _) = shards
        .iter()
        .find(|(_, nodes)| nodes == &[*most])
        .expect("one that it has");
    let (number, from, to) = (shard.to_string(), format!("--from={most}"), format!("--to={least}"));
    let document = said(trio, at, &["move", &number, &from, &to, "--wait", "--json"]).await;
    assert_eq!(document, json!({"shard": shard, "nodes": [least], "done": true}));
    let shown = told(trio, at, "shards").await;
    let mut moved = shown["shards"].as_array().expect("shards").iter();
    let moved = moved.find(|there| there["shard"] == *shard);
    assert_eq!(moved.map(|there| &there["voters"]), Some(&json!([least])), "{shown}");
    let refused = trio.command(at, &["move", &number, &from, &to, "--json"]).await;
    assert!(
        refused
            .as_ref()
            .is_err_and(|why| why.contains("has no replica on node")),
        "{refused:?}"
    );

    // There are no scrapers and no compactor, and nothing is old enough to be sealed.
    for at in 0..NODES {
        assert_eq!(told(trio, at, "ring").await, json!({"term": 0, "scrapers": []}));
        assert_eq!(told(trio, at, "jobs").await, json!({"jobs": []}));
        let blocks = told(trio, at, "blocks").await;
        assert_eq!(
            (&blocks["blocks"], &blocks["bytes"]),
            (&json!([]), &json!(0)),
            "{blocks}"
        );
    }
}
