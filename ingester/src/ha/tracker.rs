//! Asks the metadata group whose turn it is, seldom.

use super::held::{Form, Held, StandBy};
use super::turns::{Step, Turns, as_it_stands, has_turn, step};
use super::waits::Waits;
use gnomon_cluster::clients::decide;
use gnomon_model::ids::{CLUSTER_FEATURE_LEVEL, HA_FILLS_FEATURE_LEVEL};
use gnomon_model::{Clock, TenantId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{ClaimHaTurn, HaPair, MetaState, RaiseFeatureLevel};
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

/// Claims of different pairs go on side by side.
const LANES: usize = 64;
/// Times of claims that are remembered.
const MAX_REMEMBERED: usize = 4096;
/// Between two claims of one replica that need not be.
const CLAIM_EVERY: Duration = Duration::from_secs(1);
/// How long a claim may take, and until it is seen here.
const WITHIN: Duration = Duration::from_secs(10);

/// Which series are of HA pairs, and when a turn goes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HaOptions {
    /// The label whose value all replicas of a pair have in common; it is kept.
    pub cluster_label: String,
    /// The label by which they differ; it is dropped. A series without either of them is taken as it is.
    pub replica_label: String,
    /// How far beyond its newest sample a replica's turn goes: how often it is lengthened.
    pub update_timeout: Duration,
    /// Silence, or lag behind the other, after which the turn goes over. Longer than samples of a pair are apart.
    pub failover_timeout: Duration,
    /// Pairs that a tenant may have.
    pub max_clusters: u32,
    /// Of what stand-bys sent last, for when one of them is taken; 0: nothing is kept, and up to `update_timeout` and an interval
    /// are missing.
    pub max_held_bytes: usize,
}

impl Default for HaOptions {
    /// As Mimir has them; the turn goes over later, so that it does not do so between two scrapes a minute apart.
    fn default() -> Self {
        Self {
            cluster_label: "cluster".into(),
            replica_label: "__replica__".into(),
            update_timeout: Duration::from_secs(15),
            failover_timeout: Duration::from_secs(120),
            max_clusters: 100,
            max_held_bytes: 64 << 20,
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl HaOptions {
    pub(crate) fn update_ms(&self) -> i64 {
        millis(self.update_timeout)
    }

    pub(crate) fn failover_ms(&self) -> i64 {
        millis(self.failover_timeout)
    }
}

/// Why samples of a pair are not decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HaError {
    /// Send it again.
    #[error("{0}")]
    Retry(String),
    /// Sending it again would change nothing.
    #[error("{0}")]
    Refused(String),
}

struct Metrics {
    claims: IntCounterVec,
    changes: IntCounter,
    waits: IntCounter,
    deduplicated: IntCounter,
    pairs: IntGauge,
    held_bytes: IntGauge,
    held_gone: IntCounter,
    filled: IntCounter,
}

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let claims = IntCounterVec::new(
            Opts::new(
                "gnomon_ha_claims_total",
                "Claims of turns of HA pairs, by what came of them.",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(claims.clone()))?;
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            claims,
            pairs: gauge("gnomon_ha_pairs", "HA pairs that the cluster knows.")?,
            held_bytes: gauge(
                "gnomon_ha_held_bytes",
                "Bytes of requests of stand-bys that are held until whoever has the turn has passed them.",
            )?,
            held_gone: counter(
                "gnomon_ha_held_dropped_total",
                "Requests of stand-bys that were let go before it was known whether they are wanted, for want of room, or that could not be \
                 written when they were.",
            )?,
            filled: counter(
                "gnomon_ha_filled_samples_total",
                "Held samples of stand-bys that were written behind the last ones of whoever had the turn.",
            )?,
            changes: counter(
                "gnomon_ha_turns_total",
                "Turns of HA pairs that began by a claim of this node.",
            )?,
            waits: counter(
                "gnomon_ha_waits_total",
                "Requests told to come again since it was not known whose samples count.",
            )?,
            deduplicated: counter(
                "gnomon_ha_deduplicated_samples_total",
                "Samples taken from replicas of HA pairs that do not have the turn, and dropped.",
            )?,
        })
    }
}

/// Samples of one replica in a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) cluster: &'a str,
    pub(crate) replica: &'a str,
    pub(crate) oldest_ms: i64,
    pub(crate) newest_ms: i64,
    /// Whoever asks writes what fills the end of the turn before, where the request has some.
    pub(crate) may_fill: bool,
}

