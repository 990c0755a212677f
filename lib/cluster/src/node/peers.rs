//! Ingesters that this node has heard of, kept in its data folder.
//!
//! Whoever `--cluster.peers` names may have left, or be down at the same time, when the node comes back: the metadata group
//! may by then be with ingesters that joined later. Nothing rests on the file; one that cannot be read or written is told of.

use crate::blocking::blocking;
use gnomon_model::GroupId;
use gnomon_proto::v1::MetaState;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const FILE: &str = "peers.json";
/// Kept at most: voters of the metadata group first.
const MOST: usize = 32;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// `host:port` of the cluster port.
    ingesters: Vec<String>,
}

/// The file of a data folder.
#[derive(Clone)]
pub(super) struct KnownPeers {
    path: PathBuf,
}

impl KnownPeers {
    pub(super) fn of(data_folder: &Path) -> Self {
        Self {
            path: data_folder.join(FILE),
        }
    }

    /// None where the node has not heard of any.
    pub(super) fn read(&self) -> Vec<String> {
        let kept = match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice::<Kept>(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => Err(error),
        };
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!(file = %self.path.display(), %error, "only the peers of --cluster.peers are asked");
            Kept::default()
        });
        kept.ingesters
    }

    /// In one step, but not durable: what was there before is as good after a power cut.
    fn write(&self, kept: &Kept) -> io::Result<()> {
        let new = self.path.with_extension("json.new");
        fs::write(&new, serde_json::to_vec_pretty(kept)?)?;
        fs::rename(&new, &self.path)
    }

    /// Keeps the file as the state has the nodes, until `stop`.
    pub(super) async fn keep(self, own: String, mut states: watch::Receiver<Arc<MetaState>>, stop: CancellationToken) {
        let mut kept = Kept { ingesters: self.read() };
        loop {
            let heard = ingesters(&states.borrow_and_update(), &own);
            if heard != kept {
                let (file, writing) = (self.clone(), heard.clone());
                let written = blocking(move || file.write(&writing)).await.flatten();
                if let Err(error) = written {
                    tracing::warn!(file = %self.path.display(), %error, "peers are not kept for the next start");
                }
                kept = heard;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// The other ingesters, those first that vote in the metadata group.
fn ingesters(state: &MetaState, own: &str) -> Kept {
    let members = state.members.iter().find(|m| m.group == GroupId::METADATA.0);
    let votes = |id: u64| members.is_some_and(|m| m.voters.contains(&id));
    let is_ingester = |roles: &[String]| roles.iter().any(|role| role == "ingester");
    let others = state
        .nodes
        .iter()
        .filter(|n| is_ingester(&n.roles) && n.incarnation > 0);
    let mut others: Vec<_> = others.filter(|n| n.address != own).collect();
    others.sort_by_key(|n| !votes(n.id));
    let addresses = others.into_iter().take(MOST).map(|n| n.address.clone());
    Kept {
        ingesters: addresses.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::{GroupMembers, Node};

    fn node(id: u64, role: &str) -> Node {
        Node {
            id,
            address: format!("n{id}:9095"),
            roles: vec![role.to_owned()],
            incarnation: 1,
            ..Node::default()
        }
    }

    #[test]
    fn voters_are_kept_first_and_other_roles_not() {
        let state = MetaState {
            nodes: vec![
                node(1, "ingester"),
                node(2, "querier"),
                node(3, "ingester"),
                node(4, "ingester"),
            ],
            members: vec![GroupMembers {
                group: GroupId::METADATA.0,
                voters: vec![3, 4],
                ..GroupMembers::default()
            }],
            ..MetaState::default()
        };
        assert_eq!(ingesters(&state, "n4:9095").ingesters, ["n3:9095", "n1:9095"]);
    }

    #[tokio::test]
    async fn what_was_heard_is_there_at_the_next_start_and_a_broken_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = KnownPeers::of(folder.path());
        assert!(file.read().is_empty());
        let state = MetaState {
            nodes: vec![node(1, "ingester")],
            ..MetaState::default()
        };
        let (sender, states) = watch::channel(Arc::new(state));
        drop(sender);
        file.clone()
            .keep("n2:9095".into(), states, CancellationToken::new())
            .await;
        assert_eq!(file.read(), ["n1:9095"]);
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(file.read().is_empty());
    }
}
