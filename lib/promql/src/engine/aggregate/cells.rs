//! What a group has, step by step: states that can be merged, in any order, with the same result.

use super::exact::{Sums, Wide};
use crate::ast::{AggregateOp, Span};
use crate::engine::arithmetic::Variance;
use crate::engine::column::{Column, Kind, Point};
use crate::engine::notes::{Notes, Operation};
use crate::partial::PartialNumbers;
use gnomon_model::histogram::{Accumulator, Combined, FloatHistogram, IncompatibleSchemas, ResetHint};
use std::sync::Arc;

/// What floats have come to.
#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    /// count, group: how many there are says it all.
    None,
    Sums(Sums),
    Extremes(Vec<f64>),
    Variances(Vec<Variance>),
}

/// A sum or mean of histograms. It depends on their order, in its last bits: these are never merged.
#[derive(Clone, Debug)]
struct Histograms {
    total: Accumulator,
    count: f64,
    /// The total has been divided by the count already, lest it overflow.
    running_mean: bool,
    reset: bool,
    not_reset: bool,
    reconciled: bool,
}

impl Histograms {
    fn new(first: &FloatHistogram) -> Self {
        let mut new = Self {
            total: Accumulator::new(first),
            count: 1.0,
            running_mean: false,
            reset: false,
            not_reset: false,
            reconciled: false,
        };
        new.note_hint(first);
        new
    }

    fn add(&mut self, value: &FloatHistogram, mean: bool) -> Result<Combined, IncompatibleSchemas> {
        self.count += 1.0;
        self.note_hint(value);
        if mean && !self.running_mean && self.total.would_overflow(value) {
            self.running_mean = true;
            self.total.multiply(1.0 / (self.count - 1.0));
        }
        if self.running_mean {
            self.total.multiply((self.count - 1.0) / self.count);
            return self.total.add_scaled(value, 1.0 / self.count);
        }
        self.total.add_scaled(value, 1.0)
    }

    fn note_hint(&mut self, histogram: &FloatHistogram) {
        self.reset |= histogram.reset_hint == ResetHint::Reset;
        self.not_reset |= histogram.reset_hint == ResetHint::NotReset;
    }
}

/// A step of a sum that is not a sum of floats.
#[derive(Clone, Debug, Default)]
enum Rare {
    #[default]
    None,
    Histograms(Box<Histograms>),
    /// The elements do not go together: no result.
    Failed,
}

/// Whose cells they are, for what is to be said about them.
#[derive(Clone, Copy)]
pub(crate) struct Aggregation<'n> {
    pub(crate) op: AggregateOp,
    /// Place of the input.
    pub(crate) span: Span,
    pub(crate) notes: &'n Notes,
}

impl Aggregation<'_> {
    fn fail_mixed(&self, rare: &mut Rare) {
        self.notes.mixed_in_aggregation(self.span);
        *rare = Rare::Failed;
    }
}

/// A group's states, one a step.
#[derive(Clone, Debug)]
pub(crate) struct Cells {
    /// Elements that were taken.
    pub(crate) counts: Vec<u32>,
    pub(crate) numbers: Numbers,
    /// Empty, or an entry a step.
    rare: Vec<Rare>,
}

impl Cells {
    pub(crate) fn new(op: AggregateOp, n: usize) -> Self {
        let numbers = match op {
            AggregateOp::Sum | AggregateOp::Avg => Numbers::Sums(Sums::new(n)),
            AggregateOp::Min | AggregateOp::Max => Numbers::Extremes(vec![0.0; n]),
            AggregateOp::Stddev | AggregateOp::Stdvar => Numbers::Variances(vec![Variance::default(); n]),
            _ => Numbers::None,
        };
        Self {
            counts: vec![0; n],
            numbers,
            rare: Vec::new(),
        }
    }

    /// How many plain samples more than its steps this weighs.
    pub(super) fn surplus(&self) -> u64 {
        match &self.numbers {
            Numbers::Sums(sums) => sums.surplus(),
            _ => 0,
        }
    }

    /// Whether nothing was taken at a step.
    pub(super) fn is_empty(&self, i: usize) -> bool {
        self.counts[i] == 0 && matches!(self.rare.get(i), None | Some(Rare::None))
    }

    fn count(&mut self, i: usize) {
        self.counts[i] = self.counts[i].saturating_add(1);
    }

    /// Takes a series in.
    pub(super) fn add(&mut self, column: &Column, of: &Aggregation<'_>) {
        let floats_only = self.rare.is_empty() && !column.kinds.contains(&Kind::Histogram);
        if let (Numbers::Sums(sums), true) = (&mut self.numbers, floats_only) {
            if column.kinds.contains(&Kind::Absent) {
                let there = |(kind, value): (&Kind, &f64)| if *kind == Kind::Float { *value } else { 0.0 };
                let values: Vec<f64> = column.kinds.iter().zip(&column.floats).map(there).collect();
                sums.add_all(&values);
            } else {
                sums.add_all(&column.floats);
            }
            for (count, kind) in self.counts.iter_mut().zip(&column.kinds) {
                *count = count.saturating_add(u32::from(*kind == Kind::Float));
            }
            return;
        }
        for i in 0..self.counts.len() {
            match column.get(i) {
                None => {}
                Some(Point::Float(value)) => self.add_float(i, value, of),
                Some(Point::Histogram(value)) => self.add_histogram(i, value, of),
            }
        }
    }

