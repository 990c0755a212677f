//! A network that loses, delays and cuts, and a ledger: what was acknowledged is there, once.

use super::*;

struct Node {
    id: NodeId,
    host: GroupHost,
    group: Group,
    kv: Arc<Kv>,
}

async fn three(network: &LocalNetwork) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let mut options = options(id, in_memory(Arc::default()), network.transport(NodeId(id)));
        options.propose_timeout = Duration::from_secs(2);
        options.flush_log_bytes = 4 << 10;
        let host = GroupHost::new(options).unwrap();
        network.join(NodeId(id), host.service());
        let kv = Arc::new(Kv::default());
        let group = host.open(GROUP, kv.clone()).await.unwrap();
        let id = NodeId(id);
        nodes.push(Node { id, host, group, kv });
    }
    let ids: Vec<_> = nodes.iter().map(|node| node.id).collect();
    nodes[0].group.initialize(&ids).await.unwrap();
    nodes
}

/// Writes through whoever believes to lead, every key once, and notes what was acknowledged.
async fn load(nodes: &[Node], phase: &str, count: usize, ledger: &mut Vec<String>) {
    for i in 0..count {
        let key = format!("{phase}-{i}");
        for node in nodes.iter().filter(|node| node.group.is_leader()) {
            let written = tokio::time::timeout(Duration::from_millis(300), set(&node.group, &key, "1"));
            if let Ok(Ok(_)) = written.await {
                ledger.push(key.clone());
                break;
            }
        }
        if !nodes.iter().any(|node| node.group.is_leader()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_partitions() {
    let network = LocalNetwork::new(42);
    let nodes = three(&network).await;
    eventually("someone leads", || nodes.iter().any(|node| node.group.is_leader())).await;
    let mut ledger = Vec::new();
    load(&nodes, "calm", 50, &mut ledger).await;
    assert_eq!(ledger.len(), 50);
    for round in 0..4usize {
        let cut = nodes
            .iter()
            .position(|node| node.group.is_leader())
            .unwrap_or(round % 3);
        let (one, others): (Vec<_>, Vec<_>) = nodes.iter().map(|node| node.id).partition(|id| *id == nodes[cut].id);
        network.partition(&one, &others);
        load(&nodes, &format!("cut{round}"), 8, &mut ledger).await;
        let taken = ledger.len();
        eventually("the majority leads", || {
            nodes
                .iter()
                .any(|node| node.id != nodes[cut].id && node.group.is_leader())
        })
        .await;
        load(&nodes, &format!("majority{round}"), 20, &mut ledger).await;
        assert!(ledger.len() > taken, "the majority takes writes in round {round}");
        network.heal();
        lossy(&network, &nodes);
        load(&nodes, &format!("lossy{round}"), 20, &mut ledger).await;
        network.heal();
    }
    verify(&nodes, &ledger).await;
    for node in nodes {
        network.leave(node.id);
        node.host.shutdown().await;
    }
}

fn lossy(network: &LocalNetwork, nodes: &[Node]) {
    let fault = LinkFault {
        cut: false,
        lose: 0.05,
        delay: Duration::from_millis(5),
    };
    for one in nodes {
        for other in nodes.iter().filter(|other| other.id != one.id) {
            network.set_fault(one.id, other.id, fault);
        }
    }
}

async fn verify(nodes: &[Node], ledger: &[String]) {
    let mut read = None;
    for _ in 0..200 {
        for node in nodes.iter().filter(|node| node.group.is_leader()) {
            if let Ok(at) = node.group.read_index().await {
                read = Some((node, at));
            }
        }
        if read.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (leader, at) = read.unwrap();
    for key in ledger {
        assert_eq!(leader.kv.sets(key), 1, "{key} was acknowledged");
    }
    let whole = leader.kv.state.lock().values.clone();
    for node in nodes {
        eventually("all agree", || *node.group.applied_next().borrow() > at).await;
        assert_eq!(node.kv.state.lock().values, whole, "node {}", node.id);
    }
}

/// Who is cut off reads nothing, whether he leads or asks the leader: what was acknowledged meanwhile is not there.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_confirms_no_read() {
    let network = LocalNetwork::new(7);
    let nodes = three(&network).await;
    eventually("someone leads", || nodes.iter().any(|node| node.group.is_leader())).await;
    let old = nodes.iter().position(|node| node.group.is_leader()).unwrap();
    let others: Vec<_> = (0..3).filter(|at| *at != old).collect();
    set(&nodes[old].group, "before", "1").await.unwrap();
    // The leader with nobody: the others elect one.
    let ids = |at: &[usize]| at.iter().map(|at| nodes[*at].id).collect::<Vec<_>>();
    network.partition(&ids(&[old]), &ids(&others));
    let new = || others.iter().find(|at| nodes[**at].group.is_leader());
    eventually("the majority leads", || new().is_some()).await;
    let new = *new().unwrap();
    set(&nodes[new].group, "after", "1").await.unwrap();
    let refused = nodes[old].group.read_index_here().await;
    assert!(refused.is_err(), "{refused:?}");
    let follower = *others.iter().find(|at| **at != new).unwrap();
    nodes[follower].group.read_index_here().await.unwrap();
    assert!(nodes[follower].kv.get("after").is_some());
    // A follower with nobody.
    network.heal();
    network.partition(&ids(&[follower]), &ids(&[old, new]));
    let taken = async || {
        for _ in 0..100 {
            if let Some(node) = nodes
                .iter()
                .find(|node| node.id != nodes[follower].id && node.group.is_leader())
                && set(&node.group, "later", "1").await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    };
    assert!(taken().await);
    let refused = nodes[follower].group.read_index_here().await;
    assert!(refused.is_err(), "{refused:?}");
    network.heal();
    for _ in 0..100 {
        if nodes[follower].group.read_index_here().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(nodes[follower].kv.get("later").is_some());
    for node in nodes {
        network.leave(node.id);
        node.host.shutdown().await;
    }
}
