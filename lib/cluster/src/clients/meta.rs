//! The metadata group from a node that has no replica of it (or is not its leader): goes from peer to peer.

use super::remote::Remote;
use super::silence::Silence;
use crate::layers::{Answering, BadAddress, CallMetrics, ChannelOptions, Retries, connect_as};
use crate::tls::host_of;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_model::{Clock, GroupId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::{MetaCommand, MetaResponse, MetaState};
use parking_lot::Mutex;
use std::iter;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// How long a call looks for a leader before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one peer may take for one call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long names are looked up before the next peer is asked.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// A watch that shows nothing for so long is checked against the group.
const SILENCE: Duration = Duration::from_secs(6);
/// Peers that are kept in mind at most; names may stand for ever new addresses.
const MAX_PEERS: usize = 64;

/// Asks the peers of the metadata group in turn, the one that answered last first; through it where the leader does not answer
/// here.
pub struct MetaClient {
    channel: ChannelOptions,
    metrics: CallMetrics,
    clock: Arc<dyn Clock>,
    retries: Retries,
    /// Peers that were given by name: each may stand for several nodes, and for others than before.
    names: Vec<String>,
    peers: Mutex<Peers>,
}

/// Whether `host:port` names a host rather than an address.
fn is_name(peer: &str) -> bool {
    peer.parse::<std::net::SocketAddr>().is_err()
}

/// Places among the peers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Route {
    /// None where no state seen so far says where it is: it joined while this node was away, say.
    leader: Option<usize>,
    leader_id: u64,
    /// Passes on to it.
    through: usize,
}

struct Peer {
    address: String,
    service: Arc<dyn MetaService>,
    answering: Answering,
    /// Anything but silence, ever.
    was_heard: bool,
}

struct Peers {
    /// By address; this node's own replica first, then the configured ones. One node may be there under several.
    all: Vec<Peer>,
    /// The first is this node's own replica.
    has_own: bool,
    /// Which one to ask next.
    next: usize,
    /// How what is to be decided comes to a leader that does not answer here.
    route: Option<Route>,
    silence: Silence<usize>,
    /// Addresses by node id, from the newest state seen: hints name nodes.
    addresses: Vec<(u64, String)>,
    /// The newest state seen: peers need only tell what differs.
    newest: Arc<MetaState>,
}

impl Peers {
    fn turn_to(&mut self, at: usize) {
        self.next = at % self.all.len();
    }

    /// Who is there, by what it answered, or by the state.
    fn node_at(&self, at: usize) -> Option<u64> {
        let peer = self.all.get(at)?;
        let answered = peer.answering.node().map(|node| node.0);
        let mut known = self.addresses.iter().filter(|(_, address)| *address == peer.address);
        answered.or_else(|| known.next().map(|(id, _)| *id))
    }

    fn are_one_node(&self, at: usize, other: usize) -> bool {
        at == other || self.node_at(at).is_some_and(|node| self.node_at(other) == Some(node))
    }

    /// All places of the node that is there.
    fn places_of(&self, at: usize) -> impl Iterator<Item = usize> {
        (0..self.all.len()).filter(move |other| self.are_one_node(at, *other))
    }

    /// Whether it did not answer of late; one that was never heard there is as silent as its node is elsewhere.
    fn is_silent(&self, at: usize, now: Duration) -> bool {
        let was_heard = self.all.get(at).is_some_and(|peer| peer.answering.node().is_some());
        let of_node = || self.places_of(at).any(|place| self.silence.lasts(place, now));
        self.silence.lasts(at, now) || (!was_heard && of_node())
    }

    fn has_answered(&mut self, at: usize) {
        self.all[at].was_heard = true;
        self.silence.end(at);
        let leader = self.route.and_then(|route| route.leader);
        if leader.is_some_and(|leader| self.are_one_node(leader, at)) {
            self.route = None;
            self.turn_to(at);
        }
    }

    /// Whom what is to be decided goes to: once each time the leader's silence is over to itself.
    fn for_proposal(&mut self, now: Duration) -> (usize, Option<u64>) {
        let otherwise = (self.next % self.all.len(), None);
        let Some(route) = self.route else {
            return otherwise;
        };
        match route.leader {
            Some(leader) if !self.is_silent(leader, now) => {
                if !self.silence.is_known(leader) {
                    return otherwise;
                }
                self.silence.begin(leader, now);
                (leader, None)
            }
            _ => (route.through, Some(route.leader_id)),
        }
    }

    fn place_that_answered_as(&self, node: u64) -> Option<usize> {
        let is_it = |peer: &Peer| peer.answering.node().is_some_and(|answered| answered.0 == node);
        self.all.iter().position(is_it)
    }

