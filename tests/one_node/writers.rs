//! Ways to write, with the binary as it is: OTLP, gRPC with its health and reflection services, HA pairs of real
//! Prometheus servers.

use crate::harness::reference::Prometheus;
use crate::harness::{Node, Process, binary, client, eventually, free_port, peers};
use base64::Engine;
use futures::StreamExt;
use gnomon_proto::v1::write_client::WriteClient;
use gnomon_proto::v1::write_response::Outcome;
use gnomon_proto::v1::{WriteRequest, WriteSample, WriteSeries};
use std::process::Command;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

pub(crate) fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

async fn channel(port: u16) -> Channel {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
    endpoint.connect().await.expect("a connection")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_is_taken_by_the_rules_of_the_file_and_a_reload_changes_them() {
    let folder = tempfile::tempdir().expect("temp folder");
    let yaml = "otlp: {promote_resource_attributes: [host.name]}\n";
    let flags = ["--web.enable-otlp-receiver", "--web.enable-lifecycle"];
    let node = Node::start(folder.path(), yaml, &flags).await;
    let body = |at: i64| {
        format!(
            r#"{{"resourceMetrics":[{{"resource":{{"attributes":[
                 {{"key":"service.name","value":{{"stringValue":"shop"}}}},
                 {{"key":"host.name","value":{{"stringValue":"h1"}}}}]}},
               "scopeMetrics":[{{"metrics":[{{"name":"queue.length","unit":"{{item}}","description":"waiting",
                 "gauge":{{"dataPoints":[{{"timeUnixNano":"{at}000000","asInt":"5"}}]}}}}]}}]}}]}}"#
        )
    };
    let post = async |at| {
        let (code, text) = node
            .http
            .post("/api/v1/otlp/v1/metrics", "application/json", body(at).into_bytes())
            .await;
        assert_eq!((code, text.as_str()), (200, "{}"));
    };
    let at = now_ms();
    post(at).await;
    let found = client::series(&node.http.query(r#"{job="shop"}"#, at as f64 / 1000.0).await);
    let names: Vec<_> = found.keys().cloned().collect();
    assert_eq!(
        names,
        [
            r#"{"__name__": "queue_length", "host_name": "h1", "job": "shop"}"#,
            r#"{"__name__": "target_info", "host_name": "h1", "job": "shop"}"#,
        ]
    );
    let metadata = node.http.api("/api/v1/metadata?metric=queue_length").await;
    assert_eq!(metadata["queue_length"][0]["help"], "waiting", "{metadata}");
    assert_eq!(metadata["queue_length"][0]["type"], "gauge", "{metadata}");

    std::fs::write(node.config_file(), "otlp: {translation_strategy: NoTranslation}\n").expect("configuration");
    assert_eq!(node.http.post("/-/reload", "text/plain", Vec::new()).await.0, 200);
    let at = now_ms();
    post(at).await;
    let found = client::series(&node.http.query(r#"{"queue.length"}"#, at as f64 / 1000.0).await);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_enabled_says_how_to_enable_it() {
    let folder = tempfile::tempdir().expect("temp folder");
    let node = Node::start(folder.path(), "", &[]).await;
    for (path, flag) in [
        ("/api/v1/write", "--web.enable-remote-write-receiver"),
        ("/api/v1/otlp/v1/metrics", "--web.enable-otlp-receiver"),
    ] {
        let (code, text) = node.http.post(path, "application/json", b"{}".to_vec()).await;
        assert!(code == 404 && text.contains(flag), "{path}: {code} {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listener_of_senders_asks_for_the_passwords_of_the_web_configuration() {
    let folder = tempfile::tempdir().expect("temp folder");
    let hash = bcrypt::hash("wonder", 4).expect("a hash");
    let web = folder.path().join("web.yml");
    std::fs::write(&web, format!("basic_auth_users: {{alice: '{hash}'}}\n")).expect("web.yml");
    let config = folder.path().join("prometheus.yml");
    std::fs::write(&config, "").expect("configuration");
    let port = free_port();
    let mut command = Command::new(binary());
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.config.file={}", web.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{}", free_port()))
        .arg(format!("--cluster.listen-address=127.0.0.1:{}", free_port()))
        .arg(format!("--ingest.grpc-listen-address=127.0.0.1:{port}"))
        .arg("--web.enable-remote-write-receiver");
    let mut server = Process::start("gnomon", &mut command, folder.path().join("log"));
    let asked = async |password: Option<&str>| {
        let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
        let channel = endpoint.connect().await.ok()?;
        let mut request = tonic::Request::new(HealthCheckRequest {
            service: "gnomon.v1.Write".into(),
        });
        if let Some(password) = password {
            let basic = base64::engine::general_purpose::STANDARD.encode(format!("alice:{password}"));
            let value = format!("Basic {basic}").parse().expect("a header");
            request.metadata_mut().insert("authorization", value);
        }
        Some(HealthClient::new(channel).check(request).await)
    };
    eventually("gRPC to be served", async || {
        let answer = asked(Some("wonder")).await?;
        answer
            .is_ok_and(|a| a.into_inner().status() == ServingStatus::Serving)
            .then_some(())
    })
    .await;
    for password in [None, Some("wander")] {
        let refused = asked(password).await.expect("a connection").expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{password:?}: {refused}");
    }
    assert_eq!(server.interrupt().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_has_health_and_reflection_on_a_listener_of_its_own() {
    let folder = tempfile::tempdir().expect("temp folder");
    let port = free_port();
    let address = format!("--ingest.grpc-listen-address=127.0.0.1:{port}");
    let flags = [
        "--web.enable-remote-write-receiver",
        "--web.enable-otlp-receiver",
        &address,
    ];
    let node = Node::start(folder.path(), "", &flags).await;
    let channel = channel(port).await;

    let check = HealthCheckRequest {
        service: "gnomon.v1.Write".into(),
    };
    let health = HealthClient::new(channel.clone())
        .check(check)
        .await
        .expect("health")
        .into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let asked = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("gnomon.v1.WriteRequest".into())),
    ];
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let answers = reflection
        .server_reflection_info(futures::stream::iter(asked))
        .await
        .expect("reflection");
    let answers: Vec<_> = answers
        .into_inner()
        .map(|a| a.expect("an answer").message_response)
        .collect()
        .await;
    let Some(MessageResponse::ListServicesResponse(list)) = &answers[0] else {
        panic!("{answers:?}");
    };
    let mut names: Vec<_> = list.service.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    let otlp = "opentelemetry.proto.collector.metrics.v1.MetricsService";
    // What nodes call each other by is not shown.
    assert_eq!(names, ["gnomon.v1.Write", "grpc.health.v1.Health", otlp]);
    assert!(
        matches!(&answers[1], Some(MessageResponse::FileDescriptorResponse(f)) if !f.file_descriptor_proto.is_empty())
    );

    let at = now_ms();
    let request = move |id: u64| WriteRequest {
        id,
        symbols: ["", "__name__", "streamed"].map(str::to_owned).to_vec(),
        timeseries: vec![WriteSeries {
            labels_refs: vec![1, 2],
            samples: vec![WriteSample {
                value: id as f64,
                timestamp: at + id as i64,
                start_timestamp: 0,
            }],
            ..WriteSeries::default()
        }],
        ..WriteRequest::default()
    };
    let mut write = WriteClient::new(channel);
    let answers = write
        .write_stream(futures::stream::iter((0..500).map(request)))
        .await
        .expect("a stream");
    let answers: Vec<_> = answers.into_inner().map(|a| a.expect("an answer")).collect().await;
    assert!(answers.iter().all(|a| a.outcome() == Outcome::Taken), "{answers:?}");
    assert_eq!(answers.len(), 500);
    let found = node
        .http
        .query("count_over_time(streamed[1m])", (at + 500) as f64 / 1000.0)
        .await;
    assert_eq!(found["result"][0]["value"][1], "500");
    let (_, metrics) = node.http.get("/metrics").await;
    assert!(
        metrics.contains(r#"gnomon_grpc_write_requests_total{outcome="taken"} 500"#),
        "{metrics}"
    );
}

/// A sample with its start, by gRPC.
fn started(at_ms: i64, start_ms: i64) -> WriteRequest {
    WriteRequest {
        symbols: ["", "__name__", "started_total"].map(str::to_owned).to_vec(),
        timeseries: vec![WriteSeries {
            labels_refs: vec![1, 2],
            samples: vec![WriteSample {
                value: 1.0,
                timestamp: at_ms,
                start_timestamp: start_ms,
            }],
            ..WriteSeries::default()
        }],
        ..WriteRequest::default()
    }
}

/// The first samples come before the cluster is at the feature level that they raise it to; from then on starts stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_timestamps_are_kept_and_survive_a_kill() {
    let folder = tempfile::tempdir().expect("temp folder");
    let port = free_port();
    let address = format!("--ingest.grpc-listen-address=127.0.0.1:{port}");
    let functions = "--enable-feature=promql-experimental-functions";
    let flags = ["--web.enable-remote-write-receiver", functions, &address];
    let node = Node::start(folder.path(), "", &flags).await;
    let mut write = WriteClient::new(channel(port).await);
    let begin = now_ms();
    let mut sent = 0;
    let (at, start) = eventually("a start that is kept", async || {
        let at = begin + sent;
        sent += 1;
        let answer = write.write(started(at, begin - 5_000)).await.expect("an answer");
        assert_eq!(answer.into_inner().outcome(), Outcome::Taken);
        let found = node
            .http
            .query("start_timestamp(started_total)", at as f64 / 1000.0)
            .await;
        let start = found["result"][0]["value"][1].as_str().expect("a number").to_owned();
        (start != "0").then_some((at, start))
    })
    .await;
    let expected = (begin - 5_000) as f64 / 1000.0;
    assert_eq!(start.parse::<f64>().expect("a number"), expected);
    let (node, _) = node.kill_and_restart().await;
    let found = node
        .http
        .query("start_timestamp(started_total)", at as f64 / 1000.0)
        .await;
    assert_eq!(found["result"][0]["value"][1].as_str(), Some(start.as_str()));
}

/// Two real Prometheus servers that scrape the same and write the same; one of them dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_real_ha_pair_one_is_taken_and_the_other_when_it_dies() {
    let Some(prometheus) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let flags = [
        "--web.enable-remote-write-receiver",
        "--ingest.ha-tracker",
        "--ingest.ha-replica-label=prometheus_replica",
        "--ingest.ha-update-timeout=2s",
        "--ingest.ha-failover-timeout=4s",
    ];
    let node = Node::start(folder.path(), "", &flags).await;
    let launch = |name: &str| {
        let port = free_port();
        let yaml = format!(
            "global: {{scrape_interval: 1s, external_labels: {{cluster: pair, prometheus_replica: {name}}}}}\n\
             scrape_configs: [{{job_name: it, static_configs: [{{targets: ['127.0.0.1:{}']}}]}}]\n\
             remote_write: [{{url: '{}', queue_config: {{batch_send_deadline: 1s}}}}]\n",
            node.http.url("").rsplit(':').next().unwrap_or_default(),
            node.http.url("/api/v1/write")
        );
        Prometheus::launch_at(port, &prometheus, folder.path(), name, &yaml, &[])
    };
    let (first, second) = (launch("a"), launch("b"));
    let times = async || {
        let data = node.http.query(r#"up{job="it"}[2m]"#, now_ms() as f64 / 1000.0).await;
        let found = client::series(&data);
        assert!(found.len() <= 1, "one series, without the replica's label: {found:?}");
        found
            .into_values()
            .next()
            .unwrap_or_default()
            .into_iter()
            .map(|s| s.0)
            .collect::<Vec<f64>>()
    };
    let has_turns = async |n: usize| {
        let (_, metrics) = node.http.get("/metrics").await;
        let line = metrics.lines().find_map(|l| l.strip_prefix("gnomon_ha_turns_total "));
        line.is_some_and(|count| count == n.to_string()).then_some(())
    };
    eventually("samples of one of the pair", async || {
        (times().await.len() > 5).then_some(())
    })
    .await;
    eventually("a turn", async || has_turns(1).await).await;
    let text = node.process.log();
    let has = if text.contains("replica=a") || text.contains("replica=\"a\"") {
        "a"
    } else {
        "b"
    };
    let (dies, _lives) = if has == "a" { (first, second) } else { (second, first) };
    drop(dies);
    let died = now_ms() as f64 / 1000.0;
    eventually("the other one's turn", async || has_turns(2).await).await;
    eventually("its samples", async || {
        times().await.last().is_some_and(|t| *t > died + 6.0).then_some(())
    })
    .await;
    let all = times().await;
    for pair in all.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap > 0.7, "twice: {} and {}, {all:?}", pair[0], pair[1]);
        // The turn's end, one scrape, and what the dead one had not sent.
        assert!(
            gap < 6.0,
            "nothing between {} and {}, died at {died}: {all:?}",
            pair[0],
            pair[1]
        );
    }
    let (_, metrics) = node.http.get("/metrics").await;
    let dropped = metrics
        .lines()
        .find_map(|l| l.strip_prefix("gnomon_ha_deduplicated_samples_total "));
    assert!(dropped.is_some_and(|n| n != "0"), "{dropped:?}");
}
