//! The metadata group's state machine: one command after another, by the command alone.
//!
//! Invariant: what apply does depends on the state and the command (its `proposed_at_ms` included), on no clock, no
//! setting and no random number of this node.

use super::{call_off, catalogue, config, epochs, forget, ha, jobs, nodes, scrapers, tombstones};
use gnomon_model::FeatureLevel;
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{MetaCommand, MetaResponse, MetaState, Node};
use parking_lot::Mutex;
use prost::Message;
use std::sync::Arc;
use tokio::sync::watch;

/// How often the state is shown while each node renews its lease once, and nothing else changes.
const SHOWN_OF_EACH: usize = 4;
/// A node whose lease ends so much earlier than the newest is not one that renews it.
const RENEWS_WITHIN_MS: i64 = 60_000;

/// Why a command was not taken, in words for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) String);

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self(why)
    }
}

impl From<&str> for Refusal {
    fn from(why: &str) -> Self {
        Self(why.to_owned())
    }
}

/// What a command that was taken did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Whether the state is different from before.
    pub(super) changed: bool,
    /// Whether blocks or tombstones are.
    pub(super) catalogue_changed: bool,
    /// Whether nobody waits to hear of it at once: one lease more that got longer.
    pub(super) is_quiet: bool,
    pub(super) node_id: u64,
    pub(super) job_term: u64,
    pub(super) config_revision: u64,
    pub(super) tombstone_revision: u64,
}

impl Effect {
    pub(super) const NONE: Self = Self {
        changed: false,
        catalogue_changed: false,
        is_quiet: false,
        node_id: 0,
        job_term: 0,
        config_revision: 0,
        tombstone_revision: 0,
    };

    pub(super) const fn changed() -> Self {
        Self {
            changed: true,
            ..Self::NONE
        }
    }

    pub(super) const fn catalogue(changed: bool) -> Self {
        Self {
            changed,
            catalogue_changed: changed,
            ..Self::NONE
        }
    }
}

/// Holds the newest applied state and shows it to those who watch.
#[derive(Debug)]
pub struct MetaMachine {
    pub(super) inner: Mutex<Inner>,
    /// What this build understands.
    pub(super) understands: FeatureLevel,
    published: watch::Sender<Arc<MetaState>>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) state: Arc<MetaState>,
    /// What the store holds, and what a flush under way will make it hold.
    pub(super) stored: Arc<MetaState>,
    pub(super) flushing: Option<Arc<MetaState>>,
    /// Changes since the state was shown last of which nobody waits to hear; none is left out for ever.
    unheard: usize,
    /// There is one that is to be shown at once.
    has_news: bool,
    /// The cluster came to this level, which this build does not understand: nothing is applied any more.
    pub(super) beyond: Option<FeatureLevel>,
}

impl Default for MetaMachine {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            understands: CURRENT_FEATURE_LEVEL,
            published: watch::Sender::new(Arc::default()),
        }
    }
}

impl MetaMachine {
    /// As an older build, which understands no more than this.
    #[must_use]
    pub fn understanding(level: FeatureLevel) -> Self {
        Self {
            understands: level,
            ..Self::default()
        }
    }

    /// The newest applied state, and a notice of each newer one.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<MetaState>> {
        self.published.subscribe()
    }

    #[must_use]
    pub fn state(&self) -> Arc<MetaState> {
        self.inner.lock().state.clone()
    }

    /// Applies one command and shows the result. A refusal leaves the state as it was.
    pub fn apply_command(&self, command: &MetaCommand) -> MetaResponse {
        let mut inner = self.inner.lock();
        let response = inner.apply(command);
        inner.stop_beyond(self.understands);
        drop(inner);
        self.publish();
        response
    }

    /// Shows the state to those who watch, if it is newer than what they were shown, and to be shown now.
    pub(super) fn publish(&self) {
        let Some(state) = self.inner.lock().take_news() else {
            return;
        };
        self.published.send_if_modified(|shown| {
            let newer = state.revision > shown.revision;
            if newer {
                *shown = state;
            }
            newer
        });
    }
}

/// How many nodes renew their leases. Records of those that are gone stay for a day, and would make the others' leases
/// look ended before they are shown.
fn renewing(nodes: &[Node]) -> usize {
    let newest = nodes.iter().map(|node| node.lease_until_ms).max();
    let oldest = newest.unwrap_or(i64::MIN).saturating_sub(RENEWS_WITHIN_MS);
    nodes.iter().filter(|node| node.lease_until_ms >= oldest).count()
}

impl Inner {
    pub(super) fn restored(state: Arc<MetaState>) -> Self {
        Self {
            stored: state.clone(),
            state,
            has_news: true,
            ..Self::default()
        }
    }

    /// Stops where the cluster has come to a level that this build does not understand: what follows may be meant
    /// otherwise than it would be taken.
    pub(super) fn stop_beyond(&mut self, understands: FeatureLevel) {
        let level = FeatureLevel(self.state.feature_level);
        if level > understands && self.beyond.replace(level).is_none() {
            tracing::error!(
                level = level.0,
                understands = understands.0,
                "the cluster has come to a feature level that this build does not understand: start a newer one; this \
                 replica of the metadata group applies nothing any more"
            );
        }
    }

