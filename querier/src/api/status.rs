//! `status/*`.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::form::Form;
use crate::gonumber::go_integer;
use crate::instant::{Rfc3339, or_zero_time};
use crate::router::Api;
use crate::state::PROMETHEUS_API_VERSION;
use axum::extract::State;
use gnomon_proto::v1::{HeadStatsResponse, NameCount};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows of each list of `status/tsdb`, as Prometheus.
const DEFAULT_ROWS: i64 = 10;
const MAX_ROWS: i64 = 10_000;

#[derive(Serialize)]
struct Config {
    yaml: String,
}

/// `/status/config`.
pub(super) async fn config(State(api): State<Arc<Api>>) -> Result<Answer, ApiError> {
    let yaml = api.state.node.config().yaml;
    Answer::of(&Config { yaml })
}

/// `/status/flags`.
pub(super) async fn flags(State(api): State<Arc<Api>>) -> Result<Answer, ApiError> {
    Answer::of(&api.state.flags)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    start_time: String,
    #[serde(rename = "CWD")]
    working_directory: String,
    hostname: String,
    server_time: String,
    reload_config_success: bool,
    last_config_time: String,
    corruption_count: u64,
    /// Threads, here.
    goroutine_count: u64,
    #[serde(rename = "GOMAXPROCS")]
    processors: u64,
    #[serde(rename = "GOMEMLIMIT")]
    memory_limit: i64,
    #[serde(rename = "GOGC")]
    gogc: &'static str,
    #[serde(rename = "GODEBUG")]
    godebug: &'static str,
    storage_retention: String,
    /// For the page at `/`.
    gnomon_roles: Vec<String>,
}

