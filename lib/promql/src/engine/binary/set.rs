//! `and`, `or`, `unless`.

use super::Operator;
use crate::ast::BinaryOp;
use crate::engine::column::{Column, OVERHEAD_BYTES, merge_same_labels};
use crate::engine::context::{Evaluated, Exec, Sink};
use crate::limits::EvalError;
use crate::plan::Node;
use gnomon_model::Labels;
use hashbrown::HashMap;

/// At which steps each signature has an element.
fn presence(operator: Operator<'_>, columns: &[Column], n: usize) -> HashMap<Labels, Vec<bool>> {
    let mut presence: HashMap<Labels, Vec<bool>> = HashMap::new();
    for column in columns {
        let steps = presence
            .entry(operator.signature(&column.labels))
            .or_insert_with(|| vec![false; n]);
        for (i, step) in steps.iter_mut().enumerate() {
            *step |= column.present(i);
        }
    }
    presence
}

fn presence_bytes(presence: &HashMap<Labels, Vec<bool>>, n: usize) -> u64 {
    let labels: usize = presence.keys().map(|labels| labels.as_bytes().len()).sum();
    (labels + presence.len() * (n + OVERHEAD_BYTES as usize)) as u64
}

/// Clears the steps at which the signature's presence is not as wanted.
fn filter(operator: Operator<'_>, column: &mut Column, presence: &HashMap<Labels, Vec<bool>>, wanted: bool) {
    let steps = presence.get(&operator.signature(&column.labels));
    for i in 0..column.len() {
        if steps.is_some_and(|steps| steps[i]) != wanted {
            column.clear(i);
        }
    }
}

impl Exec<'_> {
    pub(super) fn set_operator(
        &self,
        operator: Operator<'_>,
        lhs: &Node,
        rhs: &Node,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let n = lhs.grid.n;
        if operator.op != BinaryOp::Or {
            let right = match self.collect(rhs) {
                Ok(columns) => presence(operator, &columns.columns, n),
                // Where both sides fail the left one is told of, as if it had been first.
                Err(error @ EvalError::Execution(_)) => {
                    self.stream(lhs, &mut |_| Ok(()))?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            let _held = self.hold_bytes(presence_bytes(&right, n))?;
            return self.stream(lhs, &mut |mut column| {
                filter(operator, &mut column, &right, operator.op == BinaryOp::And);
                if column.has_any() { sink(column) } else { Ok(()) }
            });
        }
        let left = self.collect(lhs)?;
        let there = presence(operator, &left.columns, n);
        let _held = self.hold_bytes(presence_bytes(&there, n))?;
        let mut right = self.collect(rhs)?;
        for column in &mut right.columns {
            filter(operator, column, &there, false);
        }
        let all = left
            .columns
            .into_iter()
            .chain(right.columns.into_iter().filter(Column::has_any));
        for column in merge_same_labels(all.collect())? {
            sink(column)?;
        }
        Ok(())
    }
}