    /// The state, where it is to be shown. What is shown is copied by the next command, and sent to every node: with many
    /// nodes, whose leases get longer all the time, it is shown after some of them.
    fn take_news(&mut self) -> Option<Arc<MetaState>> {
        if !self.has_news && self.unheard < (renewing(&self.state.nodes) / SHOWN_OF_EACH).max(1) {
            return None;
        }
        (self.unheard, self.has_news) = (0, false);
        Some(self.state.clone())
    }

    pub(super) fn apply_encoded(&mut self, command: &[u8]) -> MetaResponse {
        if let Some(level) = self.beyond {
            let why = format!("this build does not understand feature level {level}");
            return self.response(0, Err(why.into()));
        }
        match MetaCommand::decode(command) {
            Ok(command) => self.apply(&command),
            Err(error) => self.response(0, Err(format!("not a metadata command: {error}").into())),
        }
    }

    fn apply(&mut self, command: &MetaCommand) -> MetaResponse {
        let result = self.dispatch(command);
        self.response(command.proposed_at_ms, result)
    }

    fn dispatch(&mut self, command: &MetaCommand) -> Result<Effect, Refusal> {
        let now_ms = command.proposed_at_ms;
        let command = command.command.as_ref().ok_or("an empty metadata command")?;
        // What is taken over may need a level, which the cluster has from its first moment on.
        let is_first = matches!(
            command,
            Command::InitCluster(_) | Command::AdoptCatalogue(_) | Command::RaiseFeatureLevel(_)
        );
        if self.state.epochs.is_empty() && !is_first {
            return Err("the cluster is not initialized yet".into());
        }
        // Clones once for a run of commands: what was published last is shared. Every rule checks before it changes.
        let next = Arc::make_mut(&mut self.state);
        let effect = match command {
            Command::InitCluster(c) => nodes::init_cluster(next, c)?,
            Command::RegisterNode(c) => nodes::register(next, c, now_ms)?,
            Command::RenewLease(c) => nodes::renew_lease(next, c, now_ms)?,
            Command::StageBlock(c) => catalogue::stage(next, c, now_ms)?,
            Command::PublishBlock(c) => catalogue::publish(next, c.block.as_ref().ok_or("no block")?, now_ms)?,
            Command::CondemnBlocks(c) => catalogue::condemn(next, c, now_ms)?,
            Command::ForgetBlocks(c) => catalogue::forget(next, &c.ids)?,
            Command::AcquireJob(c) => jobs::acquire(next, c, now_ms)?,
            Command::ReleaseJob(c) => jobs::release(next, c)?,
            Command::ProposeConfig(c) => config::propose(next, c, now_ms)?,
            Command::RaiseFeatureLevel(c) => nodes::raise_feature_level(next, c.level, now_ms)?,
            Command::SetShardReplicas(c) => nodes::set_replicas(next, c)?,
            Command::ExpireLeases(_) => scrapers::expire(next, now_ms),
            Command::EndLease(c) => nodes::end_lease(next, c, now_ms)?,
            Command::AddTombstone(c) => tombstones::add(next, c.tombstone.as_ref().ok_or("no tombstone")?, now_ms)?,
            Command::TombstonesApplied(c) => tombstones::applied(next, c),
            Command::ForgetTombstones(c) => tombstones::forget(next, &c.revisions)?,
            Command::CleanTombstones(_) => tombstones::clean(next),
            Command::AdoptCatalogue(c) => catalogue::adopt(next, c)?,
            Command::ReportMembers(c) => nodes::report_members(next, c.members.as_ref().ok_or("no members")?)?,
            Command::SetDraining(c) => nodes::set_draining(next, c)?,
            Command::SetReplication(c) => nodes::set_replication(next, c.replicas)?,
            Command::ClaimHaTurn(c) => ha::claim(next, c, now_ms)?,
            Command::AddEpoch(c) => epochs::add(next, c, now_ms)?,
            Command::ShardStep(c) => epochs::step(next, c, now_ms)?,
            Command::PostponeEpoch(c) => epochs::postpone(next, c, now_ms),
            Command::AbortEpoch(c) => call_off::abort(next, c)?,
            Command::ForgetNode(c) => forget::forget(next, c, now_ms)?,
        };
        if effect.changed {
            next.revision += 1;
            next.catalogue_revision += u64::from(effect.catalogue_changed);
            self.unheard += usize::from(effect.is_quiet);
            self.has_news |= !effect.is_quiet;
        }
        // Who is answered may wait for the answer's revision.
        self.has_news |= self.unheard > 0 && !matches!(command, Command::RenewLease(_));
        Ok(effect)
    }

    fn response(&self, proposed_at_ms: i64, result: Result<Effect, Refusal>) -> MetaResponse {
        let (effect, refused) = match result {
            Ok(effect) => (effect, String::new()),
            Err(Refusal(why)) => (Effect::NONE, why),
        };
        MetaResponse {
            revision: self.state.revision,
            refused,
            node_id: effect.node_id,
            job_term: effect.job_term,
            config_revision: effect.config_revision,
            tombstone_revision: effect.tombstone_revision,
            proposed_at_ms,
        }
    }
}
