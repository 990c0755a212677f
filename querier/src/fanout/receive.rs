//! What the engine's thread takes out of the channels.

use super::apart::{Pieces, widening_bytes};
use super::pump::{Apart, Batch, Came, Work};
use super::source::Fetched;
use crate::error::ApiError;
use gnomon_promql::partial::{Partial, PartialIter};
use gnomon_promql::{Reserved, Series, SeriesIter, SourceError};
use tokio::sync::mpsc;

/// Several items that come together.
pub(super) trait Batched {
    type Item;
    /// Gives them; keeps what they occupy.
    type Items: Iterator<Item = Result<Self::Item, ApiError>>;

    /// Waits for them.
    fn open(self, fetched: &Fetched) -> Result<Self::Items, SourceError>;
}

/// Series, and what they occupy.
pub(super) struct ReadySeries {
    series: std::vec::IntoIter<Series>,
    _held: Reserved,
}

impl Iterator for ReadySeries {
    type Item = Result<Series, ApiError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.series.next().map(Ok)
    }
}

impl Batched for Batch {
    type Item = Series;
    type Items = ReadySeries;

    fn open(self, fetched: &Fetched) -> Result<ReadySeries, SourceError> {
        let series = match self.series {
            Work::Encoded(series) => series.decoded().map_err(|error| fetched.failed(error)),
            Work::Decoding(task) => fetched.join(task, "decoding of series"),
        };
        Ok(ReadySeries {
            series: series?.into_iter(),
            _held: self.held,
        })
    }
}

/// Pieces of some steps, each made one of all steps as it is taken.
pub(super) struct Widening {
    pieces: std::vec::IntoIter<Partial>,
    before: usize,
    total: usize,
    held: Reserved,
    /// What of that is the last piece's, which has been dealt with once the next one is asked for.
    of_last: u64,
}

impl Iterator for Widening {
    type Item = Result<Partial, ApiError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.held.shrink(std::mem::take(&mut self.of_last));
        let piece = self.pieces.next()?;
        let bytes = widening_bytes(&piece, self.total);
        if bytes == 0 {
            return Some(Ok(piece));
        }
        if let Err(over) = self.held.grow(bytes) {
            return Some(Err(over.into()));
        }
        self.of_last = bytes;
        Some(Ok(piece.widened(self.before, self.total)))
    }
}

impl Batched for Apart {
    type Item = Partial;
    type Items = Widening;

    fn open(self, fetched: &Fetched) -> Result<Widening, SourceError> {
        let pieces = match self {
            Self::Evaluating(task) => fetched.join(task, "evaluating a part of the query")?,
            Self::Evaluated(pieces) => pieces,
        };
        let Pieces {
            pieces,
            held,
            before,
            total,
        } = pieces;
        Ok(Widening {
            pieces: pieces.into_iter(),
            before,
            total,
            held,
            of_last: 0,
        })
    }
}

/// Pieces of answers as they came.
pub(super) struct ReadyPieces(std::vec::IntoIter<Partial>);

impl Iterator for ReadyPieces {
    type Item = Result<Partial, ApiError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(Ok)
    }
}

impl Batched for Came {
    type Item = Partial;
    type Items = ReadyPieces;

    fn open(self, _: &Fetched) -> Result<ReadyPieces, SourceError> {
        Ok(ReadyPieces(self.0.into_iter()))
    }
}

/// A channel that ends with an item that is none.
struct Receiving<'a, T> {
    receiver: mpsc::Receiver<Option<T>>,
    fetched: &'a Fetched,
    ended: bool,
}

impl<'a, T> Receiving<'a, T> {
    fn new(fetched: &'a Fetched, receiver: mpsc::Receiver<Option<T>>) -> Self {
        Self {
            receiver,
            fetched,
            ended: false,
        }
    }

    fn next(&mut self) -> Result<Option<T>, SourceError> {
        if self.ended {
            return Ok(None);
        }
        let item = self.fetched.next(&mut self.receiver)?;
        self.ended = item.is_none();
        Ok(item)
    }
}

/// The items of batches, one after the other.
pub(super) struct InBatches<'a, B: Batched> {
    batches: Receiving<'a, B>,
    /// Of the batch that was opened last.
    ready: Option<B::Items>,
}

impl<'a, B: Batched> InBatches<'a, B> {
    pub(super) fn new(fetched: &'a Fetched, receiver: mpsc::Receiver<Option<B>>) -> Self {
        Self {
            batches: Receiving::new(fetched, receiver),
            ready: None,
        }
    }

    fn next(&mut self) -> Result<Option<B::Item>, SourceError> {
        loop {
            if let Some(item) = self.ready.as_mut().and_then(Iterator::next) {
                return item.map(Some).map_err(|error| self.batches.fetched.failed(error));
            }
            let Some(batch) = self.batches.next()? else {
                self.ready = None;
                return Ok(None);
            };
            self.ready = Some(batch.open(self.batches.fetched)?);
        }
    }
}

impl SeriesIter for InBatches<'_, Batch> {
    fn next_series(&mut self) -> Result<Option<Series>, SourceError> {
        self.next()
    }
}

impl<B: Batched<Item = Partial>> PartialIter for InBatches<'_, B> {
    fn next_partial(&mut self) -> Result<Option<Partial>, SourceError> {
        self.next()
    }
}
