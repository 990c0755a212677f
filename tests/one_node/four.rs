//! The same node as four processes: each role by itself, gRPC between them, one folder as object store.

#[path = "four/blocks.rs"]
mod blocks;
#[path = "four/buffers.rs"]
mod buffers;
#[path = "four/cluster.rs"]
mod cluster;
#[path = "four/deaths.rs"]
mod deaths;
#[path = "four/leaving.rs"]
mod leaving;
#[path = "four/readme.rs"]
mod readme;
#[path = "four/scrapers.rs"]
mod scrapers;
#[path = "four/secured.rs"]
mod secured;

use crate::harness::exporter::Exporter;
use crate::harness::{client, eventually, peers, remote};
use cluster::{Four, config, now, now_ms};
use serde_json::json;

/// What a process has, and what it says of what it has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_do_the_job_of_one_in_whatever_order_they_start() {
    let folder = tempfile::tempdir().expect("temp folder");
    let exporter = Exporter::start().await;
    exporter.say("# HELP jobs_total Jobs done.\n# TYPE jobs_total counter\njobs_total{queue=\"a\"} 5\n");
    let yaml = config("1s", &[("app", &[exporter.address.as_str()])]);
    let mut four = Four::new(folder.path(), &yaml);
    for role in ["scraper", "compactor", "querier"] {
        four.launch(role);
    }
    // They live, and wait for an ingester.
    for role in ["scraper", "compactor", "querier"] {
        eventually(&format!("the {role} to wait"), async || {
            let health = four.try_get(role, "/-/healthy").await?;
            let ready = four.try_get(role, "/-/ready").await?;
            (health.0 == 200 && ready.0 == 503 && ready.1.contains("joins its cluster")).then_some(())
        })
        .await;
    }
    four.launch("ingester");
    four.until_ready().await;

    let querier = four.http("querier");
    eventually("the target to be up", async || {
        let up = client::series(&querier.query("up", now()).await);
        (up.len() == 1 && up.values().all(|s| s[0].1 == "1")).then_some(())
    })
    .await;
    let found = client::series(&querier.query("jobs_total", now()).await);
    assert_eq!(found.values().next().map(|s| s[0].1.as_str()), Some("5"));
    let targets = querier.api("/api/v1/targets").await;
    assert_eq!(targets["activeTargets"][0]["health"], "up", "{targets}");
    assert_eq!(targets["activeTargets"][0]["scrapePool"], "app", "{targets}");
    let metadata = querier.api("/api/v1/metadata?metric=jobs_total").await;
    assert_eq!(metadata["jobs_total"][0]["help"], "Jobs done.", "{metadata}");
    let of_target = querier.api("/api/v1/targets/metadata?metric=jobs_total").await;
    assert_eq!(of_target[0]["type"], "counter", "{of_target}");

    every_role_tells_of_the_whole_cluster(&four).await;
    a_write_is_readable_once_acknowledged(&four).await;
    each_role_has_what_it_should(&four).await;
    four.stop().await;
}

async fn a_write_is_readable_once_acknowledged(four: &Four) {
    for i in 0..20 {
        let (at, n) = (now_ms(), i.to_string());
        let labels = [
            ("__name__", "sent"),
            ("instance", "a:1"),
            ("job", "j"),
            ("n", n.as_str()),
        ];
        let body = remote::body(vec![remote::time_series(&labels, &[(at, f64::from(i))])]);
        assert_eq!(
            remote::send(four.http("ingester"), body).await.expect("send"),
            (204, String::new())
        );
        let query = format!("sent{{n=\"{n}\"}}");
        let found = client::series(&four.http("querier").query(&query, at as f64 / 1000.0).await);
        assert_eq!(found.values().next().map(|s| s[0].1.clone()), Some(n));
    }
}

