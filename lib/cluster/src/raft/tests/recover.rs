//! One replica goes on alone, and what is left of the others cannot reach it any more.

use super::*;
use crate::store::Space;
use gnomon_proto::v1;

struct Node {
    host: GroupHost,
    group: Group,
    kv: Arc<Kv>,
}

async fn open(network: &LocalNetwork, id: u64, backend: &Arc<MemoryBackend>) -> Node {
    let mut options = options(id, in_memory(backend.clone()), network.transport(NodeId(id)));
    options.propose_timeout = Duration::from_secs(2);
    let host = GroupHost::new(options).unwrap();
    network.join(NodeId(id), host.service());
    let kv = Arc::new(Kv::default());
    let group = host.open(GROUP, kv.clone()).await.unwrap();
    Node { host, group, kv }
}

/// Writes a key until it is acknowledged, through whoever leads.
async fn write(nodes: &[&Node], key: &str) {
    for _ in 0..600 {
        for node in nodes.iter().filter(|node| node.group.is_leader()) {
            if set(&node.group, key, "1").await.is_ok() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{key} was never acknowledged");
}

/// What is stored, for another life.
fn stored(backend: &MemoryBackend) -> Arc<MemoryBackend> {
    Arc::new(backend.after_power_cut(0))
}

fn recovered(backend: &MemoryBackend, id: u64) -> Arc<MemoryBackend> {
    let backend = stored(backend);
    let store = in_memory(backend.clone());
    let groups = left_groups(&store, NodeId(id)).unwrap();
    assert!(groups.iter().all(LeftGroup::is_recoverable), "{groups:?}");
    make_only_voter(&store, NodeId(id), &groups).unwrap();
    stored(&backend)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_majority_that_was_left_cannot_take_over_who_goes_on() {
    let network = LocalNetwork::new(7);
    let backends: Vec<Arc<MemoryBackend>> = (0..3).map(|_| Arc::default()).collect();
    let mut nodes = Vec::new();
    for (id, backend) in (1..).zip(&backends) {
        nodes.push(open(&network, id, backend).await);
    }
    let ids: Vec<_> = (1..=3).map(NodeId).collect();
    nodes[0].group.initialize(&ids).await.unwrap();
    write(&nodes.iter().collect::<Vec<_>>(), "common").await;
    eventually("all to have it", || {
        nodes.iter().all(|node| node.kv.get("common").is_some())
    })
    .await;
    for (id, node) in ids.iter().zip(nodes) {
        network.leave(*id);
        node.host.shutdown().await;
    }

    // The others come back, though they must not.
    let one = open(&network, 1, &recovered(&backends[0], 1)).await;
    let others = [
        open(&network, 2, &stored(&backends[1])).await,
        open(&network, 3, &stored(&backends[2])).await,
    ];
    for n in 0..20 {
        write(&[&one], &format!("new-{n}")).await;
        write(&[&others[0], &others[1]], &format!("old-{n}")).await;
    }
    assert!((0..20).all(|n| one.kv.get(&format!("new-{n}")).is_some()));
    assert_eq!(one.kv.len(), 21, "of what the others go on with it has nothing");
    assert_eq!(one.group.status().voters, [NodeId(1)]);
    let request = v1::RaftVoteRequest {
        header: Some(v1::RaftHeader {
            cluster_id: CLUSTER.0.to_be_bytes().to_vec().into(),
            from: 2,
            to: 1,
            group: GROUP.0,
        }),
        ..v1::RaftVoteRequest::default()
    };
    let refused = one.host.service().vote(request).await.unwrap_err();
    assert!(
        matches!(&refused, RpcError::Refused(why) if why.contains("node 2 was given up")),
        "{refused:?}"
    );
    network.leave(NodeId(1));
    one.host.shutdown().await;
    for (id, node) in [2, 3].into_iter().zip(others) {
        network.leave(NodeId(id));
        node.host.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_its_state_begins_anew_behind_it() {
    let network = LocalNetwork::new(8);
    let backend: Arc<MemoryBackend> = Arc::default();
    let node = open(&network, 1, &backend).await;
    node.group.initialize(&[NodeId(1)]).await.unwrap();
    for n in 0..10 {
        write(&[&node], &format!("key-{n}")).await;
    }
    network.leave(NodeId(1));
    node.host.shutdown().await;
    let backend = stored(&backend);
    let store = in_memory(backend.clone());
    let before = left_groups(&store, NodeId(1)).unwrap().remove(0);
    assert!(before.applied.is_some() && before.applied == before.last, "{before:?}");
    // As where a snapshot was installed, and the log of before is still there.
    let mut batch = store.backend().batch().unwrap();
    let last = before.last.unwrap();
    let key = |index: u64| [GROUP.0.to_be_bytes().as_slice(), &index.to_be_bytes()].concat();
    batch.delete_range(Space::Log, &key(last - 3), &key(last + 1));
    store.write_durably(batch).unwrap();
    let left = left_groups(&store, NodeId(1)).unwrap().remove(0);
    assert_eq!((left.last, left.end()), (Some(last - 4), Some(last)));

    let node = open(&network, 1, &recovered(&backend, 1)).await;
    write(&[&node], "after").await;
    assert_eq!(node.kv.len(), 11);
    assert!((0..10).all(|n| node.kv.sets(&format!("key-{n}")) == 1));
    network.leave(NodeId(1));
    node.host.shutdown().await;
}
