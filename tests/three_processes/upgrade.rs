//! A rolling upgrade by one step. The build before is the one that `GNOMON_OLDER` names; without it, processes of this build
//! that are told to understand no more than the level before stand for it.

use crate::harness::{Http, Node, eventually};
use crate::ledger::Ledger;
use crate::trio::{NODES, OLDER, Trio};
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// It ends by itself with an error, and says so.
async fn is_refused(node: &mut Node, says: &[String]) {
    let code = node.process.ended().await;
    let log = node.process.log();
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {log}");
    let last: Vec<_> = log.lines().rev().take(15).collect();
    assert!(
        says.iter()
            .all(|text| last.iter().any(|line| line.contains(text.as_str()))),
        "{says:?} in {last:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_upgraded_node_by_node_and_refuses_the_older_build_from_then_on() {
    let newer = u64::from(CURRENT_FEATURE_LEVEL.0);
    let older = u64::from(OLDER);
    let folder = tempfile::tempdir().expect("temp folder");
    let mut trio = Trio::new(folder.path(), &[]);
    trio.start_older().await;
    eventually("the level that all understand", async || {
        (trio.level().await == Some(older)).then_some(())
    })
    .await;

    let ledger = Ledger::new("a:1");
    let stop = CancellationToken::new();
    let servers: Vec<Http> = (0..NODES).map(|at| trio.http(at)).collect();
    let mut writers = JoinSet::new();
    writers.spawn(Arc::clone(&ledger).write(servers.clone(), stop.clone()));
    let reader = tokio::spawn(Arc::clone(&ledger).read(servers.clone(), stop.clone()));
    ledger.until_written("before the upgrade").await;

    for at in 0..NODES {
        assert_eq!(trio.level().await, Some(older), "{at} of {NODES} are new");
        trio.stop(at).await;
        ledger.until_written(&format!("without node {at}")).await;
        trio.launch(at, None);
        trio.until_ready(at).await;
        trio.until_whole().await;
        ledger.until_written(&format!("after node {at} was upgraded")).await;
    }
    eventually("the new level", async || {
        (trio.level().await == Some(newer)).then_some(())
    })
    .await;
    ledger.until_written("at the new level").await;

    // An older build is refused: one that is new, and one that has been a member.
    let says = [format!("feature level {newer}"), format!("understands {older} only")];
    is_refused(&mut trio.launch_another_older(), &says).await;
    trio.stop(2).await;
    trio.launch_older(2);
    is_refused(trio.node(2), &says).await;
    ledger.until_written("without the node that was refused").await;
    trio.launch(2, None);
    trio.until_ready(2).await;
    trio.until_whole().await;
    ledger.until_written("after it came back as it was").await;

    stop.cancel();
    while let Some(done) = writers.join_next().await {
        done.expect("a writer");
    }
    let looked = reader.await.expect("a reader");
    assert!(looked > 10, "only {looked} answers were whole");
    for (at, http) in servers.iter().enumerate() {
        let wrong = eventually("a whole answer", async || ledger.look(http).await).await;
        assert_eq!(wrong, Vec::<String>::new(), "server {at}, after all is over");
    }
    for at in 0..NODES {
        trio.stop(at).await;
    }
}

/// A level that no build has is a mistake in the flag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feature_level_that_this_build_does_not_have_is_refused() {
    let folder = tempfile::tempdir().expect("temp folder");
    let trio = Trio::new(folder.path(), &[]);
    for level in [0, CURRENT_FEATURE_LEVEL.0 + 1] {
        let mut node = trio.launch_another(&format!("--cluster.feature-level={level}"));
        let says = [
            "--cluster.feature-level".to_owned(),
            format!("1 to {CURRENT_FEATURE_LEVEL}"),
        ];
        is_refused(&mut node, &says).await;
    }
}
