//! The targets of one job: what discovery found, made to agree with the loops that run.

use crate::config::ScrapeConfig;
use crate::discovery::{Discovery, Groups};
use crate::hand_over::{Owners, ahead};
use crate::scrape::{LoopSpec, PoolOptions, ScrapeEnv, ScrapeLoop};
use crate::status::TargetState;
use crate::target::{Found, Target, targets_of};
use gnomon_model::{Labels, TargetId};
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

/// A job's targets as they were at the last change.
#[derive(Clone, Default)]
pub(crate) struct PoolStatus {
    /// In the order of their labels.
    pub active: Vec<(Arc<LoopSpec>, Arc<TargetState>)>,
    /// Discovered labels of dropped targets, as many as are kept.
    pub dropped: Vec<Labels>,
    pub dropped_count: u64,
}

pub(crate) struct Pool {
    config: Arc<ScrapeConfig>,
    /// What loops go by. Older than `config` where the two differ only in how targets are found.
    options: Arc<PoolOptions>,
    discovery: Discovery,
    loops: HashMap<TargetId, ScrapeLoop>,
    /// Targets that go to other scrapers, and until when they are scraped here.
    given_ms: HashMap<TargetId, i64>,
    status: PoolStatus,
}

/// What discovery and relabelling give.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) targets: HashMap<TargetId, Arc<Target>>,
    dropped: Vec<Labels>,
    dropped_count: u64,
    discovered: usize,
    failed: Vec<String>,
}

/// Decides which targets a job has.
pub(crate) fn wanted(config: &ScrapeConfig, groups: &[Groups]) -> Wanted {
    let mut wanted = Wanted::default();
    let keep = config.limits.keep_dropped_targets.filter(|k| *k > 0);
    for group in groups.iter().flat_map(|g| g.iter()) {
        wanted.discovered += group.targets.len();
        for found in targets_of(config, group) {
            match found {
                Ok(Found::Active(target)) => {
                    wanted.targets.entry(target.id).or_insert_with(|| Arc::from(target));
                }
                Ok(Found::Dropped(discovered)) => {
                    if keep.is_none_or(|keep| wanted.dropped_count < keep) {
                        wanted.dropped.push(discovered);
                    }
                    wanted.dropped_count += 1;
                }
                Err(e) => wanted.failed.push(e.to_string()),
            }
        }
    }
    wanted
}

impl Pool {
    pub(crate) fn new(options: Arc<PoolOptions>, discovery: Discovery) -> Self {
        Self {
            config: Arc::clone(&options.config),
            options,
            discovery,
            loops: HashMap::new(),
            given_ms: HashMap::new(),
            status: PoolStatus::default(),
        }
    }

    pub(crate) fn config(&self) -> &Arc<ScrapeConfig> {
        &self.config
    }

    /// Changes how targets are found; loops are not disturbed.
    pub(crate) fn replace_config(&mut self, config: Arc<ScrapeConfig>) {
        self.config = config;
    }

    /// The job's certificate files could not be used.
    pub(crate) fn lacks_files(&self) -> bool {
        self.options.client.lacks_files()
    }

    /// Changes how targets are scraped: loops begin their knowledge of series anew.
    pub(crate) fn replace_options(&mut self, options: Arc<PoolOptions>) {
        self.config = Arc::clone(&options.config);
        self.options = options;
    }

    pub(crate) fn replace_discovery(&mut self, mut discovery: Discovery) {
        discovery.take_over(&self.discovery);
        self.discovery = discovery;
    }

    /// Whether discovery has something that [`Self::sync`] has not seen.
    pub(crate) fn has_found(&self) -> bool {
        self.discovery.has_changed()
    }

    pub(crate) fn status(&self) -> PoolStatus {
        self.status.clone()
    }

