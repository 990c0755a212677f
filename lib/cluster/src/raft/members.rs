//! Brings a group's members to what is wished: new ones catch up before they vote, and whoever is not wished goes last.
//!
//! ```text
//! learner -> caught up -> voter -> the others are removed
//! leader not fit (its clock is wrong, its disk takes no writes): another leads, as soon as one can; it votes on
//! leader not wished: it stays a voter until one of the wished leads, who removes it
//! ```
//! Only the group's leader does something, one step at a time, and looks again. A step that is left half done (a leader
//! died between the two sets of a change) is gone on with by the next.

use super::GroupError;
use super::group::{Group, GroupStatus};
use gnomon_model::{Clock, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a leader looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Entries that a member may be behind and still count as up to date.
const LAG: u64 = 200;
/// A leader that another is preferred to waits this long before it hands over: the other has to have been there so long.
pub const PREFER_AFTER: Duration = Duration::from_secs(5);
/// A leader whose clock is wrong waits this long: after another leads the metadata group it takes a while until all clocks
/// were measured against the new leader's.
const YIELD_AFTER: Duration = Duration::from_secs(10);
/// A leader whose disk takes no writes waits this long: space that is short for a moment only comes back.
const YIELD_FOR_DISK_AFTER: Duration = Duration::from_secs(2);
/// Between two attempts to hand over, which fail where the other is not up to date.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(3);
/// How long a change of members may take before it is looked at again; it may be committed later.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);

/// What is wished of a group, and what can be known of its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Who is to vote; the first is to lead. Empty: nothing is wished.
    pub nodes: Vec<NodeId>,
    /// Those of them that are there now.
    pub live: Vec<NodeId>,
    /// What the group's leader has told last: voters, and the log index of that.
    pub told: (Vec<NodeId>, u64),
    /// Nodes that are not to lead: their clocks are wrong.
    pub unfit: Vec<NodeId>,
}

/// Whence a wish comes, and whereto is told what became of it.
#[async_trait::async_trait]
pub trait MemberWishes: Send + Sync + 'static {
    fn wish(&self) -> Wish;

    /// How long a better leader has to have been there before it is handed over to, [`PREFER_AFTER`] by default.
    fn prefer_after(&self) -> Duration;

    /// The group has exactly these voters since the entry at this log index.
    async fn tell(&self, voters: &[NodeId], at_index: u64);
}

/// What a leader does next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// All is as wished.
    Rest,
    AddLearner(NodeId),
    /// It has to catch up.
    WaitFor(NodeId),
    SetVoters(BTreeSet<NodeId>),
    RemoveLearner(NodeId),
    /// Now: this node is not wished.
    LeaveTo(NodeId),
    /// When this node has been unfit to lead for a while.
    YieldTo(NodeId),
    /// When it is convenient.
    PreferTo(NodeId),
}

/// Decides by where the group stands, on its leader.
fn next_step(own: NodeId, wish: &Wish, status: &GroupStatus) -> Step {
    let wished: BTreeSet<NodeId> = wish.nodes.iter().copied().collect();
    let is_up_to_date = |node: &NodeId| {
        let matched = status.matched.get(node).copied();
        *node == own || matched.is_some_and(|upto| upto > 0 && upto + LAG >= status.last_log)
    };
    let votes = |node: &NodeId| status.voters.contains(node);
    if wished.is_empty() {
        return Step::Rest;
    }
    let mut waits_for = None;
    for node in wish.nodes.iter().filter(|node| !votes(node)) {
        let is_learner = status.learners.contains(node);
        match (wish.live.contains(node), is_learner) {
            (true, false) => return Step::AddLearner(*node),
            // One at a time is brought up to date.
            (true, true) if !is_up_to_date(node) => return Step::WaitFor(*node),
            (false, _) if !is_learner || !is_up_to_date(node) => {
                waits_for.get_or_insert(*node);
            }
            _ => {}
        }
    }
    if let Some(absent) = waits_for {
        let others = status.learners.iter().find(|node| !wished.contains(node));
        return others.map_or(Step::WaitFor(absent), |node| Step::RemoveLearner(*node));
    }
    let mut voters = wished.clone();
    voters.insert(own);
    if status.is_joint || !status.voters.iter().copied().eq(voters.iter().copied()) {
        // A set that cannot decide could not even be changed again.
        let is_there = |node: &NodeId| wish.live.contains(node) && !status.silent.contains(node);
        let is_ready = |node: &NodeId| *node == own || (is_there(node) && is_up_to_date(node));
        let ready = voters.iter().filter(|node| is_ready(node)).count();
        return match voters.iter().find(|node| !is_ready(node)) {
            Some(absent) if ready * 2 <= voters.len() => Step::WaitFor(*absent),
            _ => Step::SetVoters(voters),
        };
    }
    if let Some(node) = status.learners.iter().find(|node| !wished.contains(node)) {
        return Step::RemoveLearner(*node);
    }
    let is_fit = |node: &NodeId| !wish.unfit.contains(node) && !status.no_writes.contains(node);
    let others = || {
        let others = wish.nodes.iter().filter(|node| **node != own);
        others.filter(|node| wish.live.contains(node) && is_up_to_date(node))
    };
    let mut heirs = others().filter(|node| is_fit(node));
    if !wished.contains(&own) {
        // Rather to one that is not fit than to nobody: what is wished would never come to be.
        let heir = heirs.next().or_else(|| others().next());
        return heir.map_or(Step::Rest, |heir| Step::LeaveTo(*heir));
    }
    if !is_fit(&own) {
        return heirs.next().map_or(Step::Rest, |heir| Step::YieldTo(*heir));
    }
    match heirs.next() {
        Some(heir) if wish.nodes.first() == Some(heir) => Step::PreferTo(*heir),
        _ => Step::Rest,
    }
}

