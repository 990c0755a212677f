//! `/api/v1/cluster`: the cluster as it is, and what an operator may ask of it; `/-/drain` of one node.
//!
//! Every process serves it: it is the metadata state, and what ingesters tell of their groups.

mod show;

use crate::cluster_api::show::Seen;
use crate::leave::left;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use gnomon_cluster::assign::{self, Rules};
use gnomon_cluster::clients::{Directory, decide};
use gnomon_cluster::meta::{CannotForget, CannotReshard, Reshard, call_off, forget_node, reshard};
use gnomon_model::{Clock, NodeId};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{GroupStatus, MetaState, Node, SetDraining, SetReplication, SetShardReplicas, ShardReplicas};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a node may take to tell of its groups; one that does not answer is shown without.
const TELL_WITHIN: Duration = Duration::from_secs(2);
/// How often a node that drains looks at what it still has.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the answer to `/-/drain` waits; draining goes on after it.
const DRAIN_WITHIN: Duration = Duration::from_secs(60 * 60);

/// What it is made of.
#[derive(Clone)]
pub struct ClusterApi {
    pub node: NodeId,
    pub directory: Arc<Directory>,
    pub meta: Arc<dyn MetaService>,
    pub states: watch::Receiver<Arc<MetaState>>,
    pub clock: Arc<dyn Clock>,
    pub rules: Rules,
    /// `--web.enable-admin-api`: whether it may be asked for changes.
    pub may_change: bool,
    /// `--web.enable-lifecycle`: whether `/-/drain` is there.
    pub may_drain: bool,
}

struct Failed(StatusCode, &'static str, String);

impl Failed {
    fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, "bad_data", text.into())
    }

    fn unavailable(text: impl Into<String>) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(status, kind, error) = self;
        let body = json!({"status": "error", "errorType": kind, "error": error});
        (status, Json(body)).into_response()
    }
}

/// A document as an answer's body.
struct Json(Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], self.0.to_string()).into_response()
    }
}

type Answer = Result<Json, Failed>;

fn success(data: Value) -> Answer {
    Ok(Json(json!({"status": "success", "data": data})))
}

type Route = MethodRouter<Arc<ClusterApi>>;

/// What is below `/api/v1/cluster/`, with its method. A new one needs a path in `querier/src/api/openapi.yaml`.
fn table() -> [(&'static str, &'static str, Route); 11] {
    [
        ("nodes", "get", get(nodes)),
        ("shards", "get", get(shards)),
        ("ring", "get", get(ring)),
        ("blocks", "get", get(blocks)),
        ("jobs", "get", get(jobs)),
        ("drain", "post", post(drain)),
        ("move", "post", post(move_replica)),
        ("rebalance", "post", post(rebalance)),
        ("replicas", "post", post(replicas)),
        ("reshard", "post", post(change_shards)),
        ("forget", "post", post(forget)),
    ]
}

/// The routes below `prefix`.
pub fn routes(api: ClusterApi, prefix: &str) -> Router {
    let mut routes = Router::new().route(&format!("{prefix}/-/drain"), post(drain_this).put(drain_this));
    for (path, _, route) in table() {
        routes = routes.route(&format!("{prefix}/api/v1/cluster/{path}"), route);
    }
    routes.with_state(Arc::new(api))
}

type Api = State<Arc<ClusterApi>>;

async fn nodes(State(api): Api) -> Answer {
    let state = api.state().await?;
    success(show::nodes(&state, api.clock.now().0, &api.rules))
}

async fn shards(State(api): Api) -> Answer {
    let state = api.state().await?;
    let seen = api.groups(&state).await;
    success(show::shards(&state, &seen))
}

async fn ring(State(api): Api) -> Answer {
    success(show::ring(&*api.state().await?))
}

async fn blocks(State(api): Api) -> Answer {
    success(show::blocks(&*api.state().await?))
}

async fn jobs(State(api): Api) -> Answer {
    success(show::jobs(&*api.state().await?, api.clock.now().0))
}

#[derive(Deserialize)]
struct Drain {
    node: u64,
    #[serde(default)]
    undo: bool,
}

async fn drain(State(api): Api, Query(wanted): Query<Drain>) -> Answer {
    api.require_admin()?;
    api.set_draining(wanted.node, !wanted.undo).await?;
    success(json!({}))
}