    /// Starts, changes and stops loops so that they are those of the targets there are now. A loop whose target and
    /// options are the same is left alone; one whose target goes to another scraper goes on until that has it.
    pub(crate) fn sync(&mut self, env: &Arc<ScrapeEnv>, who: &Owners, parent: &CancellationToken, tasks: &TaskTracker) {
        let config = Arc::clone(&self.config);
        let wanted = wanted(&config, &self.discovery.groups());
        self.report(env, &wanted);
        let forced_error = self.over_limit(env, &wanted);
        let (mine, others): (HashMap<_, _>, HashMap<_, _>) =
            wanted.targets.into_iter().partition(|(id, _)| who.is_mine(*id));
        let now_ms = env.clock.now().0;
        let change_ms = |id: &TargetId| ahead(who.change_ms(*id), now_ms);
        let given_ms = &mut self.given_ms;
        given_ms.retain(|_, until_ms| ahead(Some(*until_ms), now_ms).is_some());
        self.loops.retain(|id, running| {
            let stays = mine.contains_key(id);
            if !stays {
                match change_ms(id).filter(|_| others.contains_key(id)) {
                    Some(until_ms) => {
                        running.hand_over(until_ms);
                        given_ms.insert(*id, until_ms);
                    }
                    None => running.stop(),
                }
            }
            stays
        });
        for (id, target) in mine {
            let spec = LoopSpec {
                forced_error: forced_error.clone().or_else(|| target.error.clone()),
                target,
                options: Arc::clone(&self.options),
                term: who.term(),
                is_shared: who.are_several(),
                until_ms: None,
            };
            match self.loops.get(&id) {
                Some(running) if same(&running.spec(), &spec) => {}
                Some(running) => running.update(spec),
                None => {
                    // One that comes back before it has gone: what makes its ticks until then goes on.
                    let from_ms = change_ms(&id).max(self.given_ms.get(&id).copied());
                    let running = ScrapeLoop::start(Arc::clone(env), spec, from_ms, parent, tasks);
                    self.loops.insert(id, running);
                }
            }
        }
        let job = [config.job_name.as_str()];
        env.metrics
            .pool_targets
            .with_label_values(&job)
            .set(self.loops.len() as i64);
        env.metrics.pool_syncs.with_label_values(&job).inc();
        self.status = PoolStatus {
            active: self.active(),
            dropped: wanted.dropped,
            dropped_count: wanted.dropped_count,
        };
    }

    fn active(&self) -> Vec<(Arc<LoopSpec>, Arc<TargetState>)> {
        let mut active: Vec<_> = self.loops.values().map(|l| (l.spec(), Arc::clone(&l.state))).collect();
        active.sort_by(|(a, _), (b, _)| {
            let key = |s: &LoopSpec| (s.target.labels.clone(), s.target.id);
            key(a).cmp(&key(b))
        });
        active
    }

    fn report(&self, env: &ScrapeEnv, wanted: &Wanted) {
        let job = [self.config.job_name.as_str()];
        let discovered = i64::try_from(wanted.discovered).unwrap_or(i64::MAX);
        env.metrics
            .discovered_targets
            .with_label_values(&["scrape", job[0]])
            .set(discovered);
        let limit = self.config.limits.targets.unwrap_or(0);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        env.metrics.pool_target_limit.with_label_values(&job).set(limit);
        if let Some(first) = wanted.failed.first() {
            let count = wanted.failed.len();
            env.metrics.sync_failed.with_label_values(&job).inc_by(count as u64);
            warn!(
                scrape_pool = job[0],
                count, first, "discovered targets that cannot be used"
            );
        }
    }

    fn over_limit(&self, env: &ScrapeEnv, wanted: &Wanted) -> Option<Arc<str>> {
        let limit = self.config.limits.targets?;
        let count = wanted.targets.len();
        if count as u64 <= limit {
            return None;
        }
        env.metrics.exceeded_target_limit.inc();
        Some(format!("target_limit exceeded (number of targets: {count}, limit: {limit})").into())
    }

    /// All targets go to other scrapers then.
    pub(crate) fn hand_over(&self, until_ms: i64) {
        for running in self.loops.values() {
            running.hand_over(until_ms);
        }
    }

    pub(crate) fn stop(&self, env: &ScrapeEnv) {
        for running in self.loops.values() {
            running.stop();
        }
        let job = [self.config.job_name.as_str()];
        // Absent if the pool was never synchronized.
        let _ = env.metrics.pool_targets.remove_label_values(&job);
        let _ = env.metrics.pool_target_limit.remove_label_values(&job);
        let _ = env.metrics.discovered_targets.remove_label_values(&["scrape", job[0]]);
    }
}

fn same(old: &LoopSpec, new: &LoopSpec) -> bool {
    old.target == new.target
        && Arc::ptr_eq(&old.options, &new.options)
        && old.term == new.term
        && old.is_shared == new.is_shared
        && old.forced_error == new.forced_error
}
