//! Keeps a group running: starts it, flushes and purges as its log grows, and starts it again when it fails.

use super::GroupError;
use super::group::{GroupInner, Leadership, Running};
use super::log::{GroupLog, left_at};
use super::network::Network;
use super::types::{Members, TypeConfig};
use crate::blocking::blocking;
use crate::store::StoreError;
use gnomon_model::NodeId;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The first wait before a failed group is started again; doubles up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A leader that is stopped waits this long for another to take over.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(500);

/// A follower may hold back the purge of this many times the log between two flushes.
const FOLLOWER_SHARE: u64 = 8;

/// Starts one incarnation from what is stored.
pub(crate) async fn start(inner: &Arc<GroupInner>) -> Result<Running, GroupError> {
    let host = &inner.host;
    let (store, group) = (host.options.store.clone(), inner.id);
    // What an incarnation before this one, or a replica that was closed here, has handed over is written first: read before
    // that, the log and the vote would be older than what is stored later.
    let is_first = host.is_first_start(group);
    let read = async {
        if !is_first {
            store.written().await;
        }
        let open = move || {
            let left = left_at(store.backend().as_ref(), group)?;
            Ok::<_, StoreError>((GroupLog::open(store, group)?, left))
        };
        let (log, left) = blocking(open)
            .await
            .map_err(|error| GroupError::Unavailable(error.to_string()))??;
        Ok::<_, GroupError>((log, left, inner.machine.begin().await?))
    };
    let (log, left, adapter) = tokio::select! {
        () = inner.closed.cancelled() => return Err(GroupError::Unavailable("it is being closed".into())),
        read = read => read?,
    };
    let network = Network {
        transport: host.options.transport.clone(),
        cluster: host.options.cluster,
        node: host.options.node,
        group,
        machine: inner.machine.clone(),
        snapshots_sent: host.metrics.snapshots_sent.clone(),
        no_writes: inner.no_writes.clone(),
    };
    let node = host.options.node.0;
    let left = left.filter(|left| log.last() < Some(*left));
    let mut config = host.config.clone();
    if left.is_some() {
        Arc::make_mut(&mut config).enable_elect = false;
    }
    let raft = Raft::new(node, config, network, log.clone(), adapter.clone()).await;
    let raft = raft.map_err(|fatal| GroupError::Unavailable(fatal.to_string()))?;
    // Nobody else can win, so there is nothing to wait for.
    if left.is_none() && raft.voter_ids().eq([node]) {
        drop(raft.trigger().elect(false).await);
    }
    Ok(Running {
        raft,
        log,
        adapter,
        left,
    })
}

/// Lets a replica stand for election once it has what the one before it had. Until then it may be told, by a snapshot, of
/// members that there were when that one was here, itself alone at worst: nobody else's vote would keep it from leading
/// without what the others have committed since.
fn may_stand(running: &Running) {
    if running.left.is_some_and(|left| running.log.last() >= Some(left)) {
        running.raft.runtime_config().elect(true);
    }
}

/// Runs until the group is closed.
pub(crate) async fn supervise(inner: Arc<GroupInner>, first: Running) {
    let _ended = inner.ended.clone().drop_guard();
    let mut running = first;
    loop {
        let failed = tokio::select! {
            () = inner.closed.cancelled() => None,
            fatal = follow(&inner, &running) => Some(fatal),
        };
        inner.alone.ask_again();
        inner.leadership.send_replace(Leadership::default());
        inner.machine.metrics.leader.set(0);
        let Some(fatal) = failed else {
            stop(&inner, running).await;
            return;
        };
        inner.machine.metrics.restarts.inc();
        tracing::error!(group = %inner.id, error = %fatal, "the group failed and is started again");
        inner.running.write().take();
        // Once more: a read that was under way may have asked the old one since.
        inner.alone.ask_again();
        end(&inner, &running).await;
        drop(running);
        match again(&inner).await {
            Some(next) => running = next,
            None => return,
        }
    }
}

/// Starts until it succeeds; none when the group is closed meanwhile.
async fn again(inner: &Arc<GroupInner>) -> Option<Running> {
    let mut wait = FIRST_WAIT;
    loop {
        tokio::select! {
            () = inner.closed.cancelled() => return None,
            () = tokio::time::sleep(wait) => {}
        }
        match start(inner).await {
            Ok(running) => {
                tracing::info!(group = %inner.id, "the group runs again");
                inner.running.write().replace(running.clone());
                return Some(running);
            }
            Err(error) => tracing::warn!(group = %inner.id, %error, "the group cannot be started yet"),
        }
        wait = (wait * 2).min(LAST_WAIT);
    }
}