/// Answers once nothing is left here that others need.
async fn drain_this(State(api): Api) -> Result<&'static str, Failed> {
    if !api.may_drain {
        let text = "Lifecycle API is not enabled.";
        return Err(Failed(StatusCode::FORBIDDEN, "forbidden", text.into()));
    }
    api.set_draining(api.node.0, true).await?;
    let emptied = async {
        loop {
            // As of now: what is followed may not show yet what was just given to it.
            if let Ok(state) = api.meta.read().await {
                let own = state.nodes.iter().find(|node| node.id == api.node.0);
                if own.is_none_or(|node| !node.draining) {
                    return Err(Failed::bad("the drain was undone meanwhile"));
                }
                if left(&state, api.node) == 0 {
                    return Ok(());
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(DRAIN_WITHIN, emptied).await {
        Ok(done) => done.map(|()| "drained\n"),
        Err(_) => Err(Failed::unavailable(
            "other nodes have not taken everything over yet; it goes on",
        )),
    }
}

#[derive(Deserialize)]
struct Move {
    shard: u32,
    from: u64,
    to: u64,
}

async fn move_replica(State(api): Api, Query(wanted): Query<Move>) -> Answer {
    api.require_admin()?;
    let state = api.state().await?;
    let to = moved(&state, &wanted, api.clock.now().0).map_err(Failed::bad)?;
    let shard = ShardReplicas {
        shard: wanted.shard,
        nodes: to.clone(),
    };
    let from_nodes = state
        .shards
        .iter()
        .find(|s| s.shard == wanted.shard)
        .map(|s| s.nodes.clone());
    api.decide(Command::SetShardReplicas(SetShardReplicas {
        shard: Some(shard),
        from_nodes: from_nodes.unwrap_or_default(),
    }))
    .await?;
    success(json!({"shard": wanted.shard, "nodes": to}))
}

/// The replicas of a shard after a move.
fn moved(state: &MetaState, wanted: &Move, now_ms: i64) -> Result<Vec<u64>, String> {
    let Move { shard, from, to } = *wanted;
    let there = state.shards.iter().find(|s| s.shard == shard);
    let there = there.ok_or_else(|| format!("there is no shard {shard}"))?;
    if !there.nodes.contains(&from) {
        return Err(format!(
            "shard {shard} has no replica on node {from}: it is on {:?}",
            there.nodes
        ));
    }
    if there.nodes.contains(&to) {
        return Err(format!("shard {shard} has a replica on node {to} already"));
    }
    let node = state
        .nodes
        .iter()
        .find(|n| n.id == to)
        .ok_or_else(|| format!("there is no node {to}"))?;
    if !node.roles.iter().any(|role| role == "ingester") {
        return Err(format!("node {to} is no ingester"));
    }
    if node.draining || node.lease_until_ms < now_ms {
        return Err(format!("node {to} is draining, or silent"));
    }
    Ok(there.nodes.iter().map(|n| if *n == from { to } else { *n }).collect())
}

/// What is going to be changed; it is done by the leader of the metadata group without being asked.
async fn rebalance(State(api): Api) -> Answer {
    api.require_admin()?;
    let state = api.state().await?;
    let changes = assign::plan(&state, api.clock.now().0, &api.rules);
    let shown = |c: &assign::Change| json!({"shard": c.shard, "from": c.from, "to": c.to, "why": c.why.text()});
    success(json!({"changes": changes.iter().map(shown).collect::<Vec<_>>()}))
}

#[derive(Deserialize)]
struct Replicas {
    replicas: u32,
}

async fn replicas(State(api): Api, Query(wanted): Query<Replicas>) -> Answer {
    api.require_admin()?;
    api.decide(Command::SetReplication(SetReplication {
        replicas: wanted.replicas,
    }))
    .await?;
    success(json!({"replicas": wanted.replicas}))
}

#[derive(Deserialize)]
struct Forget {
    node: u64,
}

async fn forget(State(api): Api, Query(wanted): Query<Forget>) -> Answer {
    api.require_admin()?;
    match forget_node(api.meta.as_ref(), wanted.node).await {
        Ok(()) => success(json!({"node": wanted.node})),
        Err(CannotForget::Refused(why)) => Err(Failed::bad(why)),
        Err(error @ CannotForget::Meta(_)) => Err(Failed::unavailable(error.to_string())),
    }
}

#[derive(Deserialize)]
struct Shards {
    #[serde(default)]
    shards: u32,
    #[serde(default)]
    cancel: bool,
}

/// Announces a placement epoch; what follows goes by itself.
async fn change_shards(State(api): Api, Query(wanted): Query<Shards>) -> Answer {
    api.require_admin()?;
    if wanted.cancel {
        return match call_off(api.meta.as_ref()).await {
            Ok(epoch) => success(json!({"calledOff": epoch})),
            Err(CannotReshard::Meta(error)) => Err(Failed::unavailable(error.to_string())),
            Err(error) => Err(Failed::bad(error.to_string())),
        };
    }
    match reshard(api.meta.as_ref(), &Reshard::to(wanted.shards), api.clock.as_ref()).await {
        Ok(_) => success(show::epoch_change(&*api.state().await?)),
        // None is on its way: that was looked at before.
        Err(CannotReshard::Same(_)) => success(Value::Null),
        Err(CannotReshard::Meta(error)) => Err(Failed::unavailable(error.to_string())),
        Err(error) => Err(Failed::bad(error.to_string())),
    }
}

impl ClusterApi {
    /// As of now.
    async fn state(&self) -> Result<Arc<MetaState>, Failed> {
        let state = self.meta.read().await;
        state.map_err(|e| Failed::unavailable(format!("the metadata group cannot be asked: {e}")))
    }

    fn require_admin(&self) -> Result<(), Failed> {
        if self.may_change {
            return Ok(());
        }
        let text = "admin APIs disabled: start with --web.enable-admin-api".to_owned();
        Err(Failed(StatusCode::FORBIDDEN, "unavailable", text))
    }

    async fn set_draining(&self, node: u64, draining: bool) -> Result<(), Failed> {
        self.decide(Command::SetDraining(SetDraining { node, draining })).await
    }

    fn require_cluster(&self) -> Result<(), Failed> {
        let level = self.states.borrow().feature_level;
        if level < gnomon_model::ids::CLUSTER_FEATURE_LEVEL.0 {
            return Err(Failed::bad("there is one ingester only: nothing can be moved"));
        }
        Ok(())
    }

    async fn decide(&self, command: Command) -> Result<(), Failed> {
        self.require_cluster()?;
        let answer = decide(self.meta.as_ref(), command).await;
        let answer = answer.map_err(|e| Failed::unavailable(format!("the metadata group cannot be asked: {e}")))?;
        if answer.refused.is_empty() {
            return Ok(());
        }
        Err(Failed::bad(answer.refused))
    }

    /// What each ingester says of its groups.
    async fn groups(&self, state: &MetaState) -> Seen {
        let now_ms = self.clock.now().0;
        let has_lease = |node: &&Node| node.lease_until_ms >= now_ms;
        let is_ingester = |node: &&Node| node.incarnation > 0 && node.roles.iter().any(|role| role == "ingester");
        // Without a majority of the metadata group nobody has one: who is there is found by asking all then.
        let none_has = !state.nodes.iter().filter(is_ingester).any(|node| has_lease(&node));
        let ingesters = state
            .nodes
            .iter()
            .filter(is_ingester)
            .filter(|node| none_has || has_lease(node));
        let ask = |id: u64| async move {
            let told = async { self.directory.groups(NodeId(id))?.groups().await };
            let told = tokio::time::timeout(TELL_WITHIN, told).await;
            let groups: Vec<GroupStatus> = told.ok().and_then(Result::ok).map(|r| r.groups).unwrap_or_default();
            (id, groups)
        };
        let told = futures::future::join_all(ingesters.map(|node| ask(node.id))).await;
        let mut seen: Seen = BTreeMap::new();
        for (node, groups) in told {
            for status in groups {
                seen.entry(status.group).or_default().insert(node, status);
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_document_says_of_the_cluster_is_what_is_served() {
        let document = include_str!("../querier/src/api/openapi.yaml");
        let mut written = Vec::new();
        let mut lines = document.lines();
        while let Some(line) = lines.next() {
            let path = line.strip_prefix("  /cluster/").and_then(|rest| rest.strip_suffix(':'));
            if let Some(path) = path {
                let method = lines.next().and_then(|line| line.trim().strip_suffix(':'));
                written.push((path, method.expect("a method")));
            }
        }
        let served: Vec<_> = table().iter().map(|(path, method, _)| (*path, *method)).collect();
        assert_eq!(written, served);
    }
}