/// Keeps a group's members as wished, until it is stopped.
pub async fn keep_members(
    group: Group,
    own: NodeId,
    wishes: Arc<dyn MemberWishes>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut keeper = Keeper {
        group,
        own,
        wishes,
        clock,
        preferred: None,
        unfit_since: None,
        handed_over: None,
        waits_for: None,
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if !keeper.group.is_leader() {
            keeper.preferred = None;
            keeper.unfit_since = None;
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = keeper.look() => {}
        }
    }
}

struct Keeper {
    group: Group,
    own: NodeId,
    wishes: Arc<dyn MemberWishes>,
    clock: Arc<dyn Clock>,
    /// Who could lead instead, and since when.
    preferred: Option<(NodeId, Duration)>,
    /// Since when this node is not to lead.
    unfit_since: Option<Duration>,
    handed_over: Option<Duration>,
    /// Who was last said to be waited for.
    waits_for: Option<NodeId>,
}

impl Keeper {
    async fn look(&mut self) {
        let mut wish = self.wishes.wish();
        // Whatever still runs there is of a cluster that this one has left.
        wish.live.retain(|node| !self.group.inner.given_up.contains(&node.0));
        let status = self.group.status();
        if status.voters.is_empty() || status.members_at > status.committed {
            return;
        }
        let (told, at_index) = &wish.told;
        let is_known = !told.is_empty() && *at_index >= status.members_at;
        if !status.is_joint && !is_known {
            self.wishes.tell(&status.voters, status.members_at).await;
        }
        let step = next_step(self.own, &wish, &status);
        if !matches!(step, Step::PreferTo(_)) {
            self.preferred = None;
        }
        if !matches!(step, Step::YieldTo(_)) {
            self.unfit_since = None;
        }
        let group = self.group.id();
        match step {
            Step::Rest => self.waits_for = None,
            Step::WaitFor(node) => {
                if self.waits_for.replace(node) != Some(node) {
                    let has = status.matched.get(&node).copied().unwrap_or(0);
                    tracing::info!(%group, %node, has, last = status.last_log, "a new member has to catch up");
                }
            }
            Step::AddLearner(node) => {
                self.change("added as a learner", node, self.group.add_learner(node))
                    .await
            }
            Step::RemoveLearner(node) => {
                self.change("removed, a learner", node, self.group.remove_learner(node))
                    .await;
            }
            Step::SetVoters(voters) => {
                let voters: Vec<NodeId> = voters.into_iter().collect();
                let done = tokio::time::timeout(CHANGE_WITHIN, self.group.change_membership(&voters)).await;
                match done {
                    Ok(Ok(())) => tracing::info!(%group, before = ?status.voters, now = ?voters, "voters changed"),
                    Ok(Err(error)) => tracing::warn!(%group, %error, wished = ?voters, "voters not changed yet"),
                    Err(_) => tracing::warn!(%group, wished = ?voters, "no majority for a change of voters yet"),
                }
            }
            Step::LeaveTo(heir) => self.hand_over(heir).await,
            Step::YieldTo(heir) => {
                let now = self.clock.monotonic();
                let since = *self.unfit_since.get_or_insert(now);
                let (after, why) = if status.no_writes.contains(&self.own) {
                    (YIELD_FOR_DISK_AFTER, "this node's disk takes no writes")
                } else {
                    (YIELD_AFTER, "this node's clock is wrong")
                };
                if now.saturating_sub(since) >= after && self.may_hand_over() {
                    tracing::error!(%group, to = %heir, "{why}: it gives up leadership");
                    self.hand_over(heir).await;
                }
            }
            Step::PreferTo(heir) => {
                let now = self.clock.monotonic();
                let since = match self.preferred {
                    Some((node, since)) if node == heir => since,
                    _ => self.preferred.insert((heir, now)).1,
                };
                if now.saturating_sub(since) >= self.wishes.prefer_after() {
                    self.hand_over(heir).await;
                }
            }
        }
    }

