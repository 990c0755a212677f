//! `gnomon check metrics`: says what is wrong with an exposition.

use super::{EntryKind, MetricKind, Parser, TextParser, line_of, strict};
use gnomon_model::LabelsRef;
use std::collections::HashMap;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The exposition is refused.
    Error,
    /// It is taken, but goes against the conventions of metric names.
    Lint,
}

/// One thing wrong with an exposition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1; 0 where it concerns no line.
    pub line: usize,
    pub severity: Severity,
    pub message: String,
}

/// Checks an exposition: with `strict` as OpenMetrics 1.0 text by the letter of its specification, else as Prometheus
/// text, with lints of the naming conventions (<https://prometheus.io/docs/practices/naming/>).
#[must_use]
pub fn check_metrics(input: &[u8], strict: bool) -> Vec<Problem> {
    let error = |e: &super::ParseError| Problem {
        line: e.line(input),
        severity: Severity::Error,
        message: e.message.clone(),
    };
    if strict {
        return strict::check(input).err().iter().map(error).collect();
    }
    let mut families = Families::default();
    let mut parser = TextParser::new(input);
    loop {
        match parser.next_entry() {
            Ok(None) => break,
            Ok(Some(kind)) => {
                if let Err(e) = families.note(kind, &parser) {
                    return vec![error(&e)];
                }
            }
            Err(e) => return vec![error(&e)],
        }
    }
    families.lint(input)
}

#[derive(Default)]
struct Families {
    order: Vec<String>,
    known: HashMap<String, Family>,
}

#[derive(Default)]
struct Family {
    offset: usize,
    kind: Option<MetricKind>,
    help: bool,
    sampled: bool,
}

impl Families {
    fn note(&mut self, kind: EntryKind, parser: &TextParser<'_>) -> Result<(), super::ParseError> {
        match kind {
            EntryKind::Type => {
                let declared = parser.kind();
                self.at(&parser.family(), parser.entry_offset()).kind = Some(declared);
            }
            EntryKind::Help => {
                let says = !parser.text().is_empty();
                self.at(&parser.family(), parser.entry_offset()).help |= says;
            }
            EntryKind::Sample => {
                let mut labels = Vec::new();
                parser.write_labels(&mut labels)?;
                let name = LabelsRef::from_canonical(&labels).metric_name();
                let family = self.family_of(name).to_owned();
                self.at(&family, parser.entry_offset()).sampled = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn at(&mut self, name: &str, offset: usize) -> &mut Family {
        if !self.known.contains_key(name) {
            self.order.push(name.to_owned());
        }
        self.known.entry(name.to_owned()).or_insert_with(|| Family {
            offset,
            ..Family::default()
        })
    }

    /// The family a sample belongs to: histograms and summaries have suffixes.
    fn family_of<'n>(&self, sample: &'n str) -> &'n str {
        for suffix in ["_bucket", "_count", "_sum"] {
            let Some(stem) = sample.strip_suffix(suffix) else {
                continue;
            };
            let kind = self.known.get(stem).and_then(|f| f.kind);
            if matches!(kind, Some(MetricKind::Histogram | MetricKind::Summary)) {
                return stem;
            }
        }
        sample
    }

    fn lint(&self, input: &[u8]) -> Vec<Problem> {
        let mut problems = Vec::new();
        for name in &self.order {
            let Some(family) = self.known.get(name) else { continue };
            if !family.sampled {
                continue;
            }
            for text in lints(name, family) {
                problems.push(Problem {
                    line: line_of(input, family.offset),
                    severity: Severity::Lint,
                    message: format!("{name} {text}"),
                });
            }
        }
        problems
    }
}

fn lints(name: &str, family: &Family) -> Vec<String> {
    let mut found = Vec::new();
    if !family.help {
        found.push("no help text".to_owned());
    }
    let kind = family.kind.unwrap_or_default();
    match kind {
        MetricKind::Counter if !name.ends_with("_total") => {
            found.push("counter metrics should have \"_total\" suffix".to_owned());
        }
        MetricKind::Counter | MetricKind::Unknown => {}
        _ if name.ends_with("_total") => {
            found.push("non-counter metrics should not have \"_total\" suffix".to_owned());
        }
        _ => {}
    }
    if !matches!(kind, MetricKind::Histogram | MetricKind::Summary | MetricKind::Unknown) {
        for suffix in ["_bucket", "_count", "_sum"] {
            if name.ends_with(suffix) {
                found.push(format!(
                    "non-histogram and non-summary metrics should not have {suffix:?} suffix"
                ));
            }
        }
    }
    if kind != MetricKind::Unknown && name.contains(&format!("_{}", kind.as_str())) {
        found.push(format!("metric name should not include type '{}'", kind.as_str()));
    }
    if name.contains(':') {
        found.push("metric names should not contain ':'".to_owned());
    }
    let camel = name
        .as_bytes()
        .windows(2)
        .any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase());
    if camel {
        found.push("metric names should be written in 'snake_case' not 'camelCase'".to_owned());
    }
    found
}
