//! What each ingester has, and who is next for more or less.

use super::{Change, Member, Standing, Why, voters};
use gnomon_model::{GroupId, ShardId};
use gnomon_proto::v1::{MetaState, ShardReplicas};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What an ingester has, as wished.
#[derive(Clone, Debug)]
struct Load<'a> {
    member: Member<'a>,
    replicas: usize,
    leads: usize,
    /// Shards that it is to have and has not got yet.
    coming: usize,
}

pub(super) struct Loads<'a> {
    /// Ascending by id.
    all: Vec<Load<'a>>,
    /// Shards whose members are as wished.
    settled: BTreeSet<u32>,
}

fn same_members(a: &[u64], b: &[u64]) -> bool {
    a.len() == b.len() && a.iter().all(|n| b.contains(n))
}

impl<'a> Loads<'a> {
    pub(super) fn new(state: &MetaState, ingesters: &[Member<'a>]) -> Self {
        let mut loads = Self::of_group(&[], ingesters);
        // Any replica of a shard of an epoch that is not open yet may found it, by the list as it is.
        let opening = state.epoch_change.as_ref().map_or(&[][..], |change| &change.opening);
        for shard in &state.shards {
            let group = GroupId::of_shard(ShardId(shard.shard));
            let voters = voters(state, group);
            if same_members(voters, &shard.nodes) && !opening.contains(&shard.shard) {
                loads.settled.insert(shard.shard);
            }
            for node in &shard.nodes {
                if let Some(load) = loads.of(*node) {
                    load.replicas += 1;
                    load.coming += usize::from(!voters.contains(node));
                }
            }
            if let Some(load) = shard.nodes.first().and_then(|first| loads.of(*first)) {
                load.leads += 1;
            }
        }
        loads
    }

    /// Of one group that is settled.
    pub(super) fn of_group(members: &[u64], ingesters: &[Member<'a>]) -> Self {
        let load = |member: &Member<'a>| Load {
            member: member.clone(),
            replicas: usize::from(members.contains(&member.id)),
            leads: 0,
            coming: 0,
        };
        let mut all: Vec<_> = ingesters.iter().map(load).collect();
        all.sort_by_key(|load| load.member.id);
        Self {
            all,
            settled: BTreeSet::new(),
        }
    }

    fn of(&mut self, node: u64) -> Option<&mut Load<'a>> {
        let at = self.all.binary_search_by_key(&node, |load| load.member.id).ok()?;
        Some(&mut self.all[at])
    }

