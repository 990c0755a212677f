//! Binary operators.

mod element;
mod matching;
mod set;

use super::column::{Column, Point, is_metadata, retained};
use super::context::{Evaluated, Exec, Sink};
use crate::ast::{BinaryOp, ValueType, VectorMatching};
use crate::plan::Node;
use element::{Outcome, element};
use gnomon_model::Labels;

#[derive(Clone, Copy)]
pub(crate) struct Operator<'n> {
    pub(crate) op: BinaryOp,
    pub(crate) return_bool: bool,
    pub(crate) matching: &'n VectorMatching,
}

impl Operator<'_> {
    /// Whether the result is no longer the metric's value.
    fn drops_name(&self) -> bool {
        self.return_bool
            || matches!(
                self.op,
                BinaryOp::Add
                    | BinaryOp::Sub
                    | BinaryOp::Mul
                    | BinaryOp::Div
                    | BinaryOp::Mod
                    | BinaryOp::Pow
                    | BinaryOp::Atan2
            )
    }

    /// What elements must have in common to match.
    fn signature(&self, labels: &Labels) -> Labels {
        match_labels(labels, self.matching)
    }
}

fn match_labels(labels: &Labels, matching: &VectorMatching) -> Labels {
    let listed = |name: &str| matching.labels.iter().any(|label| label == name);
    retained(labels, |name| {
        if matching.on {
            listed(name)
        } else {
            !is_metadata(name) && !listed(name)
        }
    })
}

impl Exec<'_> {
    pub(crate) fn binary(
        &self,
        node: &Node,
        operator: Operator<'_>,
        lhs: &Node,
        rhs: &Node,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        match (lhs.value_type, rhs.value_type) {
            (ValueType::Vector, ValueType::Vector) if operator.op.is_set() => {
                self.set_operator(operator, lhs, rhs, sink)
            }
            (ValueType::Vector, ValueType::Vector) => self.vectors(node, operator, lhs, rhs, sink),
            (ValueType::Vector, _) => self.with_scalar(node, operator, lhs, rhs, false, sink),
            _ => self.with_scalar(node, operator, rhs, lhs, true, sink),
        }
    }

    /// A vector and a scalar; `swapped` if the scalar is on the left.
    fn with_scalar(
        &self,
        node: &Node,
        operator: Operator<'_>,
        vector: &Node,
        scalar: &Node,
        swapped: bool,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let scalars = self.scalar(scalar)?;
        let mut each = |column: &mut Column| {
            for (i, scalar) in scalars.iter().enumerate() {
                self.check_at(i)?;
                let Some(point) = column.get(i) else { continue };
                let other = Point::Float(*scalar);
                let (left, right) = if swapped { (other, point) } else { (point, other) };
                match element(operator.op, left, right, &self.notes, node.span) {
                    Outcome::Senseless => column.clear(i),
                    Outcome::False if operator.return_bool => {
                        column.clear(i);
                        column.set_float(i, 0.0);
                    }
                    Outcome::False => column.clear(i),
                    Outcome::Value(_) if operator.return_bool => {
                        column.clear(i);
                        column.set_float(i, 1.0);
                    }
                    // The vector's value is kept, on whichever side it stands.
                    Outcome::Value(_) if operator.op.is_comparison() => {}
                    Outcome::Value(super::window::Out::Float(value)) => column.set_float(i, value),
                    Outcome::Value(super::window::Out::Histogram(value)) => column.set_histogram(i, value),
                }
            }
            Ok(())
        };
        if operator.drops_name() {
            return self.stream_nameless(vector, &mut each, sink);
        }
        self.stream(vector, &mut |mut column| {
            each(&mut column)?;
            if column.has_any() { sink(column) } else { Ok(()) }
        })
    }
}