/// Targets and shards are the same wherever they are asked for.
async fn every_role_tells_of_the_whole_cluster(four: &Four) {
    let nodes = four.http("querier").api("/api/v1/cluster/nodes").await;
    let nodes = nodes["nodes"].as_array().cloned().expect("nodes");
    let scraper = nodes.iter().find(|node| node["roles"] == json!(["scraper"]));
    let scraper = scraper.expect("the scraper's node").clone();
    let expected = four.http("querier").api("/api/v1/targets").await;
    for role in Four::ROLES {
        let http = four.http(role);
        let targets = http.api("/api/v1/targets").await;
        assert_eq!(
            targets["activeTargets"].as_array().map(Vec::len),
            Some(1),
            "{role}: {targets}"
        );
        for name in ["scrapePool", "scrapeUrl", "labels", "discoveredLabels", "health"] {
            let (here, there) = (&targets["activeTargets"][0][name], &expected["activeTargets"][0][name]);
            assert_eq!(here, there, "{name} at the {role}");
        }
        let pools = http.api("/api/v1/scrape_pools").await;
        assert_eq!(pools["scrapePools"], json!(["app"]), "{role}");
        let metadata = http.api("/api/v1/targets/metadata?metric=jobs_total").await;
        assert_eq!(metadata[0]["help"], "Jobs done.", "{role}: {metadata}");
        let heads = http.api("/api/v1/status/tsdb").await;
        let series = heads["headStats"]["numSeries"].as_u64();
        assert!(series.is_some_and(|series| series > 1), "{role}: {heads}");
        let ring = http.api("/api/v1/cluster/ring").await;
        let (id, address) = (&scraper["id"], &scraper["address"]);
        assert_eq!(
            ring["scrapers"],
            json!([{"id": id, "address": address}]),
            "{role}: {ring}"
        );
        assert!(ring["term"].as_u64().is_some_and(|term| term > 0), "{role}: {ring}");
    }
}

async fn each_role_has_what_it_should(four: &Four) {
    for role in Four::ROLES {
        let http = four.http(role);
        assert_eq!(http.get("/-/healthy").await.0, 200, "{role}");
        let (code, metrics) = http.get("/metrics").await;
        assert!(code == 200 && metrics.contains("process_cpu_seconds_total"), "{role}");
        let runtime = http.api("/api/v1/status/runtimeinfo").await;
        assert_eq!(runtime["gnomonRoles"][0], role, "{runtime}");
        let (code, page) = http.get("/").await;
        assert!(code == 200 && page.contains("gnomon"), "{role}: {code} {page}");
        let (code, text) = http.get("/api/v1/query?query=up").await;
        match role {
            "querier" => assert_eq!(code, 200, "{text}"),
            _ => assert!(
                code == 404 && text.contains("--target=querier"),
                "{role}: {code} {text}"
            ),
        }
        let body = remote::body(vec![remote::time_series(&[("__name__", "m")], &[(now_ms(), 1.0)])]);
        let (code, text) = remote::send(http, body).await.expect("send");
        match role {
            "ingester" => assert_eq!(code, 204, "{text}"),
            _ => assert!(
                code == 404 && text.contains("--target=ingester"),
                "{role}: {code} {text}"
            ),
        }
    }
    // A trace that the client began goes on in the ingester, over the querier.
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let querier = four.http("querier");
    let asked = querier.client().get(querier.url("/api/v1/query?query=up"));
    let answer = asked
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .send()
        .await;
    assert!(answer.expect("an answer").status().is_success());
    for role in ["querier", "ingester"] {
        eventually(&format!("the trace in the log of the {role}"), async || {
            four.log(role).contains(trace).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_exporter_is_scraped_by_one_process_and_queried_at_another() {
    let Some(program) = peers::find("prometheus-node-exporter", "prometheus-node-exporter") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let port = crate::harness::free_port();
    let _exporter = crate::harness::Process::start(
        "node exporter",
        std::process::Command::new(program).arg(format!("--web.listen-address=127.0.0.1:{port}")),
        folder.path().join("node-exporter.log"),
    );
    let address = format!("127.0.0.1:{port}");
    let mut four = Four::new(folder.path(), &config("1s", &[("node", &[address.as_str()])]));
    four.start().await;
    let querier = four.http("querier");
    eventually("a rate over some scrapes", async || {
        let rate = querier.query("sum(rate(node_cpu_seconds_total[10s]))", now()).await;
        let rate = client::series(&rate);
        rate.values().next()?[0].1.parse::<f64>().ok().filter(|r| *r > 0.0)
    })
    .await;
    four.stop().await;
}
