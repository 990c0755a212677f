//! Results of range queries, kept for those who ask again: dashboards ask for the same steps, and a few more, every few
//! seconds.
//!
//! Kept are steps that look at nothing but blocks. Whoever uses them finds the blocks and deletes to be those that they
//! were made of, and asks every shard whether its head has anything of the time: a late write is there, or in a block that
//! was not there. The rest is evaluated as ever.
//!
//! Invariant: an answer that is put together is the one that evaluating all steps would give, to the bit.

mod fit;
mod shared;
mod steps;
mod store;

use crate::error::ApiError;
use crate::fanout::{FanoutPlan, Scope, Selection};
use crate::router::Api;
use crate::run::{Outcome, RunOptions};
use gnomon_promql::{EvalParams, Expr, Plan, QueryResult, RangeSeries, Value};
use gnomon_proto::v1::{self, block_record};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use std::sync::Arc;
use steps::{Steps, cut, joined};
use store::Kept;
use xxhash_rust::xxh3::Xxh3;

pub use shared::ResultCache;

/// Fewer steps than this are not worth a look.
const FEWEST_STEPS: u64 = 8;

/// What is kept of a process's queries.
pub(crate) struct Results {
    cache: ResultCache,
    lookups: IntCounterVec,
    steps: IntCounter,
}

impl Results {
    /// # Errors
    /// When a name or label of a metric is not legal, or taken.
    pub(crate) fn new(cache: ResultCache, registry: &Registry) -> Result<Self, prometheus::Error> {
        let results = Self {
            cache,
            lookups: IntCounterVec::new(
                Opts::new(
                    "gnomon_result_cache_lookups_total",
                    "Range queries with steps that look at blocks only, by what of them was kept: all of these, some, none.",
                ),
                &["kept"],
            )?,
            steps: IntCounter::new(
                "gnomon_result_cache_steps_total",
                "Steps of range queries whose results were kept, and not evaluated again.",
            )?,
        };
        for kept in ["all", "some", "none"] {
            results.lookups.with_label_values(&[kept]);
        }
        crate::metrics::register(
            registry,
            vec![
                Box::new(results.lookups.clone()),
                Box::new(results.steps.clone()),
                Box::new(results.cache.bytes.clone()),
            ],
        );
        Ok(results)
    }
}

/// A range query of which some steps look at blocks only.
struct Asked<'q> {
    query: &'q str,
    expr: &'q Expr,
    params: EvalParams,
    all: Steps,
    /// Those that look at nothing after the newest block.
    old: Steps,
    key: String,
}

/// What some steps look at, in one state.
struct Looked {
    selections: Vec<(Selection, FanoutPlan)>,
    /// Tells states apart in which that is not the same.
    sources: u128,
}

impl Asked<'_> {
    fn plan(&self, steps: &Steps) -> Result<Plan, ApiError> {
        let params = EvalParams {
            start_ms: steps.first_ms,
            end_ms: steps.last_ms,
            ..self.params
        };
        Plan::new(self.query, self.expr, params).map_err(|e| ApiError::parameter("query", e))
    }
}

/// When the newest block ends, exclusive.
fn end_of_blocks(state: &v1::MetaState, tenant: &str) -> Option<i64> {
    let live = |block: &&v1::BlockRecord| block.state == block_record::State::Live as i32 && block.tenant == tenant;
    state.blocks.iter().filter(live).map(|block| block.end_ms).max()
}

fn newest_looked_at(plan: &Plan) -> Option<i64> {
    plan.selectors().iter().map(|selector| selector.end_ms).max()
}