    /// Whether a leader without a known place is reached only through who named it, who knows where it is (this node's own
    /// replica does not): all others were asked too, or do not answer.
    fn only_through(&self, named_by: usize, now: Duration) -> bool {
        let is_own = |at: usize| self.has_own && at == 0;
        let might_be_it = |at: usize| !self.all[at].was_heard && !self.is_silent(at, now);
        let mut others = (0..self.all.len()).filter(|at| *at != named_by && !is_own(*at));
        !is_own(named_by) && !others.any(might_be_it)
    }

    /// One that may know a way to the leader.
    fn may_pass_on(&self, leader: usize, now: Duration) -> Option<usize> {
        let first = usize::from(self.has_own);
        let is_own = |at: usize| self.has_own && self.are_one_node(at, 0);
        let mut others = (first..self.all.len()).filter(|at| !self.are_one_node(*at, leader) && !is_own(*at));
        others.find(|at| !self.is_silent(*at, now))
    }
}

/// Whom a call goes to.
struct Asked {
    at: usize,
    peer: Arc<dyn MetaService>,
    /// It is to pass on what is to be decided to this node, which does not answer here.
    to: Option<u64>,
    /// A leader has to decide.
    decides: bool,
}

impl MetaClient {
    /// `local` is this node's own replica, where it has one, with the node's address.
    ///
    /// # Errors
    /// When an address cannot be one, or there is nobody to ask.
    pub fn new(
        local: Option<(String, Arc<dyn MetaService>)>,
        peers: &[String],
        channel: ChannelOptions,
        metrics: CallMetrics,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BadAddress> {
        if peers.is_empty() && local.is_none() {
            return Err(BadAddress {
                address: String::new(),
                why: "no peer is named".into(),
            });
        }
        let own = |(address, service)| Peer {
            address,
            service,
            answering: Answering::default(),
            was_heard: false,
        };
        let client = Self {
            retries: Retries::new(1, metrics.clone()),
            channel,
            metrics,
            clock,
            names: peers.iter().filter(|peer| is_name(peer)).cloned().collect(),
            peers: Mutex::new(Peers {
                has_own: local.is_some(),
                all: local.into_iter().map(own).collect(),
                next: 0,
                route: None,
                silence: Silence::default(),
                addresses: Vec::new(),
                newest: Arc::default(),
            }),
        };
        for address in peers {
            client.position_of(address, None)?;
        }
        Ok(client)
    }

    /// Adds peers that were heard of before, behind those that were named.
    pub(crate) fn know(&self, addresses: &[String]) {
        for address in addresses {
            if self.peers.lock().all.len() < MAX_PEERS
                && let Err(error) = self.position_of(address, None)
            {
                tracing::warn!(%error, "a peer of before is not asked");
            }
        }
    }

    /// The place of an address among the peers, made where it is not there yet. `name` is the host that it was found by.
    fn position_of(&self, address: &str, name: Option<&str>) -> Result<usize, BadAddress> {
        let mut peers = self.peers.lock();
        if let Some(at) = peers.all.iter().position(|peer| peer.address == address) {
            return Ok(at);
        }
        let answering = Answering::default();
        let service: Arc<dyn MetaService> = match &self.channel.network {
            Some(network) => network.meta(address),
            None => {
                let channel = connect_as(address, name, &self.channel, &self.metrics, &self.clock)?;
                let remote = Remote::new(channel, self.retries.clone());
                Arc::new(remote.telling(answering.clone()).meta())
            }
        };
        peers.all.push(Peer {
            address: address.to_owned(),
            service,
            answering,
            was_heard: false,
        });
        Ok(peers.all.len() - 1)
    }

    /// Adds the nodes that names stand for now. A connection follows a name with one address by itself.
    async fn look_up(&self) {
        for name in &self.names {
            let Ok(Ok(found)) = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host(name)).await else {
                continue;
            };
            let found: Vec<String> = found.map(|address| address.to_string()).collect();
            if found.len() < 2 {
                continue;
            }
            for address in found {
                if self.peers.lock().all.len() < MAX_PEERS {
                    // What a resolver gives is an address.
                    let _ = self.position_of(&address, Some(host_of(name)));
                }
            }
        }
    }

    /// Whom to ask; `decides` where a leader has to.
    fn asked(&self, decides: bool) -> Asked {
        let now = self.clock.monotonic();
        let mut peers = self.peers.lock();
        let (at, to) = match decides {
            true => peers.for_proposal(now),
            false => (peers.next % peers.all.len(), None),
        };
        let peer = peers.all[at].service.clone();
        Asked { at, peer, to, decides }
    }

