//! `features`: what is there, by area and by Prometheus' names. What Prometheus has and gnomon has not is `false` or, where
//! that would be a whole list (templates' functions, most kinds of discovery), left out, which means the same.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::router::Api;
use crate::state::ApiState;
use axum::extract::State;
use gnomon_promql::features;
use std::collections::BTreeMap;
use std::sync::Arc;

type Area = BTreeMap<&'static str, bool>;

/// Kinds of service discovery that scrapers have.
const DISCOVERY: [&str; 2] = ["file", "static"];

/// Neither rules nor alerts are evaluated.
const RULES: [(&str, bool); 3] = [
    ("concurrent_rule_eval", false),
    ("keep_firing_for", false),
    ("query_offset", false),
];

const STORAGE: [(&str, bool); 5] = [
    ("delayed_compaction", false),
    ("exemplar_storage", true),
    // A query may see what some shards have of a scrape, and not yet what others have.
    ("isolation", false),
    ("native_histograms", true),
    ("use_uncached_io", false),
];

const PAGES: [(&str, bool); 2] = [("ui_v2", false), ("ui_v3", false)];

/// Whether a flag is set.
fn switch(state: &ApiState, flag: &str) -> bool {
    state.flags.get(flag).is_some_and(|value| value == "true")
}

/// Whether `--enable-feature` names it.
fn enabled(state: &ApiState, feature: &str) -> bool {
    let named = state.flags.get("enable-feature");
    named.is_some_and(|names| names.split(',').any(|name| name.trim() == feature))
}

fn of_api(state: &ApiState) -> Area {
    let remote_write = switch(state, "web.enable-remote-write-receiver") || enabled(state, "remote-write-receiver");
    let otlp = switch(state, "web.enable-otlp-receiver") || enabled(state, "otlp-write-receiver");
    Area::from([
        ("admin", switch(state, "web.enable-admin-api")),
        ("exclude_alerts", false),
        ("federation", true),
        ("label_values_match", true),
        ("lifecycle", switch(state, "web.enable-lifecycle")),
        ("openapi_3.1", true),
        ("openapi_3.2", true),
        ("otlp_write_receiver", otlp),
        ("query_exemplars", true),
        ("query_stats", true),
        ("query_warnings", true),
        ("remote_read", true),
        ("remote_write_receiver", remote_write),
        ("rule_group_limits", false),
        ("search", state.query.search.enabled),
        ("time_range_labels", true),
        ("time_range_series", true),
    ])
}

fn of_promql(state: &ApiState) -> Area {
    let query = &state.query;
    let mut area: Area = features::syntax(&query.language).collect();
    area.extend([
        ("delayed_name_removal", query.delayed_name_removal),
        ("experimental_functions", query.language.experimental_functions),
        ("per_query_lookback_delta", true),
        ("per_step_stats", query.per_step_stats),
        ("type_and_unit_labels", false),
    ]);
    area
}

fn of_server(state: &ApiState) -> Area {
    Area::from([
        ("agent_mode", false),
        ("auto_reload_config", enabled(state, "auto-reload-config")),
        ("server_mode", true),
    ])
}

fn of_scrapes(state: &ApiState) -> Area {
    let zeros = enabled(state, "created-timestamp-zero-ingestion");
    Area::from([
        ("extra_scrape_metrics", true),
        ("start_timestamp_zero_ingestion", zeros),
        ("type_and_unit_labels", false),
    ])
}

fn of_otlp(state: &ApiState) -> Area {
    let deltas = enabled(state, "otlp-native-delta-ingestion");
    Area::from([("delta_conversion", false), ("native_delta_ingestion", deltas)])
}

/// `/features`.
pub(super) async fn features(State(api): State<Arc<Api>>) -> Result<Answer, ApiError> {
    let state = &api.state;
    let language = &state.query.language;
    Answer::of(&BTreeMap::from([
        ("api", of_api(state)),
        ("otlp_receiver", of_otlp(state)),
        ("prometheus", of_server(state)),
        ("promql", of_promql(state)),
        ("promql_functions", features::functions(language).collect()),
        ("promql_operators", features::operators(language).collect()),
        ("rules", Area::from(RULES)),
        ("scrape", of_scrapes(state)),
        (
            "service_discovery_providers",
            Area::from(DISCOVERY.map(|kind| (kind, true))),
        ),
        ("tsdb", Area::from(STORAGE)),
        ("ui", Area::from(PAGES)),
    ]))
}
