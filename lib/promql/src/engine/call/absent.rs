//! `absent`, `absent_over_time`.

use super::arg;
use crate::engine::column::Column;
use crate::engine::context::{Evaluated, Exec, Sink};
use crate::engine::window::window_of;
use crate::functions::FunctionId;
use crate::plan::{Node, NodeKind, WindowInput};
use gnomon_model::{Labels, LabelsBuilder, METRIC_NAME, MatchOp};

impl Exec<'_> {
    /// The labels that a missing series is known to have: those with one equality matcher.
    fn labels_of_absent(&self, request: Option<usize>) -> Labels {
        let Some(request) = request.and_then(|request| self.plan.selectors().get(request)) else {
            return Labels::empty();
        };
        let mut builder = LabelsBuilder::default();
        let mut seen: Vec<&str> = Vec::new();
        for matcher in &request.matchers {
            if matcher.name() == METRIC_NAME {
                continue;
            }
            if matcher.op() == MatchOp::Equal && !seen.contains(&matcher.name()) {
                builder.set(matcher.name(), matcher.value());
                seen.push(matcher.name());
            } else {
                builder.remove(matcher.name());
            }
        }
        builder.build()
    }

    fn give_absent(&self, labels: Labels, present: &[bool], sink: &mut Sink<'_>) -> Evaluated<()> {
        let mut column = Column::empty(labels, present.len());
        for (i, present) in present.iter().enumerate() {
            if !present {
                column.set_float(i, 1.0);
            }
        }
        if column.has_any() { sink(column) } else { Ok(()) }
    }

    pub(super) fn absent(&self, input: &Node, node: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let mut present = vec![false; node.grid.n];
        self.stream(input, &mut |column| {
            for (i, present) in present.iter_mut().enumerate() {
                *present |= column.present(i);
            }
            Ok(())
        })?;
        let request = match &input.bare().kind {
            NodeKind::Select { request, .. } => Some(*request),
            _ => None,
        };
        self.give_absent(self.labels_of_absent(request), &present, sink)
    }

    pub(super) fn absent_over_time(&self, args: &[Node], node: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let mut present = vec![false; node.grid.n];
        self.range_call(FunctionId::AbsentOverTime, args, node, &mut |column| {
            for (i, present) in present.iter_mut().enumerate() {
                *present |= column.present(i);
            }
            Ok(())
        })?;
        let request = match window_of(arg(args, 0)?).map(|window| &window.input) {
            Some(WindowInput::Request(request)) => Some(*request),
            _ => None,
        };
        self.give_absent(self.labels_of_absent(request), &present, sink)
    }
}
