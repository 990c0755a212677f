//! Running one query: the gate, the fetch ahead, the engine on a thread of its own, the end by time or by the client.

use crate::error::{ApiError, ErrorType};
use crate::fanout::{Costs, Fetched, Pushes, Scope, SourceCost};
use crate::router::Api;
use gnomon_model::Clock;
use gnomon_promql::{CancelFlag, Engine, EvalError, Limits, Plan, PlanLine, QueryResult, Reserved};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Queries that may wait for the gate; more are refused at once.
const MAX_WAITING: i64 = 1000;

/// How often a query is made in all, where what it read moved away meanwhile.
const MOVED_ATTEMPTS: u32 = 4;

/// How a query is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunOptions {
    /// From arrival to result.
    pub(crate) timeout: Duration,
    /// An error rather than a warning where something cannot be read.
    pub(crate) strict: bool,
    /// Whether it is told what each part took.
    pub(crate) analyze: bool,
}

/// A result and what it took.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) result: QueryResult,
    /// Those of the fetch (what was missing) before those of the engine.
    pub(crate) warnings: Vec<String>,
    pub(crate) queued: Duration,
    pub(crate) evaluated: Duration,
    /// The plan with what each node took, and each source.
    pub(crate) analysis: Option<(Vec<PlanLine>, Vec<SourceCost>)>,
    /// What the result occupies.
    pub(crate) held: Reserved,
}

/// A result, what it occupies, and what the plan's nodes took.
type Evaluated = (QueryResult, Reserved, Vec<PlanLine>);

/// Ends what belongs to a query when the request is dropped, whatever the reason.
struct EndWithRequest {
    cancel: CancelFlag,
    scope: Arc<Scope>,
    stopped: Stopped,
    done: bool,
}

impl EndWithRequest {
    fn time_out(&self) {
        self.stopped.now();
        self.cancel.time_out();
    }
}

impl Drop for EndWithRequest {
    fn drop(&mut self) {
        if !self.done {
            self.stopped.now();
        }
        // Also of a query that has failed: threads that evaluate parts of it know by this.
        self.cancel.cancel();
        self.scope.token.cancel();
    }
}

/// When a query was told to end, by a monotonic clock.
#[derive(Clone)]
struct Stopped {
    clock: Arc<dyn Clock>,
    at: Arc<OnceLock<Duration>>,
}

impl Stopped {
    fn now(&self) {
        let _ = self.at.set(self.clock.monotonic());
    }

    /// How long ago that was; none where it never was.
    fn ago(&self) -> Option<Duration> {
        self.at.get().map(|at| self.clock.monotonic().saturating_sub(*at))
    }
}

/// How a query is attempted.
#[derive(Clone, Copy)]
struct Way {
    /// Parts are evaluated apart, by shards or by threads of this node.
    pushes: bool,
    /// It may be evaluated by the thread of the request.
    may_be_quick: bool,
}

/// Counts a query while it runs or waits.
struct Counted(prometheus::IntGauge);

