//! `query`, `query_range`, `format_query`.

use super::{TRUNCATED, result, strict};
use crate::answer::Answer;
use crate::error::ApiError;
use crate::form::Form;
use crate::params;
use crate::router::Api;
use crate::run::{Outcome, RunOptions};
use axum::extract::State;
use gnomon_promql::{EvalParams, Plan, Value};
use std::sync::Arc;
use std::time::Duration;

/// Points of one series that a range query may ask for: 60 s resolution for a week, 1 h for a year.
const MAX_POINTS: i128 = 11_000;
/// The default step of subqueries, as Prometheus' evaluation interval.
const DEFAULT_SUBQUERY_STEP_MS: i64 = 60_000;
const NANOS_PER_MS: i64 = 1_000_000;

/// What both kinds of query take besides their times.
struct Common {
    limit: usize,
    run: RunOptions,
    lookback_ms: i64,
    explain: bool,
    /// Results that were kept may be used, and this one kept.
    cache: bool,
    stats: bool,
    /// `stats=all`, where Prometheus' feature `promql-per-step-stats` is on.
    per_step: bool,
    /// What is to be said of the value of `stats`.
    stats_warning: Option<String>,
}

impl Common {
    fn of(api: &Api, form: &Form, limit: usize) -> Result<Self, ApiError> {
        let options = &api.state.query;
        let mut timeout = options.timeout;
        if let text @ [_, ..] = form.get("timeout").as_bytes() {
            let text = String::from_utf8_lossy(text);
            let nanos = params::duration_nanos(&text).map_err(|e| ApiError::parameter("timeout", e))?;
            timeout = timeout.min(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)));
        }
        let mut lookback_ms = options.lookback_ms;
        let lookback = form.get("lookback_delta");
        if !lookback.is_empty() {
            let nanos = params::duration_nanos(lookback)
                .map_err(|e| ApiError::bad_data(format!("error parsing lookback delta duration: {e}")))?;
            if nanos >= NANOS_PER_MS {
                lookback_ms = nanos / NANOS_PER_MS;
            }
        }
        Ok(Self {
            limit,
            run: RunOptions {
                timeout,
                strict: strict(form, options.partial_response)?,
                analyze: form.get("analyze") == "1",
            },
            lookback_ms,
            explain: form.get("explain") == "1",
            cache: form.get("nocache") != "1",
            stats: !form.get("stats").is_empty(),
            per_step: form.get("stats") == "all" && options.per_step_stats,
            stats_warning: stats_warning(form.get("stats")),
        })
    }

    fn params(&self, api: &Api, start_ms: i64, end_ms: i64, step_ms: i64) -> EvalParams {
        let interval_ms = api.state.node.config().evaluation_interval_ms;
        EvalParams {
            lookback_ms: self.lookback_ms,
            subquery_step_ms: if interval_ms > 0 {
                interval_ms
            } else {
                DEFAULT_SUBQUERY_STEP_MS
            },
            delayed_name_removal: api.state.query.delayed_name_removal,
            count_steps: self.stats,
            use_start_times: api.state.query.use_start_times,
            ..EvalParams::range(start_ms, end_ms, step_ms)
        }
    }

    async fn run(self, api: &Api, query: &str, params: EvalParams) -> Result<Answer, ApiError> {
        let began = api.state.clock.monotonic();
        let expr = api.parse(query, self.run.timeout).await?;
        let expr = expr.map_err(|e| ApiError::parameter("query", e))?;
        let plan = Plan::new(query, &expr, params).map_err(|e| ApiError::parameter("query", e))?;
        let prepared = api.state.clock.monotonic().saturating_sub(began);
        api.metrics.engine_seconds.observe("prepare_time", prepared);
        let mut explain = self.explain.then(|| plan.explain());
        // Of the time that there is, reading took some.
        let run = RunOptions {
            timeout: self.run.timeout.saturating_sub(prepared),
            ..self.run
        };
        // What is to be told of the way to the result is that of all of its steps.
        let outcome = if self.cache && !self.explain && !run.analyze {
            api.run_range(query, &expr, plan, run).await?
        } else {
            api.run(plan, run).await?
        };
        let stats = self.stats.then(|| result::Stats::of(&outcome, prepared, self.per_step));
        let Outcome {
            result,
            mut warnings,
            held,
            analysis,
            ..
        } = outcome;
        if let (Some(text), Some(analysis)) = (&mut explain, &analysis) {
            *text = result::analyzed(analysis);
        }
        let explain = result::Explain {
            text: explain,
            analysis: analysis.and_then(|analysis| result::analysis_json(&analysis)),
        };
        let mut value = result.value;
        if truncate(&mut value, self.limit) {
            warnings.push(TRUNCATED.to_owned());
        }
        warnings.extend(self.stats_warning);
        Ok(result::answer(value, held, stats, explain)
            .with_warnings(warnings)
            .with_infos(result.infos))
    }
}

/// Any value asks for statistics, yet.
fn stats_warning(value: &str) -> Option<String> {
    (!matches!(value, "" | "true" | "all")).then(|| {
        format!(
            "value {value:?} for parameter \"stats\" is deprecated and will be rejected in the next major release, use \
             \"true\" or \"all\""
        )
    })
}

fn truncate(value: &mut Value, limit: usize) -> bool {
    let cut = |length: usize| limit > 0 && length > limit;
    match value {
        Value::Vector(samples) if cut(samples.len()) => samples.truncate(limit),
        Value::Matrix(series) if cut(series.len()) => series.truncate(limit),
        _ => return false,
    }
    true
}

/// `/query`.
pub(super) async fn instant(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let limit = params::limit(&form)?;
    let at_ms = params::instant_param(&form, api.state.clock.now().0)?;
    let common = Common::of(&api, &form, limit)?;
    let params = common.params(&api, at_ms, at_ms, 0);
    common.run(&api, form.get("query"), params).await
}

/// `/query_range`.
pub(super) async fn range(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let limit = params::limit(&form)?;
    let time = |name| params::time(form.get(name)).map_err(|e| ApiError::parameter(name, e));
    let (start_ms, end_ms) = (time("start")?, time("end")?);
    if end_ms < start_ms {
        return Err(ApiError::parameter(
            "end",
            "end timestamp must not be before start time",
        ));
    }
    let step_nanos = params::duration_nanos(form.get("step")).map_err(|e| ApiError::parameter("step", e))?;
    if step_nanos <= 0 {
        return Err(ApiError::parameter(
            "step",
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    let range_nanos = (i128::from(end_ms) - i128::from(start_ms)) * i128::from(NANOS_PER_MS);
    if range_nanos / i128::from(step_nanos) > MAX_POINTS {
        return Err(ApiError::bad_data(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    // Steps are milliseconds; a finer one is the finest there is.
    let step_ms = (step_nanos / NANOS_PER_MS).max(1);
    let common = Common::of(&api, &form, limit)?;
    let params = common.params(&api, start_ms, end_ms, step_ms);
    common.run(&api, form.get("query"), params).await
}

/// `/format_query`.
pub(super) async fn format(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let expr = api.parse(form.get("query"), api.state.query.timeout).await?;
    let expr = expr.map_err(|e| ApiError::parameter("query", e))?;
    Answer::of(&expr.pretty())
}
