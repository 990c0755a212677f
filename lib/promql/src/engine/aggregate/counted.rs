//! Counts that the source gives, without its series.

use super::Grouping;
use crate::ast::AggregateOp;
use crate::engine::column::Column;
use crate::engine::context::{Evaluated, Exec, Sink};
use crate::plan::{Extended, Node, NodeKind};

impl Exec<'_> {
    /// Asks the source for the number of series of a plain selector at one step; false if that is not what is wanted, or
    /// the source does not count.
    pub(super) fn counted(
        &self,
        op: AggregateOp,
        input: &Node,
        grouping: Grouping<'_>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<bool> {
        let NodeKind::Select {
            request,
            shift,
            extended: Extended::No,
        } = &input.kind
        else {
            return Ok(false);
        };
        let counts = matches!(op, AggregateOp::Count | AggregateOp::Group);
        if !counts || grouping.without || input.grid.n != 1 {
            return Ok(false);
        }
        let Some(request) = self.plan.selectors().get(*request) else {
            return Ok(false);
        };
        // Exactly the lookback of the step.
        let at = shift.apply(input.grid.start_ms);
        let from = at.saturating_sub(self.plan.params.lookback_ms.max(1)).saturating_add(1);
        if (request.start_ms, request.end_ms) != (from, at) {
            return Ok(false);
        }
        let Some(groups) = self.source.count(request, grouping.labels)? else {
            return Ok(false);
        };
        let _held = self.hold(groups.len() as u64)?;
        for (labels, count) in groups {
            let mut column = Column::empty(labels, 1);
            column.set_float(0, if op == AggregateOp::Group { 1.0 } else { count as f64 });
            sink(column)?;
        }
        Ok(true)
    }
}
