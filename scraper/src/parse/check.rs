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
    /// Of its samples' labels, but for those of a type that has them: bounds of buckets, quantiles.
    labels: Seen,
}

/// Labels that are reserved, or not named as they should be.
#[derive(Default)]
struct Seen {
    le: bool,
    quantile: bool,
    camel_case: bool,
}

impl Seen {
    fn note(&mut self, labels: LabelsRef<'_>) {
        for (name, _) in labels.iter() {
            self.le |= name == "le";
            self.quantile |= name == "quantile";
            self.camel_case |= is_camel_case(name);
        }
    }
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
                let labels = LabelsRef::from_canonical(&labels);
                let family = self.family_of(labels.metric_name()).to_owned();
                let family = self.at(&family, parser.entry_offset());
                family.sampled = true;
                family.labels.note(labels);
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

/// Types that a name should not have in it, whichever its own is.
const TYPES: [&str; 5] = ["counter", "gauge", "summary", "histogram", "gauge_histogram"];

/// Units that metrics are to be in, by what they are in place of.
static BASE_UNITS: [(&str, &[&str]); 10] = [
    ("seconds", &["minutes", "hours", "days", "weeks"]),
    ("bytes", &["bits"]),
    ("celsius", &["fahrenheit", "rankine"]),
    ("kelvin", &["kelvins"]),
    ("meters", &["inches", "yards", "miles"]),
    ("metres", &[]),
    ("grams", &["pounds", "ounces"]),
    ("joules", &["calories"]),
    ("amperes", &[]),
    ("volts", &[]),
];

const UNIT_PREFIXES: [&str; 18] = [
    "pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "kibi", "mega", "mibi", "giga", "gibi",
    "tera", "tebi", "peta", "pebi",
];

const ABBREVIATED_UNITS: [&str; 14] = [
    "s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d",
];

/// What promtool finds (`check metrics`, 2.42), each once for a metric.
fn lints(name: &str, family: &Family) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |holds: bool, text: &str| {
        if holds {
            found.push(text.to_owned());
        }
    };
    say(!family.help, "no help text");
    let kind = family.kind.unwrap_or_default();
    let (is_counter, is_untyped) = (kind == MetricKind::Counter, kind == MetricKind::Unknown);
    let is_total = name.ends_with("_total");
    say(is_counter && !is_total, "counter metrics should have \"_total\" suffix");
    say(
        !is_counter && !is_untyped && is_total,
        "non-counter metrics should not have \"_total\" suffix",
    );
    if !is_untyped {
        let is_histogram = matches!(kind, MetricKind::Histogram | MetricKind::GaugeHistogram);
        let is_summary = kind == MetricKind::Summary;
        say(
            !is_histogram && name.ends_with("_bucket"),
            "non-histogram metrics should not have \"_bucket\" suffix",
        );
        for suffix in ["_count", "_sum"] {
            say(
                !is_histogram && !is_summary && name.ends_with(suffix),
                &format!("non-histogram and non-summary metrics should not have {suffix:?} suffix"),
            );
        }
        let labels = &family.labels;
        say(
            !is_histogram && labels.le,
            "non-histogram metrics should not have \"le\" label",
        );
        say(
            !is_summary && labels.quantile,
            "non-summary metrics should not have \"quantile\" label",
        );
    }
    say(name.contains(':'), "metric names should not contain ':'");
    say(
        is_camel_case(name),
        "metric names should be written in 'snake_case' not 'camelCase'",
    );
    say(
        family.labels.camel_case,
        "label names should be written in 'snake_case' not 'camelCase'",
    );
    let lower = name.to_ascii_lowercase();
    for kind in TYPES {
        say(
            has_word(&lower, kind),
            &format!("metric name should not include type '{kind}'"),
        );
    }
    if let Some((unit, base)) = name.split('_').find_map(unit_in_place_of_base) {
        say(true, &format!("use base unit {base:?} instead of {unit:?}"));
    }
    say(
        ABBREVIATED_UNITS.iter().any(|unit| has_word(&lower, unit)),
        "metric names should not contain abbreviated units",
    );
    found
}

