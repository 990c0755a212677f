//! The seam to storage: what a query asks of it, and in what shape the answer comes. Synchronous and without I/O of its
//! own: whoever runs queries over a network fetches beforehand what [`crate::Plan::selectors`] lists.

use crate::partial::FragmentAnswer;
use crate::plan::Fragment;
use gnomon_model::histogram::{FloatHistogram, ResetHint};
use gnomon_model::{Labels, Matcher, NORMAL_NAN};
use std::sync::Arc;

/// What a selector will be used for; a source may use it to fetch less, and must not depend on it for being correct.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectHints {
    /// Distance of evaluation steps in milliseconds; 0 for a single instant.
    pub step_ms: i64,
    /// Width of the range (`[5m]`) in milliseconds; 0 for an instant selector.
    pub range_ms: i64,
    /// Name of the function or aggregation that directly surrounds the selector; empty if none.
    pub func: &'static str,
    /// Labels of the directly surrounding aggregation.
    pub grouping: Vec<String>,
    /// Whether [`Self::grouping`] lists what is kept (`by`) or what is dropped (`without`).
    pub by: bool,
    /// Only the counts and sums of histograms are wanted: their buckets may be left out.
    pub histogram_stats: bool,
    /// The labels that the result depends on; none is all. (Series are told apart by all they have, nevertheless.)
    pub labels: Option<Vec<String>>,
    /// Whether there are samples, and when, is all that is looked at: values count only as stale markers.
    pub presence_only: bool,
    /// Whether samples may lie before the step's window and be wanted nevertheless (`anchored`, `smoothed`).
    pub extended: bool,
}

/// One selector of a query with the samples it can touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectRequest {
    /// Position in [`crate::Plan::selectors`].
    pub id: usize,
    /// All of them must match; at least one does not match the empty text.
    pub matchers: Vec<Matcher>,
    /// First millisecond that can be looked at, **inclusive** (offset, `@`, range and lookback are in it).
    pub start_ms: i64,
    /// Last millisecond that can be looked at, **inclusive**.
    pub end_ms: i64,
    pub hints: SelectHints,
}

/// The samples of one series, columns of one length, strictly increasing timestamps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Milliseconds since the Unix epoch.
    pub timestamps: Vec<i64>,
    /// A value for each timestamp; meaningless where the sample is a histogram. Stale markers are in here, as they are.
    pub values: Vec<f64>,
    /// Empty when all samples are floats, else as long as `timestamps`. A stale histogram has the stale NaN as its sum.
    /// A reset hint `NotReset` must hold with regard to the sample before it in this very column.
    pub histograms: Vec<Option<Arc<FloatHistogram>>>,
    /// When the counter behind each sample began to count, milliseconds since the epoch; 0 where that is not known, and
    /// of histograms. Empty where it is known of none, else as long as `timestamps`.
    pub start_times: Vec<i64>,
}

impl Samples {
    #[must_use]
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    pub fn push_float(&mut self, timestamp_ms: i64, value: f64) {
        self.timestamps.push(timestamp_ms);
        self.values.push(value);
        if !self.histograms.is_empty() {
            self.histograms.push(None);
        }
        self.start_times_to_len();
    }

    fn start_times_to_len(&mut self) {
        if !self.start_times.is_empty() {
            self.start_times.resize(self.timestamps.len(), 0);
        }
    }

    pub fn push_histogram(&mut self, timestamp_ms: i64, histogram: Arc<FloatHistogram>) {
        if self.histograms.is_empty() {
            self.histograms.resize(self.timestamps.len(), None);
        }
        self.timestamps.push(timestamp_ms);
        self.values.push(NORMAL_NAN);
        self.histograms.push(Some(histogram));
        self.start_times_to_len();
    }

    /// Cuts the columns to one length, should they not have it.
    pub(crate) fn make_even(&mut self) {
        let len = self.timestamps.len().min(self.values.len());
        self.timestamps.truncate(len);
        self.values.truncate(len);
        if !self.histograms.is_empty() {
            self.histograms.resize(len, None);
        }
        self.start_times_to_len();
    }

