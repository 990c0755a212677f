//! Which cluster a call is for, and which node, in headers of the call; the check of them on the other side; and who it is
//! that answers.
//!
//! ```text
//! gnomon-cluster = the cluster's id, 32 hex digits
//! gnomon-node = the number of the node that is meant, decimal; left out where it is not known
//!               of an answer: of the node that gives it
//! ```
//!
//! Raft's messages have both in their own header, and are checked by it.

use gnomon_model::ids::NAMED_CALLS_FEATURE_LEVEL;
use gnomon_model::{ClusterId, NodeId};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::MetaState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};

pub const CLUSTER_HEADER: &str = "gnomon-cluster";
pub const NODE_HEADER: &str = "gnomon-node";

/// What a node that joins has to ask before it can know a cluster's id.
const BEFORE_JOINING: [&str; 2] = ["/gnomon.v1.Meta/Read", "/gnomon.v1.Meta/ReadChanges"];

/// The cluster that this process is of, once it is of one. Clones know the same.
#[derive(Clone, Debug, Default)]
pub struct Membership(Arc<OnceLock<ClusterId>>);

impl Membership {
    #[must_use]
    pub fn of(cluster: ClusterId) -> Self {
        Self(Arc::new(OnceLock::from(cluster)))
    }

    /// A process is of one cluster all its life: what comes later is not taken.
    pub fn learn(&self, cluster: ClusterId) {
        let _ = self.0.set(cluster);
    }

    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.0.get().copied()
    }

    /// A call that says which cluster it is for, where that is known.
    pub(super) fn named<B>(&self, mut request: Request<B>) -> Request<B> {
        if let Some(cluster) = self.cluster()
            && let Ok(value) = HeaderValue::try_from(cluster.to_string())
        {
            request.headers_mut().insert(CLUSTER_HEADER, value);
        }
        request
    }

    /// A call that says which node it is for.
    pub(crate) fn to_node<B>(mut request: Request<B>, node: NodeId) -> Request<B> {
        request.headers_mut().insert(NODE_HEADER, HeaderValue::from(node.0));
        request
    }
}

/// Which node answered last at an address. Clones are told the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answering(Arc<AtomicU64>);

impl Answering {
    /// None before the first answer, and of builds that do not say it and nodes of other clusters.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            id => Some(NodeId(id)),
        }
    }

    pub(crate) fn note<B>(&self, response: &Response<B>) {
        let told = response.headers().get(NODE_HEADER);
        let id = told.and_then(|value| value.to_str().ok()?.parse().ok());
        self.0.store(id.unwrap_or(0), Ordering::Relaxed);
    }
}

/// Who may call this node.
#[derive(Clone, Debug)]
pub struct Members {
    membership: Membership,
    node: NodeId,
    nodes: Option<watch::Receiver<Arc<MetaState>>>,
}

impl Members {
    /// Those of the cluster of `membership` who mean `node`, which is this one.
    #[must_use]
    pub fn new(membership: Membership, node: NodeId) -> Self {
        Self {
            membership,
            node,
            nodes: None,
        }
    }

    /// Nodes of an older version do not say which cluster they mean: as long as there are some among these, calls that
    /// do not are taken.
    #[must_use]
    pub fn among(self, nodes: watch::Receiver<Arc<MetaState>>) -> Self {
        Self {
            nodes: Some(nodes),
            ..self
        }
    }

    /// Says in an answer who gives it.
    pub(super) fn sign<B>(&self, response: &mut Response<B>) {
        response
            .headers_mut()
            .insert(NODE_HEADER, HeaderValue::from(self.node.0));
    }

    fn have_older(&self) -> bool {
        let is_older = |level: u32| level < NAMED_CALLS_FEATURE_LEVEL.0;
        let nodes = self.nodes.as_ref();
        nodes.is_some_and(|states| states.borrow().nodes.iter().any(|node| is_older(node.feature_level)))
    }

    pub(super) fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), ServiceError> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("not a text"));
        let Some(ours) = self.membership.cluster() else {
            return Err(ServiceError::Unavailable("this node is of no cluster yet".into()));
        };
        match text(CLUSTER_HEADER) {
            Some(theirs) if theirs.parse() == Ok(ours) => {}
            Some(theirs) => {
                return Err(ServiceError::OtherCluster(format!(
                    "this is a node of cluster {ours}, the call is for cluster {theirs}"
                )));
            }
            None if BEFORE_JOINING.contains(&path) || self.have_older() => {}
            None => {
                return Err(ServiceError::OtherCluster(format!(
                    "the call does not say which cluster it is for: this is a node of cluster {ours}"
                )));
            }
        }
        match text(NODE_HEADER) {
            Some(meant) if meant != self.node.0.to_string() => Err(ServiceError::Unavailable(format!(
                "this is node {}, the call is for node {meant}",
                self.node
            ))),
            _ => Ok(()),
        }
    }
}
