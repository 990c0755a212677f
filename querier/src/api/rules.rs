//! `rules`, `alerts`, `alertmanagers`: rules and alerting are not supported yet, so there are none.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::form::Form;
use serde::Serialize;

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

pub(super) async fn rules(form: Form) -> Result<Answer, ApiError> {
    let kind = form.get("type").to_lowercase();
    if !matches!(kind.as_str(), "" | "alert" | "record") {
        return Err(ApiError::parameter("type", format!("not supported value {kind:?}")));
    }
    Answer::of(&Rules { groups: [] })
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
