//! `targets/relabel_steps`: what the rules of a scrape pool make of the labels of a discovered target, rule by rule.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::form::Form;
use crate::gojson::LabelsObject;
use crate::router::Api;
use axum::extract::State;
use gnomon_model::relabel::{RelabelConfig, process};
use gnomon_model::{Labels, LabelsBuilder};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Serialize)]
struct Steps<'a> {
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    rule: Rule<'a>,
    /// None once the target is dropped.
    output: LabelsObject<'a>,
    keep: bool,
}

/// As in the configuration file.
#[derive(Serialize)]
struct Rule<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    source_labels: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    separator: &'a str,
    regex: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    modulus: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    target_label: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    replacement: &'a str,
    action: &'static str,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The signature that serde asks for.
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn shown(rule: &RelabelConfig) -> Rule<'_> {
    Rule {
        source_labels: &rule.source_labels,
        separator: &rule.separator,
        regex: rule.regex.source(),
        modulus: rule.modulus,
        target_label: &rule.target_label,
        replacement: &rule.replacement,
        action: rule.action.name(),
    }
}

/// The labels behind each rule, and whether the target is kept so far.
fn outputs(labels: &BTreeMap<String, String>, rules: &[RelabelConfig]) -> Vec<(Labels, bool)> {
    let mut builder = LabelsBuilder::default();
    for (name, value) in labels {
        builder.set(name, value);
    }
    let mut keep = true;
    let step = |rule: &RelabelConfig| {
        keep = keep && process(&mut builder, std::slice::from_ref(rule));
        let output = if keep { builder.build() } else { Labels::empty() };
        (output, keep)
    };
    rules.iter().map(step).collect()
}

/// `/targets/relabel_steps`.
pub(super) async fn relabel_steps(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let pool = form.get("scrapePool");
    if pool.is_empty() {
        return Err(ApiError::bad_data("no scrapePool parameter provided"));
    }
    let labels = form.get("labels");
    if labels.is_empty() {
        return Err(ApiError::bad_data("no labels parameter provided"));
    }
    let labels: BTreeMap<String, String> =
        serde_json::from_str(labels).map_err(|e| ApiError::bad_data(format!("error parsing labels: {e}")))?;
    let relabelling = api.state.node.config().relabelling;
    let rules = relabelling.get(pool).ok_or_else(|| {
        ApiError::bad_data(format!(
            "error retrieving scrape config: scrape pool {pool:?} not found"
        ))
    })?;
    let outputs = outputs(&labels, rules);
    let steps = rules.iter().zip(&outputs).map(|(rule, (output, keep))| Step {
        rule: shown(rule),
        output: LabelsObject(output.as_ref()),
        keep: *keep,
    });
    Answer::of(&Steps { steps: steps.collect() })
}
