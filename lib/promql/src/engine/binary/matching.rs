//! Two vectors, element by matching element. Columns are brought together by signature first, so that a pair of series
//! is looked at once for all steps.

use super::element::{Outcome, element};
use super::{Operator, match_labels};
use crate::ast::Cardinality;
use crate::engine::column::{Column, Point, is_metadata, merge_same_labels};
use crate::engine::context::{Evaluated, Exec, Held, Sink};
use crate::engine::window::Out;
use crate::limits::EvalError;
use crate::plan::Node;
use gnomon_model::{Labels, LabelsBuilder};
use hashbrown::HashMap;

/// The columns of both sides that share a signature.
#[derive(Default)]
struct Group {
    many: Vec<usize>,
    one: Vec<usize>,
}

struct Sides<'c> {
    many: &'c [Column],
    one: &'c [Column],
    /// The many side is the right one (`group_right`).
    swapped: bool,
    /// At which steps each side has any element at all.
    any_many: Vec<bool>,
    any_one: Vec<bool>,
}

fn steps_with_any(columns: &[Column], n: usize) -> Vec<bool> {
    (0..n).map(|i| columns.iter().any(|column| column.present(i))).collect()
}

/// Columns under way, by labels.
#[derive(Default)]
struct Results {
    columns: Vec<Column>,
    at: HashMap<Labels, usize>,
}

impl Results {
    fn column(&mut self, labels: &Labels, n: usize, held: &mut Held<'_, '_>) -> Evaluated<&mut Column> {
        let next = self.columns.len();
        let at = *self.at.entry(labels.clone()).or_insert(next);
        if at == next {
            let column = Column::empty(labels.clone(), n);
            held.add_column(&column)?;
            self.columns.push(column);
        }
        Ok(&mut self.columns[at])
    }
}

impl Exec<'_> {
    pub(super) fn vectors(
        &self,
        node: &Node,
        operator: Operator<'_>,
        lhs: &Node,
        rhs: &Node,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let left = self.collect(lhs)?;
        let right = self.collect(rhs)?;
        let n = node.grid.n;
        let swapped = operator.matching.card == Cardinality::OneToMany;
        let (many, one) = if swapped {
            (&right.columns, &left.columns)
        } else {
            (&left.columns, &right.columns)
        };
        let sides = Sides {
            many,
            one,
            swapped,
            any_many: steps_with_any(many, n),
            any_one: steps_with_any(one, n),
        };
        let mut order: Vec<Group> = Vec::new();
        let mut groups: HashMap<Labels, usize> = HashMap::new();
        let mut group_of = |labels: Labels, order: &mut Vec<Group>| -> usize {
            *groups.entry(labels).or_insert_with(|| {
                order.push(Group::default());
                order.len() - 1
            })
        };
        for (i, column) in many.iter().enumerate() {
            self.check()?;
            let at = group_of(operator.signature(&column.labels), &mut order);
            order[at].many.push(i);
        }
        for (i, column) in one.iter().enumerate() {
            self.check()?;
            let at = group_of(operator.signature(&column.labels), &mut order);
            order[at].one.push(i);
        }
        let mut held = self.hold(0)?;
        let mut out = Vec::new();
        for group in &order {
            self.check()?;
            for column in self.group(node, operator, &sides, group, &mut held)? {
                // Its floats are held since it began.
                held.add(column.weight() - column.len() as u64)?;
                out.push(column);
            }
        }
        for column in merge_same_labels(out)? {
            if column.has_any() {
                sink(column)?;
            }
        }
        Ok(())
    }

    fn group(
        &self,
        node: &Node,
        operator: Operator<'_>,
        sides: &Sides<'_>,
        group: &Group,
        held: &mut Held<'_, '_>,
    ) -> Evaluated<Vec<Column>> {
        let n = node.grid.n;
        let one_at = one_of_each_step(operator, sides, group, n)?;
        let matching = operator.matching;
        let one_to_one = matching.card == Cardinality::OneToOne;
        // As in Prometheus `fill_left` is for the many side, on whichever side it stands.
        let (fill_many, fill_one) = (matching.fill_left, matching.fill_right);
        let mut results = Results::default();
        let mut matched = vec![false; if one_to_one { n } else { 0 }];
        let mut pair_labels: HashMap<(usize, Option<usize>), Labels> = HashMap::new();
        for &m in &group.many {
            self.check()?;
            let column = &sides.many[m];
            for (i, one) in one_at.iter().enumerate() {
                let Some(left) = column.get(i) else { continue };
                let right = match (one, fill_one) {
                    (Some(one), _) => sides.one[*one].get(i),
                    (None, fill) => fill.map(Point::Float),
                };
                let Some(right) = right else { continue };
                if one_to_one && std::mem::replace(&mut matched[i], true) {
                    return Err(EvalError::execution(
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                    ));
                }
                let Some(value) = self.pair(node, operator, sides.swapped, left, right) else {
                    continue;
                };
                let labels = pair_labels.entry((m, *one)).or_insert_with(|| {
                    let one = one.map(|one| &sides.one[one].labels);
                    result_labels(operator, &column.labels, one, self.delayed())
                });
                put(results.column(labels, n, held)?, i, value)?;
            }
        }
        if let Some(fill) = fill_many {
            let present = |i: usize| group.many.iter().any(|m| sides.many[*m].present(i));
            for (i, one) in one_at.iter().enumerate() {
                let Some(one) = one.filter(|_| !present(i)) else {
                    continue;
                };
                let column = &sides.one[one];
                let Some(right) = column.get(i) else { continue };
                let Some(value) = self.pair(node, operator, sides.swapped, Point::Float(fill), right) else {
                    continue;
                };
                let many = match_labels(&column.labels, matching);
                let labels = result_labels(operator, &many, Some(&column.labels), self.delayed());
                put(results.column(&labels, n, held)?, i, value)?;
            }
        }
        let mut columns = results.columns;
        for column in &mut columns {
            column.drop_name = operator.return_bool
                || group
                    .many
                    .first()
                    .is_some_and(|m| sides.many[*m].drop_name && !operator.drops_name());
        }
        Ok(columns)
    }

    fn pair(&self, node: &Node, operator: Operator<'_>, swapped: bool, many: Point<'_>, one: Point<'_>) -> Option<Out> {
        let (left, right) = if swapped { (one, many) } else { (many, one) };
        match element(operator.op, left, right, &self.notes, node.span) {
            Outcome::Value(_) if operator.return_bool => Some(Out::Float(1.0)),
            Outcome::Value(value) => Some(value),
            Outcome::False => operator.return_bool.then_some(Out::Float(0.0)),
            Outcome::Senseless => None,
        }
    }
}

