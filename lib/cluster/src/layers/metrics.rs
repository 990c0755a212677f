//! Counts and durations of remote calls.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// One per process; cloning shares it.
#[derive(Clone, Debug)]
pub struct CallMetrics {
    /// By service, method and outcome (a gRPC code's name, or `unreachable`).
    pub(super) calls: IntCounterVec,
    /// Until the answer begins.
    pub(super) seconds: HistogramVec,
    pub(super) in_flight: IntGaugeVec,
    pub(super) retries: IntCounterVec,
    /// By service and which of the two answered.
    pub(crate) hedges: IntCounterVec,
    /// By service.
    pub(crate) resumes: IntCounterVec,
}

impl CallMetrics {
    /// # Errors
    /// When `registry` has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let calls = IntCounterVec::new(
            Opts::new("gnomon_client_calls_total", "Calls made of other nodes, by outcome."),
            &["service", "method", "outcome"],
        )?;
        let buckets = vec![
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ];
        let seconds = HistogramVec::new(
            HistogramOpts::new("gnomon_client_call_seconds", "Time until other nodes began to answer.")
                .buckets(buckets),
            &["service", "method"],
        )?;
        let in_flight = IntGaugeVec::new(
            Opts::new(
                "gnomon_client_calls_in_flight",
                "Calls of other nodes that have no answer yet.",
            ),
            &["service"],
        )?;
        let retries = IntCounterVec::new(
            Opts::new("gnomon_client_retries_total", "Calls made again after a passing error."),
            &["method"],
        )?;
        let hedges = IntCounterVec::new(
            Opts::new(
                "gnomon_client_hedges_total",
                "Reads that were made of a second node since the first was slow, by the one that answered.",
            ),
            &["service", "answered"],
        )?;
        let resumes = IntCounterVec::new(
            Opts::new(
                "gnomon_client_resumes_total",
                "Streams of series that broke off or stood still and were gone on with from another node.",
            ),
            &["service"],
        )?;
        registry.register(Box::new(hedges.clone()))?;
        registry.register(Box::new(resumes.clone()))?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        registry.register(Box::new(retries.clone()))?;
        Ok(Self {
            calls,
            seconds,
            in_flight,
            retries,
            hedges,
            resumes,
        })
    }
}

/// Calls that other nodes make of this one. One per process; cloning shares it.
#[derive(Clone, Debug)]
pub struct ServeMetrics(IntCounterVec);

impl ServeMetrics {
    /// # Errors
    /// When `registry` has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let calls = IntCounterVec::new(
            Opts::new(
                "gnomon_server_calls_total",
                "Calls of other nodes that were answered, by outcome (shed: too many at a time).",
            ),
            &["service", "method", "outcome"],
        )?;
        registry.register(Box::new(calls.clone()))?;
        Ok(Self(calls))
    }

    pub(super) fn count(&self, service: &str, method: &str, outcome: &str) {
        self.0.with_label_values(&[service, method, outcome]).inc();
    }

    #[cfg(test)]
    pub(super) fn of(&self, service: &str, method: &str, outcome: &str) -> u64 {
        self.0.with_label_values(&[service, method, outcome]).get()
    }
}
