//! A sink that keeps what it is given.

use crate::scrape::TickSink;
use async_trait::async_trait;
use gnomon_cluster::router::{Tick, TickOutcome, WriteOutcome};
use gnomon_model::{LabelsRef, TargetId};
use gnomon_proto::ServiceError;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// A tick, its series written out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OwnedTick {
    pub(crate) target: TargetId,
    pub(crate) term: u64,
    pub(crate) tick_ms: i64,
    pub(crate) complete: bool,
    pub(crate) samples: Vec<(String, i64, f64)>,
    pub(crate) histograms: Vec<String>,
    pub(crate) exemplars: Vec<(String, String)>,
    pub(crate) metadata: Vec<String>,
}

impl OwnedTick {
    /// The value of the sample whose labels begin with the name and contain the text.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let begin = format!("{{__name__=\"{name}\"");
        self.samples.iter().find(|s| s.0.starts_with(&begin)).map(|s| s.2)
    }
}

#[derive(Default)]
pub(crate) struct RecordingSink {
    pub(crate) ticks: Mutex<Vec<OwnedTick>>,
    more: Notify,
    /// Pushes that fail before one is taken.
    pub(crate) failures: AtomicUsize,
    /// Pushes after these that meet a later tick.
    pub(crate) earlier: AtomicUsize,
}

#[async_trait]
impl TickSink for RecordingSink {
    async fn push_tick(&self, tick: &Tick<'_>, _deadline: Duration) -> Result<TickOutcome, ServiceError> {
        let fail = |left: usize| left.checked_sub(1);
        if self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fail)
            .is_ok()
        {
            return Err(ServiceError::Unavailable("not now".into()));
        }
        if self
            .earlier
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fail)
            .is_ok()
        {
            return Ok(TickOutcome {
                earlier: true,
                ..TickOutcome::default()
            });
        }
        let labels = |series| {
            let mut bytes = Vec::new();
            tick.labels.write_labels(series, &mut bytes);
            LabelsRef::checked(&bytes).unwrap().to_string()
        };
        let owned = OwnedTick {
            target: tick.target,
            term: tick.term,
            tick_ms: tick.tick_ms,
            complete: tick.complete,
            samples: tick
                .samples
                .iter()
                .map(|s| (labels(s.series), s.timestamp_ms, s.value))
                .collect(),
            histograms: tick.histograms.iter().map(|h| labels(h.series)).collect(),
            exemplars: tick
                .exemplars
                .iter()
                .map(|e| (labels(e.series), e.labels.to_string()))
                .collect(),
            metadata: tick
                .metadata
                .iter()
                .map(|m| format!("{} {} {}", m.metric, m.kind, m.help))
                .collect(),
        };
        self.ticks.lock().push(owned);
        self.more.notify_waiters();
        Ok(TickOutcome {
            taken: true,
            samples_taken: tick.samples.len() as u64,
            ..TickOutcome::default()
        })
    }

    async fn push_rows(&self, _tick: &Tick<'_>, _deadline: Duration) -> WriteOutcome {
        unreachable!("this sink refuses no tick")
    }
}

impl RecordingSink {
    pub(crate) fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Waits until there are so many ticks.
    pub(crate) async fn wait_for_count(&self, count: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.ticks.lock().len() < count {
            assert!(tokio::time::Instant::now() < deadline, "fewer than {count} ticks came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The first tick for which `wanted` holds, waited for.
    pub(crate) async fn wait_for(&self, what: &str, wanted: impl Fn(&OwnedTick) -> bool) -> OwnedTick {
        let find = async {
            loop {
                let more = self.more.notified();
                if let Some(tick) = self.ticks.lock().iter().find(|t| wanted(t)) {
                    return tick.clone();
                }
                more.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), find).await {
            Ok(tick) => tick,
            Err(_) => panic!(
                "no tick with {what}; there are {:#?}",
                self.ticks.lock().iter().take(3).collect::<Vec<_>>()
            ),
        }
    }
}
