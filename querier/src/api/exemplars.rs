//! `query_exemplars`.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::form::Form;
use crate::json::Json;
use crate::params;
use crate::router::Api;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use gnomon_promql::{EvalParams, Plan};
use http::StatusCode;
use std::sync::Arc;

pub(super) async fn exemplars(State(api): State<Arc<Api>>, form: Form) -> Result<Response, ApiError> {
    let window = params::window(&form)?;
    if window.end_ms < window.start_ms {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let query = form.get("query");
    let expr = api.parse(query, api.state.query.timeout).await?;
    let expr = expr.map_err(ApiError::bad_data)?;
    // Only the selectors are of interest, whatever the time.
    let plan = Plan::new(query, &expr, EvalParams::instant(0)).map_err(|e| ApiError::bad_data(e.to_string()))?;
    let sets: Vec<_> = plan.selectors().iter().map(|s| s.matchers.clone()).collect();
    if sets.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let scope = api.scope(&form)?;
    let found = api
        .state
        .fanout
        .exemplars(&scope, &sets, window.start_ms, window.end_ms);
    let (found, held) = api.gather(found).await?;
    let write = move |json: &mut Json| {
        json.raw("[");
        for (i, (labels, exemplars)) in found.iter().filter(|(_, list)| !list.is_empty()).enumerate() {
            json.raw(if i > 0 {
                r#",{"seriesLabels":"#
            } else {
                r#"{"seriesLabels":"#
            });
            json.labels(labels.as_ref());
            json.raw(r#","exemplars":["#);
            json.list(exemplars, |json, exemplar| {
                json.raw(r#"{"labels":"#);
                json.labels(exemplar.labels.as_ref());
                json.raw(r#","value":"#);
                json.value(exemplar.value);
                json.raw(r#","timestamp":"#);
                json.timestamp(exemplar.timestamp_ms);
                json.raw("}");
            })?;
            json.raw("]}");
        }
        json.raw("]");
        Ok(())
    };
    let answer = Answer::new(true, Box::new(write));
    Ok(answer.holding(held).with_warnings(api.said(&scope)).into_response())
}
