//! A group of one: proposals, restarts, power cuts, failures.

use super::*;
use crate::raft::codec;
use crate::raft::types::{Command, Entry, Members};
use crate::store::Faults;
use gnomon_proto::v1;
use gnomon_proto::v1::raft_append_response::Result as Answer;
use openraft::{EmptyNode, EntryPayload};
use std::sync::atomic::Ordering;

struct One {
    host: GroupHost,
    group: Group,
    kv: Arc<Kv>,
}

async fn start(store: Arc<NodeStore>) -> One {
    start_with(store, |_| ()).await
}

async fn start_with(store: Arc<NodeStore>, change: impl FnOnce(&mut HostOptions)) -> One {
    let network = LocalNetwork::new(1);
    let mut options = options(1, store, network.transport(NodeId(1)));
    change(&mut options);
    let host = GroupHost::new(options).unwrap();
    let kv = Arc::new(Kv::default());
    let group = host.open(GROUP, kv.clone()).await.unwrap();
    if !group.is_initialized().await.unwrap() {
        group.initialize(&[NodeId(1)]).await.unwrap();
    }
    eventually("it leads", || group.is_leader()).await;
    One { host, group, kv }
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_are_answered_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let one = start(on_disk(folder.path())).await;
    assert_eq!(set(&one.group, "a", "1").await, Ok("".into()));
    assert_eq!(set(&one.group, "a", "2").await, Ok("1".into()));
    one.group.flush().await.unwrap();
    let many = (0..500).map(|i| format!("k{i}={i}").into()).collect();
    assert!(one.group.propose_many(many).await.iter().all(Result::is_ok));
    let at = one.group.read_index().await.unwrap();
    assert!(at >= 503, "{at}");
    let status = one.group.status();
    assert!(status.flushed >= 2 && status.flushed < 500, "{status:?}");
    assert_eq!(status.voters, [NodeId(1)]);
    let large = one.group.propose(vec![b'='; MAX_ENTRY_BYTES + 1].into()).await;
    assert_eq!(
        large,
        Err(ProposeError::TooLarge {
            bytes: MAX_ENTRY_BYTES + 1
        })
    );
    assert!(matches!(
        one.host.open(GROUP, Arc::new(Kv::default())).await,
        Err(GroupError::AlreadyOpen(_))
    ));
    assert!(matches!(
        one.group.initialize(&[NodeId(1)]).await,
        Err(GroupError::Members(_))
    ));
    one.host.shutdown().await;
    assert_eq!(set(&one.group, "a", "3").await, Err(ProposeError::Closed));

    let one = start(on_disk(folder.path())).await;
    one.group.read_index().await.unwrap();
    assert_eq!((one.kv.get("a"), one.kv.sets("a")), (Some("2".into()), 2));
    assert_eq!((one.kv.len(), one.kv.sets("k499")), (501, 1));
    assert_eq!(set(&one.group, "a", "3").await, Ok("2".into()));
    one.host.shutdown().await;
}