impl Asked<'_> {
    fn key(self) -> u64 {
        xxh3_64([self.tenant.as_str(), self.cluster, self.replica].join("\0").as_bytes())
    }

    pub(crate) fn stand_by(self) -> StandBy {
        StandBy {
            tenant: self.tenant.clone(),
            cluster: self.cluster.to_owned(),
            replica: self.replica.to_owned(),
        }
    }
}

/// One per process.
pub struct HaTracker {
    options: HaOptions,
    meta: Arc<dyn MetaService>,
    states: watch::Receiver<Arc<MetaState>>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    lanes: Vec<tokio::sync::Mutex<()>>,
    /// When which replica claimed last (monotonic), by hash.
    claimed: Mutex<HashMap<u64, Duration>>,
    held: Arc<Held>,
    waits: Waits,
}

impl HaTracker {
    /// # Errors
    /// When `registry` has a tracker's metrics already.
    pub fn new(
        options: HaOptions,
        meta: Arc<dyn MetaService>,
        states: watch::Receiver<Arc<MetaState>>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        Ok(Arc::new(Self {
            held: Held::new(options.max_held_bytes),
            options,
            meta,
            states,
            clock,
            metrics: Metrics::register(registry)?,
            lanes: (0..LANES).map(|_| tokio::sync::Mutex::default()).collect(),
            claimed: Mutex::default(),
            waits: Waits::default(),
        }))
    }

    pub(crate) fn options(&self) -> &HaOptions {
        &self.options
    }

    pub(super) fn states(&self) -> watch::Receiver<Arc<MetaState>> {
        self.states.clone()
    }

    pub(super) const fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Keeps a request of stand-bys for when one of them is taken, with times of theirs.
    pub(super) fn hold(&self, form: Form, stand_bys: Vec<(StandBy, (i64, i64))>, body: &[u8]) {
        let state = || Arc::clone(&self.states.borrow());
        if stand_bys.is_empty() || state().feature_level < HA_FILLS_FEATURE_LEVEL.0 {
            return;
        }
        let whose: Vec<StandBy> = stand_bys.iter().map(|(one, _)| one.clone()).collect();
        let gone = self.held.keep(form, stand_bys, body);
        self.metrics.held_gone.inc_by(gone);
        self.note_held();
        // By a state that is as new as what is kept: who looks for what is due has seen one of the two.
        let state = state();
        let is_taken =
            |one: &StandBy| find(&state, &one.tenant, &one.cluster).is_some_and(|pair| has_turn(pair, &one.replica));
        if whose.iter().any(is_taken) {
            self.held.arrived.notify_one();
        }
    }

    pub(super) fn note_held(&self) {
        self.metrics.held_bytes.set(self.held.bytes() as i64);
    }

    pub(crate) fn count_filled(&self, samples: u64) {
        self.metrics.filled.inc_by(samples);
    }

    pub(super) fn count_not_filled(&self, requests: u64) {
        self.metrics.held_gone.inc_by(requests);
    }

    pub(crate) fn count_deduplicated(&self, samples: u64) {
        self.metrics.deduplicated.inc_by(samples);
    }

    /// Which samples of a replica count.
    pub(crate) async fn turns(&self, asked: Asked<'_>) -> Result<Turns, HaError> {
        let turns = self.decide(asked).await?;
        match self.waits(asked, &turns) {
            true => Err(self.filling(asked.cluster)),
            false => Ok(turns),
        }
    }

    async fn decide(&self, asked: Asked<'_>) -> Result<Turns, HaError> {
        if let Step::Go(turns) = self.step(asked) {
            return Ok(turns);
        }
        let pair = [asked.tenant.as_str(), asked.cluster].join("\0");
        let lane = &self.lanes[xxh3_64(pair.as_bytes()) as usize % LANES];
        // One claim at a time: whoever waited for another's finds it decided.
        let _turn = lane.lock().await;
        let key = asked.key();
        if self.last_turn(asked).is_none() {
            // The first turn begins with its oldest sample: another's that are older are not dropped.
            let earliest_ms = asked
                .newest_ms
                .min(self.clock.now().0)
                .saturating_sub(self.options.failover_ms());
            let first_ms = asked.oldest_ms.max(earliest_ms);
            let first = Asked {
                newest_ms: first_ms,
                ..asked
            };
            self.claim(first, true, key).await?;
        }
        match self.step(asked) {
            Step::Go(turns) => Ok(turns),
            Step::Wait => Err(self.wait(asked.cluster)),
            Step::Claim { urgent } => self.claim(asked, urgent, key).await,
        }
    }