async fn stop(inner: &GroupInner, running: Running) {
    hand_over(&running).await;
    let store = &inner.machine.store;
    let failed = tokio::select! {
        flushed = running.adapter.flush() => flushed.err().map(|error| error.to_string()),
        why = store.in_trouble(Duration::ZERO) => Some(why.to_string()),
    };
    if let Some(error) = failed {
        tracing::warn!(group = %inner.id, %error, "the last flush failed: a restart replays more of the log");
    }
    inner.running.write().take();
    end(inner, &running).await;
}

/// Ends Raft. On a bad disk it may be waiting for a write, which is given up when the store is closed: then it is left to
/// itself, and writes nothing more.
async fn end(inner: &GroupInner, running: &Running) {
    tokio::select! {
        () = stop_raft(running) => {}
        _ = inner.machine.store.in_trouble(HAND_OVER_WITHIN) => {}
    }
    running.log.seal();
}

/// A leader that goes lets the follower that has most take over, so that nobody has to notice its absence.
async fn hand_over(running: &Running) {
    let mut metrics = running.raft.metrics();
    let heir = {
        let now = metrics.borrow_watched();
        let voters: Vec<u64> = now.membership_config.voter_ids().collect();
        let followers = now.replication.iter().flatten().filter(|(id, _)| **id != now.id);
        let voting = followers.filter(|(id, _)| voters.contains(*id));
        voting
            .max_by_key(|(_, matching)| matching.map(|id| id.index))
            .map(|(id, _)| *id)
    };
    let Some(heir) = heir else { return };
    if running.raft.trigger().transfer_leader(heir).await.is_err() {
        return;
    }
    let done = async { while metrics.borrow_watched().state.is_leader() && metrics.changed().await.is_ok() {} };
    if tokio::time::timeout(HAND_OVER_WITHIN, done).await.is_err() {
        tracing::debug!(heir, "leadership was not taken over in time");
    }
}

async fn stop_raft(running: &Running) {
    if let Err(error) = running.raft.shutdown().await {
        tracing::debug!(%error, "raft ended before it was shut down");
    }
}

/// Runs that are short leave more log behind them than this only when it is purged at the next start.
const LEFT_BEHIND: u64 = 4096;

/// Publishes leadership and flushes when due, until the incarnation fails.
async fn follow(inner: &GroupInner, running: &Running) -> Fatal<TypeConfig> {
    let mut metrics = running.raft.metrics();
    let store = &inner.machine.store;
    let mut trouble = store.watch_trouble();
    let mut purge = Purge::new(inner);
    let flushed = inner.machine.flushed_index.load(Ordering::Acquire);
    if flushed.saturating_sub(running.log.bounds().0) > LEFT_BEHIND {
        inner.machine.flush_due.notify_one();
    }
    loop {
        let state = {
            let now = metrics.borrow_watched();
            publish(inner, &now);
            // Who leads alone has nobody to be heard by: its clock need not wake the process.
            let members = now.membership_config.membership();
            let needs_clock = !leads_alone(now.state.is_leader(), members);
            running.raft.runtime_config().tick(needs_clock);
            may_stand(running);
            now.running_state.clone()
        };
        if let Err(fatal) = state {
            return fatal;
        }
        tokio::select! {
            changed = metrics.changed() => {
                if changed.is_err() {
                    return Fatal::Stopped;
                }
            }
            Ok(()) = trouble.changed() => {
                // Where there are others, one of them leads while this disk takes no writes.
                if trouble.borrow_and_update().is_some() {
                    hand_over(running).await;
                }
            }
            () = inner.machine.flush_due.notified(), if store.trouble().is_none() => {
                tokio::select! {
                    done = flush_and_purge(inner, running, &mut purge) => if let Err(error) = done {
                        return error;
                    },
                    // It goes on by itself when the disk takes writes; leadership has to be followed meanwhile.
                    _ = store.in_trouble(Duration::ZERO) => inner.machine.flush_due.notify_one(),
                }
            }
        }
    }
}

/// Whether this node leads and nobody else is a member, learners included.
fn leads_alone(leads: bool, members: &Members) -> bool {
    leads && members.nodes().count() == 1
}

fn publish(inner: &GroupInner, metrics: &openraft::RaftMetrics<TypeConfig>) {
    let here = metrics.state.is_leader();
    let now = Leadership {
        term: metrics.current_term,
        leader: metrics.current_leader.map(NodeId),
        here,
    };
    inner.machine.metrics.leader.set(i64::from(here));
    inner.leadership.send_if_modified(|known| {
        let changed = *known != now;
        match (known.here, here) {
            (false, true) => tracing::info!(group = %inner.id, term = now.term, "this node leads the group"),
            (true, false) => {
                let leader = now
                    .leader
                    .map_or_else(|| "nobody yet".to_owned(), |node| format!("node {node}"));
                tracing::info!(group = %inner.id, term = now.term, leader, "this node leads the group no more");
            }
            _ => {}
        }
        *known = now;
        changed
    });
}

