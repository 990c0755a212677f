//! `metadata` and `targets/metadata`.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::fanout::Scope;
use crate::form::Form;
use crate::gojson::LabelsObject;
use crate::gonumber::go_integer;
use crate::router::Api;
use axum::extract::State;
use gnomon_model::labels::is_legacy_label_name;
use gnomon_model::re2::is_costly;
use gnomon_model::{LabelsRef, Matcher};
use gnomon_proto::v1;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A limit of this endpoint family: none where it is absent or negative.
fn lenient_limit(form: &Form, name: &str) -> Result<Option<usize>, ApiError> {
    match form.get(name) {
        "" => Ok(None),
        text => match go_integer(text) {
            Ok(limit) => Ok(usize::try_from(limit).ok()),
            Err(_) => Err(ApiError::bad_data(format!("{name} must be a number"))),
        },
    }
}

/// `/metadata`: what the shards know of each metric.
pub(super) async fn of_metrics(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let limit = lenient_limit(&form, "limit")?;
    let per_metric = lenient_limit(&form, "limit_per_metric")?.filter(|limit| *limit > 0);
    let scope = api.scope(&form)?;
    let (found, held) = api
        .gather(api.state.fanout.metadata(&scope, form.get("metric")))
        .await?;
    let cut: BTreeMap<_, Vec<_>> = found
        .into_iter()
        .take(limit.unwrap_or(usize::MAX))
        .map(|(metric, entries)| {
            (
                metric,
                entries.into_iter().take(per_metric.unwrap_or(usize::MAX)).collect(),
            )
        })
        .collect();
    Ok(Answer::of(&cut)?.holding(held).with_warnings(api.said(&scope)))
}

#[derive(Serialize)]
struct OfTarget<'a> {
    target: LabelsObject<'a>,
    /// Absent where one metric was asked for.
    #[serde(skip_serializing_if = "str::is_empty")]
    metric: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    help: &'a str,
    unit: &'a str,
}

/// `/targets/metadata`: what each target said in its last scrape.
pub(super) async fn of_targets(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let limit = lenient_limit(&form, "limit")?;
    let matchers = target_matchers(&api, form.get("match_target")).await?;
    let metric = form.get("metric");
    let request = v1::TargetMetadataRequest {
        match_target: for_scrapers(&matchers),
        metric: metric.to_owned(),
        // The limit is one over all scrapers.
        limit: 0,
    };
    let scope = api.scope(&form)?;
    let mut found = api.gather(target_metadata(&api, &scope, request)).await?;
    found.retain(|entry| {
        let labels = LabelsRef::from_canonical(&entry.target_labels);
        matchers.iter().all(|matcher| matcher.matches_labels(labels))
    });
    found.sort_by(|a, b| (&a.target_labels, &a.metric).cmp(&(&b.target_labels, &b.metric)));
    if let Some(limit) = limit {
        found.truncate(within(&found, limit));
    }
    let shown: Vec<_> = found
        .iter()
        .map(|entry| OfTarget {
            target: LabelsObject(LabelsRef::from_canonical(&entry.target_labels)),
            metric: if metric.is_empty() { &entry.metric } else { "" },
            kind: &entry.r#type,
            help: &entry.help,
            unit: &entry.unit,
        })
        .collect();
    Ok(Answer::of(&shown)?.with_warnings(api.said(&scope)))
}

/// The matchers of `match_target`, a metric selector, for the labels of targets: one with a metric name selects none of
/// them, as none has one.
async fn target_matchers(api: &Api, text: &str) -> Result<Vec<Matcher>, ApiError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let selector = text.to_owned();
    let parse = move || gnomon_promql::parse_selector(&selector);
    let parsed = api.reading(is_costly(text), api.state.query.timeout, parse).await?;
    parsed.map_err(|e| ApiError::parameter("match_target", e))
}

/// As scrapers read them, who know less of the language: what they would refuse is left out.
fn for_scrapers(matchers: &[Matcher]) -> String {
    let known = matchers.iter().filter(|matcher| is_legacy_label_name(matcher.name()));
    let known: Vec<_> = known.map(for_scraper).collect();
    format!("{{{}}}", known.join(","))
}

fn for_scraper(matcher: &Matcher) -> String {
    // All other characters stand for themselves.
    let value = matcher.value().replace('\\', r"\\").replace('"', r#"\""#);
    format!("{}{}\"{value}\"", matcher.name(), matcher.op())
}

/// How many entries are shown. As in Prometheus, what each target says is shown as a whole, and no further target once
/// there are as many as the limit.
fn within(entries: &[v1::TargetMetadata], limit: usize) -> usize {
    let targets = entries.chunk_by(|a, b| a.target_labels == b.target_labels);
    let shown = targets.scan(0, |before: &mut usize, target| {
        let is_shown = *before < limit;
        *before += target.len();
        is_shown.then_some(target.len())
    });
    shown.sum()
}

async fn target_metadata(
    api: &Api,
    scope: &Scope,
    request: v1::TargetMetadataRequest,
) -> Result<Vec<v1::TargetMetadata>, ApiError> {
    let answers = api.ask_scrapers(scope, |scraper| {
        let request = request.clone();
        async move { scraper.target_metadata(request).await }
    });
    Ok(answers
        .await?
        .into_iter()
        .flat_map(|(_, answer)| answer.metadata)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_are_asked_for_what_they_can_read() {
        for (selector, asked) in [
            ("up", r#"{__name__="up"}"#),
            ("{}", "{}"),
            ("{job='node'}", r#"{job="node"}"#),
            (
                r#"{job=~"a\\.b",instance!="x\"y\n",}"#,
                "{job=~\"a\\\\.b\",instance!=\"x\\\"y\n\"}",
            ),
            (r#"up{"a.b"!~"c"}"#, r#"{__name__="up"}"#),
        ] {
            let matchers = gnomon_promql::parse_selector(selector).unwrap();
            assert_eq!(for_scrapers(&matchers), asked, "{selector}");
        }
    }
}
