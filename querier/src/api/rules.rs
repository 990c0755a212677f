//! `rules`, `alerts`, `alertmanagers`: rules and alerting are not supported yet, so there are none.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::form::Form;
use crate::router::Api;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Rules {
    groups: [(); 0],
}

#[derive(Serialize)]
struct Alerts {
    alerts: [(); 0],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Alertmanagers {
    active_alertmanagers: [(); 0],
    dropped_alertmanagers: [(); 0],
}

/// `/rules`; what it is asked for is checked as Prometheus does, in its order.
pub(super) async fn rules(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    form.require_whole()?;
    api.matcher_sets(&form).await?.map_err(ApiError::bad_data)?;
    let kind = form.get("type").to_lowercase();
    if !matches!(kind.as_str(), "" | "alert" | "record") {
        return Err(ApiError::parameter("type", format!("not supported value {kind:?}")));
    }
    let exclude = form.get("exclude_alerts").to_lowercase();
    if !matches!(exclude.as_str(), "" | "1" | "t" | "true" | "0" | "f" | "false") {
        let why = format!("error converting exclude_alerts: strconv.ParseBool: parsing {exclude:?}: invalid syntax");
        return Err(ApiError::parameter("exclude_alerts", why));
    }
    page(&form)?;
    Answer::of(&Rules { groups: [] })
}

/// Checks which page of the groups is asked for. There are no groups, so that no page follows another.
fn page(form: &Form) -> Result<(), ApiError> {
    let (limit, next) = (form.get("group_limit"), form.get("group_next_token"));
    if limit.is_empty() {
        if next.is_empty() {
            return Ok(());
        }
        let why = "group_limit needs to be present in order to paginate over the groups";
        return Err(ApiError::parameter("group_next_token", why));
    }
    let number = limit.parse::<i32>().map_err(|e| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let why = match e.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        let why = format!("group_limit needs to be a valid number: strconv.ParseInt: parsing {limit:?}: {why}");
        ApiError::parameter("group_limit", why)
    })?;
    if number <= 0 {
        return Err(ApiError::parameter(
            "group_limit",
            "group_limit needs to be greater than 0",
        ));
    }
    if !next.is_empty() {
        let why = format!("invalid group_next_token '{next}'. were rule groups changed?");
        return Err(ApiError::parameter("group_next_token", why));
    }
    Ok(())
}

pub(super) async fn alerts() -> Result<Answer, ApiError> {
    Answer::of(&Alerts { alerts: [] })
}

pub(super) async fn alertmanagers() -> Result<Answer, ApiError> {
    Answer::of(&Alertmanagers {
        active_alertmanagers: [],
        dropped_alertmanagers: [],
    })
}