/// The process dies: nothing is flushed, the engine is not closed. Copies of the folder stand for what a kill leaves.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let one = start(on_disk(&folder.path().join("live"))).await;
    for round in 0..5u32 {
        for i in 0..20 {
            set(&one.group, &format!("{round}-{i}"), "x").await.unwrap();
        }
        if round == 2 {
            one.group.flush().await.unwrap();
        }
        let copy = folder.path().join(format!("copy{round}"));
        copy_folder(&folder.path().join("live"), &copy);
        let after = start(on_disk(&copy)).await;
        after.group.read_index().await.unwrap();
        assert_eq!(after.kv.len(), (round as usize + 1) * 20);
        assert!((0..=round).all(|r| (0..20).all(|i| after.kv.sets(&format!("{r}-{i}")) == 1)));
        after.host.shutdown().await;
    }
    one.host.shutdown().await;
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&from, &to);
        } else if !entry.file_name().to_string_lossy().starts_with("ballast") {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_power_cuts() {
    let mut backend = Arc::new(MemoryBackend::new());
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..12usize {
        let one = start(in_memory(backend.clone())).await;
        one.group.read_index().await.unwrap();
        for key in &acknowledged {
            assert_eq!(one.kv.sets(key), 1, "round {round}, {key}");
        }
        for i in 0..10 {
            let key = format!("{round}-{i}");
            set(&one.group, &key, "x").await.unwrap();
            acknowledged.push(key);
            if i == round % 10 {
                one.group.flush().await.unwrap();
            }
        }
        backend = Arc::new(backend.after_power_cut(round % 3));
        one.host.shutdown().await;
    }
}

/// Nothing is restarted: what is in memory stays readable, and what waits is written when the disk takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_store_stops_writes_and_nothing_else() {
    let backend = Arc::new(MemoryBackend::new());
    let one = start(in_memory(backend.clone())).await;
    let idle = one.host.open(GroupId(9), Arc::new(Kv::default())).await.unwrap();
    idle.initialize(&[NodeId(1)]).await.unwrap();
    eventually("it leads", || idle.is_leader()).await;
    set(&one.group, "a", "1").await.unwrap();
    backend.set_faults(Faults {
        fail_writes: true,
        ..Faults::default()
    });
    let unknown = set(&one.group, "b", "1").await;
    assert!(
        matches!(&unknown, Err(ProposeError::Unknown(why)) if why.contains("no space left")),
        "{unknown:?}"
    );
    for group in [&one.group, &idle] {
        let refused = set(group, "c", "1").await;
        assert!(
            matches!(&refused, Err(ProposeError::BadDisk(why)) if why.contains("no space left")),
            "{refused:?}"
        );
        group.read_index().await.unwrap();
        assert!(group.is_leader());
    }
    // A flush that is due meanwhile waits.
    let flushing = tokio::spawn({
        let group = one.group.clone();
        async move { group.flush().await }
    });
    assert_eq!((one.kv.sets("a"), one.kv.sets("b")), (1, 0));
    backend.set_faults(Faults::default());
    flushing.await.unwrap().unwrap();
    let store = &one.group.inner.machine.store;
    eventually("the disk takes writes", || store.trouble().is_none()).await;
    assert_eq!(set(&one.group, "a", "2").await, Ok("1".into()));
    set(&idle, "a", "1").await.unwrap();
    // What was waiting is there, once; what was refused is not.
    assert_eq!((one.kv.sets("a"), one.kv.sets("b"), one.kv.sets("c")), (2, 1, 0));
    for group in [&one.group, &idle] {
        assert_eq!(group.inner.machine.metrics.restarts.get(), 0);
    }
    one.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_stops_on_a_disk_that_takes_nothing() {
    let backend = Arc::new(MemoryBackend::new());
    let one = start(in_memory(backend.clone())).await;
    set(&one.group, "a", "1").await.unwrap();
    backend.set_faults(Faults {
        fail_writes: true,
        ..Faults::default()
    });
    assert!(set(&one.group, "b", "1").await.is_err());
    one.host.shutdown().await;
    backend.set_faults(Faults::default());
    let after = start(in_memory(Arc::new(backend.after_power_cut(0)))).await;
    after.group.read_index().await.unwrap();
    assert_eq!(after.kv.sets("a"), 1);
    after.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_flush_restores_the_machine() {
    let one = start(in_memory(Arc::default())).await;
    set(&one.group, "a", "1").await.unwrap();
    one.kv.state.lock().fail_next_flush = true;
    assert!(one.group.flush().await.is_err());
    // The next apply finds its incarnation ended.
    let lost = set(&one.group, "b", "1").await;
    assert!(lost.is_err(), "{lost:?}");
    eventually("it was restored", || one.kv.state.lock().restores == 2).await;
    eventually("it leads again", || one.group.is_leader()).await;
    set(&one.group, "a", "2").await.unwrap();
    assert_eq!(one.kv.sets("a"), 2);
    one.group.flush().await.unwrap();
    one.host.shutdown().await;
}

/// Log bytes make flushes due, and flushes let the log be purged behind them.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_flushed_and_purged_as_it_grows() {
    let folder = tempfile::tempdir().unwrap();
    let one = start_with(on_disk(folder.path()), |options| options.flush_log_bytes = 256 << 10).await;
    let value = "v".repeat(32 << 10);
    for i in 0..100 {
        set(&one.group, &format!("{}", i % 7), &value).await.unwrap();
    }
    eventually("the log is purged", || one.group.status().purged > 50).await;
    let status = one.group.status();
    assert!(status.purged < status.flushed, "{status:?}");
    one.host.shutdown().await;
    let one = start(on_disk(folder.path())).await;
    one.group.read_index().await.unwrap();
    assert_eq!((one.kv.len(), one.kv.sets("0"), one.kv.sets("6")), (7, 15, 14));
    one.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_groups_share_syncs() {
    let backend = Arc::new(MemoryBackend::new());
    let network = LocalNetwork::new(1);
    let host = GroupHost::new(options(1, in_memory(backend.clone()), network.transport(NodeId(1)))).unwrap();
    let mut groups = Vec::new();
    for id in 0..16 {
        let group = host.open(GroupId(id), Arc::new(Kv::default())).await.unwrap();
        group.initialize(&[NodeId(1)]).await.unwrap();
        groups.push(group);
    }
    for group in &groups {
        eventually("it leads", || group.is_leader()).await;
    }
    backend.set_faults(Faults {
        sync_delay: Duration::from_millis(20),
        ..Faults::default()
    });
    let before = backend.syncs();
    let all = groups
        .iter()
        .flat_map(|group| (0..10).map(move |i| async move { set(group, &format!("{i}"), "x").await }));
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().all(Result::is_ok));
    let syncs = backend.syncs() - before;
    assert!(syncs <= 16, "{syncs} syncs for 160 proposals of 16 groups");
    host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_share_rounds_and_come_after_what_was_acknowledged() {
    let one = start(in_memory(Arc::default())).await;
    for i in 0..20u64 {
        set(&one.group, "a", &i.to_string()).await.unwrap();
        let written = one.group.status().last_log;
        let reads = futures::future::join_all((0..50).map(|_| one.group.read_index())).await;
        assert!(reads.iter().all(|read| read.as_ref().is_ok_and(|at| *at >= written)));
        assert_eq!(one.kv.get("a"), Some(i.to_string()));
    }
    assert_eq!(one.group.inner.machine.sending.load(Ordering::Relaxed), 0);
    one.host.shutdown().await;
}

/// A replica that was removed, and made anew with nothing.
struct Anew {
    one: One,
    group: Group,
    /// What the one before had last, and its term.
    newest: u64,
    term: u64,
}

async fn made_anew(folder: &Path) -> Anew {
    let one = start(on_disk(folder)).await;
    set(&one.group, "a", "1").await.unwrap();
    let (newest, term) = (one.group.read_index().await.unwrap(), one.group.status().term);
    assert!(one.host.remove(GROUP, &[]).await.unwrap());
    let group = one.host.open(GROUP, Arc::new(Kv::default())).await.unwrap();
    Anew {
        one,
        group,
        newest,
        term,
    }
}

/// What node 2 puts before what it sends to it.
fn header_of_two(one: &One) -> v1::RaftHeader {
    v1::RaftHeader {
        cluster_id: one.host.identity().cluster.0.to_be_bytes().to_vec().into(),
        from: 2,
        to: 1,
        group: GROUP.0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_made_anew_votes_for_nobody_without_what_the_one_before_had() {
    let folder = tempfile::tempdir().unwrap();
    let Anew { one, newest, term, .. } = made_anew(folder.path()).await;
    let service = one.host.service();
    let ask = |last: Option<u64>, pre_vote: bool| {
        service.vote(v1::RaftVoteRequest {
            header: Some(header_of_two(&one)),
            vote: Some(v1::RaftVote {
                term: term + 1,
                node: 2,
                committed: false,
            }),
            last_log_id: last.map(|index| v1::RaftLogId { term, index }),
            leadership_transfer: false,
            pre_vote,
        })
    };
    for pre_vote in [true, false] {
        for less in [None, Some(newest - 1)] {
            let refused = ask(less, pre_vote).await;
            assert!(matches!(refused, Err(RpcError::Refused(_))), "{less:?}: {refused:?}");
        }
    }
    assert!(ask(Some(newest), false).await.unwrap().granted);
    one.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_made_anew_does_not_lead_without_what_the_one_before_had() {
    let folder = tempfile::tempdir().unwrap();
    let Anew {
        one,
        group,
        newest,
        term,
    } = made_anew(folder.path()).await;
    let service = one.host.service();
    let id = |index| v1::RaftLogId { term, index };
    let send = |from: u64, payloads: Vec<EntryPayload<Command, u64, EmptyNode>>| {
        let entry = |(index, payload)| {
            codec::entry_to_wire(&Entry {
                log_id: codec::log_id_from(id(index)),
                payload,
            })
        };
        service.heartbeat(v1::RaftAppendRequest {
            header: Some(header_of_two(&one)),
            vote: Some(v1::RaftVote {
                term: term + 1,
                node: 2,
                committed: true,
            }),
            previous: from.checked_sub(1).map(id),
            leader_commit: None,
            entries: (from..).zip(payloads).map(entry).collect(),
        })
    };
    // It hears of a time when it was alone: for itself, it would lead at the next tick.
    let alone = Members::new_with_defaults(vec![[1].into()], []);
    let answer = send(0, vec![EntryPayload::Membership(alone)]).await.unwrap();
    assert!(matches!(answer.result, Some(Answer::Matched(_))), "{answer:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!group.is_leader());
    let rest = (1..=newest).map(|_| EntryPayload::Blank).collect();
    let answer = send(1, rest).await.unwrap();
    assert!(matches!(answer.result, Some(Answer::Matched(_))), "{answer:?}");
    eventually("it leads with all that was here", || group.is_leader()).await;
    one.host.shutdown().await;
}
