//! What the compactor shows of itself.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) cycles: IntCounterVec,
    pub(crate) merges: IntCounterVec,
    pub(crate) merged_samples: IntCounter,
    pub(crate) merged_bytes: IntCounter,
    pub(crate) backlog: IntGauge,
    pub(crate) damaged: IntGauge,
    pub(crate) evicted: IntCounterVec,
    pub(crate) deleted: IntCounterVec,
    pub(crate) used_bytes: IntGauge,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            // Present from the start, so that a rate over the first event is right.
            for value in values {
                counters.with_label_values(&[*value]);
            }
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let ends = ["success", "failure"];
        Ok(Self {
            cycles: counters(
                "gnomon_compactor_cycles_total",
                "Cycles of planning and work.",
                "outcome",
                &ends,
            )?,
            merges: counters("gnomon_compactor_merges_total", "Merges of blocks.", "outcome", &ends)?,
            merged_samples: counter("gnomon_compactor_merged_samples_total", "Samples written by merges.")?,
            merged_bytes: counter(
                "gnomon_compactor_merged_bytes_total",
                "Bytes of blocks written by merges.",
            )?,
            backlog: gauge(
                "gnomon_compactor_merges_pending",
                "Merges that could be made at the last plan.",
            )?,
            damaged: gauge(
                "gnomon_compactor_damaged_blocks",
                "Blocks that were found damaged, or of a newer version, and are not merged.",
            )?,
            evicted: counters(
                "gnomon_compactor_evicted_blocks_total",
                "Blocks let go by retention.",
                "reason",
                &["time", "size"],
            )?,
            deleted: counters(
                "gnomon_compactor_deleted_objects_total",
                "Objects deleted from the bucket.",
                "reason",
                &["condemned", "unnamed"],
            )?,
            used_bytes: gauge(
                "gnomon_compactor_bucket_bytes",
                "Bytes of staged, live and condemned blocks by the catalogue.",
            )?,
        })
    }
}