    fn add_float(&mut self, i: usize, value: f64, of: &Aggregation<'_>) {
        if let Some(rare) = self.rare.get_mut(i) {
            match rare {
                Rare::None => {}
                Rare::Histograms(_) => return of.fail_mixed(rare),
                Rare::Failed => return,
            }
        }
        match &mut self.numbers {
            Numbers::None => {}
            Numbers::Sums(sums) => sums.add(i, value),
            Numbers::Extremes(best) => {
                let first = self.counts[i] == 0;
                best[i] = if first { value } else { extreme(of.op, best[i], value) };
            }
            Numbers::Variances(variances) => variances[i].add(value),
        }
        self.count(i);
    }

    fn add_histogram(&mut self, i: usize, value: &FloatHistogram, of: &Aggregation<'_>) {
        match self.numbers {
            Numbers::None => return self.count(i),
            Numbers::Sums(_) => {}
            Numbers::Extremes(_) | Numbers::Variances(_) => {
                return of.notes.histogram_ignored(of.span, of.op.name());
            }
        }
        if self.rare.is_empty() {
            self.rare.resize_with(self.counts.len(), Rare::default);
        }
        let floats = self.counts[i] > 0;
        let rare = &mut self.rare[i];
        match rare {
            Rare::None if floats => of.fail_mixed(rare),
            Rare::None => *rare = Rare::Histograms(Box::new(Histograms::new(value))),
            Rare::Histograms(sum) => match sum.add(value, of.op == AggregateOp::Avg) {
                Ok(said) => sum.reconciled |= said.bounds_reconciled,
                Err(_) => {
                    of.notes.mixed_exponential_custom(of.span, "");
                    *rare = Rare::Failed;
                }
            },
            Rare::Failed => {}
        }
    }

    /// Takes in what others have of the same group; both without histograms.
    pub(crate) fn merge(&mut self, other: &Self, op: AggregateOp) {
        match (&mut self.numbers, &other.numbers) {
            (Numbers::Sums(sums), Numbers::Sums(more)) => sums.merge(more),
            (Numbers::Extremes(best), Numbers::Extremes(more)) => {
                for (i, value) in more.iter().enumerate().take(best.len()) {
                    match (self.counts[i], other.counts[i]) {
                        (_, 0) => {}
                        (0, _) => best[i] = *value,
                        _ => best[i] = extreme(op, best[i], *value),
                    }
                }
            }
            _ => {}
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }

    /// The result at a step, into step `at` of a column.
    pub(crate) fn finish(&self, i: usize, at: usize, column: &mut Column, of: &Aggregation<'_>) {
        match self.rare.get(i) {
            Some(Rare::Failed) => return,
            Some(Rare::Histograms(sum)) => return column.set_histogram(at, finished(sum, of)),
            _ => {}
        }
        let count = f64::from(self.counts[i]);
        if self.counts[i] == 0 {
            return;
        }
        let value = match &self.numbers {
            Numbers::None if of.op == AggregateOp::Group => 1.0,
            Numbers::None => count,
            Numbers::Sums(sums) if of.op == AggregateOp::Avg => sums.mean(i, count),
            Numbers::Sums(sums) => sums.sum(i),
            Numbers::Extremes(best) => best[i],
            Numbers::Variances(variances) if of.op == AggregateOp::Stddev => variances[i].value().sqrt(),
            Numbers::Variances(variances) => variances[i].value(),
        };
        column.set_float(at, value);
    }
}

/// To and from what travels.
impl Cells {
    pub(super) fn numbers(&self) -> PartialNumbers {
        match &self.numbers {
            Numbers::None | Numbers::Variances(_) => PartialNumbers::None,
            Numbers::Sums(sums) => {
                let (high, low, wide) = sums.parts();
                PartialNumbers::Sums {
                    high: high.to_vec(),
                    low: low.to_vec(),
                    wide: wide.iter().map(|(i, wide)| (*i, wide.to_digits())).collect(),
                }
            }
            Numbers::Extremes(best) => PartialNumbers::Extremes(best.clone()),
        }
    }

    /// None where these are no states of so many steps, or of another aggregation.
    pub(super) fn of_numbers(op: AggregateOp, counts: Vec<u32>, numbers: PartialNumbers, steps: usize) -> Option<Self> {
        let (numbers, len) = match numbers {
            PartialNumbers::None => (Numbers::None, steps),
            PartialNumbers::Extremes(best) => (Numbers::Extremes(best.clone()), best.len()),
            PartialNumbers::Sums { high, low, wide } => {
                let len = high.len();
                let wide = wide.iter().map(|(i, digits)| Some((*i, Wide::from_digits(digits)?)));
                (
                    Numbers::Sums(Sums::from_parts(high, low, wide.collect::<Option<_>>()?)?),
                    len,
                )
            }
        };
        let same = std::mem::discriminant(&numbers) == std::mem::discriminant(&Self::new(op, 0).numbers);
        (same && len == steps && counts.len() == steps).then(|| Self {
            counts,
            numbers,
            rare: Vec::new(),
        })
    }
}

/// The lesser or greater of two; not-a-number only if both are. Of zeros -0 is the lesser, so that order says nothing.
fn extreme(op: AggregateOp, best: f64, value: f64) -> f64 {
    if best.is_nan() || value.is_nan() {
        return if best.is_nan() { value } else { best };
    }
    let less = value.total_cmp(&best).is_lt();
    if less == (op == AggregateOp::Min) { value } else { best }
}

fn finished(sum: &Histograms, of: &Aggregation<'_>) -> Arc<FloatHistogram> {
    if sum.reset && sum.not_reset {
        of.notes.reset_collision(of.span, Operation::Aggregation);
    }
    if sum.reconciled {
        of.notes.bounds_reconciled(of.span, Operation::Aggregation);
    }
    let mut total = sum.total.finish();
    if of.op == AggregateOp::Avg && !sum.running_mean {
        total.scale(|v| v / sum.count);
    }
    Arc::new(total.compacted())
}
