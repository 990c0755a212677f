//! What the ingester tells about itself.

use crate::intake::Written;
use gnomon_proto::v1::AppendResponse;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

/// Registered once per process.
#[derive(Clone, Debug)]
pub struct IngesterMetrics {
    pub(crate) samples: IntCounter,
    pub(crate) duplicates: IntCounter,
    pub(crate) refused: IntCounterVec,
    pub(crate) append_errors: IntCounterVec,
    pub(crate) append_seconds: Histogram,
    pub(crate) appends_passed_on: IntCounter,
    pub(crate) selects: IntCounter,
    pub(crate) evaluations: IntCounter,
    pub(crate) stale_views: IntCounter,
    pub(crate) series: IntGaugeVec,
    pub(crate) sealed_parts: IntGaugeVec,
    pub(crate) sealed_bytes: IntGaugeVec,
    pub(crate) head_series: IntGauge,
    pub(crate) head_min_ms: IntGauge,
    pub(crate) head_max_ms: IntGauge,
    pub(crate) placement_epoch: IntGauge,
    pub(crate) parts_uploaded: IntCounter,
    pub(crate) bytes_uploaded: IntCounter,
    pub(crate) upload_failures: IntCounter,
    pub(crate) parts_let_go: IntCounterVec,
    pub(crate) targets_expired: IntCounter,
    pub(crate) remote_write: RemoteWriteMetrics,
    pub(crate) otlp: OtlpMetrics,
    pub(crate) grpc_write: GrpcWriteMetrics,
}

/// Those of remote write's receiver.
#[derive(Clone, Debug)]
pub struct RemoteWriteMetrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) seconds: Histogram,
    pub(crate) compressed_bytes: IntCounter,
    pub(crate) body_bytes: IntCounter,
    pub(crate) samples: IntCounter,
    pub(crate) invalid_labels: IntCounter,
}

/// Those of OTLP's receiver.
#[derive(Clone, Debug)]
pub struct OtlpMetrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) seconds: Histogram,
    pub(crate) body_bytes: IntCounter,
    pub(crate) samples: IntCounter,
    pub(crate) rejected: IntCounter,
}

/// Those of `gnomon.v1.Write`.
#[derive(Clone, Debug)]
pub struct GrpcWriteMetrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) seconds: Histogram,
    pub(crate) bytes: IntCounter,
    pub(crate) samples: IntCounter,
}

struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), &["shard"])?)
    }

    fn seconds(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let buckets = vec![
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ];
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
    }
}

