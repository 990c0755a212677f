//! What callers hand to the router and get back.

use super::memo::TickMemo;
use super::send::add_refused;
use gnomon_model::{Labels, LabelsRef, TargetId, TenantId};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::rejection::Reason;

/// 128-bit XXH3 of whatever determines a series' final labels for this caller (the label bytes of a remote-write
/// series; the exposition's series text seeded by the target). Two series with different final labels must have
/// different identities; one series may have several. Tenant and epoch are mixed in by the router.
pub type SeriesIdentity = u128;

/// Gives the final labels of a write's series, by the number that the caller gave to each of them (its index in the
/// body, say). Asked only where a shard does not know the series yet, at any time until the send is over.
pub trait LabelSource: Sync {
    /// Appends the canonical bytes (`gnomon_model::labels`) of the labels of `series` to `out`.
    fn write_labels(&self, series: u32, out: &mut Vec<u8>);

    /// Where the router may keep what it knows of these series from one tick to the next, of who gives them the same
    /// numbers in each.
    fn memo(&self) -> Option<&TickMemo> {
        None
    }
}

/// Label sets in a slice are a source: the number is the index.
impl LabelSource for &[Labels] {
    fn write_labels(&self, series: u32, out: &mut Vec<u8>) {
        if let Some(labels) = self.get(series as usize) {
            out.extend_from_slice(labels.as_bytes());
        }
    }
}

impl LabelSource for Vec<Labels> {
    fn write_labels(&self, series: u32, out: &mut Vec<u8>) {
        self.as_slice().write_labels(series, out);
    }
}

/// Items of one kind that were refused for one reason; nothing else is lost by it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    pub reason: Reason,
    pub count: u64,
    /// Labels and time (ms) of one of them, where the shard told.
    pub example: Option<(Labels, i64)>,
}

/// What became of a write that is no tick. For an HTTP answer: `retryable` -> 503, else `failed` -> 500, else
/// `refused` -> 400, else 2xx.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteOutcome {
    /// Samples (floats and histograms) that were committed; readable by the next query.
    pub taken: u64,
    /// Equal samples were there already; a success.
    pub duplicates: u64,
    /// One entry for each reason.
    pub refused: Vec<Refused>,
    /// Some of the write was not done, or may not have been: send all of it again (that is harmless).
    pub retryable: Option<ServiceError>,
    /// Some of the write was not done, and will not be if it is sent again.
    pub failed: Option<ServiceError>,
}

impl WriteOutcome {
    /// What came of both writes.
    pub fn add(&mut self, other: Self) {
        self.taken += other.taken;
        self.duplicates += other.duplicates;
        for one in other.refused {
            add_refused(&mut self.refused, one);
        }
        self.retryable = self.retryable.take().or(other.retryable);
        self.failed = self.failed.take().or(other.failed);
    }
}

/// One float sample of a tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TickSample {
    pub identity: SeriesIdentity,
    /// The caller's number of the series, for [`LabelSource`].
    pub series: u32,
    /// [`Tick::tick_ms`], or the sample's own time.
    pub timestamp_ms: i64,
    /// Since when its counter counts, in milliseconds; 0 where that is not known.
    pub start_ms: i64,
    pub value: f64,
}

/// One histogram sample of a tick.
#[derive(Clone, Debug, PartialEq)]
pub struct TickHistogram {
    pub identity: SeriesIdentity,
    pub series: u32,
    pub timestamp_ms: i64,
    /// As a sample's.
    pub start_ms: i64,
    /// Remote write's `prometheus.Histogram`, encoded; the times within are not used.
    pub encoded: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TickExemplar {
    pub identity: SeriesIdentity,
    pub series: u32,
    pub timestamp_ms: i64,
    pub value: f64,
    pub labels: Labels,
}

/// Metadata of one metric, borrowed from wherever it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricInfo<'a> {
    pub metric: &'a str,
    /// As in an exposition: counter, gauge, histogram, gaugehistogram, summary, info, stateset, unknown.
    pub kind: &'a str,
    pub unit: &'a str,
    pub help: &'a str,
}

/// One scrape of one target, whole. A failed scrape is a complete tick with only the report series.
#[derive(Clone, Copy)]
pub struct Tick<'a> {
    pub tenant: &'a TenantId,
    pub target: TargetId,
    /// The scraper's ownership term of the target: shards refuse older ones.
    pub term: u64,
    pub tick_ms: i64,
    pub interval_ms: u64,
    /// False where part of the scrape is missing, so that absence says nothing.
    pub complete: bool,
    /// Whether series whose samples bring their own time get staleness markers too.
    pub track_timestamps_staleness: bool,
    /// The target's own labels: their `job` and `instance` choose its home shard, which keeps durably where its
    /// series are.
    pub target_labels: LabelsRef<'a>,
    pub samples: &'a [TickSample],
    pub histograms: &'a [TickHistogram],
    pub exemplars: &'a [TickExemplar],
    pub metadata: &'a [MetricInfo<'a>],
    pub labels: &'a dyn LabelSource,
}

/// What became of a tick.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TickOutcome {
    /// False where a shard refused it as a whole: another scraper owns the target by now, or the tick came twice.
    pub taken: bool,
    /// A shard refused it because another scraper owns the target by now; where it was refused and this is false, the tick
    /// (or a later one) was there.
    pub older_term: bool,
    /// A shard refused it because it has this scrape by another scraper: it must not be offered as plain samples.
    pub doubled: bool,
    /// A shard refused it because it has a later scrape of the target, by a quarter of the interval or more: the clock of whoever
    /// made that one was ahead, or the clock by which this one was made is behind.
    pub earlier: bool,
    pub samples_taken: u64,
    pub duplicates: u64,
    /// Series that had no live sample of this target before: `scrape_series_added`.
    pub series_added: u64,
    pub refused: Vec<Refused>,
}

impl TickOutcome {
    /// Whether it was refused for no other reason than that there is a later scrape of the target. As plain samples its samples would
    /// be taken, and a counter would seem to fall where the later scrape stands.
    #[must_use]
    pub const fn is_behind_newest(&self) -> bool {
        self.earlier && !self.taken && !self.doubled && !self.older_term
    }
}

/// Characters of names and values that the labels of an exemplar may have together: OpenMetrics 1.0 and Prometheus allow no
/// more.
const MAX_EXEMPLAR_CHARS: usize = 128;

/// Whether an exemplar's labels are short enough to be kept.
#[must_use]
pub fn is_exemplar_kept(labels: LabelsRef<'_>) -> bool {
    let chars = |text: &str| text.chars().count();
    labels
        .iter()
        .map(|(name, value)| chars(name) + chars(value))
        .sum::<usize>()
        <= MAX_EXEMPLAR_CHARS
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::Labels;

    #[test]
    fn labels_of_exemplars_are_measured_in_characters() {
        for (value, kept) in [("", true), ("é", true), ("xy", false)] {
            let trace = format!("{}{value}", "é".repeat(119));
            let labels = Labels::from_pairs([("trace_id", trace.as_str())]);
            assert_eq!(is_exemplar_kept(labels.as_ref()), kept, "{trace}");
        }
    }
}
