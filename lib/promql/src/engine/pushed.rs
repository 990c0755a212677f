//! Fragments: evaluating one for others, and putting together what others made of one.

use super::aggregate::{Aggregation, Cells, Folded, Grouping};
use super::column::Column;
use super::context::{Evaluated, Exec, Held, Sink};
use super::notes::Note;
use crate::ast::AggregateOp;
use crate::limits::{CancelFlag, EvalError, Limits};
use crate::partial::{FragmentAnswer, Partial, PartialColumn};
use crate::plan::{Fragment, Node, NodeKind, merges};
use crate::source::SeriesSource;
use gnomon_model::Labels;
use std::collections::BTreeMap;

/// Why a fragment was not evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// The result could differ from that of the whole: the samples have to be looked at in one place.
    #[error("the fragment cannot be evaluated apart: {0}")]
    Unfit(&'static str),
    #[error(transparent)]
    Eval(#[from] EvalError),
}

/// Evaluates a fragment over `source`, which has all samples of each series that it gives.
///
/// # Errors
/// When the data does not allow it, or as [`super::Engine::execute`].
pub(crate) fn run(
    fragment: &Fragment,
    source: &dyn SeriesSource,
    limits: &Limits,
    cancel: &CancelFlag,
    give: &mut dyn FnMut(Partial) -> Evaluated<()>,
) -> Result<(), FragmentError> {
    fragment.check().map_err(|_| FragmentError::Unfit("it is none"))?;
    let plan = fragment.plan();
    let mut exec = Exec::for_fragment(&plan, source, limits, cancel, fragment.drops_name());
    let done = exec.check().and_then(|()| exec.give_partials(&plan.root, give));
    if let Some(why) = exec.unfit() {
        return Err(FragmentError::Unfit(why));
    }
    done?;
    let (notes, stats, _) = exec.notes_and_stats();
    for note in notes.take() {
        give(Partial::Note(note))?;
    }
    give(Partial::Read {
        series: stats.series_read,
        samples: stats.samples_read,
    })?;
    Ok(())
}

impl Exec<'_> {
    fn give_partials(&self, root: &Node, give: &mut dyn FnMut(Partial) -> Evaluated<()>) -> Evaluated<()> {
        if let NodeKind::Aggregate {
            op,
            input,
            grouping,
            without,
            ..
        } = &root.kind
            && merges(*op)
        {
            let by = Grouping {
                labels: grouping,
                without: *without,
            };
            let mut held = self.hold(0)?;
            for group in self.fold_cells(root, *op, input, by, &mut held)? {
                give(Partial::Group(group.into_partial()))?;
            }
            return Ok(());
        }
        let NodeKind::Aggregate {
            op,
            input,
            param: Some(param),
            grouping,
            without,
        } = &root.kind
        else {
            return self.stream(root, &mut |column| {
                give(Partial::Column(PartialColumn::of(column, self.origin())))
            });
        };
        let by = Grouping {
            labels: grouping,
            without: *without,
        };
        let scalars = self.scalar(param)?;
        let (mut columns, mut origins) = (Vec::new(), Vec::new());
        let mut held = self.hold(0)?;
        self.stream(input, &mut |column| {
            held.add_column(&column)?;
            columns.push(column);
            origins.push(self.origin());
            Ok(())
        })?;
        // The best of the series here are the only ones that can be among the best of all.
        let ranked = self.rank(root.grid.n, *op, &columns, &scalars, by, input.span)?;
        for (i, (column, origin)) in ranked.only_kept(columns).into_iter().zip(origins).enumerate() {
            // The first of a group tells where the group stands, kept or not.
            if column.has_any() || ranked.is_first(i) {
                give(Partial::Column(PartialColumn::of(column, origin)))?;
            }
        }
        Ok(())
    }

    /// A node that others may have evaluated, all of it or for its later steps.
    pub(crate) fn stream_pushed(&self, node: &Node, id: usize, input: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let Some(pushed) = self.plan.fragments().get(id) else {
            return self.stream(input, sink);
        };
        let Some(answer) = self.source.fragment(id, &pushed.fragment)? else {
            return self.stream(input, sink);
        };
        if answer.from_step >= node.grid.n && answer.early.is_none() {
            return self.stream(input, sink);
        }
        let mut early = input.clone();
        cut(&mut early, answer.from_step);
        let until = answer
            .from_step
            .checked_sub(1)
            .map(|last| pushed.fragment.samples_of_step(last).1);
        let early_part = |early| Early {
            request: pushed.request,
            until,
            node: early,
            moved: input.span.start.wrapping_sub(pushed.fragment.root.span.start),
        };
        match &input.kind {
            NodeKind::Aggregate {
                op,
                input: inner,
                grouping,
                without,
                ..
            } if merges(*op) => {
                let by = Grouping {
                    labels: grouping,
                    without: *without,
                };
                let of = Aggregation {
                    op: *op,
                    span: inner.span,
                    notes: &self.notes,
                };
                self.merge_groups(node, &of, by, early_part(&early), answer, sink)
            }
            NodeKind::Aggregate {
                op,
                input: inner,
                param: Some(param),
                grouping,
                without,
            } => {
                let by = Grouping {
                    labels: grouping,
                    without: *without,
                };
                let scalars = self.scalar(param)?;
                let early = match &early.kind {
                    NodeKind::Aggregate { input, .. } => input,
                    _ => &early,
                };
                let mut columns = Vec::new();
                let mut held = self.hold(0)?;
                self.merge_columns(node, early_part(early), answer, &mut |column| {
                    held.add_column(&column)?;
                    columns.push(column);
                    Ok(())
                })?;
                let ranked = self.rank(node.grid.n, *op, &columns, &scalars, by, inner.span)?;
                ranked.give(columns, sink)
            }
            _ => self.merge_columns(node, early_part(&early), answer, sink),
        }
    }

    /// Groups of the early steps, evaluated here, with those of the later ones.
    fn merge_groups(
        &self,
        node: &Node,
        of: &Aggregation<'_>,
        by: Grouping<'_>,
        part: Early<'_>,
        mut answer: FragmentAnswer<'_>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let (n, first) = (node.grid.n, answer.from_step);
        let Early {
            request,
            until,
            node: early,
            moved,
        } = part;
        let mut held = self.hold(0)?;
        let mut merged: BTreeMap<Labels, Merged> = BTreeMap::new();
        if let Some(mut pieces) = answer.early.take() {
            while let Some(partial) = pieces.next_partial()? {
                self.merge_group(partial, of.op, (Which::Early, first, moved), &mut merged, &mut held)?;
            }
        } else if let (Some(until), NodeKind::Aggregate { input, .. }) = (until, &early.kind) {
            let groups = self.tracking(request, until, &mut || {
                self.fold_cells(early, of.op, input, by, &mut held)
            })?;
            for group in groups {
                let into = merged
                    .entry(group.labels.clone())
                    .or_insert_with(|| Merged::new(&group));
                into.early = Some(group.cells);
            }
        }
        while let Some(partial) = answer.partials.next_partial()? {
            self.merge_group(partial, of.op, (Which::Late, n - first, moved), &mut merged, &mut held)?;
        }
        let mut all: Vec<(Labels, Merged)> = merged.into_iter().collect();
        all.sort_by(|a, b| a.1.origin.cmp(&b.1.origin));
        for (labels, group) in all {
            let mut column = Column::empty(labels, n);
            column.drop_name = group.drop_name;
            for i in 0..n {
                match (&group.early, &group.late) {
                    (Some(early), _) if i < first => early.finish(i, i, &mut column, of),
                    (_, Some(late)) if i >= first => late.finish(i - first, i, &mut column, of),
                    _ => {}
                }
            }
            if column.has_any() {
                sink(column)?;
            }
        }
        Ok(())
    }

    /// Enters a piece that is of so many steps.
    fn merge_group(
        &self,
        partial: Partial,
        op: AggregateOp,
        (which, steps, moved): (Which, usize, usize),
        merged: &mut BTreeMap<Labels, Merged>,
        held: &mut Held<'_, '_>,
    ) -> Evaluated<()> {
        self.check()?;
        let Partial::Group(group) = partial else {
            return self.take_rest(partial, moved);
        };
        let group = Folded::of_partial(group, op, steps).ok_or_else(malformed)?;
        let into = merged
            .entry(group.labels.clone())
            .or_insert_with(|| Merged::new(&group));
        into.drop_name |= group.drop_name;
        if group.origin < into.origin {
            into.origin = group.origin;
        }
        match into.cells(which) {
            Some(cells) => cells.merge(&group.cells, op),
            cells => {
                held.add(steps as u64 * 2)?;
                *cells = Some(group.cells);
            }
        }
        Ok(())
    }

    /// Columns of the early steps, evaluated here, with those of the later ones, in the order of their series.
    fn merge_columns(
        &self,
        node: &Node,
        part: Early<'_>,
        mut answer: FragmentAnswer<'_>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let (n, first) = (node.grid.n, answer.from_step);
        let Early {
            request,
            until,
            node: early,
            moved,
        } = part;
        let mut held = self.hold(0)?;
        let mut before: Vec<(Labels, Column)> = Vec::new();
        if let Some(mut pieces) = answer.early.take() {
            while let Some(partial) = pieces.next_partial()? {
                self.check()?;
                let Partial::Column(piece) = partial else {
                    self.take_rest(partial, moved)?;
                    continue;
                };
                let origin = piece.origin.clone();
                let column = piece.into_column(first).ok_or_else(malformed)?;
                if first == n {
                    sink(column)?;
                    continue;
                }
                held.add_column(&column)?;
                before.push((origin, column));
            }
        } else if let Some(until) = until {
            self.tracking(request, until, &mut || {
                self.stream(early, &mut |column| {
                    held.add_column(&column)?;
                    before.push((self.origin(), column));
                    Ok(())
                })
            })?;
        }
        let mut before = before.into_iter().peekable();
        let whole = |early: Column| {
            let mut column = Column::empty(early.labels.clone(), n);
            column.drop_name = early.drop_name;
            for i in 0..early.len() {
                if let Some(point) = early.get(i) {
                    column.set(i, point);
                }
            }
            column
        };
        while let Some(partial) = answer.partials.next_partial()? {
            self.check()?;
            let Partial::Column(late) = partial else {
                self.take_rest(partial, moved)?;
                continue;
            };
            if late.present.len() != n - first || late.values.len() != n - first {
                return Err(malformed());
            }
            while let Some((_, early)) = before.next_if(|(origin, _)| *origin < late.origin) {
                sink(whole(early))?;
            }
            let mut column = match before.next_if(|(origin, _)| *origin == late.origin) {
                Some((_, early)) => whole(early),
                None => Column::empty(late.labels.clone(), n),
            };
            column.drop_name |= late.drop_name;
            for (i, value) in late.values.iter().enumerate().filter(|(i, _)| late.present[*i]) {
                column.set_float(first + i, *value);
            }
            sink(column)?;
        }
        before.try_for_each(|(_, early)| sink(whole(early)))
    }

    /// `moved`: from the place that the fragment was made of to the one that is evaluated.
    fn take_rest(&self, partial: Partial, moved: usize) -> Evaluated<()> {
        match partial {
            Partial::Note(note) => self.notes.add(Note {
                at: note.at.wrapping_add(moved),
                ..note
            }),
            Partial::Read { series, samples } => self.count_read(series, samples),
            Partial::Group(_) | Partial::Column(_) => return Err(malformed()),
        }
        Ok(())
    }
}

