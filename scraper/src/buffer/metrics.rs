//! What the buffer tells about itself.

use super::queues::Totals;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Why scrapes were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The budgets were full.
    Budget,
    /// Another scraper had the target by then, and may have scraped it too.
    OtherOwner,
    /// The shards will not take it, however often it is sent.
    Refused,
    /// It did not read back from disk.
    Damaged,
    /// It was made while the clock was ahead: its time is still to come by this node's and the metadata group's leader's. Or the
    /// shards have a later one: by a clock that was ahead, or this one's is behind.
    Clock,
}

impl Why {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::OtherOwner => "other_owner",
            Self::Refused => "refused",
            Self::Damaged => "damaged",
            Self::Clock => "clock",
        }
    }
}

pub(crate) struct BufferMetrics {
    bytes: IntGaugeVec,
    ticks: IntGauge,
    samples: IntGauge,
    oldest_seconds: IntGauge,
    pub(super) held: IntCounter,
    pub(super) sent: IntCounter,
    pub(super) sent_as_rows: IntCounter,
    pub(super) shed_samples: IntCounterVec,
    pub(super) shed_ticks: IntCounterVec,
    pub(super) damaged_files: IntCounter,
    pub(super) disk_errors: IntCounter,
}

impl BufferMetrics {
    /// # Errors
    /// When `registry` has a buffer's metrics already.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let made = IntCounter::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let gauge = |name: &str, help: &str| {
            let made = IntGauge::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let by_reason = |name: &str, help: &str| {
            let made = IntCounterVec::new(Opts::new(name, help), &["reason"])?;
            registry.register(Box::new(made.clone()))?;
            for why in [Why::Budget, Why::OtherOwner, Why::Refused, Why::Damaged, Why::Clock] {
                made.with_label_values(&[why.as_str()]);
            }
            Ok::<_, prometheus::Error>(made)
        };
        let bytes = IntGaugeVec::new(
            Opts::new(
                "gnomon_scrape_buffer_bytes",
                "What scrapes take that wait for their shards, by place.",
            ),
            &["place"],
        )?;
        registry.register(Box::new(bytes.clone()))?;
        Ok(Self {
            bytes,
            ticks: gauge("gnomon_scrape_buffer_ticks", "Scrapes that wait for their shards.")?,
            samples: gauge("gnomon_scrape_buffer_samples", "Their samples.")?,
            oldest_seconds: gauge(
                "gnomon_scrape_buffer_oldest_age_seconds",
                "How old the oldest of them is; 0 where none waits.",
            )?,
            held: counter(
                "gnomon_scrape_buffer_ticks_held_total",
                "Scrapes that had to wait, because they or one before them could not be pushed.",
            )?,
            sent: counter(
                "gnomon_scrape_buffer_ticks_sent_total",
                "Of those, the ones that were taken later.",
            )?,
            sent_as_rows: counter(
                "gnomon_scrape_buffer_ticks_sent_as_rows_total",
                "Of those, the ones whose samples were taken apart from their scrape, as remote write's are.",
            )?,
            shed_samples: by_reason(
                "gnomon_scrape_buffer_shed_samples_total",
                "Samples of scrapes that were given up, by why.",
            )?,
            shed_ticks: by_reason(
                "gnomon_scrape_buffer_shed_ticks_total",
                "Scrapes that were given up, by why.",
            )?,
            damaged_files: counter(
                "gnomon_scrape_buffer_damaged_files_total",
                "Files of held scrapes with something that does not read back.",
            )?,
            disk_errors: counter(
                "gnomon_scrape_buffer_disk_errors_total",
                "Times that held scrapes could not be written to disk or read from it, or a file not be removed.",
            )?,
        })
    }

    pub(super) fn show(&self, totals: &Totals, now_ms: i64) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.bytes
            .with_label_values(&["memory"])
            .set(gauge(totals.memory_bytes));
        self.bytes.with_label_values(&["disk"]).set(gauge(totals.disk_bytes));
        self.ticks.set(gauge(totals.ticks));
        self.samples.set(gauge(totals.samples));
        let age_ms = totals
            .oldest_ms
            .map_or(0, |oldest| now_ms.saturating_sub(oldest).max(0));
        self.oldest_seconds.set(age_ms / 1000);
    }
}
