//! `search/metric_names`, `search/label_names`, `search/label_values`: names found by a part of them, best first where
//! that is asked for, as lines of JSON.

mod score;

use super::labels::ENTRY_BYTES;
use crate::answer::text_response;
use crate::error::{ApiError, ErrorType};
use crate::fanout::Metadata;
use crate::form::Form;
use crate::gojson;
use crate::gonumber::go_integer;
use crate::json::{Gone, Json};
use crate::params::{self, Window};
use crate::router::Api;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use gnomon_model::METRIC_NAME;
use gnomon_promql::Reserved;
use score::{Algorithm, Search};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const CONTENT_TYPE: &str = "application/x-ndjson; charset=utf-8";
const HOUR_MS: i64 = 3_600_000;
const DEFAULT_LIMIT: usize = 100;
const DEFAULT_BATCH: usize = 100;
/// Every term is looked for in every name.
const MOST_TERMS: usize = 32;

/// What all three take.
struct Request {
    window: Window,
    search: Search,
    order: Order,
    include_score: bool,
    limit: usize,
    batch: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
    Score,
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::bad_data(message)
}

impl Request {
    fn read(api: &Api, form: &Form, endpoint: &str) -> Result<Self, ApiError> {
        form.require_whole()?;
        let now_ms = api.state.clock.now().0;
        // As there, without the name of the parameter before it.
        let window = params::window_or(form, now_ms.saturating_sub(HOUR_MS), now_ms).map_err(|(_, why)| bad(why))?;
        if window.end_ms < window.start_ms {
            return Err(bad("end timestamp must not be before start timestamp"));
        }
        let search = search(form)?;
        let include_score = boolean(form, "include_score", false)?;
        let order = order(form, endpoint, search.is_empty())?;
        Ok(Self {
            window,
            search,
            order,
            include_score,
            limit: limit(form, api.state.query.search.max_limit)?,
            batch: match count(form, "batch_size")? {
                None | Some(0) => DEFAULT_BATCH,
                Some(batch) => batch,
            },
        })
    }
}

fn search(form: &Form) -> Result<Search, ApiError> {
    let terms: Vec<_> = form.all("search[]").map(str::to_owned).collect();
    if terms.len() > MOST_TERMS {
        let got = terms.len();
        return Err(bad(format!(
            "too many search[] terms: got {got}, maximum is {MOST_TERMS}"
        )));
    }
    let threshold = match form.get("fuzz_threshold") {
        "" => 0,
        text => go_integer(text)
            .ok()
            .filter(|percent| (0..=100).contains(percent))
            .ok_or_else(|| bad(format!("invalid fuzz_threshold {text:?}: must be 0-100")))?,
    };
    let algorithm = match form.get("fuzz_alg") {
        "" | "subsequence" => Algorithm::Subsequence,
        "jarowinkler" => Algorithm::JaroWinkler,
        other => {
            return Err(bad(format!(
                "unsupported fuzz_alg {other:?}: must be one of [subsequence jarowinkler]"
            )));
        }
    };
    let case_sensitive = boolean(form, "case_sensitive", true)?;
    Ok(Search::new(terms, algorithm, threshold as f64 / 100.0, case_sensitive))
}

fn order(form: &Form, endpoint: &str, nothing_searched: bool) -> Result<Order, ApiError> {
    let (by, direction) = (form.get("sort_by"), form.get("sort_dir"));
    if !direction.is_empty() && by.is_empty() {
        return Err(bad("sort_dir is only valid when sort_by is set"));
    }
    if !direction.is_empty() && by == "score" {
        return Err(bad("sort_dir is not supported for sort_by=score"));
    }
    let order = match direction {
        "" | "asc" => Order::Ascending,
        "dsc" => Order::Descending,
        other => return Err(bad(format!("invalid sort_dir {other:?}: must be \"asc\" or \"dsc\""))),
    };
    match by {
        "" | "alpha" => Ok(order),
        "score" if nothing_searched => Err(bad("sort_by=score requires search[] to be set")),
        "score" => Ok(Order::Score),
        other => Err(bad(format!(
            "invalid sort_by {other:?} for {endpoint}: must be \"alpha\" or \"score\""
        ))),
    }
}

fn count(form: &Form, name: &str) -> Result<Option<usize>, ApiError> {
    let text = form.get(name);
    if text.is_empty() {
        return Ok(None);
    }
    let number = go_integer(text).ok().and_then(|n| usize::try_from(n).ok());
    number
        .map(Some)
        .ok_or_else(|| bad(format!("invalid {name} {text:?}: must be non-negative integer")))
}

/// `most` is `--web.search.max-limit`; 0 is no limit.
fn limit(form: &Form, most: usize) -> Result<usize, ApiError> {
    let capped = |limit: usize| if most > 0 { limit.min(most) } else { limit };
    match count(form, "limit")? {
        None | Some(0) => Ok(capped(DEFAULT_LIMIT)),
        Some(limit) if most > 0 && limit > most => Err(bad(format!(
            "limit {limit} exceeds the configured maximum ({most}, see --web.search.max-limit)"
        ))),
        Some(limit) => Ok(limit),
    }
}

