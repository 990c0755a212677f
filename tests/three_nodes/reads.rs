//! Reads while the replica that is read from is cut off or killed: the answer is right, or says that it is partial.

use super::harness::cutter::Cutter;
use super::harness::{Http, client, eventually, remote};
use super::{Running, let_lead, places, replicas_at, until_caught_up};
use std::collections::BTreeMap;
use std::path::Path;

const SERIES: usize = 1200;
const SAMPLES: i64 = 60;
/// Series of one body.
const AT_ONCE: usize = 300;

/// Values by series and time.
type Values = BTreeMap<(usize, i64), f64>;

/// Three nodes, of which the first is reached through a proxy.
async fn behind_a_cutter(folder: &Path) -> (Vec<Running>, Cutter) {
    let mut places = places(folder);
    let cutter = Cutter::start(places[0].grpc).await;
    let advertised = format!("--cluster.advertise-address={}", cutter.address());
    places[0].flags.push(advertised);
    (replicas_at(places).await, cutter)
}

/// Writes what takes some 100 KiB to read, over all shards.
async fn write(http: &Http) -> Values {
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let base_ms = now_ms - 20 * 60_000;
    let mut all = Values::new();
    // No two digits of one tell the next, so that pages stay long.
    let value = |series: usize, i: i64| ((i * 7919 + series as i64 * 104_729) as f64).sqrt();
    for first in (0..SERIES).step_by(AT_ONCE) {
        let mut body = Vec::new();
        for n in first..first + AT_ONCE {
            let samples: Vec<_> = (0..SAMPLES).map(|i| (base_ms + i * 1000, value(n, i))).collect();
            all.extend(samples.iter().map(|(at, v)| ((n, *at), *v)));
            let instance = format!("n{n}");
            let labels = [("__name__", "wide"), ("instance", instance.as_str()), ("job", "j")];
            body.push(remote::time_series(&labels, &samples));
        }
        remote::send_until_taken(http, &remote::body(body)).await;
    }
    all
}

/// What a query over all of them gives; none where the answer says that it is partial.
async fn read(http: &Http, values: &Values) -> Option<Values> {
    let end_ms = values.keys().map(|(_, at)| *at).max().expect("values");
    let time = end_ms as f64 / 1000.0;
    let (code, text) = http
        .get(&format!(
            "/api/v1/query?query={}&time={time}",
            client::encode("wide[1h]")
        ))
        .await;
    assert_eq!(code, 200, "{}", &text[..text.len().min(1000)]);
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    if let Some(warnings) = answer.get("warnings") {
        println!("partial: {warnings}");
        let named = warnings.to_string();
        assert!(named.contains("shard ") && named.contains("samples from "), "{named}");
        return None;
    }
    let mut read = Values::new();
    for row in answer["data"]["result"].as_array().expect("rows") {
        let instance = row["metric"]["instance"].as_str().expect("a label");
        let n: usize = instance[1..].parse().expect("a number");
        for pair in row["values"].as_array().expect("values") {
            let at = (pair[0].as_f64().expect("a time") * 1000.0).round() as i64;
            let value: f64 = pair[1].as_str().expect("a value").parse().expect("a number");
            assert!(read.insert((n, at), value).is_none(), "twice: {n} at {at}");
        }
    }
    Some(read)
}

/// Sums and counts by fragments that shards evaluate.
async fn sums(http: &Http, values: &Values) -> serde_json::Value {
    let times = || values.keys().map(|(_, at)| *at);
    let (start_ms, end_ms) = (times().min().expect("values"), times().max().expect("values"));
    let (start, end) = (start_ms as f64 / 1000.0, end_ms as f64 / 1000.0);
    http.query_range("sum_over_time(wide[10s])", start, end, 1.0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_off_is_gone_on_with_at_another_replica() {
    let folder = tempfile::tempdir().expect("temp folder");
    let (nodes, cutter) = behind_a_cutter(folder.path()).await;
    let values = write(&nodes[0].http).await;
    let_lead(&nodes, nodes[0].id).await;
    for node in &nodes[1..] {
        until_caught_up(&nodes, node).await;
    }
    assert_eq!(read(&nodes[1].http, &values).await.as_ref(), Some(&values));
    let whole_sums = sums(&nodes[1].http, &values).await;
    assert_eq!(whole_sums["result"].as_array().map(Vec::len), Some(SERIES));

    // At the beginning, in the middle, near the end.
    let mut cut = 0;
    for bytes in [1, 30_000, 100_000, 200_000] {
        for node in &nodes[1..] {
            cutter.cut_after(bytes);
            let found = read(&node.http, &values).await;
            assert!(
                found.as_ref() == Some(&values),
                "cut after {bytes}, read by {}",
                node.id
            );
            cutter.cut_after(bytes);
            assert_eq!(sums(&node.http, &values).await, whole_sums, "cut after {bytes}");
        }
        assert!(cutter.cuts() > cut, "nothing was cut after {bytes}");
        cut = cutter.cuts();
    }
    let resumes = async |node: &Running| {
        let (_, metrics) = node.http.get("/metrics").await;
        let line = metrics.lines().find(|l| l.starts_with("gnomon_client_resumes_total"));
        line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    let mut all = 0.0;
    for node in &nodes {
        all += resumes(node).await;
    }
    assert!(all > 0.0, "a stream was gone on with");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_in_the_middle_of_a_query_leaves_it_right_or_partial() {
    let folder = tempfile::tempdir().expect("temp folder");
    let (mut nodes, cutter) = behind_a_cutter(folder.path()).await;
    let values = write(&nodes[0].http).await;
    let_lead(&nodes, nodes[0].id).await;
    cutter.cut_after(60_000);
    let (http, expected) = (nodes[1].http.clone(), values.clone());
    let asking = tokio::spawn(async move { read(&http, &expected).await });
    eventually("the stream to be cut", async || (cutter.cuts() > 0).then_some(())).await;
    let place = nodes.remove(0).kill().await;
    if let Some(found) = asking.await.expect("an answer") {
        assert!(found == values, "neither right nor partial");
    }
    // Once somebody leads again it is whole.
    eventually("a whole answer", async || {
        let found = read(&nodes[1].http, &values).await?;
        assert!(found == values);
        Some(())
    })
    .await;
    nodes.push(Running::start(place).await);
    for node in nodes {
        node.stop().await;
    }
}
