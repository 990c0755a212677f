//! sum, avg, count, min, max, group, stddev, stdvar: one state a group and step.

use super::cells::{Aggregation, Cells};
use super::{Grouping, Groups};
use crate::ast::AggregateOp;
use crate::engine::column::{Column, OVERHEAD_BYTES, Point};
use crate::engine::context::{Evaluated, Exec, Held, Sink};
use crate::partial::PartialGroup;
use crate::plan::Node;
use gnomon_model::Labels;

/// A group with its states.
pub(crate) struct Folded {
    pub(crate) labels: Labels,
    pub(crate) drop_name: bool,
    /// Labels of the group's first series, where they are looked at.
    pub(crate) origin: Labels,
    pub(crate) cells: Cells,
}

impl Folded {
    /// For others; there are no histograms in it.
    pub(crate) fn into_partial(self) -> PartialGroup {
        PartialGroup {
            labels: self.labels,
            drop_name: self.drop_name,
            origin: self.origin,
            numbers: self.cells.numbers(),
            counts: self.cells.counts,
        }
    }

    /// None where it is no state of so many steps.
    pub(crate) fn of_partial(group: PartialGroup, op: AggregateOp, steps: usize) -> Option<Self> {
        Some(Self {
            labels: group.labels,
            drop_name: group.drop_name,
            origin: group.origin,
            cells: Cells::of_numbers(op, group.counts, group.numbers, steps)?,
        })
    }
}

impl<'a> Exec<'a> {
    pub(super) fn fold(
        &self,
        node: &Node,
        op: AggregateOp,
        input: &Node,
        grouping: Grouping<'_>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let mut held = self.hold(0)?;
        let of = Aggregation {
            op,
            span: input.span,
            notes: &self.notes,
        };
        for group in self.fold_cells(node, op, input, grouping, &mut held)? {
            let mut column = Column::empty(group.labels, node.grid.n);
            column.drop_name = group.drop_name;
            for i in 0..node.grid.n {
                group.cells.finish(i, i, &mut column, &of);
            }
            if column.has_any() {
                sink(column)?;
            }
        }
        Ok(())
    }

    /// The groups in the order in which they came up.
    pub(crate) fn fold_cells(
        &self,
        node: &Node,
        op: AggregateOp,
        input: &Node,
        grouping: Grouping<'_>,
        held: &mut Held<'_, 'a>,
    ) -> Evaluated<Vec<Folded>> {
        let n = node.grid.n;
        let mut groups = Groups::default();
        let mut all: Vec<Cells> = Vec::new();
        let of = Aggregation {
            op,
            span: input.span,
            notes: &self.notes,
        };
        self.stream(input, &mut |column| {
            self.check()?;
            let at = groups.number(grouping, &column, self.tracked_origin());
            if at == all.len() {
                held.add(n as u64 * 2)?;
                held.add_bytes(OVERHEAD_BYTES + column.labels.as_bytes().len() as u64)?;
                all.push(Cells::new(op, n));
            }
            for i in 0..if column.has_histograms() { n } else { 0 } {
                if let Some(Point::Histogram(histogram)) = column.get(i) {
                    // Three numbers a bucket rather than one, for the first of a group.
                    held.add(if all[at].is_empty(i) { histogram.weight() * 3 } else { 0 })?;
                }
            }
            let before = all[at].surplus();
            all[at].add(&column, &of);
            held.add(all[at].surplus().saturating_sub(before))
        })?;
        let labels = groups.labels.into_iter().zip(groups.drop_name).zip(groups.origins);
        let folded = |(((labels, drop_name), origin), cells)| Folded {
            labels,
            drop_name,
            origin,
            cells,
        };
        Ok(labels.zip(all).map(folded).collect())
    }
}
