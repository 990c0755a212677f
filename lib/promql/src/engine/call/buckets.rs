//! `histogram_quantile` and its kin, over classic and native histograms alike.

use super::classic::{self, ClassicBucket};
use super::{arg, native};
use crate::ast::Span;
use crate::engine::column::{Column, Kind, Point, drop_name, merge_same_labels};
use crate::engine::context::{Evaluated, Exec, Sink};
use crate::functions::FunctionId as F;
use crate::plan::Node;
use gnomon_model::gofloat::General;
use gnomon_model::{Labels, LabelsBuilder};
use hashbrown::HashMap;

/// The columns of one histogram.
#[derive(Default)]
struct Family {
    classic: Vec<(f64, usize)>,
    native: Vec<usize>,
}

enum Wanted {
    /// A quantile a step, and the value of the label that tells it (histogram_quantiles).
    Quantile {
        quantiles: Vec<f64>,
        label: Option<(String, String)>,
    },
    Fraction {
        lower: Vec<f64>,
        upper: Vec<f64>,
    },
}

/// As OpenMetrics writes a quantile: `0.5`, `1.0`.
fn label_value(q: f64) -> String {
    let text = General(q).to_string();
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        text + ".0"
    } else {
        text
    }
}

fn parse_bound(le: &str) -> Option<f64> {
    if le.is_empty() { None } else { crate::parse_float(le) }
}

impl Exec<'_> {
    pub(super) fn buckets(&self, func: F, args: &[Node], node: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let vector = arg(
            args,
            match func {
                F::HistogramQuantile => 1,
                F::HistogramFraction => 2,
                _ => 0,
            },
        )?;
        let collected = self.collect(vector)?;
        let columns = &collected.columns;
        let families = self.families(columns, vector);
        let mut all = Vec::new();
        for (wanted, parameter) in self.wanted(func, args)? {
            if let Wanted::Quantile { quantiles, .. } = &wanted {
                for q in quantiles.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
                    self.notes.invalid_quantile(parameter, *q);
                }
            }
            all.push(wanted);
        }
        let mut out = Vec::new();
        let mut held = self.hold(0)?;
        for wanted in &all {
            for (labels, family) in &families {
                self.check()?;
                let column = self.family(wanted, labels, family, columns, node.grid.n, vector.span);
                if column.has_any() {
                    held.add_column(&column)?;
                    out.push(column);
                }
            }
        }
        for column in merge_same_labels(out)? {
            sink(column)?;
        }
        Ok(())
    }

    fn wanted(&self, func: F, args: &[Node]) -> Evaluated<Vec<(Wanted, Span)>> {
        let first = arg(args, 0)?;
        Ok(match func {
            F::HistogramQuantile => {
                vec![(
                    Wanted::Quantile {
                        quantiles: self.scalar(first)?,
                        label: None,
                    },
                    first.span,
                )]
            }
            F::HistogramFraction => {
                let (lower, upper) = (self.scalar(first)?, self.scalar(arg(args, 1)?)?);
                vec![(Wanted::Fraction { lower, upper }, first.span)]
            }
            _ => {
                let name = self.string(arg(args, 1)?)?;
                let mut all = Vec::new();
                for q in args.iter().skip(2) {
                    let quantiles = self.scalar(q)?;
                    let text = label_value(quantiles.first().copied().unwrap_or(f64::NAN));
                    all.push((
                        Wanted::Quantile {
                            quantiles,
                            label: Some((name.to_owned(), text)),
                        },
                        q.span,
                    ));
                }
                all
            }
        })
    }

    /// Brings the columns together that differ in `le` only, in the order in which they come up.
    fn families(&self, columns: &[Column], vector: &Node) -> Vec<(Labels, Family)> {
        let mut at: HashMap<Labels, usize> = HashMap::new();
        let mut families: Vec<(Labels, Family)> = Vec::new();
        let (mut natives, mut classics) = (Vec::new(), Vec::new());
        for (c, column) in columns.iter().enumerate() {
            let any = |wanted| column.kinds.contains(&wanted);
            let mut builder = LabelsBuilder::from_labels(column.labels.as_ref());
            let le = builder.get("le").to_owned();
            builder.remove("le");
            let without = builder.build();
            let mut family = |labels: Labels| {
                *at.entry(labels.clone()).or_insert_with(|| {
                    families.push((labels, Family::default()));
                    families.len() - 1
                })
            };
            if any(Kind::Histogram) {
                natives.push((family(column.labels.clone()), c));
            }
            if any(Kind::Float) {
                match parse_bound(&le) {
                    Some(bound) => {
                        classics.push((family(without), bound, c));
                    }
                    None => self
                        .notes
                        .bad_bucket_label(vector.span, column.labels.metric_name(), &le),
                }
            }
        }
        for (slot, c) in natives {
            families[slot].1.native.push(c);
        }
        for (slot, bound, c) in classics {
            families[slot].1.classic.push((bound, c));
        }
        families
    }

    fn result_labels(&self, wanted: &Wanted, labels: &Labels) -> Labels {
        let labels = if self.delayed() {
            labels.clone()
        } else {
            drop_name(labels)
        };
        match wanted {
            Wanted::Quantile {
                label: Some((label, value)),
                ..
            } => {
                let mut builder = LabelsBuilder::from_labels(labels.as_ref());
                builder.set(label, value);
                builder.build()
            }
            _ => labels,
        }
    }

    fn family(
        &self,
        wanted: &Wanted,
        labels: &Labels,
        family: &Family,
        columns: &[Column],
        n: usize,
        vector: Span,
    ) -> Column {
        let name = labels.metric_name();
        let mut out = Column::empty(self.result_labels(wanted, labels), n);
        out.drop_name = true;
        for i in 0..n {
            let native = family.native.iter().find_map(|c| match columns[*c].get(i) {
                Some(Point::Histogram(histogram)) => Some(histogram),
                _ => None,
            });
            let classic: Vec<ClassicBucket> = family
                .classic
                .iter()
                .filter_map(|(upper, c)| {
                    Some(ClassicBucket {
                        upper: *upper,
                        count: columns[*c].float(i)?,
                    })
                })
                .collect();
            let value = match (native, classic.is_empty()) {
                (None, true) => continue,
                (Some(_), false) => {
                    self.notes.mixed_classic_native(vector, name);
                    continue;
                }
                (Some(histogram), true) => match wanted {
                    Wanted::Quantile { quantiles, .. } => {
                        native::quantile(quantiles[i], histogram, &self.notes, vector, name)
                    }
                    Wanted::Fraction { lower, upper } => {
                        native::fraction(lower[i], upper[i], histogram, &self.notes, vector, name)
                    }
                },
                (None, false) => match wanted {
                    Wanted::Quantile { quantiles, .. } => {
                        let (value, forced) = classic::quantile(quantiles[i], classic);
                        if forced {
                            let shown = if self.delayed() { name } else { "" };
                            self.notes.forced_monotonicity(vector, shown);
                        }
                        value
                    }
                    Wanted::Fraction { lower, upper } => classic::fraction(lower[i], upper[i], classic),
                },
            };
            out.set_float(i, value);
        }
        out
    }
}