/// What of a fragment is evaluated here.
#[derive(Clone, Copy)]
struct Early<'n> {
    request: usize,
    /// Last time that its steps look at; none where there are no steps.
    until: Option<i64>,
    node: &'n Node,
    /// From the place in the query that the fragment was made of to this one.
    moved: usize,
}

/// Steps before those that shards evaluate, or those.
#[derive(Clone, Copy)]
enum Which {
    Early,
    Late,
}

/// A group under way.
struct Merged {
    drop_name: bool,
    origin: Labels,
    early: Option<Cells>,
    late: Option<Cells>,
}

impl Merged {
    fn new(group: &Folded) -> Self {
        Self {
            drop_name: group.drop_name,
            origin: group.origin.clone(),
            early: None,
            late: None,
        }
    }

    const fn cells(&mut self, which: Which) -> &mut Option<Cells> {
        match which {
            Which::Early => &mut self.early,
            Which::Late => &mut self.late,
        }
    }
}

impl PartialColumn {
    fn of(column: Column, origin: Labels) -> Self {
        Self {
            origin,
            present: (0..column.len()).map(|i| column.float(i).is_some()).collect(),
            labels: column.labels,
            drop_name: column.drop_name,
            values: column.floats,
        }
    }
}

impl PartialColumn {
    /// None where it is not of so many steps.
    fn into_column(self, steps: usize) -> Option<Column> {
        if self.present.len() != steps || self.values.len() != steps {
            return None;
        }
        let mut column = Column::empty(self.labels, steps);
        column.drop_name = self.drop_name;
        for (i, value) in self.values.into_iter().enumerate().filter(|(i, _)| self.present[*i]) {
            column.set_float(i, value);
        }
        Some(column)
    }
}

fn malformed() -> EvalError {
    EvalError::execution("a part of the answer does not fit its question")
}

/// Leaves the first steps only.
fn cut(node: &mut Node, steps: usize) {
    node.grid.n = node.grid.n.min(steps);
    node.children_mut().into_iter().for_each(|child| cut(child, steps));
}