fn is_camel_case(name: &str) -> bool {
    let mut pairs = name.as_bytes().windows(2);
    pairs.any(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
}

/// Whether `word`, of which there may be `_` in it, stands in the name after its first word.
fn has_word(name: &str, word: &str) -> bool {
    let ends = |at: usize| matches!(name.as_bytes().get(at + word.len()), None | Some(b'_'));
    name.match_indices(word)
        .any(|(at, _)| name[..at].ends_with('_') && ends(at))
}

/// A word that is a unit, and the one to be used in its place; none where it is that, or no unit.
fn unit_in_place_of_base(word: &str) -> Option<(&str, &'static str)> {
    let is = |unit: &str| {
        let prefix = word.strip_suffix(unit);
        prefix.is_some_and(|prefix| prefix.is_empty() || UNIT_PREFIXES.contains(&prefix))
    };
    let found = BASE_UNITS
        .iter()
        .find(|(base, others)| is(base) || others.iter().any(|other| is(other)));
    let (base, _) = found.filter(|(base, _)| *base != word)?;
    Some((word, *base))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As promtool 2.42 has them.
    #[test]
    fn lints_are_those_of_promtool() {
        let text = "\
# HELP my_histogram_x A.
# TYPE my_histogram_x gauge
my_histogram_x 1
# HELP a_milliseconds A.
# TYPE a_milliseconds gauge
a_milliseconds{le=\"1\"} 1
a_milliseconds{le=\"2\",aB=\"1\"} 1
# HELP b_gauge_histogram A.
# TYPE b_gauge_histogram untyped
b_gauge_histogram{le=\"1\"} 1
# HELP c_ms A.
# TYPE c_ms gauge
c_ms 1
# HELP d_bucket A.
# TYPE d_bucket summary
d_bucket{quantile=\"1\",le=\"1\"} 1
d_bucket_sum 1
d_bucket_count 1
# HELP e_days_bytes A.
# TYPE e_days_bytes counter
e_days_bytes{quantile=\"1\"} 1
# HELP x_counters A.
# TYPE x_counters gauge
x_counters 1
# HELP f_MILLISECONDS A.
# TYPE f_MILLISECONDS gauge
f_MILLISECONDS 1
# HELP f_MS A.
# TYPE f_MS gauge
f_MS 1
# HELP kibibytes A.
# TYPE kibibytes gauge
kibibytes 1
# HELP g_GAUGE_x A.
# TYPE g_GAUGE_x gauge
g_GAUGE_x 1
# HELP ok_thermometers A.
# TYPE ok_thermometers histogram
ok_thermometers_bucket{le=\"+Inf\"} 1
ok_thermometers_sum 1
ok_thermometers_count 1
";
        let problems = check_metrics(text.as_bytes(), false);
        assert!(problems.iter().all(|problem| problem.severity == Severity::Lint));
        let mut found: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
        found.sort_unstable();
        let expected = [
            "a_milliseconds label names should be written in 'snake_case' not 'camelCase'",
            "a_milliseconds non-histogram metrics should not have \"le\" label",
            "a_milliseconds use base unit \"seconds\" instead of \"milliseconds\"",
            "b_gauge_histogram metric name should not include type 'gauge'",
            "b_gauge_histogram metric name should not include type 'gauge_histogram'",
            "b_gauge_histogram metric name should not include type 'histogram'",
            "c_ms metric names should not contain abbreviated units",
            "d_bucket non-histogram metrics should not have \"_bucket\" suffix",
            "d_bucket non-histogram metrics should not have \"le\" label",
            "e_days_bytes counter metrics should have \"_total\" suffix",
            "e_days_bytes non-summary metrics should not have \"quantile\" label",
            "e_days_bytes use base unit \"seconds\" instead of \"days\"",
            "f_MS metric names should not contain abbreviated units",
            "g_GAUGE_x metric name should not include type 'gauge'",
            "kibibytes use base unit \"bytes\" instead of \"kibibytes\"",
            "my_histogram_x metric name should not include type 'histogram'",
        ];
        assert_eq!(found, expected);
    }
}
