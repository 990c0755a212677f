//! quantile and count_values: all values of a group at a step.

use super::{Grouping, Groups};
use crate::ast::Span;
use crate::engine::arithmetic::{quantile, quantile_in};
use crate::engine::column::{Column, OVERHEAD_BYTES, Point, is_metadata};
use crate::engine::context::{Evaluated, Exec, Sink};
use crate::engine::order::STRIDE;
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
        // Of many steps the ends are told.
        let none = quantiles.iter().copied().find(|q| q.is_nan());
        let most = quantiles.iter().copied().reduce(f64::max).filter(|q| *q > 1.0);
        let least = quantiles.iter().copied().reduce(f64::min).filter(|q| *q < 0.0);
        for q in [none, most, least].into_iter().flatten() {
            self.notes.invalid_quantile(span, q);
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
                    let value = match values.len() <= STRIDE {
                        true => quantile_in(*q, &mut values),
                        false => quantile(*q, &values, self.cancel)?,
                    };
                    out.set_float(i, value);
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
        // Groups are made with it, and what is grouped without has it no more.
        let is_kept =
            !(grouping.without && (is_metadata(label) || grouping.labels.iter().any(|listed| listed == label)));
        let n = input.grid.n;
        let mut at: HashMap<Labels, usize> = HashMap::new();
        let mut counts: Vec<(Labels, Occurrences)> = Vec::new();
        let mut held = self.hold(0)?;
        self.stream(input, &mut |column| {
            self.check()?;
            let key = grouping.key(&column.labels);
            // Most values are those of the step before.
            let mut before: Option<(u64, usize)> = None;
            for i in 0..n {
                self.check_at(i)?;
                let (bits, text) = match column.get(i) {
                    None => continue,
                    Some(Point::Float(value)) => {
                        let bits = value.to_bits();
                        if let Some((_, slot)) = before.filter(|(same, _)| *same == bits) {
                            held.add_bytes(counts[slot].1.add(i))?;
                            continue;
                        }
                        (Some(bits), Plain(value).to_string())
                    }
                    Some(Point::Histogram(histogram)) => (None, histogram.to_string()),
                };
                let mut builder = LabelsBuilder::from_labels(key.as_ref());
                if is_kept {
                    builder.set(label, &text);
                }
                let labels = builder.build();
                let slot = match at.get(&labels) {
                    Some(slot) => *slot,
                    None => {
                        held.add_bytes(OVERHEAD_BYTES + 2 * labels.as_bytes().len() as u64)?;
                        counts.push((labels.clone(), Occurrences::default()));
                        at.insert(labels, counts.len() - 1);
                        counts.len() - 1
                    }
                };
                held.add_bytes(counts[slot].1.add(i))?;
                before = bits.map(|bits| (bits, slot));
            }
            Ok(())
        })?;
        drop(at);
        for (labels, mut occurrences) in counts {
            self.check()?;
            let mut column = Column::empty(labels, n);
            occurrences.put_together();
            for (step, count) in &occurrences.counts {
                column.set_float(*step as usize, f64::from(*count));
            }
            sink(column)?;
        }
        Ok(())
    }
}

/// How often a value occurs, step by step; only steps where it does take room.
#[derive(Default)]
struct Occurrences {
    /// Step and count. Up to `sorted` by step, each step once.
    counts: Vec<(u32, u32)>,
    sorted: usize,
}

impl Occurrences {
    /// One more at a step. The bytes that are taken more for it.
    fn add(&mut self, step: usize) -> u64 {
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        if let Some(last) = self.counts.last_mut().filter(|last| last.0 == step) {
            last.1 = last.1.saturating_add(1);
            return 0;
        }
        let before = self.counts.capacity();
        if self.counts.len() == before && self.counts.len() >= 2 * self.sorted {
            self.put_together();
        }
        self.counts.push((step, 1));
        ((self.counts.capacity() - before) * size_of::<(u32, u32)>()) as u64
    }

    fn put_together(&mut self) {
        self.counts.sort_unstable_by_key(|(step, _)| *step);
        self.counts.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
        self.sorted = self.counts.len();
    }
}

#[cfg(test)]
mod tests {
    use super::Occurrences;

    #[test]
    fn occurrences_are_counted_step_by_step_in_little_room() {
        let mut occurrences = Occurrences::default();
        let mut bytes = 0;
        for _ in 0..1000 {
            for step in [7, 7, 3, 900, 20] {
                bytes += occurrences.add(step);
            }
        }
        occurrences.put_together();
        assert_eq!(occurrences.counts, [(3, 1000), (7, 2000), (20, 1000), (900, 1000)]);
        assert!(bytes <= 16 * 8, "{bytes} bytes");
    }
}
