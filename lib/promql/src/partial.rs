//! What comes back of a fragment: columns of series, or states of groups that merge to the same result in any order.

use crate::source::SourceError;
use gnomon_model::Labels;

pub use crate::engine::Note;

/// What the floats of a group have come to, step by step.
#[derive(Clone, Debug, PartialEq)]
pub enum PartialNumbers {
    /// count, group: how many there are says it all.
    None,
    /// sum, avg: the exact sum is `high + low`, and where it needs more digits, what `wide` has for the step.
    Sums {
        high: Vec<f64>,
        low: Vec<f64>,
        /// By step: digits of 32 bits, least first.
        wide: Vec<(usize, Vec<i64>)>,
    },
    /// min, max.
    Extremes(Vec<f64>),
}

/// The state of one group, over the steps that were pushed down.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialGroup {
    pub labels: Labels,
    /// The name that the labels have is to be dropped at the end.
    pub drop_name: bool,
    /// Labels of the group's first series.
    pub origin: Labels,
    /// Elements at each step.
    pub counts: Vec<u32>,
    pub numbers: PartialNumbers,
}

/// One series' values, over the steps that were pushed down.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialColumn {
    /// Labels of the series as it is stored.
    pub origin: Labels,
    pub labels: Labels,
    pub drop_name: bool,
    /// At which steps there is a value.
    pub present: Vec<bool>,
    /// One a step; meaningless where there is none.
    pub values: Vec<f64>,
}

/// A piece of an answer to a fragment. Columns ascend by origin.
#[derive(Clone, Debug, PartialEq)]
pub enum Partial {
    Group(PartialGroup),
    Column(PartialColumn),
    Note(Note),
    /// What was read; added to the query's own.
    Read {
        series: u64,
        samples: u64,
    },
}

impl Partial {
    /// The same piece as one of `total` steps, of which those it is of stand behind the first `before`.
    #[must_use]
    pub fn widened(self, before: usize, total: usize) -> Self {
        fn widened<T: Copy>(cells: Vec<T>, before: usize, total: usize, nothing: T) -> Vec<T> {
            let mut wide = vec![nothing; before];
            wide.extend(cells);
            wide.resize(total, nothing);
            wide
        }
        match self {
            Self::Group(mut group) => {
                group.counts = widened(group.counts, before, total, 0);
                group.numbers = match group.numbers {
                    PartialNumbers::None => PartialNumbers::None,
                    PartialNumbers::Extremes(best) => PartialNumbers::Extremes(widened(best, before, total, f64::NAN)),
                    PartialNumbers::Sums { high, low, mut wide } => {
                        for (step, _) in &mut wide {
                            *step = step.saturating_add(before);
                        }
                        PartialNumbers::Sums {
                            high: widened(high, before, total, 0.0),
                            low: widened(low, before, total, 0.0),
                            wide,
                        }
                    }
                };
                Self::Group(group)
            }
            Self::Column(mut column) => {
                column.present = widened(column.present, before, total, false);
                column.values = widened(column.values, before, total, f64::NAN);
                Self::Column(column)
            }
            rest @ (Self::Note(_) | Self::Read { .. }) => rest,
        }
    }
}

/// Pieces of an answer, of all that have a share in it.
pub trait PartialIter {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// When the answer cannot be had whole.
    fn next_partial(&mut self) -> Result<Option<Partial>, SourceError>;
}

/// An iterator over pieces that are in memory already.
pub struct ReadyPartials<I>(pub I);

impl<I: Iterator<Item = Partial>> PartialIter for ReadyPartials<I> {
    fn next_partial(&mut self) -> Result<Option<Partial>, SourceError> {
        Ok(self.0.next())
    }
}

/// How a fragment was answered.
pub struct FragmentAnswer<'a> {
    /// Steps before this one are for the engine to evaluate, from what `select` gives for the fragment's request up to
    /// the last sample that they look at, unless there is `early`.
    pub from_step: usize,
    /// For the steps before it.
    pub early: Option<Box<dyn PartialIter + 'a>>,
    /// For the steps from it on.
    pub partials: Box<dyn PartialIter + 'a>,
}
