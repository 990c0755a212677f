//! Nodes of one cluster whose configurations are not the same.

use crate::harness::eventually;
use crate::trio::{NODES, Trio};

/// The cluster's revision that one goes by, and whether the cluster goes by another configuration.
async fn revision(trio: &Trio, at: usize) -> (u64, bool) {
    let (_, metrics) = trio.http(at).get("/metrics").await;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name}: {metrics}"))
    };
    (value("gnomon_config_revision "), value("gnomon_config_differs ") == 1)
}

async fn reload(trio: &Trio, at: usize, yaml: &str) {
    trio.write_config(at, yaml);
    let (code, body) = trio.http(at).post("/-/reload", "text/plain", Vec::new()).await;
    assert_eq!(code, 200, "{body}");
}

async fn until(trio: &Trio, at: usize, wanted: (u64, bool)) {
    eventually("the node to go by that", async || {
        let (_, told) = trio.http(at).get("/api/v1/notifications").await;
        let is_told = told.contains("another configuration than the cluster");
        (revision(trio, at).await == wanted && is_told == wanted.1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_while_the_cluster_goes_by_another_configuration() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut trio = Trio::new(folder.path(), &["--web.enable-lifecycle"]);
    trio.start(None).await;
    for at in 0..NODES {
        until(&trio, at, (1, false)).await;
    }
    // External labels are each node's own.
    reload(
        &trio,
        0,
        "global: {external_labels: {prometheus_replica: prometheus-0}}",
    )
    .await;
    assert_eq!(revision(&trio, 0).await, (1, false));

    let changed = "global: {scrape_interval: 7s}";
    reload(&trio, 0, changed).await;
    until(&trio, 0, (2, false)).await;
    until(&trio, 1, (1, true)).await;
    until(&trio, 2, (1, true)).await;
    reload(&trio, 1, changed).await;
    until(&trio, 1, (2, false)).await;
    until(&trio, 2, (1, true)).await;

    // The cluster comes back to what one goes by still.
    reload(&trio, 0, "").await;
    until(&trio, 2, (3, false)).await;
    until(&trio, 1, (2, true)).await;

    // A start does not bring back what was superseded.
    trio.stop(1).await;
    trio.scrape(format!("{changed}\n"));
    trio.launch(1, None);
    trio.until_ready(1).await;
    eventually("the node to say that it differs", async || {
        revision(&trio, 1).await.1.then_some(())
    })
    .await;
    assert_eq!(revision(&trio, 0).await, (3, false));
    for at in 0..NODES {
        trio.stop(at).await;
    }
}
