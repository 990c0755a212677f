use super::*;
use crate::intake::Intake;
use crate::otlp::{Otlp, OtlpOptions, OtlpSettings};
use crate::service::WriteOptions;
use crate::testing::{NOW, Node};
use gnomon_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use gnomon_proto::opentelemetry::proto::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use gnomon_proto::opentelemetry::proto::metrics::v1 as otlp;
use gnomon_proto::v1::write_client::WriteClient;
use gnomon_proto::v1::write_response::Outcome;
use gnomon_proto::v1::{View, WriteRequest, WriteSample, WriteSeries};
use std::sync::Arc;
use tonic::Code;
use tonic::codec::CompressionEncoding;

fn service(node: &Node) -> WriteService {
    let intake = Intake::new(node.router.clone(), None);
    WriteService::new(intake, &node.metrics, node.clock.clone())
}

fn request(id: u64, samples: &[(i64, f64)]) -> WriteRequest {
    WriteRequest {
        id,
        tenant: String::new(),
        symbols: ["", "__name__", "m", "job", "j"].map(str::to_owned).to_vec(),
        timeseries: vec![WriteSeries {
            labels_refs: vec![1, 2, 3, 4],
            samples: samples
                .iter()
                .map(|(timestamp, value)| WriteSample {
                    value: *value,
                    timestamp: *timestamp,
                    start_timestamp: 0,
                })
                .collect(),
            ..WriteSeries::default()
        }],
    }
}

