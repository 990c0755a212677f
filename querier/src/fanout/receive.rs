//! What the engine's thread takes out of the channels.

use super::apart::Pieces;
use super::pump::{Apart, Batch, Work};
use super::source::Fetched;
use gnomon_promql::partial::{Partial, PartialIter};
use gnomon_promql::{Reserved, Series, SeriesIter, SourceError};
use tokio::sync::mpsc;

/// Several items that come together.
pub(super) trait Batched {
    type Item;

    /// The items, and what they occupy. Waits for them.
    fn open(self, fetched: &Fetched) -> Result<(Vec<Self::Item>, Reserved), SourceError>;
}

impl Batched for Batch {
    type Item = Series;

    fn open(self, fetched: &Fetched) -> Result<(Vec<Series>, Reserved), SourceError> {
        let series = match self.series {
            Work::Encoded(series) => series.decoded().map_err(|error| fetched.failed(error)),
            Work::Decoding(task) => fetched.join(task, "decoding of series"),
        };
        Ok((series?, self.held))
    }
}

impl Batched for Apart {
    type Item = Partial;

    fn open(self, fetched: &Fetched) -> Result<(Vec<Partial>, Reserved), SourceError> {
        let Pieces { pieces, held } = match self {
            Self::Evaluating(task) => fetched.join(task, "evaluating a part of the query")?,
            Self::Evaluated(pieces) => pieces,
        };
        Ok((pieces, held))
    }
}

/// A channel that ends with an item that is none.
pub(super) struct Receiving<'a, T> {
    receiver: mpsc::Receiver<Option<T>>,
    fetched: &'a Fetched,
    ended: bool,
}

impl<'a, T> Receiving<'a, T> {
    pub(super) fn new(fetched: &'a Fetched, receiver: mpsc::Receiver<Option<T>>) -> Self {
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

impl PartialIter for Receiving<'_, Partial> {
    fn next_partial(&mut self) -> Result<Option<Partial>, SourceError> {
        self.next()
    }
}

/// The items of batches, one after the other.
pub(super) struct InBatches<'a, B: Batched> {
    batches: Receiving<'a, B>,
    ready: std::vec::IntoIter<B::Item>,
    /// What the batch occupies that the ready ones are of.
    held: Option<Reserved>,
}

impl<'a, B: Batched> InBatches<'a, B> {
    pub(super) fn new(fetched: &'a Fetched, receiver: mpsc::Receiver<Option<B>>) -> Self {
        Self {
            batches: Receiving::new(fetched, receiver),
            ready: Vec::new().into_iter(),
            held: None,
        }
    }

    fn next(&mut self) -> Result<Option<B::Item>, SourceError> {
        loop {
            if let Some(item) = self.ready.next() {
                return Ok(Some(item));
            }
            let Some(batch) = self.batches.next()? else {
                self.held = None;
                return Ok(None);
            };
            let (items, held) = batch.open(self.batches.fetched)?;
            self.ready = items.into_iter();
            self.held = Some(held);
        }
    }
}

impl SeriesIter for InBatches<'_, Batch> {
    fn next_series(&mut self) -> Result<Option<Series>, SourceError> {
        self.next()
    }
}

impl PartialIter for InBatches<'_, Apart> {
    fn next_partial(&mut self) -> Result<Option<Partial>, SourceError> {
        self.next()
    }
}