fn put(column: &mut Column, i: usize, value: Out) -> Evaluated<()> {
    if column.present(i) {
        return Err(EvalError::execution(
            "multiple matches for labels: grouping labels must ensure unique matches",
        ));
    }
    match value {
        Out::Float(value) => column.set_float(i, value),
        Out::Histogram(value) => column.set_histogram(i, value),
    }
    Ok(())
}

/// Which column of the one side there is at each step; two at one step are an error.
fn one_of_each_step(
    operator: Operator<'_>,
    sides: &Sides<'_>,
    group: &Group,
    n: usize,
) -> Evaluated<Vec<Option<usize>>> {
    let mut one_at: Vec<Option<usize>> = vec![None; n];
    let filled = operator.matching.fill_left.is_some() || operator.matching.fill_right.is_some();
    for &one in &group.one {
        for (i, slot) in one_at.iter_mut().enumerate() {
            if !sides.one[one].present(i) {
                continue;
            }
            // Where a side has nothing at all nothing is matched.
            if let Some(first) = slot
                && (filled || (sides.any_many[i] && sides.any_one[i]))
            {
                let side = if sides.swapped { "left" } else { "right" };
                let (a, b) = (&sides.one[*first].labels, &sides.one[one].labels);
                let group = match_labels(a, operator.matching);
                return Err(EvalError::execution(format!(
                    "found duplicate series for the match group {group} on the {side} hand-side of the operation: \
                     [{a}, {b}];many-to-many matching not allowed: matching labels must be unique on one side"
                )));
            }
            *slot = Some(one);
        }
    }
    Ok(one_at)
}

/// The labels of a result: the many side's, without what the operator takes away, with what `group_left` brings.
fn result_labels(operator: Operator<'_>, many: &Labels, one: Option<&Labels>, delayed: bool) -> Labels {
    let matching = operator.matching;
    let mut builder = LabelsBuilder::from_labels(many.as_ref());
    let arithmetic = operator.drops_name() && !operator.op.is_comparison();
    if arithmetic || (operator.return_bool && !delayed) {
        builder.retain(|name, _| !is_metadata(name));
    }
    if matching.card == Cardinality::OneToOne {
        let listed = |name: &str| matching.labels.iter().any(|label| label == name);
        if matching.on {
            builder.retain(|name, _| listed(name));
        } else {
            builder.retain(|name, _| !listed(name));
        }
    }
    for label in &matching.include {
        builder.set(label, one.and_then(|one| one.get(label)).unwrap_or(""));
    }
    builder.build()
}
