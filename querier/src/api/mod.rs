//! The endpoints below `/api/v1`.

mod exemplars;
mod labels;
mod metadata;
mod query;
mod result;
mod rules;
mod status;
mod targets;

use crate::router::Api;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::{StatusCode, header};
use prometheus::{Encoder, TextEncoder};
use std::sync::Arc;

/// What is said, once, when an answer was cut by `limit`.
pub(crate) const TRUNCATED: &str = "results truncated due to limit";

/// What every process says of itself.
pub(crate) fn own_routes() -> Vec<(&'static str, MethodRouter<Arc<Api>>)> {
    vec![
        ("/status/config", get(status::config)),
        ("/status/flags", get(status::flags)),
        ("/status/runtimeinfo", get(status::runtime)),
        ("/status/buildinfo", get(status::build)),
    ]
}

/// What a querier has besides.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<Arc<Api>>)> {
    vec![
        ("/query", get(query::instant).post(query::instant)),
        ("/query_range", get(query::range).post(query::range)),
        ("/query_exemplars", get(exemplars::exemplars).post(exemplars::exemplars)),
        ("/format_query", get(query::format).post(query::format)),
        ("/series", get(labels::series).post(labels::series)),
        ("/labels", get(labels::names).post(labels::names)),
        ("/label/{name}/values", get(labels::values)),
        ("/metadata", get(metadata::of_metrics)),
        ("/targets", get(targets::targets)),
        ("/targets/metadata", get(metadata::of_targets)),
        ("/scrape_pools", get(targets::pools)),
        ("/rules", get(rules::rules)),
        ("/alerts", get(rules::alerts)),
        ("/alertmanagers", get(rules::alertmanagers)),
        ("/notifications", get(rules::notifications)),
        ("/features", get(status::features)),
        ("/status/tsdb", get(status::head)),
        ("/status/walreplay", get(status::wal_replay)),
    ]
}

/// `/metrics`.
pub(crate) async fn own_metrics(State(api): State<Arc<Api>>) -> Response {
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&api.state.registry.gather(), &mut text) {
        Ok(()) => {
            let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (StatusCode::OK, content_type, text).into_response()
        }
        Err(error) => crate::router::plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("metrics cannot be shown: {error}\n"),
        ),
    }
}

/// Whether a request wants an error rather than a partial answer.
pub(crate) fn strict(form: &crate::form::Form) -> bool {
    matches!(
        form.get("partial_response"),
        "false" | "0" | "f" | "F" | "FALSE" | "False"
    )
}
