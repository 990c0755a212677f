//! From merged streams of series to batches for the engine, one at a time where there is a place for it.

use super::apart::{self, Part, Pieces, Pushes, bytes_of};
use super::fragments::PartialMerge;
use super::samples::decode;
use super::stream::{Merge, MergedSeries};
use super::{Scope, Selection};
use crate::error::{ApiError, ErrorType};
use futures::FutureExt;
use gnomon_promql::partial::Partial;
use gnomon_promql::{Reserved, Series};
use gnomon_tsdb::Page;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

/// A batch is closed at so many series, or so many samples.
const BATCH_SERIES: usize = 1024;
pub(super) const BATCH_SAMPLES: u64 = 64 << 10;
/// Fewer samples than this are decoded by the engine's thread: handing them over would take longer. So is the only batch,
/// since the engine would do nothing but wait for it.
const FEW_SAMPLES: u64 = 4 << 10;

/// Pieces of answers are handed over together up to about so much.
const CAME_BYTES: u64 = 256 << 10;

/// What a decoded sample takes: a time and a value.
pub(super) const SAMPLE_BYTES: u64 = 16;
/// Its start, where there are some.
const START_BYTES: u64 = 8;

/// Series in the order of their labels, and what they occupy, encoded and decoded.
pub(super) struct Batch {
    pub(super) series: Work,
    pub(super) held: Reserved,
}

pub(super) enum Work {
    /// Few: decoded by who takes them.
    Encoded(Encoded),
    Decoding(JoinHandle<Result<Vec<Series>, ApiError>>),
}

/// Some series on their way to the engine, and the samples that it looks at.
pub(super) struct Encoded {
    series: Vec<MergedSeries>,
    start_ms: i64,
    end_ms: i64,
}

impl Encoded {
    pub(super) fn decoded(self) -> Result<Vec<Series>, ApiError> {
        let all = self.series.iter();
        all.filter_map(|series| decoded(series, self.start_ms, self.end_ms).transpose())
            .collect()
    }
}

/// The samples of a series within a range of time, both ends inclusive; none where there are none.
///
/// # Errors
/// When a page is damaged.
pub(super) fn decoded(series: &MergedSeries, start_ms: i64, end_ms: i64) -> Result<Option<Series>, ApiError> {
    let MergedSeries { labels, runs } = series;
    let samples = decode(runs, start_ms, end_ms)
        .map_err(|error| ApiError::new(ErrorType::Internal, format!("series {labels}: {error}")))?;
    let labels = labels.clone();
    Ok((!samples.is_empty()).then_some(Series { labels, samples }))
}

/// What comes of early steps of a fragment.
pub(super) enum Apart {
    /// Over some series, which a thread is looking at.
    Evaluating(JoinHandle<Result<Pieces, ApiError>>),
    Evaluated(Pieces),
}

/// Some series on their way, still encoded.
pub(super) struct Merged {
    pub(super) series: Vec<MergedSeries>,
    samples: u64,
    /// No more follow.
    pub(super) is_end: bool,
}

impl Merged {
    pub(super) async fn next(merge: &mut Merge, most_samples: u64) -> Result<Self, ApiError> {
        let mut merged = Self {
            series: Vec::new(),
            samples: 0,
            is_end: false,
        };
        while merged.series.len() < BATCH_SERIES && merged.samples < most_samples {
            let Some(next) = merge.next().await? else {
                merged.is_end = true;
                break;
            };
            let pages = next.runs.iter().flatten();
            merged.samples += pages.map(|page| u64::from(page.count)).sum::<u64>();
            merged.series.push(next);
        }
        Ok(merged)
    }
}

/// Gives batches until the streams end, and then none; a channel that closes without it was given up. A place comes first,
/// so that no more is made than can wait.
pub(super) async fn pump<T>(
    make: impl FnMut(Vec<MergedSeries>, u64) -> Result<T, ApiError>,
    merge: (Merge, Merged),
    most_samples: u64,
    sender: &mpsc::Sender<Option<T>>,
) -> Result<(), ApiError> {
    pump_some(make, merge, most_samples, sender).await?;
    let _ = sender.send(None).await;
    Ok(())
}

