//! Warnings and infos: texts and places as in Prometheus' `util/annotations`.

use crate::ast::Span;
use gnomon_model::gofloat::General;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Which operation on histograms is spoken of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Addition,
    Subtraction,
    Aggregation,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::Addition => "addition",
            Self::Subtraction => "subtraction",
            Self::Aggregation => "aggregation",
        }
    }
}

/// What is to be said about a result, and about which place of the query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// A warning rather than an info.
    pub is_warning: bool,
    /// Byte offset into the query.
    pub at: usize,
    pub text: String,
}

/// Collects notes, each once.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    warnings: RefCell<BTreeSet<(usize, String)>>,
    infos: RefCell<BTreeSet<(usize, String)>>,
    query: String,
}

/// Texts that are kept; a query over many metrics could otherwise collect one each without end.
const MAX_NOTES: usize = 1000;

fn named(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!(" for metric name {name:?}")
    }
}

impl Notes {
    pub(crate) fn new(query: &str) -> Self {
        Self {
            query: query.to_owned(),
            ..Self::default()
        }
    }

    /// Warnings and infos, whole and sorted.
    pub(crate) fn into_texts(self) -> (Vec<String>, Vec<String>) {
        let texts = |kind: &str, set: RefCell<BTreeSet<(usize, String)>>| {
            let whole = |(at, text): (usize, String)| {
                let place = Span::new(at, at).line_column(&self.query);
                format!("PromQL {kind}: {text} ({place})")
            };
            let texts: BTreeSet<String> = set.into_inner().into_iter().map(whole).collect();
            texts.into_iter().collect()
        };
        (texts("warning", self.warnings), texts("info", self.infos))
    }

    /// Takes out what was noted so far.
    pub(crate) fn take(&self) -> Vec<Note> {
        let note = |is_warning| move |(at, text)| Note { is_warning, at, text };
        let warnings = self.warnings.take().into_iter().map(note(true));
        warnings.chain(self.infos.take().into_iter().map(note(false))).collect()
    }

    pub(crate) fn add(&self, note: Note) {
        let set = if note.is_warning { &self.warnings } else { &self.infos };
        let mut set = set.borrow_mut();
        if set.len() < MAX_NOTES {
            set.insert((note.at, note.text));
        }
    }

    fn warn(&self, span: Span, text: &str) {
        self.add(Note {
            is_warning: true,
            at: span.start,
            text: text.to_owned(),
        });
    }

    fn info(&self, span: Span, text: &str) {
        self.add(Note {
            is_warning: false,
            at: span.start,
            text: text.to_owned(),
        });
    }

    pub(crate) fn invalid_quantile(&self, span: Span, q: f64) {
        self.warn(
            span,
            &format!("quantile value should be between 0 and 1, got {}", General(q)),
        );
    }

    pub(crate) fn invalid_ratio(&self, span: Span, ratio: f64, capped: f64) {
        let (ratio, capped) = (General(ratio), General(capped));
        self.warn(
            span,
            &format!("ratio value should be between -1 and 1, got {ratio}, capping to {capped}"),
        );
    }

    pub(crate) fn bad_bucket_label(&self, span: Span, name: &str, le: &str) {
        self.warn(
            span,
            &format!(
                "bucket label \"le\" is missing or has a malformed value of {le:?}{}",
                named(name)
            ),
        );
    }

    pub(crate) fn mixed_floats_histograms(&self, span: Span, name: &str) {
        self.warn(
            span,
            &format!("encountered a mix of histograms and floats for metric name {name:?}"),
        );
    }

    pub(crate) fn mixed_in_aggregation(&self, span: Span) {
        self.warn(span, "encountered a mix of histograms and floats for aggregation");
    }

    pub(crate) fn mixed_classic_native(&self, span: Span, name: &str) {
        self.warn(
            span,
            &format!("vector contains a mix of classic and native histograms{}", named(name)),
        );
    }

    pub(crate) fn not_counter(&self, span: Span, name: &str) {
        self.warn(
            span,
            &format!("this native histogram metric is not a counter: {name:?}"),
        );
    }

    pub(crate) fn not_gauge(&self, span: Span, name: &str) {
        self.warn(span, &format!("this native histogram metric is not a gauge: {name:?}"));
    }

    pub(crate) fn mixed_exponential_custom(&self, span: Span, name: &str) {
        self.warn(
            span,
            &format!("vector contains a mix of histograms with exponential and custom buckets schemas for metric name {name:?}"),
        );
    }

    pub(crate) fn incompatible_layout(&self, span: Span, operator: &str) {
        self.warn(
            span,
            &format!("incompatible bucket layout encountered for binary operator {operator}"),
        );
    }

    pub(crate) fn reset_collision(&self, span: Span, operation: Operation) {
        self.warn(
            span,
            &format!("conflicting counter resets during histogram {}", operation.name()),
        );
    }

    pub(crate) fn possible_non_counter(&self, span: Span, name: &str) {
        self.info(
            span,
            &format!("metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name:?}"),
        );
    }

    pub(crate) fn forced_monotonicity(&self, span: Span, name: &str) {
        self.info(
            span,
            &format!(
                "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile){}",
                named(name)
            ),
        );
    }

    pub(crate) fn incompatible_types(&self, span: Span, lhs: &str, operator: &str, rhs: &str) {
        self.info(
            span,
            &format!("incompatible sample types encountered for binary operator {operator:?}: {lhs} {operator} {rhs}"),
        );
    }

    pub(crate) fn histogram_ignored(&self, span: Span, aggregation: &str) {
        self.info(span, &format!("ignored histogram in {aggregation} aggregation"));
    }

    pub(crate) fn histogram_ignored_in_range(&self, span: Span, name: &str) {
        self.info(
            span,
            &format!("ignored histograms in a range containing both floats and histograms for metric name {name:?}"),
        );
    }

    pub(crate) fn quantile_is_nan(&self, span: Span, name: &str) {
        self.info(
            span,
            &format!(
                "input to histogram_quantile has NaN observations, result is NaN{}",
                named(name)
            ),
        );
    }

    pub(crate) fn quantile_is_skewed(&self, span: Span, name: &str) {
        self.info(
            span,
            &format!(
                "input to histogram_quantile has NaN observations, result is skewed higher{}",
                named(name)
            ),
        );
    }

    pub(crate) fn fraction_has_nan(&self, span: Span, name: &str) {
        self.info(
            span,
            &format!(
                "input to histogram_fraction has NaN observations, which are excluded from all fractions{}",
                named(name)
            ),
        );
    }

    pub(crate) fn bounds_reconciled(&self, span: Span, operation: Operation) {
        self.info(
            span,
            &format!("mismatched custom buckets were reconciled during {}", operation.name()),
        );
    }
}