    fn get(&self, node: u64) -> Option<&Load<'a>> {
        let at = self.all.binary_search_by_key(&node, |load| load.member.id).ok()?;
        Some(&self.all[at])
    }

    /// One that the state does not know any more is gone.
    fn standing(&self, node: u64) -> Standing {
        self.get(node).map_or(Standing::Gone, |load| load.member.standing)
    }

    fn zone(&self, node: u64) -> &'a str {
        self.get(node).map_or("", |load| load.member.zone)
    }

    pub(super) fn live(&self) -> usize {
        self.count(|standing| standing == Standing::Live)
    }

    /// Those that are there, or will be again.
    pub(super) fn present(&self) -> usize {
        self.count(|standing| matches!(standing, Standing::Live | Standing::Away))
    }

    fn count(&self, which: impl Fn(Standing) -> bool) -> usize {
        self.all.iter().filter(|load| which(load.member.standing)).count()
    }

    pub(super) fn is_settled(&self, shard: &ShardReplicas) -> bool {
        self.settled.contains(&shard.shard)
    }

    pub(super) fn carry_out(&mut self, change: &Change) {
        for node in &change.from {
            if let Some(load) = self.of(*node) {
                load.replicas = load.replicas.saturating_sub(1);
            }
        }
        for node in &change.to {
            let is_new = !change.from.contains(node);
            if let Some(load) = self.of(*node) {
                load.replicas += 1;
                load.coming += usize::from(is_new);
            }
        }
        if let Some(load) = change.from.first().and_then(|first| self.of(*first)) {
            load.leads = load.leads.saturating_sub(1);
        }
        if let Some(load) = change.to.first().and_then(|first| self.of(*first)) {
            load.leads += 1;
        }
        self.settled.remove(&change.shard);
    }

    fn in_zone(&self, members: &[u64], zone: &str) -> usize {
        members.iter().filter(|node| self.zone(**node) == zone).count()
    }

    /// The ingester that should have one more: in another zone than the members if there is one, with the least.
    /// Where data has to be moved to it, one that is receiving already has to wait its turn.
    fn next(&self, members: &[u64], is_empty: bool) -> Option<u64> {
        let free = self.all.iter().filter(|load| {
            let standing = load.member.standing == Standing::Live;
            standing && !members.contains(&load.member.id) && (is_empty || load.coming == 0)
        });
        let best = free.min_by_key(|load| (self.in_zone(members, load.member.zone), load.replicas, load.member.id));
        best.map(|load| load.member.id)
    }

    /// The first place for a shard.
    pub(super) fn place(&self, shard: &ShardReplicas, wanted: usize) -> Option<Change> {
        let mut to = Vec::new();
        while to.len() < wanted {
            to.push(self.next(&to, true)?);
        }
        let leads = |node: &u64| (self.get(*node).map_or(0, |load| load.leads), *node);
        let leader = to.iter().copied().min_by_key(leads)?;
        to.retain(|node| *node != leader);
        to.insert(0, leader);
        Some(Change {
            shard: shard.shard,
            from: Vec::new(),
            to,
            why: Why::Placed,
        })
    }

    /// What is wrong with a shard's members, which are to be `wanted` at least and `most` at most: one thing at a time.
    pub(super) fn mend(&self, shard: &ShardReplicas, wanted: usize, most: usize) -> Option<Change> {
        let change = |to: Vec<u64>, why: Why| Change {
            shard: shard.shard,
            from: shard.nodes.clone(),
            to,
            why,
        };
        let members = shard.nodes.as_slice();
        let without = |left: u64| -> Vec<u64> { members.iter().copied().filter(|node| *node != left).collect() };
        if members.len() > most {
            let last = members
                .iter()
                .copied()
                .max_by_key(|node| self.dispensable(members, *node))?;
            let to = without(last);
            return self.can_decide(&to).then(|| change(to, Why::TooMany));
        }
        for (standing, why) in [(Standing::Gone, Why::Gone), (Standing::Draining, Why::Drained)] {
            let Some(left) = members.iter().copied().find(|node| self.standing(*node) == standing) else {
                continue;
            };
            let mut to = without(left);
            match self.next(members, false) {
                Some(next) => to.push(next),
                // Who leaves does so if another has the data; with one that is gone, nothing would be better.
                None if self.is_busy(members) || !self.can_decide(&to) => continue,
                None if standing == Standing::Draining || self.survives_more(members) => {}
                None => continue,
            }
            return Some(change(to, why));
        }
        if members.len() < wanted {
            let mut to = members.to_vec();
            while to.len() < wanted {
                to.push(self.next(&to, false)?);
            }
            return Some(change(to, Why::TooFew));
        }
        None
    }

    /// Greatest for the member to do without first: gone, drained, away, in a zone with others, with the most; the one
    /// that leads last of all.
    fn dispensable(&self, members: &[u64], node: u64) -> impl Ord + use<> {
        let standing = match self.standing(node) {
            Standing::Gone => 3,
            Standing::Draining => 2,
            Standing::Away => 1,
            Standing::Live => 0,
        };
        let replicas = self.get(node).map_or(0, |load| load.replicas);
        let is_first = members.first() == Some(&node);
        (
            standing,
            !is_first,
            self.in_zone(members, self.zone(node)),
            replicas,
            node,
        )
    }

    /// One of an even number of members, all of them live, more than three and than are wanted: without it as many may be lost,
    /// and fewer have to tell.
    pub(super) fn spare_beyond(&self, members: &[u64], wanted: usize) -> Option<u64> {
        let are_live = members.iter().all(|node| self.standing(*node) == Standing::Live);
        let is_even = members.len().is_multiple_of(2) && members.len() > wanted.max(3);
        let last = members
            .iter()
            .copied()
            .max_by_key(|node| self.dispensable(members, *node));
        last.filter(|_| are_live && is_even)
    }

    /// A member that is on its way, and will not arrive, or one that votes and is gone, where those who are wished could not
    /// decide without it, so that the change waits for it: who takes its place, a former voter before others. Told are
    /// those who vote now.
    pub(super) fn mend_coming(&self, shard: &ShardReplicas, told: &[u64]) -> Option<Change> {
        let members = shard.nodes.as_slice();
        let lost = |node: &u64| matches!(self.standing(*node), Standing::Gone | Standing::Draining);
        let not_coming = |node: &u64| !told.contains(node) && lost(node);
        let is_waited_for = |node: &u64| told.contains(node) && self.standing(*node) == Standing::Gone;
        let waited_for = || {
            members
                .iter()
                .copied()
                .find(|node| is_waited_for(node) && !self.can_decide(members))
        };
        let left = members.iter().copied().find(not_coming).or_else(waited_for)?;
        let mut to: Vec<u64> = members.iter().copied().filter(|node| *node != left).collect();
        let is_live = |node: &u64| self.standing(*node) == Standing::Live;
        let former = told.iter().copied().find(|node| !to.contains(node) && is_live(node));
        to.extend(former.or_else(|| self.next(members, true)));
        (!to.is_empty()).then(|| Change {
            shard: shard.shard,
            from: shard.nodes.clone(),
            to,
            why: match self.standing(left) {
                Standing::Draining => Why::Drained,
                _ => Why::Gone,
            },
        })
    }

    /// Whether these, as voters, could decide something now: without that, not even their own replacement.
    fn can_decide(&self, members: &[u64]) -> bool {
        let live = members.iter().filter(|node| self.standing(**node) == Standing::Live);
        live.count() * 2 > members.len()
    }

    /// A live node could take over, but is receiving something else now.
    fn is_busy(&self, members: &[u64]) -> bool {
        self.next(members, true).is_some()
    }

    /// Whether a group without its member that is gone survives the loss of more nodes than with it.
    fn survives_more(&self, members: &[u64]) -> bool {
        let gone = members
            .iter()
            .filter(|node| self.standing(**node) == Standing::Gone)
            .count();
        let left = members.len() - gone;
        let with = ((members.len() - 1) / 2).saturating_sub(gone);
        left > 0 && (left - 1) / 2 > with
    }

    /// One that is gone, of more than three members and more than are wanted: without it as many may be lost as with it.
    pub(super) fn gone_beyond(&self, members: &[u64], wanted: usize) -> Option<u64> {
        let mut gone = members
            .iter()
            .copied()
            .filter(|node| self.standing(*node) == Standing::Gone);
        gone.next().filter(|_| members.len() > wanted.max(3))
    }

    fn is_idle(&self) -> bool {
        let mut live = self.all.iter().filter(|load| load.member.standing == Standing::Live);
        live.all(|load| load.coming == 0)
    }

    fn swap(shard: &ShardReplicas, out: u64, into: u64, why: Why) -> Change {
        let mut to = shard.nodes.clone();
        to.retain(|node| *node != out);
        to.push(into);
        Change {
            shard: shard.shard,
            from: shard.nodes.clone(),
            to,
            why,
        }
    }

    /// Two members in one zone, where there is a zone without.
    pub(super) fn level_zones(&self, state: &MetaState) -> Option<Change> {
        let mut settled = state
            .shards
            .iter()
            .filter(|shard| self.is_idle() && self.is_settled(shard));
        settled.find_map(|shard| {
            let members = shard.nodes.as_slice();
            let next = self.next(members, false)?;
            let crowded = members.iter().copied().max_by_key(|node| {
                let replicas = self.get(*node).map_or(0, |load| load.replicas);
                (self.in_zone(members, self.zone(*node)), replicas, *node)
            })?;
            let crowd = self.in_zone(members, self.zone(crowded));
            let better = crowd > self.in_zone(members, self.zone(next)) + 1;
            better.then(|| Self::swap(shard, crowded, next, Why::Zones))
        })
    }

    /// A replica from a node with more to one with at least two less, if no zone gets worse by it.
    pub(super) fn level_load(&self, state: &MetaState) -> Option<Change> {
        if !self.is_idle() {
            return None;
        }
        let mut live: Vec<_> = self
            .all
            .iter()
            .filter(|l| l.member.standing == Standing::Live)
            .collect();
        live.sort_by_key(|load| (Reverse(load.replicas), load.member.id));
        for most in &live {
            for least in live.iter().rev().filter(|least| least.replicas + 2 <= most.replicas) {
                let (out, into) = (most.member.id, least.member.id);
                let fits = |shard: &&ShardReplicas| {
                    let others: Vec<u64> = shard.nodes.iter().copied().filter(|n| *n != out).collect();
                    let moves = self.is_settled(shard) && shard.nodes.contains(&out) && !shard.nodes.contains(&into);
                    moves && self.in_zone(&others, least.member.zone) <= self.in_zone(&others, most.member.zone)
                };
                // One that it leads is taken only where there is no other.
                let leads_not = |shard: &&ShardReplicas| shard.nodes.first() != Some(&out);
                let fitting = || state.shards.iter().filter(fits);
                if let Some(shard) = fitting().find(leads_not).or_else(|| fitting().next()) {
                    return Some(Self::swap(shard, out, into, Why::Load));
                }
            }
        }
        None
    }

    /// Others first, so that a node that leads more than others leads one less, and one that leads at least two less one
    /// more: by a chain of shards where no shard has both. A leader that drains gives up first.
    pub(super) fn level_leaders(&self, state: &MetaState) -> Vec<Change> {
        let leads = |node: u64| self.get(node).map_or(0, |load| load.leads);
        let is_live = |node: u64| self.standing(node) == Standing::Live;
        let settled: Vec<_> = state.shards.iter().filter(|shard| self.is_settled(shard)).collect();
        let first_of = |shard: &ShardReplicas| shard.nodes.first().copied().unwrap_or_default();
        for shard in &settled {
            let others = shard.nodes.iter().copied().filter(|node| is_live(*node));
            if self.standing(first_of(shard)) == Standing::Draining
                && let Some(next) = others.min_by_key(|node| (leads(*node), *node))
            {
                return vec![Self::led_by(shard, next)];
            }
        }
        let mut most: Vec<u64> = self.all.iter().map(|load| load.member.id).collect();
        most.sort_by_key(|node| (Reverse(leads(*node)), *node));
        for start in most {
            // Breadth first: who can be given a shard by whom.
            let mut given: BTreeMap<u64, &ShardReplicas> = BTreeMap::new();
            let mut queue = VecDeque::from([start]);
            while let Some(giver) = queue.pop_front() {
                for shard in settled.iter().filter(|shard| first_of(shard) == giver) {
                    for taker in shard
                        .nodes
                        .iter()
                        .copied()
                        .filter(|node| is_live(*node) && *node != start)
                    {
                        if given.contains_key(&taker) {
                            continue;
                        }
                        given.insert(taker, shard);
                        if leads(taker) + 2 <= leads(start) {
                            return Self::chain(&given, start, taker);
                        }
                        queue.push_back(taker);
                    }
                }
            }
        }
        Vec::new()
    }

    fn chain(given: &BTreeMap<u64, &ShardReplicas>, start: u64, end: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut taker = end;
        while taker != start {
            let Some(shard) = given.get(&taker) else { break };
            changes.push(Self::led_by(shard, taker));
            taker = shard.nodes.first().copied().unwrap_or(start);
        }
        changes
    }

    fn led_by(shard: &ShardReplicas, leader: u64) -> Change {
        let mut to = shard.nodes.clone();
        to.retain(|node| *node != leader);
        to.insert(0, leader);
        Change {
            shard: shard.shard,
            from: shard.nodes.clone(),
            to,
            why: Why::Leaders,
        }
    }
}