impl Counted {
    fn new(gauge: &prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Api {
    /// # Errors
    /// In the kinds and words of Prometheus.
    pub(crate) async fn run(&self, plan: Plan, options: RunOptions) -> Result<Outcome, ApiError> {
        let began = self.state.clock.monotonic();
        let _running = Counted::new(&self.metrics.running);
        let outcome = self.run_gated(plan, options, began).await;
        let took = self.state.clock.monotonic().saturating_sub(began);
        let label = match &outcome {
            Ok(_) => "success",
            Err(error) => error.kind.name(),
        };
        self.metrics
            .query_seconds
            .with_label_values(&[label])
            .observe(took.as_secs_f64());
        if let Ok(outcome) = &outcome {
            self.metrics.engine_seconds.observe("queue_time", outcome.queued);
            self.metrics.engine_seconds.observe("inner_eval", outcome.evaluated);
            self.metrics.samples.inc_by(outcome.result.stats.samples_read);
        }
        outcome
    }

    async fn run_gated(&self, plan: Plan, options: RunOptions, began: Duration) -> Result<Outcome, ApiError> {
        let _patterns = self.memory.budget().reserve(plan.pattern_bytes() as u64)?;
        let in_queue = || ApiError::new(ErrorType::Timeout, "query timed out in query queue");
        let permit = tokio::time::timeout(options.timeout, self.enter(plan.params().step_ms > 0)).await;
        let permit = permit.map_err(|_| in_queue())??;
        let entered = self.state.clock.monotonic();
        let queued = entered.saturating_sub(began);
        if queued >= options.timeout {
            return Err(in_queue());
        }

        let (plan, permit) = (Arc::new(plan), Arc::new(permit));
        let mut attempt = 1;
        let mut way = Way {
            pushes: self.state.query.push_down,
            // Not where expressions take long by themselves.
            may_be_quick: !plan.is_costly(),
        };
        let (result, scope) = loop {
            let elapsed = self.state.clock.monotonic().saturating_sub(began);
            let left = options.timeout.saturating_sub(elapsed);
            let Some((result, scope)) = self.attempt(&plan, &permit, options, left, way).await else {
                way.may_be_quick = false;
                continue;
            };
            // A part that shards were to evaluate has to be evaluated here, which shows when it is under way.
            let again = way.pushes && scope.must_be_whole();
            way.pushes &= !again;
            // Data moved away from under the query, to where a fresh view finds it.
            if !again && (!scope.has_moved() || attempt == MOVED_ATTEMPTS) {
                break (result, scope);
            }
            attempt += u32::from(!again);
        };
        let (mut result, held, lines) = result?;
        let mut warnings = self.said(&scope);
        warnings.append(&mut result.warnings);
        Ok(Outcome {
            result,
            warnings,
            queued,
            evaluated: self.state.clock.monotonic().saturating_sub(entered),
            analysis: scope.costs().map(|costs| (lines, costs.sorted())),
            held,
        })
    }

    /// Fetches and evaluates once. None where that was to be quick and was not.
    async fn attempt(
        &self,
        plan: &Arc<Plan>,
        permit: &Arc<Place>,
        options: RunOptions,
        left: Duration,
        way: Way,
    ) -> Option<(Result<Evaluated, ApiError>, Arc<Scope>)> {
        let memory = self.memory.budget();
        let scope = Arc::new(
            Scope::new(options.strict, self.state.query.fetch)
                .with_memory(memory.clone())
                .with_held_samples(self.state.query.max_samples)
                .with_costs(options.analyze.then(|| Costs::new(Arc::clone(&self.state.clock)))),
        );
        let stopped = Stopped {
            clock: Arc::clone(&self.state.clock),
            at: Arc::default(),
        };
        let mut end = EndWithRequest {
            cancel: CancelFlag::new(),
            scope: Arc::clone(&scope),
            stopped: stopped.clone(),
            done: false,
        };
        let limits = Limits {
            max_samples: self.state.query.max_samples,
            memory,
        };
        let pushes = way.pushes.then(|| Pushes {
            limits: limits.clone(),
            cancel: end.cancel.clone(),
            batch_samples: self.state.query.apart_samples,
        });
        let mut fetched = Fetched::start(&self.state.fanout, &scope, plan, pushes.as_ref());
        let effort = plan.effort().filter(|_| way.may_be_quick);
        let quick = effort.is_some_and(|effort| fetched.is_quick(effort));
        let work = Work {
            plan: Arc::clone(plan),
            fetched,
            limits,
            cancel: end.cancel.clone(),
            analyze: options.analyze.then(|| Arc::clone(&self.state.clock)),
        };
        let result = if quick {
            let (result, would_have_waited) = work.do_here();
            if would_have_waited {
                self.metrics.fetched_bytes.inc_by(scope.fetched_bytes());
                return None;
            }
            result
        } else {
            let (permit, working) = (Arc::clone(permit), Counted::new(&self.metrics.engines));
            let stop_seconds = self.metrics.stop_seconds.clone();
            let engine = tokio::task::spawn_blocking(move || {
                let result = work.evaluate();
                drop(work);
                if let Some(ago) = stopped.ago() {
                    stop_seconds.observe(ago.as_secs_f64());
                }
                // A query that does not notice its end keeps its place until it does.
                drop((permit, working));
                result
            });
            match tokio::time::timeout(left, engine).await {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(panicked)) => Err(panicked.to_string()),
                Err(_) => {
                    end.time_out();
                    Ok(Err(EvalError::TimedOut))
                }
            }
        };
        let result = match result {
            Ok(result) => result.map_err(|error| explained(error, &scope)),
            Err(panicked) => Err(ApiError::new(
                ErrorType::Internal,
                format!("the query engine failed: {panicked}"),
            )),
        };
        end.done = true;
        self.metrics.fetched_bytes.inc_by(scope.fetched_bytes());
        Some((result, scope))
    }

    /// What was missing, counted.
    pub(crate) fn said(&self, scope: &Scope) -> Vec<String> {
        let warnings = scope.warnings();
        if !warnings.is_empty() {
            self.metrics.partial.inc();
            tracing::warn!(?warnings, "answer is incomplete");
        }
        warnings
    }

    /// A place for a query; range queries leave some to the others.
    async fn enter(&self, is_range: bool) -> Result<Place, ApiError> {
        let of_ranges = if is_range {
            Some(self.wait_for(&self.range_gate).await?)
        } else {
            None
        };
        let place = self.wait_for(&self.gate).await?;
        Ok(Place {
            _place: place,
            _of_ranges: of_ranges,
        })
    }

    /// A permit of `gate`; waiting is counted, and no more wait than may.
    pub(crate) async fn wait_for(&self, gate: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
        match Arc::clone(gate).try_acquire_owned() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::NoPermits) if self.metrics.waiting.get() >= MAX_WAITING => {
                return Err(ApiError::new(
                    ErrorType::Unavailable,
                    format!("{MAX_WAITING} queries wait already; try again later"),
                ));
            }
            Err(_) => {}
        }
        let _waiting = Counted::new(&self.metrics.waiting);
        Arc::clone(gate)
            .acquire_owned()
            .await
            .map_err(|_| ApiError::new(ErrorType::Canceled, "query was canceled in query queue"))
    }
}