    /// Turns to the hinted node, or to the next peer, unless another call has turned already. To one that does not answer here
    /// what is to be decided goes through the peer that named it.
    fn turn(&self, asked: &Asked, hint: Option<u64>) {
        // One that names again whom it is to pass on to does not know how to: it is of a build before that.
        let hint = hint.filter(|id| asked.to != Some(*id));
        let hinted = hint.and_then(|id| {
            let known = |(node, _): &&(u64, String)| *node == id;
            let address = self
                .peers
                .lock()
                .addresses
                .iter()
                .find(known)
                .map(|(_, address)| address.clone());
            let place = match address {
                Some(address) => self.position_of(&address, None).ok(),
                None => self.peers.lock().place_that_answered_as(id),
            };
            Some((id, place?))
        });
        let (from, now) = (asked.at, self.clock.monotonic());
        let mut peers = self.peers.lock();
        // Its address may not be reached from here, and another that it was named by may.
        let hinted = hinted.map(|(id, leader)| {
            let others = peers.places_of(leader).filter(|at| *at != from);
            let heard = iter::once(leader).chain(others).find(|at| !peers.is_silent(*at, now));
            (id, heard.unwrap_or(leader))
        });
        if asked.to.is_some() {
            // Another leads, or it does not reach the leader either, or is gone itself.
            peers.route = peers.route.filter(|route| route.through != from);
        }
        if peers.next % peers.all.len() != from && asked.to.is_none() {
            return;
        }
        match hinted {
            None => {
                if let Some(leader_id) = hint
                    && asked.decides
                    && peers.only_through(from, now)
                {
                    peers.route = Some(Route {
                        leader: None,
                        leader_id,
                        through: from,
                    });
                }
                let mut others = (from + 1..from + peers.all.len()).map(|at| at % peers.all.len());
                let next = others.find(|at| !peers.is_silent(*at, now));
                peers.turn_to(next.unwrap_or(from + 1));
            }
            Some((_, leader)) if !peers.is_silent(leader, now) => peers.turn_to(leader),
            // This node's own replica does not reach it either.
            Some((_, leader)) if peers.has_own && from == 0 => {
                let next = peers.may_pass_on(leader, now);
                peers.turn_to(next.unwrap_or(leader));
            }
            Some((leader_id, leader)) => {
                peers.route = Some(Route {
                    leader: Some(leader),
                    leader_id,
                    through: from,
                });
            }
        }
    }

    /// Whether a peer answered. What one that passes on says is not the other's silence.
    fn note(&self, asked: &Asked, has_answered: bool) {
        let now = self.clock.monotonic();
        let mut peers = self.peers.lock();
        if has_answered {
            peers.has_answered(asked.at);
        } else if asked.to.is_none() && !(peers.has_own && asked.at == 0) {
            peers.silence.begin(asked.at, now);
        }
    }

    /// Where nodes are; and who votes can be asked too, whatever peers were named.
    fn learn(&self, state: &Arc<MetaState>) {
        // The first cluster that answers is the one that a node without one joins.
        if let Ok(cluster) = state.cluster_id.parse() {
            self.channel.membership.learn(cluster);
        }
        let addresses: Vec<_> = state.nodes.iter().map(|n| (n.id, n.address.clone())).collect();
        let voters = state.members.first().filter(|m| m.group == GroupId::METADATA.0);
        for voter in voters.iter().flat_map(|m| &m.voters) {
            let known = addresses.iter().find(|(id, _)| id == voter);
            if let Some((_, address)) = known
                && self.peers.lock().all.len() < MAX_PEERS
            {
                // One that cannot be an address was refused when the node registered.
                let _ = self.position_of(address, None);
            }
        }
        let mut peers = self.peers.lock();
        // Where a route without a place leads may be known now; who names the leader again is asked for nothing more.
        let is_known = |route: &Route| addresses.iter().any(|(node, _)| *node == route.leader_id);
        peers.route = peers.route.filter(|route| route.leader.is_some() || !is_known(route));
        peers.addresses = addresses;
        if state.revision >= peers.newest.revision {
            peers.newest = state.clone();
        }
    }

    /// What the peers tell does not fit to it.
    fn forget_newest(&self) {
        self.peers.lock().newest = Arc::default();
    }

