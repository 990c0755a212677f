//! A change of the number of shards is called off on a cluster that is written to, while the metadata group loses its leader.

use crate::commands;
use crate::harness::eventually;
use crate::ledger::Ledger;
use crate::trio::{NODES, Trio};
use serde_json::Value;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SHARDS: usize = 3;

async fn shards(trio: &Trio, at: usize) -> Option<Value> {
    trio.told_by(at, "/api/v1/cluster/shards").await
}

/// Each shard has a leader that says so, and there are so many.
async fn until_led(trio: &Trio, at: usize, count: usize) -> Value {
    eventually(&format!("{count} shards, all led"), async || {
        let shown = shards(trio, at).await?;
        let all = shown["shards"].as_array()?;
        let is_led = all.len() == count && all.iter().all(|shard| shard["leader"].is_u64());
        is_led.then_some(shown)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_shards_is_called_off_after_the_metadata_leader_died() {
    let folder = tempfile::tempdir().expect("temp folder");
    // Of each shard there is one replica: who is away keeps its shard from opening or closing.
    let flags = [
        "--ingest.shards=3",
        "--ingest.replicas=1",
        "--web.enable-admin-api",
        "--cluster.prefer-after=1h",
    ];
    let mut trio = Trio::new(folder.path(), &flags);
    trio.start_all(None).await;
    until_led(&trio, 0, SHARDS).await;
    let leads = trio.metadata_leader().await;
    let (asked, stands) = ((leads + 1) % NODES, (leads + 2) % NODES);

    let stop = CancellationToken::new();
    let servers: Vec<_> = (0..NODES).map(|at| trio.http(at)).collect();
    let ledgers: Vec<Arc<Ledger>> = (0..6).map(|n| Ledger::new(&format!("i{n}:1"))).collect();
    let mut writers = JoinSet::new();
    for ledger in &ledgers {
        writers.spawn(Arc::clone(ledger).write(servers.clone(), stop.clone()));
    }
    let reader = tokio::spawn(Arc::clone(&ledgers[0]).read(servers.clone(), stop.clone()));
    for ledger in &ledgers {
        ledger.until_written("before the change").await;
    }

    // One stands still, so that not all new shards open; and no old one closes before.
    trio.node(stands).process.signal("-STOP");
    let announced = trio.command(leads, &["reshard", "4"]).await;
    assert!(
        announced
            .as_ref()
            .is_ok_and(|said| said.contains("placement epoch 2 with 4 shards")),
        "{announced:?}"
    );
    trio.kill(leads);
    trio.node(stands).process.signal("-CONT");
    let change = eventually("the change at the next leader", async || {
        let shown = shards(&trio, asked).await?;
        shown["metadata"]["leader"]
            .is_u64()
            .then(|| shown["epochChange"].clone())
    })
    .await;
    assert_eq!(
        (&change["epoch"], &change["shards"]),
        (&2.into(), &4.into()),
        "{change}"
    );
    let cancelled = eventually("the change to be called off", async || {
        trio.command(asked, &["reshard", "--cancel"]).await.ok()
    })
    .await;
    assert_eq!(cancelled, "placement epoch 2 is called off\n");

    trio.launch(leads, None);
    trio.until_ready(leads).await;
    let shown = until_led(&trio, asked, SHARDS).await;
    assert_eq!(shown["epochChange"], Value::Null, "{shown}");
    for ledger in &ledgers {
        ledger.until_written("after the change was called off").await;
    }
    let again = trio.command(asked, &["reshard", "--cancel"]).await;
    assert!(
        again.as_ref().is_err_and(|said| said.contains("is on its way")),
        "{again:?}"
    );

    // Another one goes through; neither the epoch's number nor those of its shards are used again.
    let announced = trio.command(asked, &["reshard", "2"]).await;
    assert!(
        announced
            .as_ref()
            .is_ok_and(|said| said.contains("placement epoch 3 with 2 shards")),
        "{announced:?}"
    );
    let shown = eventually("the next epoch to be in force", async || {
        let shown = shards(&trio, asked).await?;
        shown["epochChange"].is_null().then_some(shown)
    })
    .await;
    let epochs: Vec<_> = shown["epochs"]
        .as_array()
        .expect("epochs")
        .iter()
        .map(|e| e["epoch"].clone())
        .collect();
    assert_eq!(epochs, [1, 3], "{shown}");
    assert_eq!(shown["epochs"][1]["shards"], serde_json::json!([7, 8]), "{shown}");
    for ledger in &ledgers {
        ledger.until_written("after the next change").await;
    }

    commands::are_carried_out(&trio, asked).await;
    for ledger in &ledgers {
        ledger.until_written("after replicas were moved").await;
    }

    stop.cancel();
    while let Some(done) = writers.join_next().await {
        done.expect("a writer");
    }
    reader.await.expect("a reader");
    for (at, http) in servers.iter().enumerate() {
        for ledger in &ledgers {
            let wrong = eventually("a whole answer", async || ledger.look(http).await).await;
            assert_eq!(wrong, Vec::<String>::new(), "server {at}, after all is over");
        }
    }
    for at in 0..NODES {
        trio.stop(at).await;
    }
}