#[tokio::test]
async fn a_call_is_answered_once_its_samples_are_there() {
    let node = Node::new(WriteOptions::default());
    let mut client = WriteClient::new(service(&node)).send_compressed(CompressionEncoding::Gzip);
    let answer = client
        .write(request(7, &[(NOW, 1.5), (NOW + 1, 2.0)]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.id, answer.outcome(), answer.samples_taken),
        (7, Outcome::Taken, 2)
    );
    let stored = node.read(View::default()).await.unwrap();
    assert_eq!(stored[r#"{__name__="m", job="j"}"#], [(NOW, 1.5), (NOW + 1, 2.0)]);
    let again = client.write(request(8, &[(NOW, 1.5)])).await.unwrap().into_inner();
    assert_eq!((again.samples_taken, again.duplicates), (1, 1));

    let refused = client
        .write(request(9, &[(NOW, 9.0), (NOW + 2, 1.0)]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((refused.outcome(), refused.samples_taken), (Outcome::PartlyRefused, 1));
    let [refusal] = &refused.refusals[..] else {
        panic!("{refused:?}");
    };
    assert_eq!((refusal.samples, refusal.example_timestamp_ms), (1, NOW));
    assert!(
        refusal.reason.contains("duplicate") && refusal.example_labels.contains("job"),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_its_status() {
    let node = Node::new(WriteOptions::default());
    let mut client = WriteClient::new(service(&node));
    let mut bad = request(1, &[(NOW, 1.0)]);
    bad.timeseries[0].labels_refs = vec![1, 99];
    let status = client.write(bad).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "symbol 99 of a series is not in the request")
    );
    let mut other = request(1, &[(NOW, 1.0)]);
    other.tenant = "else".into();
    let status = client.write(other).await.unwrap_err();
    assert!(status.message().contains("one tenant only"), "{status}");
    // More than may be, compressed to next to nothing.
    let mut large = request(1, &[]);
    large.symbols.push("x".repeat(MAX_MESSAGE_BYTES));
    let mut packed = WriteClient::new(service(&node)).send_compressed(CompressionEncoding::Gzip);
    let status = packed.write(large).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let mut large = request(1, &[]);
    large.symbols.push("x".repeat(MAX_MESSAGE_BYTES));
    let status = client.write(large.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    // It ends a stream.
    let requests = futures::stream::iter([large, request(2, &[(NOW, 1.0)])]);
    let ended = match client.write_stream(requests).await {
        Ok(answers) => answers.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(ended.code(), Code::InvalidArgument, "{ended}");
    assert!(node.read(View::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stream_answers_every_request_by_its_id() {
    let node = Node::new(WriteOptions::default());
    let mut client = WriteClient::new(service(&node));
    let mut bad = request(500, &[(NOW, 1.0)]);
    bad.timeseries[0].labels_refs = vec![1];
    let good = (0..100).map(|n| request(n, &[(NOW + n as i64, n as f64)]));
    let requests: Vec<_> = good.chain([bad]).collect();
    let answers = client.write_stream(futures::stream::iter(requests)).await.unwrap();
    let mut answers = answers.into_inner();
    let mut taken = Vec::new();
    // One at a time: what is in order stays so.
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.outcome() {
            Outcome::Taken => taken.push(answer.id),
            Outcome::Malformed => assert_eq!((answer.id, answer.message.contains("without a value")), (500, true)),
            other => panic!("{other:?}: {answer:?}"),
        }
    }
    assert_eq!(taken, (0..100).collect::<Vec<_>>());
    let stored = node.read(View::default()).await.unwrap();
    assert_eq!(stored[r#"{__name__="m", job="j"}"#].len(), 100);
}

#[tokio::test]
async fn a_shard_without_leader_is_a_reason_to_come_again() {
    let node = Node::new(WriteOptions::default());
    node.log.leads.store(false, std::sync::atomic::Ordering::Relaxed);
    let timeout = std::time::Duration::from_millis(50);
    let intake = Intake::with_timeout(node.router.clone(), None, timeout);
    let mut client = WriteClient::new(WriteService::new(intake, &node.metrics, node.clock.clone()));
    let status = client.write(request(1, &[(NOW, 1.0)])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let answers = client
        .write_stream(futures::stream::iter([request(3, &[(NOW, 1.0)])]))
        .await
        .unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    assert_eq!(
        (answer.id, answer.outcome(), answer.retry_after_ms),
        (3, Outcome::Retry, 1000)
    );
}

#[tokio::test]
async fn otlp_comes_over_grpc_too() {
    let node = Node::new(WriteOptions::default());
    let (_sender, settings) = tokio::sync::watch::channel(Arc::new(OtlpSettings::default()));
    let intake = Intake::new(node.router.clone(), None);
    let receiver = Otlp::new(
        intake,
        OtlpOptions::default(),
        settings,
        &node.metrics,
        node.clock.clone(),
    );
    let mut client = MetricsServiceClient::new(OtlpService::new(receiver)).send_compressed(CompressionEncoding::Gzip);
    let point = |value| otlp::NumberDataPoint {
        time_unix_nano: NOW as u64 * 1_000_000,
        value: Some(otlp::number_data_point::Value::AsDouble(value)),
        ..otlp::NumberDataPoint::default()
    };
    let metric = |name: &str, data| otlp::Metric {
        name: name.into(),
        data: Some(data),
        ..otlp::Metric::default()
    };
    let gauge = otlp::metric::Data::Gauge(otlp::Gauge {
        data_points: vec![point(4.0)],
    });
    let delta = otlp::metric::Data::Sum(otlp::Sum {
        data_points: vec![point(1.0), point(2.0)],
        aggregation_temporality: 1,
        is_monotonic: true,
    });
    let request = |metrics| ExportMetricsServiceRequest {
        resource_metrics: vec![otlp::ResourceMetrics {
            scope_metrics: vec![otlp::ScopeMetrics {
                metrics,
                ..otlp::ScopeMetrics::default()
            }],
            ..otlp::ResourceMetrics::default()
        }],
    };
    let answer = client
        .export(request(vec![metric("a.gauge", gauge.clone())]))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().partial_success, None);
    assert_eq!(
        node.read(View::default()).await.unwrap()[r#"{__name__="a_gauge"}"#],
        [(NOW, 4.0)]
    );
    let answer = client
        .export(request(vec![metric("d", delta)]))
        .await
        .unwrap()
        .into_inner();
    let partial = answer.partial_success.unwrap();
    assert_eq!(partial.rejected_data_points, 2);
    assert!(
        partial.error_message.contains("delta temporality"),
        "{}",
        partial.error_message
    );
}
