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
use anyhow::{Context, bail};
use gnomon_cluster::meta::read_newest_checkpoint;
use gnomon_cluster::node::LeftNode;
use gnomon_cluster::raft::LeftGroup;
use gnomon_model::{GroupId, SystemClock};
use gnomon_tsdb::bucket::checkpoint_path;
use object_store::ObjectStoreExt;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// How long a node may take to answer a knock.
const KNOCK: Duration = Duration::from_secs(2);
/// A cluster that runs and takes blocks writes a copy of its catalogue more often.
const QUIET_MS: i64 = 60_000;

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
            eprintln!("gnomon cluster recover: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn recover(what: &Recover) -> anyhow::Result<ExitCode> {
    for peer in &what.peers {
        if answers(peer).await {
            bail!(
                "something answers at {peer}: a cluster of which a node runs is not recovered. Stop all of its nodes, and \
                 see that those which are lost stay so"
            );
        }
    }
    if what.from_minority {
        return from_minority(what).await.map(|()| ExitCode::SUCCESS);
    }
    check_quiet(what).await?;
    let changed = bucket::check(&what.bucket).await?;
    let next = match what.confirm {
        true => {
            "\nthe bucket is free: start an ingester with an empty data folder, and it founds a cluster with this catalogue\n"
        }
        false => {
            "\nnothing was changed; with --confirm this becomes the catalogue of a new cluster. What the lost data folders \
                  had and the bucket has not is lost\n"
        }
    };
    say(next);
    Ok(match changed || !what.confirm {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn say(text: &str) {
    // That nobody reads it (a closed pipe) is no failure.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

async fn answers(peer: &str) -> bool {
    matches!(
        tokio::time::timeout(KNOCK, tokio::net::TcpStream::connect(peer)).await,
        Ok(Ok(_))
    )
}

/// A copy of the catalogue that was just written has a writer.
async fn check_quiet(what: &Recover) -> anyhow::Result<()> {
    let bucket = bucket::open(&what.bucket)?;
    // One that cannot be read is judged by what follows.
    let Ok(Some(state)) = read_newest_checkpoint(bucket.store().as_ref()).await else {
        return Ok(());
    };
    let path = checkpoint_path(state.catalogue_revision);
    let written = bucket
        .store()
        .head(&path)
        .await
        .context("the newest copy of the catalogue")?;
    let age_ms = SystemClock::shared().now().0 - written.last_modified.timestamp_millis();
    if what.confirm && age_ms < QUIET_MS {
        bail!(
            "{} was written {} s ago: its cluster seems to run. Where it does not, ask again in a minute",
            path,
            age_ms.max(0) / 1000
        );
    }
    Ok(())
}

async fn from_minority(what: &Recover) -> anyhow::Result<()> {
    let left = LeftNode::open(&what.bucket.data_dir, SystemClock::shared())?;
    let done = go_on_alone(what, &left);
    left.close().await;
    done
}

fn go_on_alone(what: &Recover, left: &LeftNode) -> anyhow::Result<()> {
    let folder = what.bucket.data_dir.display();
    let groups = left.groups()?;
    let (cluster, node) = (left.identity().cluster_id, left.identity().node_id);
    let mut text = format!("node {node} of cluster {cluster}, data folder {folder}\n\n");
    text.push_str(&table(&groups));
    if !groups
        .iter()
        .any(|left| left.group == GroupId::METADATA && left.is_recoverable())
    {
        say(&text);
        bail!(
            "node {node} does not vote in the metadata group: use another ingester that is left, or the bucket (without \
             --from-minority)"
        );
    }
    if what.confirm {
        left.make_only_voter()?;
        let _ = writeln!(
            text,
            "\nnode {node} is the only voter of these groups now. Start it with --cluster.peers as before (and \
             --storage.object-store); then start ingesters with EMPTY data folders in place of the lost ones.\n\
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
    say(&text);
    Ok(())
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
            number(left.last),
            number(left.committed)
        );
    }
    text
}
