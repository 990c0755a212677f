//! Fragments whose samples have to be fetched, evaluated by several threads: each takes some of the series, all samples
//! of each, and what comes of them is put together as what comes of shards is.

use super::pump::decoded;
use super::scope::Scope;
use super::stream::MergedSeries;
use crate::error::{ApiError, ErrorType};
use gnomon_promql::partial::Partial;
use gnomon_promql::{
    CancelFlag, Engine, Fragment, FragmentError, Limits, Reserved, SelectRequest, Series, SeriesIter, SeriesSource,
    SourceError,
};
use gnomon_tsdb::Coding;
use std::cell::RefCell;

/// How parts of a query are evaluated apart from the rest of it.
#[derive(Clone)]
pub(crate) struct Pushes {
    /// Of each part.
    pub(crate) limits: Limits,
    /// The query's.
    pub(crate) cancel: CancelFlag,
    /// Samples that one thread takes at a time; fewer than that are not evaluated apart.
    pub(crate) batch_samples: u64,
}

/// Pieces of an answer, and what they occupy. They are of some steps only as long as they wait: many wait, and all steps
/// may be many more.
pub(super) struct Pieces {
    pub(super) pieces: Vec<Partial>,
    pub(super) held: Reserved,
    /// Steps before theirs, and all together.
    pub(super) before: usize,
    pub(super) total: usize,
}

/// Some steps of a fragment, among all that are evaluated apart.
#[derive(Clone)]
pub(super) struct Part {
    /// The steps themselves.
    pub(super) fragment: Fragment,
    /// Steps before and all together.
    pub(super) before: usize,
    pub(super) total: usize,
}

/// Whether there are histograms among the samples, which have to be evaluated in one place.
pub(super) fn has_histograms(series: &[MergedSeries]) -> bool {
    let mut pages = series.iter().flat_map(|series| series.runs.iter().flatten());
    pages.any(|page| page.coding == Coding::Histogram)
}

/// Evaluates a fragment over some series.
///
/// # Errors
/// When data is damaged, a limit is reached, or the samples have to be looked at in one place after all, which the scope
/// is told.
pub(super) fn evaluated(
    scope: &Scope,
    series: &[MergedSeries],
    part: &Part,
    pushes: &Pushes,
) -> Result<Pieces, ApiError> {
    let mut held = pushes.limits.memory.reserve(0)?;
    let mut pieces = Vec::new();
    let source = SomeSeries {
        series,
        failure: RefCell::new(None),
    };
    let fragment = &part.fragment;
    let done = Engine::fragment(fragment, &source, &pushes.limits, &pushes.cancel, &mut |piece| {
        held.grow(bytes_of(&piece))?;
        pieces.push(piece);
        Ok(())
    });
    if let Some(failure) = source.failure.take() {
        return Err(failure);
    }
    match done {
        Ok(()) => Ok(Pieces {
            pieces,
            held,
            before: part.before,
            total: part.total,
        }),
        Err(FragmentError::Eval(error)) => Err(error.into()),
        Err(FragmentError::Unfit(why)) => {
            scope.note_whole();
            let what = format!("a part of the query cannot be evaluated apart: {why}");
            Err(ApiError::new(ErrorType::Internal, what))
        }
    }
}

/// What a step of a group takes: a count, and two numbers mostly.
const GROUP_STEP: usize = 20;
const COLUMN_STEP: usize = 9;

pub(super) fn bytes_of(piece: &Partial) -> u64 {
    let bytes = match piece {
        Partial::Group(group) => {
            group.labels.as_bytes().len() + group.origin.as_bytes().len() + GROUP_STEP * group.counts.len()
        }
        Partial::Column(column) => {
            column.labels.as_bytes().len() + column.origin.as_bytes().len() + COLUMN_STEP * column.values.len()
        }
        Partial::Note(_) | Partial::Read { .. } => 0,
    };
    (bytes + size_of::<Partial>()) as u64
}

/// What a piece takes beside once it is one of `total` steps; 0 where it is that already.
pub(super) fn widening_bytes(piece: &Partial, total: usize) -> u64 {
    let (steps, each) = match piece {
        Partial::Group(group) => (group.counts.len(), GROUP_STEP),
        Partial::Column(column) => (column.values.len(), COLUMN_STEP),
        Partial::Note(_) | Partial::Read { .. } => return 0,
    };
    // What it was made of is there until it is made.
    if steps < total { (each * total) as u64 } else { 0 }
}

struct SomeSeries<'s> {
    series: &'s [MergedSeries],
    /// What ended it, which a source's error cannot say.
    failure: RefCell<Option<ApiError>>,
}

impl SeriesSource for SomeSeries<'_> {
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesIter + '_>, SourceError> {
        Ok(Box::new(Decoding {
            source: self,
            rest: self.series.iter(),
            start_ms: request.start_ms,
            end_ms: request.end_ms,
        }))
    }
}

struct Decoding<'s> {
    source: &'s SomeSeries<'s>,
    rest: std::slice::Iter<'s, MergedSeries>,
    start_ms: i64,
    end_ms: i64,
}

impl SeriesIter for Decoding<'_> {
    fn next_series(&mut self) -> Result<Option<Series>, SourceError> {
        for series in self.rest.by_ref() {
            let decoded = decoded(series, self.start_ms, self.end_ms).map_err(|error| {
                let text = error.message.clone();
                self.source.failure.replace(Some(error));
                SourceError(text)
            })?;
            if decoded.is_some() {
                return Ok(decoded);
            }
        }
        Ok(None)
    }
}
