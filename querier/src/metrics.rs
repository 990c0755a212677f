//! What the querier counts about itself.

use gnomon_promql::QueryMemory;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType, Summary};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Buckets of request durations, in seconds: Prometheus' own.
const REQUEST_SECONDS: [f64; 9] = [0.1, 0.2, 0.4, 1.0, 3.0, 8.0, 20.0, 60.0, 120.0];
const STOP_SECONDS: [f64; 7] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 2.0];
const QUERY_SECONDS: [f64; 11] = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 120.0];

/// `prometheus_engine_query_duration_seconds`: a summary without quantiles (the crate has none), by part of a query.
#[derive(Clone, Debug)]
pub(crate) struct EngineSeconds {
    desc: Desc,
    sums: Arc<Mutex<BTreeMap<&'static str, (u64, f64)>>>,
}

const ENGINE_SECONDS: (&str, &str) = ("prometheus_engine_query_duration_seconds", "Query timings");

impl EngineSeconds {
    fn new() -> prometheus::Result<Self> {
        let (name, help) = (ENGINE_SECONDS.0.to_owned(), ENGINE_SECONDS.1.to_owned());
        let slices = ["inner_eval", "prepare_time", "queue_time", "result_sort"];
        Ok(Self {
            desc: Desc::new(name, help, vec!["slice".to_owned()], HashMap::new())?,
            sums: Arc::new(Mutex::new(slices.map(|slice| (slice, (0, 0.0))).into())),
        })
    }

    pub(crate) fn observe(&self, slice: &'static str, took: Duration) {
        let mut sums = self.sums.lock();
        let (count, sum) = sums.entry(slice).or_default();
        *count += 1;
        *sum += took.as_secs_f64();
    }
}

impl Collector for EngineSeconds {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metric = |(slice, (count, sum)): (&&str, &(u64, f64))| {
            let mut label = LabelPair::default();
            label.set_name("slice".to_owned());
            label.set_value((*slice).to_owned());
            let mut summary = Summary::default();
            summary.set_sample_count(*count);
            summary.set_sample_sum(*sum);
            let mut metric = Metric::from_label(vec![label]);
            metric.set_summary(summary);
            metric
        };
        let mut family = MetricFamily::default();
        family.set_name(ENGINE_SECONDS.0.to_owned());
        family.set_help(ENGINE_SECONDS.1.to_owned());
        family.set_field_type(MetricType::SUMMARY);
        family.set_metric(self.sums.lock().iter().map(metric).collect());
        vec![family]
    }
}

/// `gnomon_query_memory_bytes`: what queries hold at the moment of the scrape.
#[derive(Clone, Debug)]
struct HeldBytes {
    gauge: IntGauge,
    memory: Arc<QueryMemory>,
}

impl HeldBytes {
    fn new(memory: Arc<QueryMemory>) -> prometheus::Result<Self> {
        let help = "Memory that queries hold, answers that are being read included.";
        let gauge = IntGauge::new("gnomon_query_memory_bytes", help)?;
        Ok(Self { gauge, memory })
    }
}

impl Collector for HeldBytes {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge
            .set(i64::try_from(self.memory.used_bytes()).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}

#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) engine_seconds: EngineSeconds,
    pub(crate) requests: IntCounterVec,
    pub(crate) request_seconds: HistogramVec,
    pub(crate) running: IntGauge,
    pub(crate) waiting: IntGauge,
    pub(crate) samples: IntCounter,
    pub(crate) query_seconds: HistogramVec,
    pub(crate) fetched_bytes: IntCounter,
    pub(crate) partial: IntCounter,
    pub(crate) federation_errors: IntCounter,
    /// Threads of the engine at work, those of requests that have ended included.
    pub(crate) engines: IntGauge,
    pub(crate) stop_seconds: Histogram,
}