impl IngesterMetrics {
    /// # Errors
    /// When `registry` has an ingester's metrics already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let r = Registrar(registry);
        Ok(Self {
            samples: r.counter(
                "gnomon_ingester_samples_total",
                "Samples committed by this node's leaders.",
            )?,
            duplicates: r.counter(
                "gnomon_ingester_duplicate_samples_total",
                "Samples that were there already with the same value.",
            )?,
            refused: r.counters(
                "gnomon_ingester_refused_samples_total",
                "Samples refused, by why.",
                &["reason"],
            )?,
            append_errors: r.counters(
                "gnomon_ingester_append_errors_total",
                "Appends not done, by why.",
                &["error"],
            )?,
            append_seconds: r.seconds(
                "gnomon_ingester_append_seconds",
                "From a batch's arrival to its answer.",
            )?,
            appends_passed_on: r.counter(
                "gnomon_ingester_appends_passed_on_total",
                "Batches of nodes that do not reach a shard's leader, which were passed on to it.",
            )?,
            selects: r.counter(
                "gnomon_ingester_selects_total",
                "Selections answered by this node's heads.",
            )?,
            evaluations: r.counter(
                "gnomon_ingester_evaluations_total",
                "Parts of queries evaluated over this node's heads.",
            )?,
            stale_views: r.counter(
                "gnomon_ingester_stale_views_total",
                "Selections refused because their view of the catalogue was too old.",
            )?,
            series: r.gauges("gnomon_ingester_shard_series", "Series in the shard's head.")?,
            sealed_parts: r.gauges("gnomon_ingester_sealed_parts", "Parts sealed and not yet published.")?,
            sealed_bytes: r.gauges("gnomon_ingester_sealed_bytes", "Bytes of parts not yet published.")?,
            head_series: r.gauge(
                "prometheus_tsdb_head_series",
                "Total number of series in the heads of this node.",
            )?,
            head_min_ms: r.gauge(
                "prometheus_tsdb_head_min_time",
                "Oldest sample of the heads, in milliseconds.",
            )?,
            head_max_ms: r.gauge(
                "prometheus_tsdb_head_max_time",
                "Newest sample of the heads, in milliseconds.",
            )?,
            placement_epoch: r.gauge(
                "gnomon_placement_epoch",
                "The newest placement epoch in force: it grows when the number of shards changes.",
            )?,
            parts_uploaded: r.counter("gnomon_ingester_parts_uploaded_total", "Parts uploaded and published.")?,
            bytes_uploaded: r.counter("gnomon_ingester_uploaded_bytes_total", "Bytes of the blocks uploaded.")?,
            upload_failures: r.counter(
                "gnomon_ingester_upload_failures_total",
                "Attempts at a part that failed.",
            )?,
            parts_let_go: r.counters(
                "gnomon_ingester_parts_let_go_total",
                "Parts that retention let go before they were uploaded.",
                &["reason"],
            )?,
            targets_expired: r.counter("gnomon_ingester_targets_expired_total", "Targets that went silent.")?,
            remote_write: RemoteWriteMetrics {
                requests: r.counters(
                    "gnomon_remote_write_requests_total",
                    "Requests, by status code.",
                    &["code"],
                )?,
                seconds: r.seconds("gnomon_remote_write_seconds", "From a request's body to its answer.")?,
                compressed_bytes: r.counter("gnomon_remote_write_compressed_bytes_total", "Bytes of the bodies.")?,
                body_bytes: r.counter(
                    "gnomon_remote_write_body_bytes_total",
                    "Bytes of the bodies, decompressed.",
                )?,
                samples: r.counter("gnomon_remote_write_samples_total", "Samples and histograms received.")?,
                invalid_labels: r.counter(
                    "prometheus_api_remote_write_invalid_labels_samples_total",
                    "Samples and histograms refused due to invalid labels.",
                )?,
            },
            otlp: OtlpMetrics {
                requests: r.counters(
                    "gnomon_otlp_requests_total",
                    "Requests, by transport and HTTP status code (of gRPC the one that means the same).",
                    &["transport", "code"],
                )?,
                seconds: r.seconds("gnomon_otlp_seconds", "From a request's body to its answer.")?,
                body_bytes: r.counter("gnomon_otlp_body_bytes_total", "Bytes of the requests' protobuf.")?,
                samples: r.counter(
                    "gnomon_otlp_samples_total",
                    "Samples and histograms that requests were converted to.",
                )?,
                rejected: r.counter(
                    "gnomon_otlp_rejected_points_total",
                    "Data points, and samples made of them, that were rejected; the answer says why.",
                )?,
            },
            grpc_write: GrpcWriteMetrics {
                requests: r.counters(
                    "gnomon_grpc_write_requests_total",
                    "Requests of gnomon.v1.Write, by outcome.",
                    &["outcome"],
                )?,
                seconds: r.seconds("gnomon_grpc_write_seconds", "From a request to its answer.")?,
                bytes: r.counter("gnomon_grpc_write_bytes_total", "Bytes of the requests.")?,
                samples: r.counter("gnomon_grpc_write_samples_total", "Samples and histograms received.")?,
            },
        })
    }

    pub(crate) fn count(&self, response: &AppendResponse) {
        self.samples.inc_by(response.samples_taken);
        self.duplicates.inc_by(response.duplicates);
        for rejection in &response.rejections {
            let reason = rejection.reason().as_str_name().to_ascii_lowercase();
            self.refused
                .with_label_values(&[reason.as_str()])
                .inc_by(rejection.count);
        }
    }
}

impl RemoteWriteMetrics {
    /// A request that was written, or of which it was tried.
    pub(crate) fn count(&self, written: &Written) {
        self.samples.inc_by(written.samples + written.histograms);
        let invalid = gnomon_proto::v1::rejection::Reason::InvalidLabels;
        let refused = written.outcome.refused.iter().filter(|r| r.reason == invalid);
        self.invalid_labels.inc_by(refused.map(|r| r.count).sum());
    }
}