    async fn change(&self, what: &str, node: NodeId, changing: impl Future<Output = Result<(), GroupError>>) {
        let group = self.group.id();
        match tokio::time::timeout(CHANGE_WITHIN, changing).await {
            Ok(Ok(())) => tracing::info!(%group, %node, what, "members changed"),
            Ok(Err(error)) => tracing::warn!(%group, %node, %error, what, "members not changed yet"),
            Err(_) => tracing::warn!(%group, %node, what, "no majority for a change of members yet"),
        }
    }

    fn may_hand_over(&self) -> bool {
        let now = self.clock.monotonic();
        self.handed_over
            .is_none_or(|then| now.saturating_sub(then) >= HAND_OVER_AGAIN)
    }

    async fn hand_over(&mut self, heir: NodeId) {
        if !self.may_hand_over() {
            return;
        }
        self.handed_over = Some(self.clock.monotonic());
        match self.group.transfer_leader(heir).await {
            Ok(()) => tracing::info!(group = %self.group.id(), to = %heir, "another is asked to lead"),
            Err(error) => tracing::warn!(group = %self.group.id(), to = %heir, %error, "leadership not handed over"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn wish(nodes: &[u64]) -> Wish {
        Wish {
            nodes: n(nodes),
            live: n(nodes),
            told: (Vec::new(), 0),
            unfit: Vec::new(),
        }
    }

    /// On leader 1, with a log of 1000 entries.
    fn status(voters: &[u64], learners: &[u64], behind: &[u64]) -> GroupStatus {
        let others = voters.iter().chain(learners).filter(|id| **id != 1);
        GroupStatus {
            last_log: 1000,
            committed: 1000,
            voters: n(voters),
            learners: n(learners),
            matched: others
                .map(|id| (NodeId(*id), if behind.contains(id) { 10 } else { 990 }))
                .collect(),
            ..GroupStatus::default()
        }
    }

    fn step(wished: &[u64], status: &GroupStatus) -> Step {
        next_step(NodeId(1), &wish(wished), status)
    }

    fn set(ids: &[u64]) -> Step {
        Step::SetVoters(n(ids).into_iter().collect())
    }

    #[test]
    fn a_new_member_learns_before_it_votes() {
        let step = |status| step(&[1, 2, 3], &status);
        assert_eq!(step(status(&[1], &[], &[])), Step::AddLearner(NodeId(2)));
        assert_eq!(step(status(&[1], &[2], &[2])), Step::WaitFor(NodeId(2)));
        assert_eq!(step(status(&[1], &[2], &[])), Step::AddLearner(NodeId(3)));
        assert_eq!(step(status(&[1], &[2, 3], &[3])), Step::WaitFor(NodeId(3)));
        assert_eq!(step(status(&[1], &[2, 3], &[])), set(&[1, 2, 3]));
        assert_eq!(step(status(&[1, 2, 3], &[], &[])), Step::Rest);
        assert_eq!(step(status(&[1, 2, 3], &[4], &[])), Step::RemoveLearner(NodeId(4)));
    }

    #[test]
    fn whose_disk_takes_no_writes_does_not_lead() {
        let wish = wish(&[1, 2, 3]);
        let full = |nodes: &[u64]| GroupStatus {
            no_writes: n(nodes).into_iter().collect(),
            ..status(&[1, 2, 3], &[], &[])
        };
        assert_eq!(next_step(NodeId(1), &wish, &full(&[1])), Step::YieldTo(NodeId(2)));
        assert_eq!(next_step(NodeId(1), &wish, &full(&[1, 2])), Step::YieldTo(NodeId(3)));
        assert_eq!(next_step(NodeId(1), &wish, &full(&[1, 2, 3])), Step::Rest);
        // The one that is preferred leads when there is space.
        let wish = self::wish(&[2, 1, 3]);
        assert_eq!(next_step(NodeId(1), &wish, &full(&[2])), Step::Rest);
        assert_eq!(next_step(NodeId(1), &wish, &full(&[])), Step::PreferTo(NodeId(2)));
    }

    #[test]
    fn who_has_a_wrong_clock_does_not_lead() {
        let of_three = status(&[1, 2, 3], &[], &[]);
        let mut wish = wish(&[1, 2, 3]);
        wish.unfit = n(&[1]);
        assert_eq!(next_step(NodeId(1), &wish, &of_three), Step::YieldTo(NodeId(2)));
        wish.unfit = n(&[1, 2]);
        assert_eq!(next_step(NodeId(1), &wish, &of_three), Step::YieldTo(NodeId(3)));
        wish.unfit = n(&[1, 2, 3]);
        assert_eq!(
            next_step(NodeId(1), &wish, &of_three),
            Step::Rest,
            "nobody would be better"
        );
        wish.unfit = n(&[2]);
        wish.nodes = n(&[2, 1, 3]);
        assert_eq!(
            next_step(NodeId(1), &wish, &of_three),
            Step::Rest,
            "it is not preferred"
        );
        wish.unfit.clear();
        assert_eq!(next_step(NodeId(1), &wish, &of_three), Step::PreferTo(NodeId(2)));
        // Whoever is to leave leaves to such a one rather than not at all.
        wish.unfit = n(&[2]);
        wish.nodes = n(&[2, 3]);
        assert_eq!(next_step(NodeId(1), &wish, &of_three), Step::LeaveTo(NodeId(3)));
        wish.nodes = n(&[2]);
        assert_eq!(
            next_step(NodeId(1), &wish, &status(&[1, 2], &[], &[])),
            Step::LeaveTo(NodeId(2))
        );
    }

    #[test]
    fn who_is_not_there_is_not_added() {
        let mut wish = wish(&[1, 2]);
        wish.live = n(&[1]);
        assert_eq!(
            next_step(NodeId(1), &wish, &status(&[1], &[], &[])),
            Step::WaitFor(NodeId(2))
        );
    }

    #[test]
    fn who_is_not_there_keeps_no_other_from_coming_and_going() {
        let mut wish = wish(&[1, 2, 3]);
        wish.live = n(&[1, 3]);
        let of = |learners: &[u64]| status(&[1], learners, &[2]);
        assert_eq!(next_step(NodeId(1), &wish, &of(&[2])), Step::AddLearner(NodeId(3)));
        assert_eq!(
            next_step(NodeId(1), &wish, &of(&[2, 3, 4])),
            Step::RemoveLearner(NodeId(4))
        );
        assert_eq!(next_step(NodeId(1), &wish, &of(&[2, 3])), Step::WaitFor(NodeId(2)));
    }

    #[test]
    fn voters_that_could_not_decide_are_not_made() {
        let mut wish = wish(&[1, 3]);
        wish.live = n(&[1]);
        let of_three = status(&[1, 2, 3], &[], &[]);
        assert_eq!(next_step(NodeId(1), &wish, &of_three), Step::WaitFor(NodeId(3)));
        wish.live = n(&[1, 3]);
        assert_eq!(next_step(NodeId(1), &wish, &of_three), set(&[1, 3]));
        // It has died, which its lease does not show yet.
        let silent = GroupStatus {
            silent: [NodeId(3)].into(),
            ..of_three
        };
        assert_eq!(next_step(NodeId(1), &wish, &silent), Step::WaitFor(NodeId(3)));
    }

    #[test]
    fn a_leader_that_is_not_wished_leaves_after_another_leads() {
        assert_eq!(step(&[2, 3, 4], &status(&[1, 2, 3], &[4], &[])), set(&[1, 2, 3, 4]));
        assert_eq!(
            step(&[2, 3, 4], &status(&[1, 2, 3, 4], &[], &[2])),
            Step::LeaveTo(NodeId(3)),
            "the first that is up to date"
        );
        let at_two = GroupStatus {
            matched: [(NodeId(1), 1000), (NodeId(3), 1000), (NodeId(4), 1000)].into(),
            ..status(&[1, 2, 3, 4], &[], &[])
        };
        assert_eq!(next_step(NodeId(2), &wish(&[2, 3, 4]), &at_two), set(&[2, 3, 4]));
    }

    #[test]
    fn a_change_that_was_left_half_done_is_gone_on_with() {
        let mut joint = status(&[1, 2, 3, 4], &[], &[]);
        joint.is_joint = true;
        assert_eq!(step(&[1, 2, 3], &joint), set(&[1, 2, 3]));
    }

    #[test]
    fn the_first_is_preferred_once_it_is_up_to_date() {
        assert_eq!(
            step(&[2, 1, 3], &status(&[1, 2, 3], &[], &[])),
            Step::PreferTo(NodeId(2))
        );
        assert_eq!(step(&[2, 1, 3], &status(&[1, 2, 3], &[], &[2])), Step::Rest);
        assert_eq!(step(&[], &status(&[1, 2, 3], &[], &[])), Step::Rest);
    }
}
