//! Six ingesters in three zones: five of them vote in the metadata group, every shard has a replica in each zone, and one
//! that is killed for good is replaced in all of its groups by the others.

use crate::harness::{Http, eventually, eventually_within};
use crate::ledger::Ledger;
use crate::trio::Trio;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const INGESTERS: usize = 6;
const ZONES: [&str; 3] = ["a", "b", "c"];
const SHARDS: usize = 4;
const REPLICAS: usize = 3;
const META_VOTERS: usize = 5;
/// For what begins when a lease of 15 s has ended, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(240);

/// What is to be seen of a cluster in which all is settled.
#[derive(Debug)]
struct Settled {
    /// By node.
    zones: BTreeMap<u64, String>,
    meta_leader: u64,
    meta_voters: BTreeSet<u64>,
    /// By shard.
    voters: BTreeMap<u64, BTreeSet<u64>>,
    leaders: BTreeMap<u64, u64>,
}

fn ids(list: &Value) -> BTreeSet<u64> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(Value::as_u64).collect()
}

/// What `/api/v1/cluster/nodes` and `shards` say; none as long as anything is not as it is to be without a node that is gone.
fn settled(nodes: &Value, shards: &Value, gone: Option<u64>) -> Option<Settled> {
    let mut zones = BTreeMap::new();
    let mut told_voters = BTreeSet::new();
    for node in nodes["nodes"].as_array()? {
        let id = node["id"].as_u64()?;
        let is_gone = gone == Some(id);
        let state = if is_gone { "gone" } else { "live" };
        (node["state"] == state && (!is_gone || node["replicas"] == 0)).then_some(())?;
        if node["metadataVoter"] == true {
            told_voters.insert(id);
        }
        zones.insert(id, node["zone"].as_str()?.to_owned());
    }
    let is_without = |group: &Value| {
        let there = group["members"].as_array().into_iter().flatten();
        let there: BTreeSet<_> = there.filter_map(|member| member["node"].as_u64()).collect();
        let lists = [
            there,
            ids(&group["wished"]),
            ids(&group["voters"]),
            ids(&group["learners"]),
        ];
        lists.iter().all(|list| gone.is_none_or(|gone| !list.contains(&gone)))
    };
    let metadata = &shards["metadata"];
    let meta_voters = ids(&metadata["voters"]);
    let is_known = meta_voters.len() == META_VOTERS && told_voters == meta_voters && is_without(metadata);
    is_known.then_some(())?;
    let (mut voters, mut leaders) = (BTreeMap::new(), BTreeMap::new());
    for shard in shards["shards"].as_array()? {
        let (number, of_it) = (shard["shard"].as_u64()?, ids(&shard["voters"]));
        let of_zones: BTreeSet<_> = of_it.iter().map(|node| zones.get(node)).collect();
        let is_spread = of_it.len() == REPLICAS && of_zones.len() == ZONES.len();
        (is_spread && shard["settled"] == true && is_without(shard)).then_some(())?;
        leaders.insert(number, shard["leader"].as_u64()?);
        voters.insert(number, of_it);
    }
    (zones.len() == INGESTERS && voters.len() == SHARDS).then_some(Settled {
        zones,
        meta_leader: metadata["leader"].as_u64()?,
        meta_voters,
        voters,
        leaders,
    })
}

/// By the API of a node, and by the command, which are to say the same in the end.
async fn until_settled(trio: &Trio, asked: usize, gone: Option<u64>) -> Settled {
    eventually_within(PATIENCE, "every group to be where it is to be", async || {
        let nodes = trio.told_by(asked, "/api/v1/cluster/nodes").await?;
        let shards = trio.told_by(asked, "/api/v1/cluster/shards").await?;
        let by_api = settled(&nodes, &shards, gone)?;
        let said = trio.command(asked, &["status", "--json"]).await.ok()?;
        let said: Value = serde_json::from_str(&said).expect("JSON");
        let by_command = settled(&said["nodes"], &said["shards"], gone)?;
        (by_api.meta_voters == by_command.meta_voters && by_api.voters == by_command.voters).then_some(by_command)
    })
    .await
}