impl Api {
    /// Runs a range query; steps whose results are kept are not evaluated again.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) async fn run_range(
        &self,
        query: &str,
        expr: &Expr,
        plan: Plan,
        options: RunOptions,
    ) -> Result<Outcome, ApiError> {
        let state = Arc::clone(&self.state.fanout.view.borrow());
        let asked = self.results.as_ref().and_then(|results| {
            let asked = self.asked(results, query, expr, &plan, &state)?;
            Some((results, asked))
        });
        let Some((results, asked)) = asked else {
            return self.run(plan, options).await;
        };
        let began = self.state.clock.monotonic();
        if let Some(kept) = self.usable(results, &asked, &state).await? {
            let outcome = self.run_around(results, &asked, kept, &state, options).await?;
            return Ok(outcome);
        }
        results.lookups.with_label_values(&["none"]).inc();
        let spent = self.state.clock.monotonic().saturating_sub(began);
        let options = RunOptions {
            timeout: options.timeout.saturating_sub(spent),
            ..options
        };
        let before = self.looked(&asked, &asked.old, &state)?.sources;
        let outcome = self.run(plan, options).await?;
        self.keep(results, &asked, before, &outcome).await;
        Ok(outcome)
    }

    /// None where no results are looked for, nor kept.
    fn asked<'q>(
        &self,
        results: &Results,
        query: &'q str,
        expr: &'q Expr,
        plan: &Plan,
        state: &v1::MetaState,
    ) -> Option<Asked<'q>> {
        let params = *plan.params();
        let all = Steps::of(params.start_ms, params.end_ms, params.step_ms)?;
        let end_ms = end_of_blocks(state, self.state.fanout.tenant.as_str())?;
        if all.first_ms >= end_ms || all.len() < FEWEST_STEPS || params.count_steps || !fit::is_fit(expr) {
            return None;
        }
        let newest_ms = newest_looked_at(plan)?;
        let beyond = newest_ms.saturating_sub(end_ms.saturating_sub(1)).max(0);
        let old = all.until(all.last_ms.saturating_sub(beyond))?;
        if old.len() < FEWEST_STEPS {
            return None;
        }
        let EvalParams {
            lookback_ms,
            subquery_step_ms,
            delayed_name_removal,
            use_start_times,
            step_ms,
            ..
        } = params;
        let phase_ms = all.first_ms.rem_euclid(step_ms);
        let tenant = &self.state.fanout.tenant;
        let release = &results.cache.release;
        let key = format!(
            "{release} {tenant} {step_ms} {phase_ms} {lookback_ms} {subquery_step_ms} {delayed_name_removal} {use_start_times} {expr}"
        );
        let asked = Asked {
            query,
            expr,
            params,
            all,
            old,
            key,
        };
        // A selector may stand at a time of its own, whichever the steps.
        let newest_ms = newest_looked_at(&asked.plan(&old).ok()?)?;
        (newest_ms < end_ms).then_some(asked)
    }

    fn looked(&self, asked: &Asked<'_>, steps: &Steps, state: &v1::MetaState) -> Result<Looked, ApiError> {
        let plan = asked.plan(steps)?;
        let mut hash = Xxh3::new();
        let mut selections = Vec::new();
        for selector in plan.selectors() {
            let selection = Selection {
                matchers: selector.matchers.clone(),
                start_ms: selector.start_ms,
                end_ms: selector.end_ms,
                labels_only: false,
            };
            let plan = FanoutPlan::new(state, &self.state.fanout.tenant, &selection);
            for block in &plan.blocks {
                hash.update(block.id.as_bytes());
                hash.update(&[0]);
            }
            for delete in &plan.deletes {
                hash.update(&delete.revision.to_le_bytes());
            }
            for shard in plan.shards.keys() {
                hash.update(&shard.0.to_le_bytes());
            }
            hash.update(b"selector");
            selections.push((selection, plan));
        }
        Ok(Looked {
            selections,
            sources: hash.digest128(),
        })
    }

    /// Whether heads have nothing of what was looked at.
    async fn is_settled(&self, looked: &Looked) -> bool {
        let scope = Scope::new(true, self.state.query.fetch).with_memory(self.memory.budget());
        let asked = looked
            .selections
            .iter()
            .map(|(selection, plan)| self.state.fanout.is_all_in_blocks(&scope, selection, plan));
        futures::future::join_all(asked)
            .await
            .into_iter()
            .all(|settled| settled)
    }

    /// What is kept of a query, as far as it is asked for, if it is right still.
    async fn usable(
        &self,
        results: &Results,
        asked: &Asked<'_>,
        state: &v1::MetaState,
    ) -> Result<Option<Kept>, ApiError> {
        let Some(kept) = results.cache.get(&asked.key).await else {
            return Ok(None);
        };
        let Some(common) = kept.steps.common(&asked.old) else {
            return Ok(None);
        };
        // Where steps before and after are missing, all are evaluated at once, unless few are.
        let is_between = asked.all.around(&common).iter().all(Option::is_some);
        if is_between && common.len() < asked.all.len() / 2 {
            return Ok(None);
        }
        if self.looked(asked, &kept.steps, state)?.sources != kept.sources {
            return Ok(None);
        }
        let settled = self.is_settled(&self.looked(asked, &common, state)?).await;
        Ok(settled.then_some(Kept { steps: common, ..kept }))
    }

    /// Evaluates the steps that are not kept. `state` is the one in which those that are were found to be right: if it
    /// changes meanwhile, the whole is not kept.
    async fn run_around(
        &self,
        results: &Results,
        asked: &Asked<'_>,
        kept: Kept,
        state: &v1::MetaState,
        options: RunOptions,
    ) -> Result<Outcome, ApiError> {
        let began = self.state.clock.monotonic();
        let is_all = kept.steps.contains(&asked.old);
        let label = if is_all { "all" } else { "some" };
        results.lookups.with_label_values(&[label]).inc();
        results.steps.inc_by(kept.steps.len());
        let memory = self.memory.budget();
        let mut held = memory.reserve(kept.series.iter().map(RangeSeries::held_bytes).sum())?;
        let [before, after] = asked.all.around(&kept.steps);
        let mut whole = Outcome {
            result: QueryResult {
                value: Value::Matrix(Vec::new()),
                warnings: Vec::new(),
                infos: Vec::new(),
                stats: gnomon_promql::QueryStats::default(),
                steps: Vec::new(),
            },
            warnings: Vec::new(),
            queued: std::time::Duration::ZERO,
            evaluated: std::time::Duration::ZERO,
            analysis: None,
            held: memory.reserve(0)?,
        };
        let sources = self.looked(asked, &asked.old, state)?.sources;
        let mut parts = [Vec::new(), cut(&kept.series, &kept.steps), Vec::new()];
        for (at, steps) in [(0, before), (2, after)] {
            let Some(steps) = steps else { continue };
            let spent = self.state.clock.monotonic().saturating_sub(began);
            let options = RunOptions {
                timeout: options.timeout.saturating_sub(spent),
                ..options
            };
            let part = self.run(asked.plan(&steps)?, options).await?;
            whole.add(part, &mut parts[at], &mut held)?;
        }
        whole.result.value = Value::Matrix(joined(parts.into()));
        whole.held = held;
        for texts in [&mut whole.warnings, &mut whole.result.infos] {
            texts.sort();
            texts.dedup();
        }
        if !is_all {
            self.keep(results, asked, sources, &whole).await;
        }
        Ok(whole)
    }

    /// Keeps the old steps of a result that has nothing to say beside it, if what they look at was settled all the time:
    /// the same blocks before and after, and nothing in heads.
    async fn keep(&self, results: &Results, asked: &Asked<'_>, before: u128, outcome: &Outcome) {
        let said = !outcome.warnings.is_empty() || !outcome.result.infos.is_empty();
        let Value::Matrix(series) = &outcome.result.value else {
            return;
        };
        if said {
            return;
        }
        let state = Arc::clone(&self.state.fanout.view.borrow());
        let Ok(looked) = self.looked(asked, &asked.old, &state) else {
            return;
        };
        if looked.sources != before || !self.is_settled(&looked).await {
            return;
        }
        results.cache.put(
            &asked.key,
            Kept {
                steps: asked.old,
                sources: looked.sources,
                series: Arc::new(cut(series, &asked.old)),
            },
        );
    }
}

impl Outcome {
    /// Takes in what was evaluated of some steps; `series` gets the value.
    fn add(
        &mut self,
        part: Self,
        series: &mut Vec<RangeSeries>,
        held: &mut gnomon_promql::Reserved,
    ) -> Result<(), ApiError> {
        if let Value::Matrix(matrix) = part.result.value {
            held.grow(matrix.iter().map(RangeSeries::held_bytes).sum())?;
            *series = matrix;
        }
        drop(part.held);
        self.warnings.extend(part.warnings);
        self.result.infos.extend(part.result.infos);
        let (stats, more) = (&mut self.result.stats, part.result.stats);
        stats.series_read += more.series_read;
        stats.samples_read += more.samples_read;
        stats.peak_samples = stats.peak_samples.max(more.peak_samples);
        self.queued += part.queued;
        self.evaluated += part.evaluated;
        Ok(())
    }
}
