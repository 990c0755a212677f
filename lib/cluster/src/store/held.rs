//! What the engine holds in memory, for `/metrics`.

use super::backend::{Backend, SharedBackend};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use std::sync::{Arc, Weak};

/// Asked for at each scrape; it does not keep the engine.
pub(super) struct HeldMemory {
    backend: Weak<dyn Backend>,
    bytes: IntGaugeVec,
}

impl HeldMemory {
    pub(super) fn of(backend: &SharedBackend) -> prometheus::Result<Self> {
        let opts = Opts::new(
            "gnomon_store_memory_bytes",
            "Memory of the node's store: what is not in table files yet, by what it is of, and what is kept of files.",
        );
        Ok(Self {
            backend: Arc::downgrade(backend),
            bytes: IntGaugeVec::new(opts, &["of"])?,
        })
    }
}

impl Collector for HeldMemory {
    fn desc(&self) -> Vec<&Desc> {
        self.bytes.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let held = self.backend.upgrade().map(|backend| backend.memory());
        for (of, bytes) in held.into_iter().flatten() {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.bytes.with_label_values(&[of]).set(bytes);
        }
        self.bytes.collect()
    }
}