fn boolean(form: &Form, name: &str, default: bool) -> Result<bool, ApiError> {
    match form.get(name) {
        "" => Ok(default),
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        other => Err(bad(format!("invalid {name} {other:?}: must be boolean"))),
    }
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    metadata: Option<Described<'a>>,
}

#[derive(Serialize)]
struct Described<'a> {
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    help: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'a str,
}

#[derive(Serialize)]
struct Batch<'a> {
    results: Vec<Row<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct End {
    status: &'static str,
    has_more: bool,
}

/// `/search/metric_names`.
pub(super) async fn metric_names(State(api): State<Arc<Api>>, form: Form) -> Result<Response, ApiError> {
    enabled(&api)?;
    let request = Request::read(&api, &form, "metric_names")?;
    let described = boolean(&form, "include_metadata", false)?;
    let metadata = if described {
        let scope = api.scope(&form)?;
        Some(api.gather(api.state.fanout.metadata(&scope, "")).await?)
    } else {
        None
    };
    found(&api, &form, request, Some(METRIC_NAME), metadata).await
}

/// `/search/label_names`.
pub(super) async fn label_names(State(api): State<Arc<Api>>, form: Form) -> Result<Response, ApiError> {
    enabled(&api)?;
    let request = Request::read(&api, &form, "label_names")?;
    found(&api, &form, request, None, None).await
}

/// `/search/label_values`.
pub(super) async fn label_values(State(api): State<Arc<Api>>, form: Form) -> Result<Response, ApiError> {
    enabled(&api)?;
    let request = Request::read(&api, &form, "label_values")?;
    let label = form.get("label");
    if label.is_empty() {
        return Err(bad("missing required parameter \"label\""));
    }
    found(&api, &form, request, Some(label), None).await
}

fn enabled(api: &Api) -> Result<(), ApiError> {
    if api.state.query.search.enabled {
        return Ok(());
    }
    Err(ApiError::new(ErrorType::Unavailable, "search API disabled"))
}

async fn found(
    api: &Api,
    form: &Form,
    request: Request,
    label: Option<&str>,
    metadata: Option<(BTreeMap<String, BTreeSet<Metadata>>, Reserved)>,
) -> Result<Response, ApiError> {
    let sets = api.matcher_sets(form).await?.map_err(ApiError::bad_data)?;
    let scope = api.scope(form)?;
    let Window { start_ms, end_ms } = request.window;
    let all = api.state.fanout.labels(&scope, label, &sets, start_ms, end_ms);
    let all = api.gather(all).await?;
    let bytes = all.iter().map(|text| text.len() as u64 + ENTRY_BYTES).sum();
    let held = scope.memory().reserve(bytes)?;
    let mut scored: Vec<(String, f64)> = all
        .into_iter()
        .filter_map(|text| request.search.score(&text).map(|score| (text, score)))
        .collect();
    match request.order {
        // They come so.
        Order::Ascending => {}
        Order::Descending => scored.reverse(),
        Order::Score => scored.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0))),
    }
    let has_more = scored.len() > request.limit;
    scored.truncate(request.limit);
    let warnings = api.said(&scope);
    let (metadata, described) = metadata.unzip();
    let metadata = metadata.unwrap_or_default();
    let write = move |out: &mut Json| {
        write(out, &scored, &request, &metadata, &warnings, has_more)?;
        drop((held, described));
        Ok(())
    };
    Ok(text_response(CONTENT_TYPE, Box::new(write)).into_response())
}

fn write(
    out: &mut Json,
    scored: &[(String, f64)],
    request: &Request,
    metadata: &BTreeMap<String, BTreeSet<Metadata>>,
    warnings: &[String],
    has_more: bool,
) -> Result<(), Gone> {
    let mut warnings = warnings;
    let mut batches = scored.chunks(request.batch).peekable();
    // There is a line of results even where there are none.
    if batches.peek().is_none() {
        let results = Vec::new();
        line(out, &Batch { results, warnings });
    }
    for batch in batches {
        let results = batch.iter().map(|found| row(found, request, metadata)).collect();
        line(out, &Batch { results, warnings });
        warnings = &[];
        out.breathe()?;
    }
    let status = "success";
    line(out, &End { status, has_more });
    Ok(())
}

fn row<'a>(
    (name, score): &'a (String, f64),
    request: &Request,
    metadata: &'a BTreeMap<String, BTreeSet<Metadata>>,
) -> Row<'a> {
    let described = metadata.get(name).and_then(|all| all.first());
    Row {
        name,
        score: request.include_score.then_some(*score),
        metadata: described.map(|m| Described {
            kind: &m.kind,
            help: &m.help,
            unit: &m.unit,
        }),
    }
}

fn line(out: &mut Json, value: &impl Serialize) {
    // These structures have no part that JSON cannot have.
    out.raw(&gojson::to_string(value).unwrap_or_default());
    out.raw("\n");
}