    /// When the counter behind the sample at a position began to count; 0 where that is not known.
    #[must_use]
    pub fn start_time(&self, at: usize) -> i64 {
        self.start_times.get(at).copied().unwrap_or(0)
    }

    /// Bytes of the histograms and of their column.
    pub(crate) fn histogram_bytes(&self) -> u64 {
        let histograms: u64 = self.histograms.iter().flatten().map(|h| 16 * h.weight()).sum();
        8 * self.histograms.len() as u64 + histograms
    }

    /// The histogram at a position; none where the sample is a float.
    #[must_use]
    pub fn histogram(&self, at: usize) -> Option<&Arc<FloatHistogram>> {
        self.histograms.get(at).and_then(Option::as_ref)
    }

    /// Sets the reset hints as Prometheus' storage gives them: a counter sample that follows another without a reset in
    /// the same layout is known not to be one, of any other nothing is known.
    pub fn set_reset_hints(&mut self) {
        let mut before: Option<Arc<FloatHistogram>> = None;
        for slot in &mut self.histograms {
            let Some(histogram) = slot
                .as_mut()
                .filter(|h| h.reset_hint != ResetHint::Gauge && !h.is_stale())
            else {
                before = None;
                continue;
            };
            let told = std::mem::take(&mut Arc::make_mut(histogram).reset_hint) == ResetHint::Reset;
            let continues = before.is_some_and(|before| {
                let same_layout = before.schema == histogram.schema
                    && before.zero_threshold == histogram.zero_threshold
                    && before.custom_values == histogram.custom_values;
                same_layout && !told && !histogram.is_reset_after(&before)
            });
            if continues {
                Arc::make_mut(histogram).reset_hint = ResetHint::NotReset;
            }
            before = Some(Arc::clone(histogram));
        }
    }

    /// The samples from `start_ms` to `end_ms`, both inclusive.
    #[must_use]
    pub fn slice(&self, start_ms: i64, end_ms: i64) -> Self {
        let from = self.timestamps.partition_point(|t| *t < start_ms);
        let to = self.timestamps.partition_point(|t| *t <= end_ms).max(from);
        Self {
            timestamps: self.timestamps[from..to].to_vec(),
            values: self.values[from..to].to_vec(),
            histograms: if self.histograms.is_empty() {
                Vec::new()
            } else {
                self.histograms[from..to].to_vec()
            },
            start_times: if self.start_times.is_empty() {
                Vec::new()
            } else {
                self.start_times[from..to].to_vec()
            },
        }
    }
}

/// One series with the samples a request asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub labels: Labels,
    pub samples: Samples,
}

/// Why a source could not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// Series in the order of their labels, each label set once.
pub trait SeriesIter {
    /// The next series; none at the end.
    ///
    /// # Errors
    /// When the source cannot go on.
    fn next_series(&mut self) -> Result<Option<Series>, SourceError>;
}

/// Where the engine takes its series from.
pub trait SeriesSource {
    /// The series that match `request`, with their samples of `request.start_ms..=request.end_ms`; samples outside of
    /// it do no harm. Warnings about incomplete data are the source's owner's to add to the result.
    ///
    /// # Errors
    /// When the series cannot be had.
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesIter + '_>, SourceError>;

    /// What others make of a fragment of the plan, by its position in [`crate::Plan::pushed`]; none where it is all for
    /// the engine to evaluate, from its request.
    ///
    /// # Errors
    /// When the answer cannot be had.
    fn fragment(&self, _id: usize, _fragment: &Fragment) -> Result<Option<FragmentAnswer<'_>>, SourceError> {
        Ok(None)
    }

    /// How many of the request's series have a newest sample, up to its end, that is no stale marker: for each set of
    /// values of the labels `by` (ascending by labels, none with no series). None where the source had better give the
    /// series.
    ///
    /// # Errors
    /// When the series cannot be had.
    fn count(&self, request: &SelectRequest, by: &[String]) -> Result<Option<Vec<(Labels, u64)>>, SourceError> {
        let _ = (request, by);
        Ok(None)
    }
}

