//! sum, avg, count, min, max, group, stddev, stdvar: one state a group and step.

use super::{Grouping, Groups};
use crate::ast::AggregateOp;
use crate::engine::arithmetic::{Kahan, Mean, Variance};
use crate::engine::column::{Column, OVERHEAD_BYTES, Point};
use crate::engine::context::{Evaluated, Exec, Sink};
use crate::engine::notes::Operation;
use crate::plan::Node;
use gnomon_model::histogram::{Accumulator, Combined, FloatHistogram, IncompatibleSchemas, ResetHint};
use std::sync::Arc;

/// What a group has at a step so far.
#[derive(Clone, Default)]
enum State {
    #[default]
    Empty,
    Sum(Kahan),
    Mean(Mean),
    Count(f64),
    Extreme(f64),
    Group,
    Variance(Variance),
    Histograms(Box<Histograms>),
    /// The elements do not go together: no result.
    Failed,
}

#[derive(Clone)]
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

impl Exec<'_> {
    pub(super) fn fold(
        &self,
        node: &Node,
        op: AggregateOp,
        input: &Node,
        grouping: Grouping<'_>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let n = node.grid.n;
        let mut groups = Groups::default();
        let mut states: Vec<Vec<State>> = Vec::new();
        let mut held = self.hold(0)?;
        self.stream(input, &mut |column| {
            self.check()?;
            let at = groups.number(grouping, &column);
            if at == states.len() {
                held.add(n as u64 * 2)?;
                let beyond = size_of::<State>().saturating_sub(32) * n + column.labels.as_bytes().len();
                held.add_bytes(OVERHEAD_BYTES + beyond as u64)?;
                states.push(vec![State::Empty; n]);
            }
            for (i, state) in states[at].iter_mut().enumerate() {
                if let Some(point) = column.get(i) {
                    if let (State::Empty, Point::Histogram(histogram)) = (&*state, point) {
                        // Three numbers a bucket rather than one.
                        held.add(histogram.weight() * 3)?;
                    }
                    self.take(node, input, op, state, point);
                }
            }
            Ok(())
        })?;
        for ((states, labels), drop_name) in states.into_iter().zip(groups.labels).zip(groups.drop_name) {
            let mut column = Column::empty(labels, n);
            column.drop_name = drop_name;
            for (i, state) in states.into_iter().enumerate() {
                self.finish(op, input, state, &mut column, i);
            }
            if column.has_any() {
                sink(column)?;
            }
        }
        Ok(())
    }

    fn take(&self, node: &Node, input: &Node, op: AggregateOp, state: &mut State, point: Point<'_>) {
        match (op, point) {
            (AggregateOp::Count, _) => match state {
                State::Count(count) => *count += 1.0,
                _ => *state = State::Count(1.0),
            },
            (AggregateOp::Group, _) => *state = State::Group,
            (AggregateOp::Sum | AggregateOp::Avg, Point::Float(value)) => match state {
                State::Empty if op == AggregateOp::Sum => *state = State::Sum(Kahan::new(value)),
                State::Empty => *state = State::Mean([value].into_iter().collect()),
                State::Sum(sum) => sum.add(value),
                State::Mean(mean) => mean.add(value),
                State::Histograms(_) => self.fail_mixed(input, state),
                _ => {}
            },
            (AggregateOp::Sum | AggregateOp::Avg, Point::Histogram(value)) => {
                self.take_histogram(op, input, state, value)
            }
            (AggregateOp::Min | AggregateOp::Max, Point::Float(value)) => match state {
                State::Extreme(best) => {
                    let better = if op == AggregateOp::Min {
                        value < *best
                    } else {
                        value > *best
                    };
                    if better || best.is_nan() {
                        *best = value;
                    }
                }
                _ => *state = State::Extreme(value),
            },
            (AggregateOp::Stddev | AggregateOp::Stdvar, Point::Float(value)) => match state {
                State::Variance(variance) => variance.add(value),
                _ => *state = State::Variance([value].into_iter().collect()),
            },
            (_, Point::Histogram(_)) => self.notes.histogram_ignored(input.span, op.name()),
            _ => debug_assert_eq!(node.grid, input.grid),
        }
    }

    fn fail_mixed(&self, input: &Node, state: &mut State) {
        self.notes.mixed_in_aggregation(input.span);
        *state = State::Failed;
    }

    fn take_histogram(&self, op: AggregateOp, input: &Node, state: &mut State, value: &FloatHistogram) {
        match state {
            State::Empty => *state = State::Histograms(Box::new(Histograms::new(value))),
            State::Histograms(sum) => match sum.add(value, op == AggregateOp::Avg) {
                Ok(said) => sum.reconciled |= said.bounds_reconciled,
                Err(_) => {
                    self.notes.mixed_exponential_custom(input.span, "");
                    *state = State::Failed;
                }
            },
            State::Sum(_) | State::Mean(_) => self.fail_mixed(input, state),
            _ => {}
        }
    }

    fn finish(&self, op: AggregateOp, input: &Node, state: State, column: &mut Column, i: usize) {
        let value = match state {
            State::Empty | State::Failed => return,
            State::Sum(sum) => sum.value(),
            State::Mean(mean) => mean.value(),
            State::Count(count) => count,
            State::Extreme(best) => best,
            State::Group => 1.0,
            State::Variance(variance) if op == AggregateOp::Stddev => variance.value().sqrt(),
            State::Variance(variance) => variance.value(),
            State::Histograms(sum) => {
                if sum.reset && sum.not_reset {
                    self.notes.reset_collision(input.span, Operation::Aggregation);
                }
                if sum.reconciled {
                    self.notes.bounds_reconciled(input.span, Operation::Aggregation);
                }
                let mut total = sum.total.finish();
                if op == AggregateOp::Avg && !sum.running_mean {
                    total.scale(|v| v / sum.count);
                }
                column.set_histogram(i, Arc::new(total.compacted()));
                return;
            }
        };
        column.set_float(i, value);
    }
}
