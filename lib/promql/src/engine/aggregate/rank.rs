//! topk, bottomk, limitk, limit_ratio: some of the elements, as they are.

use super::{Grouping, Groups};
use crate::ast::{AggregateOp, Span};
use crate::engine::arithmetic::nan_first;
use crate::engine::column::{Column, Point};
use crate::engine::context::{Columns, Evaluated, Exec, Sink};
use crate::limits::EvalError;
use crate::plan::Node;
use gnomon_model::gofloat::General;
use std::cmp::Ordering;

/// How many elements to keep at each step; an error where a number is none. Where none is kept at any step, any number that is
/// one is good.
fn counts(scalars: &[f64]) -> Evaluated<Vec<usize>> {
    if scalars.iter().any(|k| k.is_nan()) {
        return Err(EvalError::execution("Parameter value is NaN"));
    }
    let least = scalars.iter().copied().fold(f64::INFINITY, f64::min);
    let most = scalars.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let wrong = |k: f64, how: &str| EvalError::execution(format!("Scalar value {} {how} int64", General(k)));
    if most >= 1.0 && least <= i64::MIN as f64 {
        return Err(wrong(least, "underflows"));
    }
    if most >= i64::MAX as f64 {
        return Err(wrong(most, "overflows"));
    }
    let count = |k: &f64| if *k < 1.0 { 0 } else { *k as usize };
    Ok(scalars.iter().map(count).collect())
}

/// Which of two comes first in the result: by value, then (to be the same in every plan) by labels.
fn better(op: AggregateOp, columns: &[Column], i: usize, a: usize, b: usize) -> Ordering {
    let (x, y) = (columns[a].floats[i], columns[b].floats[i]);
    // Not-a-number comes last in both.
    let by_value = match (x.is_nan(), y.is_nan()) {
        (true, _) | (_, true) => nan_first(y, x),
        _ if op == AggregateOp::TopK => nan_first(y, x),
        _ => nan_first(x, y),
    };
    by_value.then(a.cmp(&b))
}

/// Which elements are kept.
pub(crate) struct Ranked {
    /// Steps.
    n: usize,
    /// A column's steps, column by column.
    kept: Vec<bool>,
    /// Columns that are the first of their group, by which groups are ordered.
    first: Vec<bool>,
    /// For a single step: the columns that are kept, best first, group by group.
    instant: Vec<usize>,
}

impl Ranked {
    /// The columns with what is kept of them.
    pub(crate) fn only_kept(&self, mut columns: Vec<Column>) -> Vec<Column> {
        for (column, kept) in columns.iter_mut().zip(self.kept.chunks(self.n.max(1))) {
            for (i, _) in kept.iter().enumerate().filter(|(_, kept)| !**kept) {
                column.clear(i);
            }
        }
        columns
    }

    /// Whether a column is the first of its group.
    pub(crate) fn is_first(&self, column: usize) -> bool {
        self.first.get(column).copied().unwrap_or(false)
    }

    /// Passes on what is kept; of a single step in its order.
    pub(crate) fn give(&self, columns: Vec<Column>, sink: &mut Sink<'_>) -> Evaluated<()> {
        if self.n == 1 {
            let mut columns: Vec<Option<Column>> = columns.into_iter().map(Some).collect();
            return self
                .instant
                .iter()
                .filter_map(|c| columns.get_mut(*c).and_then(Option::take))
                .try_for_each(sink);
        }
        self.only_kept(columns)
            .into_iter()
            .filter(Column::has_any)
            .try_for_each(sink)
    }
}

impl Exec<'_> {
    pub(super) fn first_k(
        &self,
        node: &Node,
        op: AggregateOp,
        input: &Node,
        scalars: &[f64],
        grouping: Grouping<'_>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        counts(scalars)?;
        let Columns { columns, mut held } = self.collect(input)?;
        // Whether each is kept.
        held.add_bytes((columns.len() as u64).saturating_mul(node.grid.n as u64))?;
        let ranked = self.rank(node.grid.n, op, &columns, scalars, grouping, input.span)?;
        ranked.give(columns, sink)
    }

    /// Which elements of `columns`, which are in the order of their series, are kept at each of `n` steps.
    pub(crate) fn rank(
        &self,
        n: usize,
        op: AggregateOp,
        columns: &[Column],
        scalars: &[f64],
        grouping: Grouping<'_>,
        span: Span,
    ) -> Evaluated<Ranked> {
        let counts = counts(scalars)?;
        let mut groups = Groups::default();
        let mut members: Vec<Vec<usize>> = Vec::new();
        for (c, column) in columns.iter().enumerate() {
            let at = groups.number(grouping, column, None);
            members.resize_with(members.len().max(at + 1), Vec::new);
            members[at].push(c);
        }
        let mut ranked = Ranked {
            n,
            kept: vec![false; columns.len() * n],
            first: vec![false; columns.len()],
            instant: Vec::new(),
        };
        for members in &members {
            self.check()?;
            if let Some(first) = members.first() {
                ranked.first[*first] = true;
            }
            for (i, count) in counts.iter().enumerate() {
                self.check()?;
                let chosen = self.choose(op, columns, members, i, *count, span);
                for c in &chosen {
                    ranked.kept[c * n + i] = true;
                }
                if n == 1 {
                    ranked.instant.extend(chosen);
                }
            }
        }
        Ok(ranked)
    }

    /// The columns that are kept at a step, best first.
    fn choose(
        &self,
        op: AggregateOp,
        columns: &[Column],
        members: &[usize],
        i: usize,
        count: usize,
        span: Span,
    ) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::new();
        if count == 0 {
            return chosen;
        }
        for &c in members {
            match columns[c].get(i) {
                None => {}
                Some(Point::Histogram(_)) if op != AggregateOp::LimitK => self.notes.histogram_ignored(span, op.name()),
                Some(_) => chosen.push(c),
            }
        }
        if op != AggregateOp::LimitK {
            // An order without ties: the same ones are chosen however it is done.
            let compare = |a: &usize, b: &usize| better(op, columns, i, *a, *b);
            if count < chosen.len() / 2 {
                chosen.select_nth_unstable_by(count, compare);
                chosen.truncate(count);
            }
            chosen.sort_unstable_by(compare);
        }
        chosen.truncate(count);
        chosen
    }

    pub(super) fn limit_ratio(
        &self,
        node: &Node,
        input: &Node,
        scalars: &[f64],
        span: Span,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let mut ratios = Vec::with_capacity(scalars.len());
        for ratio in scalars {
            if ratio.is_nan() {
                return Err(EvalError::execution("Ratio value is NaN"));
            }
            ratios.push(ratio.clamp(-1.0, 1.0));
        }
        // Of many steps the ends are told.
        let most = scalars.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = scalars.iter().copied().fold(f64::INFINITY, f64::min);
        if most > 1.0 {
            self.notes.invalid_ratio(span, most, 1.0);
        }
        if least < -1.0 {
            self.notes.invalid_ratio(span, least, -1.0);
        }
        debug_assert_eq!(ratios.len(), node.grid.n);
        self.stream(input, &mut |mut column| {
            // The series that Prometheus picks.
            let position = column.labels.as_ref().prometheus_hash() as f64 / u64::MAX as f64;
            for (i, ratio) in ratios.iter().enumerate() {
                let keep = if *ratio >= 0.0 {
                    position < *ratio
                } else {
                    position >= 1.0 + ratio
                };
                let whole = ratio.abs() == 1.0;
                if !keep && !whole {
                    column.clear(i);
                }
            }
            if column.has_any() { sink(column) } else { Ok(()) }
        })
    }
}