    fn step(&self, asked: Asked<'_>) -> Step {
        let state = Arc::clone(&self.states.borrow());
        let now_ms = self.clock.now().0;
        let pair = find(&state, asked.tenant, asked.cluster);
        step(pair, asked.replica, asked.newest_ms, now_ms, &self.options)
    }

    /// Whether these samples are of a turn that has just begun, and what fills the end of the one before is not written yet.
    fn waits(&self, asked: Asked<'_>, turns: &Turns) -> bool {
        let state = Arc::clone(&self.states.borrow());
        let pair = find(&state, asked.tenant, asked.cluster).filter(|pair| has_turn(pair, asked.replica));
        let Some((pair, last)) = pair.and_then(|pair| Some((pair, pair.turns.last()?))) else {
            return false;
        };
        let is_newer = asked.newest_ms >= last.from_ms;
        let is_of_it = is_newer || turns.may_fill(asked.oldest_ms, asked.newest_ms);
        if !is_of_it || !Waits::may_wait(last, self.clock.now().0) {
            return false;
        }
        let since = self.waits.since(asked.key(), last.from_ms, self.clock.monotonic());
        let is_waited_for = || self.held.is_waited_for(&asked.stand_by(), pair);
        (is_newer && Waits::for_others(since)) || (Waits::for_own(since) && is_waited_for())
    }

    fn filling(&self, cluster: &str) -> HaError {
        self.metrics.waits.inc();
        HaError::Retry(format!(
            "HA cluster {cluster:?}: this replica has the turn now; what it sent of the end of the turn before is written \
             first, within a few seconds"
        ))
    }

    fn wait(&self, cluster: &str) -> HaError {
        self.metrics.waits.inc();
        HaError::Retry(format!(
            "HA cluster {cluster:?}: its other replica has the turn, and has not written samples as new as these yet; \
             they are decided within {} s",
            self.options.failover_timeout.as_secs_f64()
        ))
    }

    /// What is decided as things stand, where there is nothing undecided.
    fn as_it_stands(&self, asked: Asked<'_>) -> Option<Turns> {
        let state = Arc::clone(&self.states.borrow());
        let pair = find(&state, asked.tenant, asked.cluster)?;
        as_it_stands(pair, asked.replica, asked.newest_ms, self.clock.now().0, &self.options)
    }

    async fn claim(&self, asked: Asked<'_>, urgent: bool, key: u64) -> Result<Turns, HaError> {
        let before = self.last_turn(asked);
        let has_turn = before.as_ref().is_some_and(|(has, _)| has == asked.replica);
        // Where clocks differ, a claim that must be may come too early again and again: not with each request.
        let may_claim = (urgent && (has_turn || before.is_none())) || self.is_due(key);
        if !may_claim {
            return self.as_it_stands(asked).ok_or_else(|| self.wait(asked.cluster));
        }
        let fills = !has_turn && self.fills(asked);
        let command = Command::ClaimHaTurn(ClaimHaTurn {
            fills,
            tenant: asked.tenant.as_str().to_owned(),
            cluster: asked.cluster.to_owned(),
            replica: asked.replica.to_owned(),
            newest_ms: asked.newest_ms,
            extend_ms: self.options.update_ms(),
            failover_ms: self.options.failover_ms(),
            max_pairs: self.options.max_clusters,
        });
        if let Err(error) = self.commit(command).await {
            let outcome = match &error {
                HaError::Retry(_) => "failed",
                HaError::Refused(_) => "refused",
            };
            self.metrics.claims.with_label_values(&[outcome]).inc();
            return self.as_it_stands(asked).ok_or(error);
        }
        let (cluster, replica) = (asked.cluster, asked.replica);
        let state = Arc::clone(&self.states.borrow());
        self.metrics.pairs.set(state.ha_pairs.len() as i64);
        let Some(pair) = find(&state, asked.tenant, cluster) else {
            return Err(self.wait(cluster));
        };
        if pair.turns.last().is_none_or(|turn| turn.replica != replica) {
            self.metrics.claims.with_label_values(&["too_early"]).inc();
            return self.as_it_stands(asked).ok_or_else(|| self.wait(cluster));
        }
        self.metrics.claims.with_label_values(&["taken"]).inc();
        if !has_turn {
            self.metrics.changes.inc();
            let from_ms = pair.turns.last().map_or(i64::MIN, |turn| turn.from_ms);
            let before = before.map_or_else(String::new, |(replica, _)| replica);
            tracing::info!(
                cluster,
                replica,
                before,
                from_ms,
                "HA pair: the samples of this replica count from now on"
            );
        }
        let turns = Turns::of(pair, replica, self.options.update_ms());
        Ok(if asked.newest_ms < pair.until_ms {
            turns
        } else {
            turns.open_ended()
        })
    }

