//! The endpoints below `/api/v1`.

mod admin;
mod exemplars;
mod features;
mod labels;
mod language;
mod metadata;
mod notifications;
mod openapi;
mod query;
mod relabel_steps;
mod result;
mod rules;
mod search;
mod self_metrics;
mod status;
mod syntax;
mod targets;

use crate::error::ApiError;
use crate::form::Form;
use crate::router::{Api, not_allowed};
use axum::extract::State;
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::{StatusCode, header};
use prometheus::{Encoder, TextEncoder};
use std::sync::Arc;

/// What is said, once, when an answer was cut by `limit`.
pub(crate) const TRUNCATED: &str = "results truncated due to limit";

/// A route for GET. Unlike axum's own it does not take HEAD: Prometheus does not.
fn get_alone<H: Handler<T, Arc<Api>>, T: 'static>(handler: H) -> MethodRouter<Arc<Api>> {
    refusing(get(handler), "GET, OPTIONS")
}

fn get_or_post<H: Handler<T, Arc<Api>>, T: 'static>(handler: H) -> MethodRouter<Arc<Api>> {
    refusing(get(handler.clone()).post(handler), "GET, OPTIONS, POST")
}

fn post_alone<H: Handler<T, Arc<Api>>, T: 'static>(handler: H) -> MethodRouter<Arc<Api>> {
    refusing(axum::routing::post(handler), "OPTIONS, POST")
}

/// A route that changes something.
fn post_or_put<H: Handler<T, Arc<Api>>, T: 'static>(handler: H) -> MethodRouter<Arc<Api>> {
    let methods = axum::routing::post(handler.clone()).put(handler);
    refusing(methods, "OPTIONS, POST, PUT")
}

fn refusing(methods: MethodRouter<Arc<Api>>, allowed: &'static str) -> MethodRouter<Arc<Api>> {
    let refuse = move || async move { not_allowed(allowed) };
    methods.head(refuse).fallback(refuse)
}

/// What every process says of itself.
pub(crate) fn own_routes() -> Vec<(&'static str, MethodRouter<Arc<Api>>)> {
    vec![
        ("/status/config", get_alone(status::config)),
        ("/status/flags", get_alone(status::flags)),
        ("/status/runtimeinfo", get_alone(status::runtime)),
        ("/status/buildinfo", get_alone(status::build)),
        ("/status/self_metrics", get_alone(self_metrics::self_metrics)),
    ]
}

/// What every process tells of the whole cluster: of its scrapers' targets, of its shards and blocks.
pub(crate) fn cluster_routes() -> Vec<(&'static str, MethodRouter<Arc<Api>>)> {
    vec![
        ("/targets", get_alone(targets::targets)),
        ("/targets/metadata", get_alone(metadata::of_targets)),
        ("/scrape_pools", get_alone(targets::pools)),
        ("/status/tsdb", get_alone(status::head)),
        ("/status/tsdb/blocks", get_alone(status::blocks)),
    ]
}

/// What a querier has besides.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<Arc<Api>>)> {
    vec![
        ("/query", get_or_post(query::instant)),
        ("/query_range", get_or_post(query::range)),
        ("/query_exemplars", get_or_post(exemplars::exemplars)),
        ("/format_query", get_or_post(query::format)),
        ("/parse_query", get_or_post(syntax::parse)),
        ("/search/metric_names", get_or_post(search::metric_names)),
        ("/search/label_names", get_or_post(search::label_names)),
        ("/search/label_values", get_or_post(search::label_values)),
        ("/read", post_alone(crate::remote_read::read)),
        ("/series", get_or_post(labels::series)),
        ("/labels", get_or_post(labels::names)),
        ("/label/{name}/values", get_alone(labels::values)),
        ("/metadata", get_alone(metadata::of_metrics)),
        ("/targets/relabel_steps", get_alone(relabel_steps::relabel_steps)),
        ("/rules", get_alone(rules::rules)),
        ("/alerts", get_alone(rules::alerts)),
        ("/alertmanagers", get_alone(rules::alertmanagers)),
        ("/features", get_alone(features::features)),
        ("/openapi.yaml", get_alone(openapi::document)),
    ]
}

/// What a querier tells before it is ready, too.
pub(crate) fn early_routes() -> Vec<(&'static str, MethodRouter<Arc<Api>>)> {
    vec![
        ("/notifications", get_alone(notifications::list)),
        ("/notifications/live", get_alone(notifications::live)),
        ("/status/walreplay", get_alone(status::wal_replay)),
        ("/admin/tsdb/delete_series", post_or_put(admin::delete_series)),
        ("/admin/tsdb/clean_tombstones", post_or_put(admin::clean_tombstones)),
        ("/admin/tsdb/snapshot", post_or_put(admin::snapshot)),
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

/// Whether a request wants an error rather than a partial answer: what `partial` (or `partial_response`, as Thanos has it)
/// says; where neither is there, what `--query.partial-response` does.
///
/// # Errors
/// When it is no boolean, in the forms that Go reads.
pub(crate) fn strict(form: &Form, partial_by_default: bool) -> Result<bool, ApiError> {
    for name in ["partial", "partial_response"] {
        match form.get(name) {
            "" => {}
            "1" | "t" | "T" | "TRUE" | "true" | "True" => return Ok(false),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => return Ok(true),
            other => {
                return Err(ApiError::parameter(
                    name,
                    format_args!("{other:?} is not true or false: false makes an error of what could not be read"),
                ));
            }
        }
    }
    Ok(!partial_by_default)
}