async fn flush_and_purge(inner: &GroupInner, running: &Running, purge: &mut Purge) -> Result<(), Fatal<TypeConfig>> {
    if let Err(error) = running.adapter.flush().await {
        tracing::error!(group = %inner.id, %error, "a flush failed");
        return Err(Fatal::Stopped);
    }
    // The library learns of the flush as of a snapshot, which is what allows it to purge.
    running.raft.trigger().snapshot().await?;
    let flushed = inner.machine.flushed_index.load(Ordering::Acquire);
    let behind = slowest_follower(running);
    let held = inner.machine.sending.load(Ordering::Acquire) > 0;
    if let Some(upto) = purge.next(flushed, running.log.appended_bytes(), behind, held) {
        running.raft.trigger().purge_log(upto).await?;
    }
    Ok(())
}

/// On a leader, the least index that a follower is known to have.
fn slowest_follower(running: &Running) -> Option<u64> {
    let receiver = running.raft.metrics();
    let metrics = receiver.borrow_watched();
    let replication = metrics.replication.as_ref()?;
    replication.values().map(|id| id.map_or(0, |id| id.index)).min()
}

/// Decides how far the log may be purged: well behind what is durable, and in large steps.
pub(crate) struct Purge {
    /// Past flushes: index, and bytes appended by then. The first is where this run began.
    marks: VecDeque<(u64, Option<u64>)>,
    step_bytes: u64,
}

impl Purge {
    fn new(inner: &GroupInner) -> Self {
        let begun = inner.machine.flushed_index.load(Ordering::Acquire);
        Self::starting_at(begun, inner.host.options.flush_log_bytes)
    }

    fn starting_at(begun: u64, step_bytes: u64) -> Self {
        Self {
            marks: VecDeque::from([(begun, None)]),
            step_bytes,
        }
    }

    /// The index to purge up to after a flush at `flushed`, when `appended` bytes were appended in this run.
    fn next(&mut self, flushed: u64, appended: u64, slowest: Option<u64>, held: bool) -> Option<u64> {
        let mut upto = None;
        while !held && let Some((index, bytes)) = self.marks.front().copied() {
            let behind = bytes.map_or(u64::MAX, |bytes| appended.saturating_sub(bytes));
            let waited = appended.saturating_sub(bytes.unwrap_or(0));
            let patience = waited >= self.step_bytes.saturating_mul(FOLLOWER_SHARE);
            let wanted = slowest.is_some_and(|slowest| slowest < index);
            if behind < self.step_bytes || (wanted && !patience) {
                break;
            }
            upto = Some(index);
            self.marks.pop_front();
        }
        if self.marks.back().is_none_or(|(index, _)| *index < flushed) {
            self.marks.push_back((flushed, Some(appended)));
        }
        upto.filter(|index| *index > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Members, Purge, leads_alone};

    #[test]
    fn only_who_leads_alone_needs_no_clock() {
        let members = |voters: &[u64], others: &[u64]| {
            let voters = vec![voters.iter().copied().collect()];
            Members::new_with_defaults(voters, others.iter().copied())
        };
        assert!(leads_alone(true, &members(&[1], &[])));
        assert!(!leads_alone(false, &members(&[1], &[])));
        assert!(!leads_alone(true, &members(&[1], &[2])), "a learner has to hear of it");
        assert!(!leads_alone(true, &members(&[1, 2], &[])));
    }

    #[test]
    fn purge_stays_a_step_behind_the_flush() {
        let mut purge = Purge::starting_at(10, 100);
        assert_eq!(purge.next(50, 80, None, false), Some(10));
        assert_eq!(purge.next(90, 160, None, false), None);
        assert_eq!(purge.next(120, 180, None, false), Some(50));
        assert_eq!(purge.next(200, 500, None, true), None);
        assert_eq!(purge.next(210, 510, None, false), Some(120));
    }

    #[test]
    fn a_slow_follower_is_waited_for_but_not_forever() {
        let mut purge = Purge::starting_at(0, 100);
        assert_eq!(purge.next(50, 100, Some(20), false), None);
        assert_eq!(purge.next(100, 250, Some(20), false), None);
        assert_eq!(purge.next(150, 500, Some(60), false), Some(50));
        assert_eq!(purge.next(200, 1300, Some(60), false), Some(150));
    }
}
