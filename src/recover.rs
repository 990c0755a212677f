//! `gnomon cluster recover`: a cluster that has lost too much to go on by itself.
//!
//! ```text
//! all data folders lost    the bucket is left: a catalogue of what is in it, for a new cluster  (`bucket.rs`)
//! a majority lost          one ingester is left: its replicas become the only ones of its groups
//! ```
//!
//! Both begin something that an old node must not meet again: nothing is done while one answers.

use crate::bucket;
use crate::flags::Recover;
use crate::output;
use anyhow::{Context, bail};
use gnomon_cluster::node::{ClusterMark, LeftNode};
use gnomon_cluster::raft::LeftGroup;
use gnomon_model::{ClusterId, GroupId, SystemClock};
use gnomon_tsdb::bucket::CLUSTER_MARKER;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// How long a node may take to answer a knock.
const KNOCK: Duration = Duration::from_secs(2);

/// Runs the command: 0 where it is done, or would be; 1 where it cannot be.
#[must_use]
pub fn run(what: &Recover) -> ExitCode {
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(recover(what)));
    match done {
        Ok(code) => code,
        Err(error) => {
            output::fail("gnomon cluster recover", &error);
            ExitCode::FAILURE
        }
    }
}

async fn recover(what: &Recover) -> anyhow::Result<ExitCode> {
    for peer in &what.peers {
        if answers(peer, what.gone.contains(peer)).await? {
            bail!(
                "something answers at {peer}: a cluster of which a node runs is not recovered. Stop all of its nodes, and \
                 see that those which are lost stay so"
            );
        }
    }
    if what.from_minority {
        return from_minority(what).await.map(|()| ExitCode::SUCCESS);
    }
    let owner = check_owner(what).await?;
    let changed = bucket::check(&what.bucket).await?;
    let next = match what.confirm {
        true => {
            "\nthe bucket is free: start an ingester with an empty data folder, and it founds a cluster with this catalogue\n"
                .to_owned()
        }
        false => {
            let (whose, confirm) = match owner {
                Some(owner) => (format!("the bucket is that of cluster {owner}"), format!("--confirm={owner}")),
                None => ("the bucket has no cluster's mark".to_owned(), "--confirm".to_owned()),
            };
            format!(
                "\n{whose}\nnothing was changed; with {confirm} this becomes the catalogue of a new cluster. What the lost \
                 data folders had and the bucket has not is lost\n"
            )
        }
    };
    output::say(&next)?;
    Ok(match changed || !what.confirm {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Whether a node answers. One whose name is not known cannot be asked, which is no silence.
async fn answers(peer: &str, is_gone: bool) -> anyhow::Result<bool> {
    let addresses: Vec<SocketAddr> = match tokio::time::timeout(KNOCK, tokio::net::lookup_host(peer)).await {
        Ok(Ok(found)) => found.collect(),
        _ if is_gone => return Ok(false),
        Ok(Err(error)) => return Err(error).with_context(|| unknown(peer)),
        Err(_) => bail!("{}: no answer from the name service", unknown(peer)),
    };
    if addresses.is_empty() && !is_gone {
        bail!(unknown(peer));
    }
    for address in addresses {
        let knock = tokio::net::TcpStream::connect(address);
        if matches!(tokio::time::timeout(KNOCK, knock).await, Ok(Ok(_))) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn unknown(peer: &str) -> String {
    format!(
        "the address of {peer} cannot be found, so that it cannot be asked. If it is gone for good, leave it out of \
         --cluster.peers or add --peer-is-gone={peer}"
    )
}

/// Whose bucket it is, by its mark; none where no cluster has it. It is taken only from the cluster that was named: one
/// that runs somewhere else would lose what it writes.
async fn check_owner(what: &Recover) -> anyhow::Result<Option<ClusterId>> {
    let bucket = bucket::open(&what.bucket)?;
    let name = format!("{}/{CLUSTER_MARKER}", bucket.url());
    let found = match bucket.store().get(&Path::from(CLUSTER_MARKER)).await {
        Ok(found) => found.bytes().await.with_context(|| name.clone())?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error).context(name),
    };
    let mark = serde_json::from_slice::<ClusterMark>(&found);
    let owner = mark.with_context(|| format!("{name} is no cluster's mark"))?.cluster_id;
    if what.confirm {
        check_named(what, owner, &format!("the bucket {}", bucket.url()), true)?;
    }
    Ok(Some(owner))
}

/// Whether it was confirmed for that cluster.
fn check_named(what: &Recover, owner: ClusterId, place: &str, is_required: bool) -> anyhow::Result<()> {
    match &what.cluster_id {
        Some(named) if *named != owner.to_string() => {
            bail!("{place} is that of cluster {owner}, and --confirm names {named}")
        }
        None if is_required => bail!(
            "{place} is that of cluster {owner}: see that none of its nodes runs, wherever it is, and name it, \
             --confirm={owner}"
        ),
        _ => Ok(()),
    }
}

async fn from_minority(what: &Recover) -> anyhow::Result<()> {
    let mut left = LeftNode::open(&what.bucket.data_dir, SystemClock::shared())?;
    let done = go_on_alone(what, &mut left).await;
    left.close().await;
    done
}

/// Begins a new generation in the bucket, where one was named; what is to be said of it.
async fn leave_others_behind(what: &Recover, left: &mut LeftNode) -> anyhow::Result<String> {
    if what.bucket.object_store.is_none() {
        return Ok(
            "No bucket was named (--storage.object-store): nothing keeps the lost nodes from starting".to_owned(),
        );
    }
    let bucket = bucket::open(&what.bucket)?;
    let generation = left.leave_others_behind(bucket.store().as_ref()).await;
    let generation = generation.with_context(|| format!("the bucket {}", bucket.url()))?;
    Ok(format!(
        "The bucket is of generation {generation} of the cluster now: an ingester of before is refused when it starts"
    ))
}

async fn go_on_alone(what: &Recover, left: &mut LeftNode) -> anyhow::Result<()> {
    let folder = what.bucket.data_dir.display();
    let groups = left.groups()?;
    let (cluster, node) = (left.identity().cluster_id, left.identity().node_id);
    check_named(what, cluster, &format!("the data folder {folder}"), false)?;
    let mut text = format!("node {node} of cluster {cluster}, data folder {folder}\n\n");
    text.push_str(&table(&groups));
    if !groups
        .iter()
        .any(|left| left.group == GroupId::METADATA && left.is_recoverable())
    {
        output::say(&text)?;
        bail!(
            "node {node} does not vote in the metadata group: use another ingester that is left, or the bucket (without \
             --from-minority)"
        );
    }
    if what.confirm {
        let fence = leave_others_behind(what, left).await?;
        left.make_only_voter()?;
        let _ = writeln!(
            text,
            "\n{fence}.\nnode {node} is the only voter of these groups now. Start it with --cluster.peers as before (and \
             --storage.object-store); then start ingesters with EMPTY data folders in place of all others.\n\
             The data folders of the lost nodes must never be started again: together they are a majority of the old \
             cluster, and would go on as that"
        );
    } else {
        let _ = writeln!(
            text,
            "\nnothing was changed; with --confirm node {node} becomes the only voter of these groups. Acknowledged samples \
             that only the lost nodes had are lost, and so are shards that are not in this table as far as they are not in \
             the bucket. The data folders of the lost nodes must never be started again"
        );
    }
    output::say(&text)
}

fn table(groups: &[LeftGroup]) -> String {
    let number = |index: Option<u64>| index.map_or_else(|| "-".to_owned(), |index| index.to_string());
    let mut text = format!(
        "{:<10} {:<16} {:>12} {:>12}  \n",
        "GROUP", "VOTERS", "LAST ENTRY", "COMMITTED"
    );
    for left in groups {
        let name = left
            .group
            .shard()
            .map_or_else(|| "metadata".to_owned(), |shard| format!("shard {shard}"));
        let voters: Vec<String> = left
            .voters
            .iter()
            .map(|set| set.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
            .collect();
        let state = match left.is_recoverable() {
            true => "recoverable",
            false => "not recoverable: this replica does not vote, or is empty",
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name:<10} {:<16} {:>12} {:>12}  {state}",
            voters.join(" + "),
            number(left.end()),
            number(left.committed)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::BucketCheck;

    const ID: &str = "0000000000000000000000000000002a";

    fn wanted(data_dir: &std::path::Path, peer: &str, confirm: Option<&str>) -> Recover {
        Recover {
            bucket: BucketCheck {
                object_store: None,
                data_dir: data_dir.into(),
                data_is_named: true,
                peers: Vec::new(),
                tls: None,
                shards: Some(1),
                grace_ms: 0,
                verify: false,
                repair: confirm.is_some(),
                found_anew: confirm.is_some(),
                json: false,
            },
            from_minority: false,
            confirm: confirm.is_some(),
            cluster_id: confirm.filter(|id| !id.is_empty()).map(str::to_owned),
            peers: vec![peer.to_owned()],
            gone: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_bucket_is_taken_from_the_cluster_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("bucket").join(CLUSTER_MARKER);
        std::fs::create_dir_all(folder.path().join("bucket")).unwrap();
        let text = format!(r#"{{"format":1,"cluster_id":"{ID}","created_ms":0}}"#);
        std::fs::write(&mark, text).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap().to_string();
        let refused = recover(&wanted(folder.path(), &peer, Some(ID))).await.unwrap_err();
        assert!(refused.to_string().contains("answers at"), "{refused:#}");
        drop(listener);
        for (confirm, words) in [("", format!("--confirm={ID}")), ("2b", "names 2b".to_owned())] {
            let refused = recover(&wanted(folder.path(), &peer, Some(confirm))).await.unwrap_err();
            assert!(refused.to_string().contains(&words), "{refused:#}");
        }
        let shown = recover(&wanted(folder.path(), &peer, None)).await.unwrap();
        assert_eq!((shown, mark.exists()), (ExitCode::SUCCESS, true));
        let done = recover(&wanted(folder.path(), &peer, Some(ID))).await.unwrap();
        assert_eq!((done, mark.exists()), (ExitCode::SUCCESS, false));
    }

    #[tokio::test]
    async fn a_peer_whose_name_is_not_known_is_not_taken_for_silent() {
        let peer = "ingester-1.invalid:9095";
        let refused = answers(peer, false).await.unwrap_err();
        assert!(refused.to_string().contains(peer), "{refused:#}");
        assert!(!answers(peer, true).await.unwrap());
    }
}