/// An iterator over series that are in memory already.
pub struct ReadySeries<I>(pub I);

impl<I: Iterator<Item = Series>> SeriesIter for ReadySeries<I> {
    fn next_series(&mut self) -> Result<Option<Series>, SourceError> {
        Ok(self.0.next())
    }
}

/// A source in memory, for tests and scripts, and for answers that were fetched beforehand.
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    series: std::collections::BTreeMap<Labels, Samples>,
}

impl MemorySource {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn clear(&mut self) {
        self.series.clear();
    }

    fn insert(&mut self, labels: &Labels, timestamp_ms: i64, value: f64, histogram: Option<Arc<FloatHistogram>>) {
        let samples = self.series.entry(labels.clone()).or_default();
        let in_order = samples.timestamps.last().is_none_or(|last| *last < timestamp_ms);
        match (in_order, histogram) {
            (true, None) => samples.push_float(timestamp_ms, value),
            (true, Some(histogram)) => samples.push_histogram(timestamp_ms, histogram),
            (false, histogram) => {
                let at = samples.timestamps.partition_point(|t| *t < timestamp_ms);
                if histogram.is_some() && samples.histograms.is_empty() {
                    samples.histograms.resize(samples.timestamps.len(), None);
                }
                if samples.timestamps.get(at) == Some(&timestamp_ms) {
                    samples.values[at] = value;
                    if let Some(slot) = samples.histograms.get_mut(at) {
                        *slot = histogram;
                    }
                    return;
                }
                samples.timestamps.insert(at, timestamp_ms);
                if !samples.start_times.is_empty() {
                    samples.start_times.insert(at, 0);
                }
                samples.values.insert(at, value);
                if histogram.is_some() || !samples.histograms.is_empty() {
                    samples.histograms.insert(at, histogram);
                }
            }
        }
    }

    /// Adds a sample; one at the same time is replaced.
    pub fn add_float(&mut self, labels: &Labels, timestamp_ms: i64, value: f64) {
        self.insert(labels, timestamp_ms, value, None);
    }

    /// Tells when the counter behind a sample that was added began to count; of others nothing is kept.
    pub fn set_start_time(&mut self, labels: &Labels, timestamp_ms: i64, start_ms: i64) {
        let Some(samples) = self.series.get_mut(labels) else {
            return;
        };
        let Ok(at) = samples.timestamps.binary_search(&timestamp_ms) else {
            return;
        };
        if samples.histogram(at).is_none() {
            samples.start_times.resize(samples.timestamps.len(), 0);
            samples.start_times[at] = start_ms;
        }
    }

    /// Adds a sample; one at the same time is replaced.
    pub fn add_histogram(&mut self, labels: &Labels, timestamp_ms: i64, histogram: Arc<FloatHistogram>) {
        self.insert(labels, timestamp_ms, NORMAL_NAN, Some(histogram));
    }

    /// [`Samples::set_reset_hints`] of all series.
    pub fn set_reset_hints(&mut self) {
        for samples in self.series.values_mut() {
            samples.set_reset_hints();
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Labels, &Samples)> {
        self.series.iter()
    }
}

impl SeriesSource for MemorySource {
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesIter + '_>, SourceError> {
        let (matchers, start_ms, end_ms) = (request.matchers.clone(), request.start_ms, request.end_ms);
        let matching = self
            .series
            .iter()
            .filter(move |(labels, _)| matchers.iter().all(|matcher| matcher.matches_labels(labels.as_ref())));
        let cut = matching.map(move |(labels, samples)| Series {
            labels: labels.clone(),
            samples: samples.slice(start_ms, end_ms),
        });
        Ok(Box::new(ReadySeries(cut.filter(|series| !series.samples.is_empty()))))
    }
}
