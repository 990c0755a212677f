//! An ingester that gives away what it has before it stops.

use super::cluster::{Four, now, now_ms};
use crate::harness::{client, eventually, remote};

const SERIES: usize = 40;

/// Replicas that a node has, as the cluster says it.
async fn replicas(four: &Four, address: &str) -> Option<u64> {
    let (_, text) = four.try_get("querier", "/api/v1/cluster/nodes").await?;
    let answer: serde_json::Value = serde_json::from_str(&text).ok()?;
    let nodes = answer["data"]["nodes"].as_array()?.clone();
    let own = nodes.iter().find(|node| node["address"] == address)?;
    own["replicas"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_first_where_a_flag_says_so() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut four = Four::new(folder.path(), "").with_flags(&["--cluster.drain-on-stop=50s"]);
    four.launch("ingester");
    four.launch("querier");
    four.until_ready().await;
    four.launch_as("second", "ingester");
    four.until_ready().await;
    let second = four.address("second");
    eventually("the second ingester to have a share", async || {
        replicas(&four, &second).await.filter(|replicas| *replicas > 0)
    })
    .await;
    let at = now_ms();
    let series = (0..SERIES).map(|n| {
        let n = n.to_string();
        remote::time_series(
            &[("__name__", "kept"), ("instance", n.as_str()), ("job", "j")],
            &[(at, 1.0)],
        )
    });
    remote::send_until_taken(four.http("ingester"), &remote::body(series.collect())).await;

    four.node("second").process.signal("-TERM");
    assert_eq!(four.node("second").process.ended().await, Some(0));
    let log = four.log("second");
    assert!(log.contains("nothing is left on this node that others need"), "{log}");
    let found = four.http("querier").query("count(kept)", at as f64 / 1000.0).await;
    let found = client::series(&found);
    assert_eq!(found.values().next().map(|s| s[0].1.clone()), Some(SERIES.to_string()));
    four.forget("second");

    // The last one has nobody to give anything to, and does not wait for the time to be over.
    four.node("querier").process.signal("-TERM");
    assert_eq!(four.node("querier").process.ended().await, Some(0));
    let begun = now();
    four.node("ingester").process.signal("-TERM");
    assert_eq!(four.node("ingester").process.ended().await, Some(0));
    assert!(
        four.log("ingester").contains("not drained before it stops"),
        "after {} s",
        now() - begun
    );
}

/// With one ingester too, where nothing else can be moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_querier_that_is_gone_is_forgotten() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut four = Four::new(folder.path(), "").with_flags(&["--web.enable-admin-api"]);
    four.launch("ingester");
    four.launch("querier");
    four.until_ready().await;
    let address = four.address("querier");
    let id = async |four: &Four| {
        let nodes = four.http("ingester").api("/api/v1/cluster/nodes").await;
        let nodes = nodes["nodes"].as_array().cloned().unwrap_or_default();
        let found = nodes.iter().find(|node| node["address"] == address.as_str());
        found.and_then(|node| node["id"].as_u64())
    };
    let ask = async |four: &Four, what: String| {
        let path = format!("/api/v1/cluster/{what}");
        four.http("ingester").post(&path, "text/plain", Vec::new()).await
    };
    let querier = id(&four).await.expect("its id");
    let (code, text) = ask(&four, "forget?node=99".to_owned()).await;
    assert!(code == 400 && text.contains("there is no node 99"), "{code} {text}");
    let (code, text) = ask(&four, format!("forget?node={querier}")).await;
    assert!(code == 400 && text.contains("is alive"), "{code} {text}");
    // As many shards as there are: nothing is to be done.
    let (code, text) = ask(&four, "reshard?shards=2".to_owned()).await;
    assert!(code == 200 && text.contains("\"data\":null"), "{code} {text}");

    four.node("querier").process.signal("-TERM");
    assert_eq!(four.node("querier").process.ended().await, Some(0));
    let forgotten = async || (ask(&four, format!("forget?node={querier}")).await.0 == 200).then_some(());
    eventually("the querier to be forgotten", forgotten).await;
    assert_eq!(id(&four).await, None);
    four.forget("querier");
    four.stop().await;
}
