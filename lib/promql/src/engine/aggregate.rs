//! Aggregations. Those that fold (sum, min, …) take the columns as they come; those that must see all elements of a
//! step at once (topk, quantile, …) collect them.

mod cells;
mod counted;
mod exact;
mod fold;
mod rank;
mod values;

pub(crate) use cells::{Aggregation, Cells};
pub(crate) use fold::Folded;

use super::column::{Column, write_retained};
use super::context::{Evaluated, Exec, Sink};
use crate::ast::AggregateOp;
use crate::plan::Node;
use gnomon_model::{Labels, LabelsRef, METRIC_NAME};
use hashbrown::HashMap;

/// `by (…)`, `without (…)`.
#[derive(Clone, Copy)]
pub(crate) struct Grouping<'n> {
    pub(crate) labels: &'n [String],
    pub(crate) without: bool,
}

impl Grouping<'_> {
    /// Appends the labels of the group that a series belongs to, in canonical bytes.
    fn write_key(&self, labels: &Labels, out: &mut Vec<u8>) {
        if !self.without && self.labels.is_empty() {
            return;
        }
        let listed = |name: &str| self.labels.iter().any(|label| label == name);
        if self.without {
            write_retained(labels, |name| !super::column::is_metadata(name) && !listed(name), out);
        } else {
            write_retained(labels, listed, out);
        }
    }

    /// The labels of the group that a series belongs to.
    fn key(&self, labels: &Labels) -> Labels {
        let mut bytes = Vec::new();
        self.write_key(labels, &mut bytes);
        LabelsRef::from_canonical(&bytes).to_owned()
    }

    /// Whether a group can have the metric's name.
    fn keeps_name(&self) -> bool {
        !self.without && self.labels.iter().any(|label| label == METRIC_NAME)
    }
}

/// Numbers groups in the order in which they come up.
#[derive(Default)]
struct Groups {
    at: HashMap<Labels, usize>,
    labels: Vec<Labels>,
    drop_name: Vec<bool>,
    /// Labels of each group's first series, where they are looked at.
    origins: Vec<Labels>,
    /// Of the series that is looked at.
    bytes: Vec<u8>,
}

impl Groups {
    fn number(&mut self, grouping: Grouping<'_>, column: &Column, origin: Option<Labels>) -> usize {
        self.bytes.clear();
        grouping.write_key(&column.labels, &mut self.bytes);
        let drop_name = column.drop_name && grouping.keeps_name();
        if let Some(at) = self.at.get(self.bytes.as_slice()) {
            // One element that is to lose its name makes the group lose it.
            self.drop_name[*at] |= drop_name;
            return *at;
        }
        let key = LabelsRef::from_canonical(&self.bytes).to_owned();
        let at = self.labels.len();
        self.at.insert(key.clone(), at);
        self.labels.push(key);
        self.drop_name.push(drop_name);
        self.origins.push(origin.unwrap_or_default());
        at
    }
}

impl Exec<'_> {
    pub(crate) fn aggregate(
        &self,
        node: &Node,
        op: AggregateOp,
        input: &Node,
        param: Option<&Node>,
        grouping: Grouping<'_>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        match (op, param) {
            (AggregateOp::CountValues, Some(param)) => self.count_values(input, param, grouping, sink),
            (AggregateOp::Quantile, Some(param)) => {
                let span = param.span;
                self.quantile(node, input, &self.scalar(param)?, span, grouping, sink)
            }
            (AggregateOp::TopK | AggregateOp::BottomK | AggregateOp::LimitK, Some(param)) => {
                self.first_k(node, op, input, &self.scalar(param)?, grouping, sink)
            }
            (AggregateOp::LimitRatio, Some(param)) => {
                self.limit_ratio(node, input, &self.scalar(param)?, param.span, sink)
            }
            _ if self.counted(op, input, grouping, sink)? => Ok(()),
            _ => self.fold(node, op, input, grouping, sink),
        }
    }
}
