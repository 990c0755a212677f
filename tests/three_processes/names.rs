//! `--cluster.peers` is one DNS name that resolves to all ingesters.

use crate::harness::{can_name_hosts, client, eventually, remote};
use crate::trio::{NODES, Trio, now_ms};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_for_all_ingesters_is_enough_to_found_a_cluster_and_to_come_back() {
    if !can_name_hosts() {
        eprintln!("skipped: no mount namespace can be made here, in which /etc/hosts is another file");
        return;
    }
    let folder = tempfile::tempdir().expect("temp folder");
    let mut trio = Trio::by_one_name(folder.path(), &[]);
    trio.start(None).await;
    let nodes = trio.told_by(0, "/api/v1/cluster/nodes").await.expect("nodes");
    let addresses = nodes["nodes"].as_array().expect("nodes").iter();
    let mut places: Vec<_> = addresses
        .filter_map(|node| trio.place_of(node["address"].as_str()?))
        .collect();
    places.sort_unstable();
    assert_eq!(places, (0..NODES).collect::<Vec<_>>(), "{nodes}");

    // One that comes back finds the others by the name, of which its own address is a part.
    trio.stop(0).await;
    trio.launch(0, None);
    trio.until_ready(0).await;
    trio.until_whole().await;
    let at_ms = now_ms();
    let body = remote::body(vec![remote::time_series(&[("__name__", "named")], &[(at_ms, 1.0)])]);
    let sent = remote::send(&trio.http(0), body).await.expect("an answer");
    assert_eq!(sent, (204, String::new()));
    eventually("the sample at another node", async || {
        let found = trio.http(1).query("named", at_ms as f64 / 1000.0).await;
        (client::series(&found).len() == 1).then_some(())
    })
    .await;
    for at in 0..NODES {
        trio.stop(at).await;
    }
}