/// `/status/runtimeinfo`.
pub(super) async fn runtime(State(api): State<Arc<Api>>) -> Result<Answer, ApiError> {
    let (runtime, config) = (api.state.node.runtime(), api.state.node.config());
    Answer::of(&Runtime {
        start_time: or_zero_time(runtime.started_at_ms),
        working_directory: runtime.working_directory,
        hostname: runtime.hostname,
        server_time: Rfc3339(api.state.clock.now().0).to_string(),
        reload_config_success: config.reload_successful,
        last_config_time: or_zero_time(config.reloaded_at_ms),
        corruption_count: runtime.corruptions,
        goroutine_count: runtime.threads,
        processors: runtime.processors,
        // What Go shows where there is no limit.
        memory_limit: i64::MAX,
        gogc: "",
        godebug: "",
        storage_retention: runtime.storage_retention,
        gnomon_roles: runtime.roles,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Build<'a> {
    version: &'static str,
    revision: &'a str,
    branch: &'a str,
    build_user: &'a str,
    build_date: &'a str,
    go_version: &'a str,
    gnomon_version: &'a str,
}

/// `/status/buildinfo`.
pub(super) async fn build(State(api): State<Arc<Api>>) -> Result<Answer, ApiError> {
    let build = &api.state.build;
    Answer::of(&Build {
        version: PROMETHEUS_API_VERSION,
        revision: &build.revision,
        branch: &build.branch,
        build_user: &build.build_user,
        build_date: &build.build_date,
        go_version: &build.rust_version,
        gnomon_version: &build.version,
    })
}

#[derive(Serialize)]
struct WalReplay {
    min: u64,
    max: u64,
    current: u64,
}

/// `/status/walreplay`: requests are served only when there is nothing left to replay.
pub(super) async fn wal_replay() -> Result<Answer, ApiError> {
    Answer::of(&WalReplay {
        min: 0,
        max: 0,
        current: 0,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    head_stats: HeadStats,
    series_count_by_metric_name: Vec<Row>,
    label_value_count_by_label_name: Vec<Row>,
    memory_in_bytes_by_label_name: Vec<Row>,
    series_count_by_label_value_pair: Vec<Row>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeadStats {
    num_series: u64,
    num_label_pairs: u64,
    chunk_count: u64,
    min_time: i64,
    max_time: i64,
}

#[derive(Serialize)]
struct Row {
    name: String,
    value: u64,
}

/// The largest of each shard's largest, put together by `join`.
fn top(lists: impl Iterator<Item = Vec<NameCount>>, rows: usize, join: fn(u64, u64) -> u64) -> Vec<Row> {
    let mut by_name = HashMap::<String, u64>::new();
    for NameCount { name, value } in lists.flatten() {
        by_name
            .entry(name)
            .and_modify(|sum| *sum = join(*sum, value))
            .or_insert(value);
    }
    let mut all: Vec<_> = by_name.into_iter().map(|(name, value)| Row { name, value }).collect();
    all.sort_by(|a, b| b.value.cmp(&a.value).then_with(|| a.name.cmp(&b.name)));
    all.truncate(rows);
    all
}

/// `/status/tsdb`: the heads of all shards.
pub(super) async fn head(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let rows = match form.get("limit") {
        "" => DEFAULT_ROWS,
        text => go_integer(text)
            .ok()
            .filter(|rows| *rows >= 1)
            .ok_or_else(|| ApiError::bad_data("limit must be a positive number"))?,
    };
    if rows > MAX_ROWS {
        return Err(ApiError::bad_data(format!("limit must not exceed {MAX_ROWS}")));
    }
    let scope = api.scope(&form)?;
    let heads = api.gather(api.state.fanout.head_stats(&scope, rows as u32)).await?;
    let sum = |count: fn(&HeadStatsResponse) -> u64| heads.iter().map(count).sum();
    let filled = || heads.iter().filter(|head| head.series > 0);
    let lists = |of: fn(&HeadStatsResponse) -> &Vec<NameCount>| heads.iter().map(move |head| of(head).clone());
    let rows = rows as usize;
    let shown = Head {
        head_stats: HeadStats {
            num_series: sum(|h| h.series),
            num_label_pairs: sum(|h| h.label_pairs),
            chunk_count: sum(|h| h.pages),
            min_time: filled().map(|h| h.min_ms).min().unwrap_or(i64::MAX),
            max_time: filled().map(|h| h.max_ms).max().unwrap_or(i64::MIN),
        },
        series_count_by_metric_name: top(lists(|h| &h.series_count_by_metric_name), rows, u64::saturating_add),
        // Values of a label are in several shards: of these counts the largest is the best that is known.
        label_value_count_by_label_name: top(lists(|h| &h.label_value_count_by_label_name), rows, u64::max),
        memory_in_bytes_by_label_name: top(lists(|h| &h.memory_bytes_by_label_name), rows, u64::saturating_add),
        series_count_by_label_value_pair: top(lists(|h| &h.series_count_by_label_pair), rows, u64::saturating_add),
    };
    Ok(Answer::of(&shown)?.with_warnings(api.said(&scope)))
}

#[derive(Serialize)]
struct Blocks {
    blocks: Vec<Block>,
}

/// As the `meta.json` of Prometheus' blocks.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    ulid: String,
    min_time: i64,
    max_time: i64,
    stats: BlockStats,
    compaction: BlockCompaction,
    version: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockStats {
    num_samples: u64,
    num_series: u64,
}

#[derive(Serialize)]
struct BlockCompaction {
    level: u32,
    sources: Vec<String>,
}

/// `/status/tsdb/blocks`: what the catalogue has.
pub(super) async fn blocks(State(api): State<Arc<Api>>) -> Result<Answer, ApiError> {
    let live = api.gather(api.state.fanout.live_blocks()).await?;
    let shown = |block: gnomon_proto::v1::BlockRecord| Block {
        min_time: block.start_ms,
        max_time: block.end_ms,
        stats: BlockStats {
            num_samples: block.samples,
            num_series: block.series,
        },
        compaction: BlockCompaction {
            level: block.level,
            sources: vec![block.id.clone()],
        },
        ulid: block.id,
        version: 1,
    };
    Answer::of(&Blocks {
        blocks: live.into_iter().map(shown).collect(),
    })
}