impl Metrics {
    /// # Errors
    /// When a name or label is not legal, which the test of this module rules out.
    pub(crate) fn new(
        max_concurrency: usize,
        memory: &Arc<QueryMemory>,
    ) -> prometheus::Result<(Self, Vec<Box<dyn Collector>>)> {
        let metrics = Self {
            engine_seconds: EngineSeconds::new()?,
            requests: IntCounterVec::new(
                Opts::new("prometheus_http_requests_total", "Counter of HTTP requests."),
                &["handler", "code"],
            )?,
            request_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "prometheus_http_request_duration_seconds",
                    "Histogram of latencies for HTTP requests.",
                )
                .buckets(REQUEST_SECONDS.to_vec()),
                &["handler"],
            )?,
            running: IntGauge::new(
                "prometheus_engine_queries",
                "The current number of queries being executed or waiting.",
            )?,
            waiting: IntGauge::new("gnomon_queries_waiting", "Queries that wait for others to end.")?,
            samples: IntCounter::new(
                "prometheus_engine_query_samples_total",
                "The total number of samples loaded by all queries.",
            )?,
            query_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "gnomon_query_duration_seconds",
                    "Time from the start of a query to its result.",
                )
                .buckets(QUERY_SECONDS.to_vec()),
                &["outcome"],
            )?,
            fetched_bytes: IntCounter::new(
                "gnomon_query_fetched_bytes_total",
                "Encoded bytes of series that queries got from shards and blocks.",
            )?,
            partial: IntCounter::new(
                "gnomon_query_partial_results_total",
                "Answers with a warning that something could not be read.",
            )?,
            federation_errors: IntCounter::new(
                "prometheus_web_federation_errors_total",
                "Total number of errors that occurred while sending federation responses.",
            )?,
            engines: IntGauge::new(
                "gnomon_query_engines",
                "Queries that are being evaluated, those whose requests have ended already included.",
            )?,
            stop_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "gnomon_query_stop_duration_seconds",
                    "Time from the end of a request, by its client or by time, to the end of the work for it.",
                )
                .buckets(STOP_SECONDS.to_vec()),
            )?,
        };
        let most = IntGauge::new(
            "prometheus_engine_queries_concurrent_max",
            "The max number of concurrent queries.",
        )?;
        most.set(i64::try_from(max_concurrency).unwrap_or(i64::MAX));
        let collectors: Vec<Box<dyn Collector>> = vec![
            Box::new(metrics.engine_seconds.clone()),
            Box::new(metrics.requests.clone()),
            Box::new(metrics.request_seconds.clone()),
            Box::new(metrics.running.clone()),
            Box::new(metrics.waiting.clone()),
            Box::new(metrics.samples.clone()),
            Box::new(metrics.query_seconds.clone()),
            Box::new(metrics.fetched_bytes.clone()),
            Box::new(metrics.partial.clone()),
            Box::new(metrics.federation_errors.clone()),
            Box::new(metrics.engines.clone()),
            Box::new(metrics.stop_seconds.clone()),
            Box::new(HeldBytes::new(Arc::clone(memory))?),
            Box::new(most),
            #[cfg(target_os = "linux")]
            Box::new(prometheus::process_collector::ProcessCollector::for_self()),
        ];
        Ok((metrics, collectors))
    }
}

/// A name that is taken already stays with whom it belongs to.
pub(crate) fn register(registry: &Registry, collectors: Vec<Box<dyn Collector>>) {
    for collector in collectors {
        let names: Vec<_> = collector.desc().iter().map(|d| d.fq_name.clone()).collect();
        match registry.register(collector) {
            Ok(()) | Err(prometheus::Error::AlreadyReg) => {}
            Err(error) => tracing::warn!(?names, %error, "metric is not shown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_are_legal_and_unique() {
        let (metrics, collectors) = Metrics::new(20, &QueryMemory::unlimited()).unwrap();
        let registry = Registry::new();
        for collector in collectors {
            registry.register(collector).unwrap();
        }
        metrics.requests.with_label_values(&["/metrics", "200"]).inc();
        assert!(
            registry
                .gather()
                .iter()
                .any(|f| f.name() == "prometheus_http_requests_total")
        );
    }
}