/// Of those that `--query.max-concurrency` allows.
struct Place {
    _place: OwnedSemaphorePermit,
    _of_ranges: Option<OwnedSemaphorePermit>,
}

/// One evaluation, on whatever thread.
struct Work {
    plan: Arc<Plan>,
    fetched: Fetched,
    limits: Limits,
    cancel: CancelFlag,
    /// By which it is told what each part took, where that is asked for.
    analyze: Option<Arc<dyn Clock>>,
}

impl Work {
    fn evaluate(&self) -> Result<Evaluated, EvalError> {
        let Self {
            plan,
            fetched,
            limits,
            cancel,
            analyze,
        } = self;
        let (result, lines) = match analyze {
            Some(clock) => Engine::analyze(plan, fetched, limits, cancel, &**clock)?,
            None => (Engine::execute(plan, fetched, limits, cancel)?, Vec::new()),
        };
        let held = limits.memory.reserve(result.value.held_bytes())?;
        Ok((result, held, lines))
    }

    /// Evaluates on this thread; an error outside of the result is what a panic said. And whether it had to wait, which
    /// this thread must not.
    fn do_here(self) -> (Result<Result<Evaluated, EvalError>, String>, bool) {
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| self.evaluate()));
        let result = result.map_err(|panicked| {
            let text = panicked.downcast_ref::<&str>().map(|text| (*text).to_owned());
            text.or_else(|| panicked.downcast_ref::<String>().cloned())
                .unwrap_or_default()
        });
        (result, self.fetched.would_have_waited())
    }
}

/// A source's failure is told as what it was.
fn explained(error: EvalError, scope: &Scope) -> ApiError {
    match error {
        EvalError::Source(_) => scope.failure().unwrap_or_else(|| error.into()),
        error => error.into(),
    }
}