/// Gives batches until the streams end, and does not say that they have.
pub(super) async fn pump_some<T>(
    mut make: impl FnMut(Vec<MergedSeries>, u64) -> Result<T, ApiError>,
    (mut merge, mut merged): (Merge, Merged),
    most_samples: u64,
    sender: &mpsc::Sender<Option<T>>,
) -> Result<(), ApiError> {
    loop {
        let Merged {
            series,
            samples,
            is_end,
        } = merged;
        if !series.is_empty() {
            let Ok(place) = sender.reserve().await else {
                return Ok(());
            };
            place.send(Some(make(series, samples)?));
        }
        if is_end {
            // What it took is told before the end is.
            drop(merge);
            return Ok(());
        }
        // What is read at once ends here: there is work for the engine.
        tokio::task::yield_now().await;
        merged = Merged::next(&mut merge, most_samples).await?;
    }
}

/// Has series decoded for the engine; `is_all` where the first are all.
pub(super) fn decoding<'s>(
    scope: &'s Scope,
    selection: &Selection,
    is_all: bool,
) -> impl FnMut(Vec<MergedSeries>, u64) -> Result<Batch, ApiError> + use<'s> {
    let (start_ms, end_ms) = (selection.start_ms, selection.end_ms);
    move |series, samples| {
        let held = scope.memory().reserve(batch_bytes(&series, samples))?;
        let encoded = Encoded {
            series,
            start_ms,
            end_ms,
        };
        let series = if is_all || samples < FEW_SAMPLES {
            Work::Encoded(encoded)
        } else {
            Work::Decoding(spawn_blocking(move || encoded.decoded()))
        };
        Ok(Batch { series, held })
    }
}

/// Has the early steps of a fragment evaluated, some series by each thread.
pub(super) fn evaluating<'s>(
    scope: &'s Arc<Scope>,
    part: Part,
    pushes: &'s Pushes,
) -> impl FnMut(Vec<MergedSeries>, u64) -> Result<Apart, ApiError> + use<'s> {
    let part = Arc::new(part);
    move |series, _| {
        let held = scope.memory().reserve(series.iter().map(encoded_bytes).sum())?;
        let (scope, part, pushes) = (Arc::clone(scope), Arc::clone(&part), pushes.clone());
        Ok(Apart::Evaluating(spawn_blocking(move || {
            let evaluated = apart::evaluated(&scope, &series, &part, &pushes);
            // The series go before what they took is given back.
            drop(series);
            drop(held);
            evaluated
        })))
    }
}

/// Pieces of answers that came together.
pub(super) struct Came(pub(super) Vec<Partial>);

impl Came {
    /// Waits for a piece and takes what is there with it. None after the last.
    async fn next(partials: &mut PartialMerge) -> Result<Option<Self>, ApiError> {
        let Some(first) = partials.next().await? else {
            return Ok(None);
        };
        let mut bytes = bytes_of(&first);
        let mut pieces = vec![first];
        while bytes < CAME_BYTES {
            // Nothing is lost of what does not come at once, and an end is told again.
            let Some(Some(piece)) = partials.next().now_or_never().transpose()? else {
                break;
            };
            bytes += bytes_of(&piece);
            pieces.push(piece);
        }
        Ok(Some(Self(pieces)))
    }
}

pub(super) async fn pump_partials(
    mut partials: PartialMerge,
    give: &mpsc::Sender<Option<Came>>,
) -> Result<(), ApiError> {
    loop {
        let came = Came::next(&mut partials).await?;
        let is_end = came.is_none();
        if give.send(came).await.is_err() || is_end {
            return Ok(());
        }
    }
}

/// Samples of several runs are decoded apart and then put together.
fn batch_bytes(series: &[MergedSeries], samples: u64) -> u64 {
    let several = series.iter().any(|series| series.runs.len() > 1);
    let copies = if several { 2 } else { 1 };
    let has_starts = series
        .iter()
        .flat_map(|series| &series.runs)
        .flatten()
        .any(Page::has_starts);
    let sample = SAMPLE_BYTES + if has_starts { START_BYTES } else { 0 };
    samples * sample * copies + series.iter().map(encoded_bytes).sum::<u64>()
}

fn encoded_bytes(series: &MergedSeries) -> u64 {
    let pages = series.runs.iter().flatten().map(|page| page.bytes.len()).sum::<usize>();
    (pages + series.labels.as_bytes().len() + 256) as u64
}
