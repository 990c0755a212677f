//! Evaluating a fragment over pages.

use super::partials;
use gnomon_model::LabelsRef;
use gnomon_promql::buffers::samples_of;
use gnomon_promql::partial::Partial;
use gnomon_promql::{
    CancelFlag, Engine, EvalError, Fragment, FragmentError, Limits, SelectRequest, Series, SeriesIter, SeriesSource,
    SourceError,
};
use gnomon_proto::{ServiceError, v1};
use gnomon_tsdb::{Coding, Page, PageError, decode_histograms_into, decode_started_within};
use std::cell::RefCell;
use std::sync::Arc;

/// A message is closed once its pieces have so many numbers.
const BATCH_NUMBERS: usize = 32 << 10;

/// Room that is made for samples before they are seen.
const MOST_AT_ONCE: usize = 64 << 10;

/// Gives batches of series until there are no more.
type NextBatch<'a> = dyn FnMut() -> Result<Option<v1::SelectBatch>, ServiceError> + 'a;

/// Series as a shard's head gives them: ascending by labels, each with its pages ascending by time.
pub struct PageSource<'a> {
    next: RefCell<Box<NextBatch<'a>>>,
    /// What ended it, which a source's error cannot say.
    failure: RefCell<Option<ServiceError>>,
}

impl<'a> PageSource<'a> {
    /// `next` gives batches until there are no more.
    pub fn new(next: impl FnMut() -> Result<Option<v1::SelectBatch>, ServiceError> + 'a) -> Self {
        Self {
            next: RefCell::new(Box::new(next)),
            failure: RefCell::new(None),
        }
    }
}

impl SeriesSource for PageSource<'_> {
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesIter + '_>, SourceError> {
        Ok(Box::new(Reading {
            source: self,
            batch: Vec::new().into_iter(),
            start_ms: request.start_ms,
            end_ms: request.end_ms,
        }))
    }
}

struct Reading<'s, 'a> {
    source: &'s PageSource<'a>,
    batch: std::vec::IntoIter<v1::Series>,
    start_ms: i64,
    end_ms: i64,
}

impl SeriesIter for Reading<'_, '_> {
    fn next_series(&mut self) -> Result<Option<Series>, SourceError> {
        loop {
            if let Some(series) = self.batch.next() {
                let decoded = decoded(&series, self.start_ms, self.end_ms);
                let series = decoded.map_err(|e| self.failed(ServiceError::Internal(e.to_string())))?;
                if !series.samples.is_empty() {
                    return Ok(Some(series));
                }
                continue;
            }
            let next = (self.source.next.borrow_mut())();
            match next {
                Ok(Some(batch)) => self.batch = batch.series.into_iter(),
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }
}

impl Reading<'_, '_> {
    fn failed(&self, error: ServiceError) -> SourceError {
        let text = error.to_string();
        self.source.failure.replace(Some(error));
        SourceError(text)
    }
}

fn decoded(series: &v1::Series, start_ms: i64, end_ms: i64) -> Result<Series, PageError> {
    let within = |page: &&v1::Page| start_ms <= page.max_ms && page.min_ms <= end_ms;
    let count = series.pages.iter().filter(within).map(|page| page.count as usize);
    let mut samples = samples_of(count.sum::<usize>().min(MOST_AT_ONCE));
    for page in series.pages.iter().filter(within) {
        let page = Page::parse(page.data.clone())?;
        match page.coding {
            Coding::Float | Coding::Columns | Coding::Dense => {
                let (timestamps, values) = (&mut samples.timestamps, &mut samples.values);
                let starts = &mut samples.start_times;
                decode_started_within(&page, (start_ms, end_ms), timestamps, values, starts)?;
                if !samples.histograms.is_empty() {
                    samples.histograms.resize(samples.timestamps.len(), None);
                }
            }
            Coding::Histogram => {
                let mut histograms = Vec::new();
                decode_histograms_into(&page.bytes, &mut histograms)?;
                for sample in histograms {
                    samples.push_histogram(sample.timestamp_ms, Arc::new(sample.histogram));
                }
            }
        }
    }
    let first = samples.timestamps.first().is_some_and(|t| *t < start_ms);
    let last = samples.timestamps.last().is_some_and(|t| *t > end_ms);
    if first || last {
        samples = samples.slice(start_ms, end_ms);
    }
    Ok(Series {
        labels: LabelsRef::from_canonical(&series.labels).to_owned(),
        samples,
    })
}

/// Gathers pieces into messages.
struct Batching<'g> {
    give: &'g mut dyn FnMut(v1::EvaluateBatch) -> bool,
    waiting: Vec<Partial>,
    numbers: usize,
}

impl Batching<'_> {
    fn add(&mut self, partial: Partial) -> Result<(), EvalError> {
        self.numbers += match &partial {
            Partial::Group(group) => 3 * group.counts.len() + 16,
            Partial::Column(column) => column.values.len() + 16,
            Partial::Note(_) | Partial::Read { .. } => 16,
        };
        self.waiting.push(partial);
        if self.numbers < BATCH_NUMBERS {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), EvalError> {
        self.numbers = 0;
        let batch = partials::to_wire(std::mem::take(&mut self.waiting));
        // Who asked may have gone.
        if (self.give)(batch) {
            Ok(())
        } else {
            Err(EvalError::Canceled)
        }
    }
}

/// Evaluates a fragment; `give` says whether its message was taken.
///
/// # Errors
/// `Invalid` where the fragment has to be evaluated in one place after all: whoever asked does that. `LimitExceeded` where
/// it takes more samples than the request allows, or more memory than this node does: what was reached is in the text.
pub fn evaluate(
    fragment: &Fragment,
    source: &PageSource<'_>,
    limits: &Limits,
    cancel: &CancelFlag,
    give: &mut dyn FnMut(v1::EvaluateBatch) -> bool,
) -> Result<(), ServiceError> {
    let mut batching = Batching {
        give,
        waiting: Vec::new(),
        numbers: 0,
    };
    let done = Engine::fragment(fragment, source, limits, cancel, &mut |partial| batching.add(partial));
    let done = done.and_then(|()| Ok(batching.flush()?));
    if let Some(failure) = source.failure.take() {
        return Err(failure);
    }
    done.map_err(|error| match error {
        FragmentError::Eval(EvalError::Canceled | EvalError::TimedOut) => ServiceError::Cancelled,
        FragmentError::Eval(error @ (EvalError::TooManySamples | EvalError::TooManyBytes(_))) => {
            ServiceError::LimitExceeded(error.to_string())
        }
        error => ServiceError::Invalid(error.to_string()),
    })
}