    /// Whether something of the end of the turn that another has is held here, or comes with this, and all nodes know what to do
    /// with it.
    fn fills(&self, asked: Asked<'_>) -> bool {
        let state = Arc::clone(&self.states.borrow());
        let pair = find(&state, asked.tenant, asked.cluster);
        let pair = pair.filter(|_| self.held.is_on() && state.feature_level >= HA_FILLS_FEATURE_LEVEL.0);
        let extend_ms = self.options.update_ms();
        pair.is_some_and(|pair| {
            let turns = Turns::of(pair, asked.replica, extend_ms);
            let comes = asked.may_fill && turns.held(asked.oldest_ms, asked.newest_ms).is_some();
            comes || self.held.has(&asked.stand_by(), pair, extend_ms)
        })
    }

    fn last_turn(&self, asked: Asked<'_>) -> Option<(String, i64)> {
        let state = Arc::clone(&self.states.borrow());
        let turn = find(&state, asked.tenant, asked.cluster)?.turns.last()?;
        Some((turn.replica.clone(), turn.from_ms))
    }

    fn is_due(&self, key: u64) -> bool {
        let now = self.clock.monotonic();
        let mut claimed = self.claimed.lock();
        if claimed.len() >= MAX_REMEMBERED {
            claimed.clear();
        }
        let due = claimed
            .get(&key)
            .is_none_or(|at| now.saturating_sub(*at) >= CLAIM_EVERY);
        if due {
            claimed.insert(key, now);
        }
        due
    }

    /// Commits a claim, and waits until its outcome is seen here.
    async fn commit(&self, command: Command) -> Result<(), HaError> {
        let undecided = |why: &dyn std::fmt::Display| {
            HaError::Retry(format!(
                "the metadata group does not decide whose samples of an HA pair count: {why}"
            ))
        };
        if self.states.borrow().feature_level < CLUSTER_FEATURE_LEVEL.0 {
            self.raise_feature_level().await?;
        }
        let committed = async {
            let answer = decide(self.meta.as_ref(), command).await.map_err(|e| undecided(&e))?;
            if !answer.refused.is_empty() {
                return Err(HaError::Refused(answer.refused));
            }
            let mut states = self.states.clone();
            let seen = states.wait_for(|state| state.revision >= answer.revision).await;
            seen.map(drop).map_err(|_| undecided(&"this node stops"))
        };
        match tokio::time::timeout(WITHIN, committed).await {
            Ok(done) => done,
            Err(_) => Err(undecided(&"it took too long")),
        }
    }

    /// Nothing of the kind is proposed before every node understands it.
    async fn raise_feature_level(&self) -> Result<(), HaError> {
        let level = CLUSTER_FEATURE_LEVEL.0;
        let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
        let not_yet =
            |why: String| HaError::Retry(format!("HA pairs need feature level {level} of the cluster: {why}"));
        let raised = tokio::time::timeout(WITHIN, decide(self.meta.as_ref(), raise)).await;
        match raised.unwrap_or_else(|_| Err(ServiceError::Unavailable("it took too long".into()))) {
            Ok(answer) if answer.refused.is_empty() => Ok(()),
            Ok(answer) => Err(not_yet(answer.refused)),
            Err(error) => Err(not_yet(error.to_string())),
        }
    }
}

pub(super) fn find<'a>(state: &'a MetaState, tenant: &TenantId, cluster: &str) -> Option<&'a HaPair> {
    let key = (tenant.as_str(), cluster);
    let found = state
        .ha_pairs
        .binary_search_by(|pair| (pair.tenant.as_str(), pair.cluster.as_str()).cmp(&key));
    found.ok().and_then(|at| state.ha_pairs.get(at))
}
