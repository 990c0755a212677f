//! quantile and count_values: all values of a group at a step.

use super::{Grouping, Groups};
use crate::ast::Span;
use crate::engine::arithmetic::quantile;
use crate::engine::column::{Column, OVERHEAD_BYTES, Point, merge_same_labels};
use crate::engine::context::{Evaluated, Exec, Sink};
use crate::limits::EvalError;
use crate::plan::{Node, NodeKind};
use crate::printer::QuotedBytes;
use gnomon_model::gofloat::Plain;
use gnomon_model::{Labels, LabelsBuilder};
use hashbrown::HashMap;

impl Exec<'_> {
    pub(super) fn quantile(
        &self,
        node: &Node,
        input: &Node,
        quantiles: &[f64],
        span: Span,
        grouping: Grouping<'_>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        for q in quantiles {
            if !(0.0..=1.0).contains(q) {
                self.notes.invalid_quantile(span, *q);
            }
        }
        let collected = self.collect(input)?;
        let columns = &collected.columns;
        let mut groups = Groups::default();
        let mut members: Vec<Vec<&Column>> = Vec::new();
        for column in columns {
            self.check()?;
            let at = groups.number(grouping, column, None);
            members.resize_with(members.len().max(at + 1), Vec::new);
            members[at].push(column);
        }
        let mut values = Vec::new();
        for ((members, labels), drop_name) in members.iter().zip(&groups.labels).zip(&groups.drop_name) {
            self.check()?;
            let mut out = Column::empty(labels.clone(), node.grid.n);
            out.drop_name = *drop_name;
            for (i, q) in quantiles.iter().enumerate() {
                self.check()?;
                values.clear();
                for column in members {
                    match column.get(i) {
                        Some(Point::Float(value)) => values.push(value),
                        Some(Point::Histogram(_)) => self.notes.histogram_ignored(input.span, "quantile"),
                        None => {}
                    }
                }
                if !values.is_empty() {
                    out.set_float(i, quantile(*q, &values, self.cancel)?);
                }
            }
            if out.has_any() {
                sink(out)?;
            }
        }
        Ok(())
    }

    pub(super) fn count_values(
        &self,
        input: &Node,
        label: &Node,
        grouping: Grouping<'_>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let label = match &label.kind {
            NodeKind::Bytes(bytes) => {
                return Err(EvalError::execution(format!(
                    "invalid label name {}",
                    QuotedBytes(bytes)
                )));
            }
            _ => self.string(label)?,
        };
        if label.is_empty() {
            return Err(EvalError::execution(format!("invalid label name {label:?}")));
        }
        let n = input.grid.n;
        let mut at: HashMap<Labels, usize> = HashMap::new();
        let mut out: Vec<Column> = Vec::new();
        let mut held = self.hold(0)?;
        self.stream(input, &mut |column| {
            self.check()?;
            let key = grouping.key(&column.labels);
            for i in 0..n {
                self.check_at(i)?;
                let text = match column.get(i) {
                    None => continue,
                    Some(Point::Float(value)) => Plain(value).to_string(),
                    Some(Point::Histogram(histogram)) => histogram.to_string(),
                };
                let mut builder = LabelsBuilder::from_labels(key.as_ref());
                builder.set(label, &text);
                let labels = builder.build();
                let slot = match at.get(&labels) {
                    Some(slot) => *slot,
                    None => {
                        held.add(n as u64)?;
                        held.add_bytes(OVERHEAD_BYTES + labels.as_bytes().len() as u64)?;
                        out.push(Column::empty(labels.clone(), n));
                        at.insert(labels, out.len() - 1);
                        out.len() - 1
                    }
                };
                let count = out[slot].float(i).unwrap_or(0.0);
                out[slot].set_float(i, count + 1.0);
            }
            Ok(())
        })?;
        for column in merge_same_labels(out)? {
            sink(column)?;
        }
        Ok(())
    }
}