/// Where nodes run, by their ids.
async fn places(trio: &Trio) -> BTreeMap<u64, usize> {
    let nodes = trio.told_by(0, "/api/v1/cluster/nodes").await.expect("an answer");
    let all = nodes["nodes"].as_array().expect("nodes").iter();
    let place = |node: &Value| trio.place_of(node["address"].as_str().expect("its address"));
    all.map(|node| (node["id"].as_u64().expect("its id"), place(node).expect("one of them")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_is_killed_for_good_is_replaced_in_its_zone() {
    let folder = tempfile::tempdir().expect("temp folder");
    let shards = format!("--ingest.shards={SHARDS}");
    let mut trio = Trio::of_many(INGESTERS, folder.path(), &[&shards, "--cluster.replace-after=2s"]);
    for at in 0..INGESTERS {
        trio.launch(at, Some(&format!("--cluster.zone={}", ZONES[at % ZONES.len()])));
    }
    trio.until_all_ready().await;
    let before = until_settled(&trio, 0, None).await;
    let places = places(&trio).await;
    for (id, zone) in &before.zones {
        assert_eq!(zone, ZONES[places[id] % ZONES.len()], "node {id}");
    }
    let sixth = before.zones.keys().copied().find(|id| !before.meta_voters.contains(id));
    let sixth = sixth.expect("five of six vote");

    let ledger = Ledger::new("a:1");
    let stop = CancellationToken::new();
    let servers: Vec<Http> = (0..INGESTERS).map(|at| trio.http(at)).collect();
    let mut writers = JoinSet::new();
    writers.spawn(Arc::clone(&ledger).write(servers.clone(), stop.clone()));
    ledger.until_written("before anybody is gone").await;

    // Who leads the metadata group, which places and moves.
    let gone = before.meta_leader;
    trio.kill(places[&gone]);
    let asked = places[&sixth];
    ledger.until_written("without the node").await;
    let after = until_settled(&trio, asked, Some(gone)).await;
    let mut voters = before.meta_voters.clone();
    voters.remove(&gone);
    voters.insert(sixth);
    assert_eq!(after.meta_voters, voters, "the sixth in place of {gone}");
    // Whoever else is in its zone has what it had.
    let zone = &before.zones[&gone];
    let heirs = before.zones.iter().filter(|(id, of)| **id != gone && *of == zone);
    let heirs: BTreeSet<u64> = heirs.map(|(id, _)| *id).collect();
    assert_eq!(heirs.len(), 1);
    for (shard, now) in &after.voters {
        assert!(now.is_superset(&heirs), "shard {shard}: {after:?}");
    }
    ledger.until_written("once all is made anew").await;

    // The new replicas count: a shard goes on without another of its members.
    let heir = *heirs.first().expect("one");
    let had = before.voters.iter().find(|(_, nodes)| nodes.contains(&gone));
    let (shard, _) = had.expect("replicas are spread over all");
    let leader = after.leaders[shard];
    let second = match leader == heir {
        true => *after.voters[shard].iter().find(|id| **id != heir).expect("two others"),
        false => leader,
    };
    trio.kill(places[&second]);
    ledger.until_written("with the new replicas alone").await;

    stop.cancel();
    while let Some(done) = writers.join_next().await {
        done.expect("a writer");
    }
    for (id, place) in places.iter().filter(|(id, _)| ![gone, second].contains(*id)) {
        let wrong = eventually("a whole answer", async || ledger.look(&servers[*place]).await).await;
        assert_eq!(wrong, Vec::<String>::new(), "node {id}, after all is over");
    }
    for (id, place) in places {
        if ![gone, second].contains(&id) {
            trio.stop(place).await;
        }
    }
}