    /// Asks until a peer answers. `decides` where a leader has to, and asking again after an unknown outcome is not harmless.
    /// `ask` is told to which node the peer is to pass on.
    async fn ask<T, Asking>(
        &self,
        decides: bool,
        ask: impl Fn(Arc<dyn MetaService>, Option<u64>) -> Asking,
    ) -> Result<T, ServiceError>
    where
        Asking: Future<Output = Result<T, ServiceError>>,
    {
        let mut last = None;
        let asking = async {
            let mut backoff = FIRST_BACKOFF;
            let mut strangers = 0;
            loop {
                let asked = self.asked(decides);
                let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, ask(asked.peer.clone(), asked.to)).await;
                let attempt = attempt.unwrap_or_else(|_| {
                    let why = format!("the metadata peer did not answer within {ATTEMPT_TIMEOUT:?}");
                    Err(ServiceError::Unknown(why))
                });
                let is_silence = |error: &ServiceError| {
                    let unknown = matches!(error, ServiceError::Unknown(_) | ServiceError::DeadlineExceeded(_));
                    unknown || matches!(error, ServiceError::Unavailable(_))
                };
                self.note(&asked, !attempt.as_ref().is_err_and(is_silence));
                let error = match attempt {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                let hint = match &error {
                    ServiceError::NotLeader { leader } => *leader,
                    ServiceError::Unavailable(_) | ServiceError::Busy(_) => None,
                    // One may have the address of a peer that is gone; where all are of another cluster, this node is
                    // told of the wrong ones.
                    ServiceError::OtherCluster(_) => {
                        strangers += 1;
                        if strangers >= self.peers.lock().all.len() {
                            return Err(error);
                        }
                        None
                    }
                    ServiceError::Unknown(_) | ServiceError::DeadlineExceeded(_) if !decides => None,
                    ServiceError::Unknown(_) | ServiceError::DeadlineExceeded(_) => {
                        self.turn(&asked, None);
                        return Err(ServiceError::Unknown(error.to_string()));
                    }
                    _ => return Err(error),
                };
                self.look_up().await;
                self.turn(&asked, hint);
                last = Some(error);
                tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(result) => result,
            Err(_) => Err(last.unwrap_or_else(|| ServiceError::Unavailable("no metadata peer answers".into()))),
        }
    }
}

#[async_trait]
impl MetaService for MetaClient {
    async fn propose(&self, command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        self.ask(true, |peer, to| {
            let command = command.clone();
            async move {
                match to {
                    Some(leader) => peer.propose_through(command, leader).await,
                    None => peer.propose(command).await,
                }
            }
        })
        .await
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        let read = |peer: Arc<dyn MetaService>, _| {
            let base = self.peers.lock().newest.clone();
            async move { peer.read_from(base).await }
        };
        let mut state = self.ask(false, read).await;
        if matches!(state, Err(ServiceError::Damaged(_))) {
            self.forget_newest();
            state = self.ask(false, read).await;
        }
        let state = state?;
        self.learn(&state);
        Ok(state)
    }

    /// The stream ends with an error when its peer is lost; [`follow_meta`] opens it again elsewhere.
    async fn watch(
        &self,
        after_revision: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        self.ask(false, |peer, _| async move { peer.watch(after_revision).await })
            .await
    }

    async fn watch_from(
        &self,
        base: Arc<MetaState>,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        self.ask(false, |peer, _| {
            let base = base.clone();
            async move { peer.watch_from(base).await }
        })
        .await
    }
}

/// Whether it is newer than what was shown.
fn show(states: &watch::Sender<Arc<MetaState>>, state: Arc<MetaState>) -> bool {
    states.send_if_modified(|shown| {
        let newer = state.revision > shown.revision;
        if newer {
            *shown = state;
        }
        newer
    })
}

/// Keeps `states` at the newest state that any peer shows, through lost connections, until `stop`.
pub async fn follow_meta(client: Arc<MetaClient>, states: watch::Sender<Arc<MetaState>>, stop: CancellationToken) {
    let mut backoff = FIRST_BACKOFF;
    let mut fits = true;
    loop {
        let base = match fits {
            true => states.borrow().clone(),
            false => Arc::default(),
        };
        let following = async {
            let mut stream = client.watch_from(base).await?;
            loop {
                let state = match tokio::time::timeout(SILENCE, stream.next()).await {
                    Ok(Some(state)) => state?,
                    Ok(None) => return Err(ServiceError::Unavailable("the watch ended".into())),
                    // Nodes renew their leases more often than that: it may be a replica that hears nothing itself.
                    Err(_) => {
                        let newest = client.read().await?;
                        if !show(&states, newest) {
                            continue;
                        }
                        return Err::<(), _>(ServiceError::Unavailable("the watch has fallen behind".into()));
                    }
                };
                backoff = FIRST_BACKOFF;
                client.learn(&state);
                show(&states, state);
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            ended = following => if let Err(error) = ended {
                fits = !matches!(error, ServiceError::Damaged(_));
                match fits {
                    true => tracing::debug!(%error, "metadata watch lost; opening it again"),
                    false => tracing::warn!(%error, "beginning the metadata watch anew"),
                }
            },
        }
        client.turn(&client.asked(false), None);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.0))) => {}
        }
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}
