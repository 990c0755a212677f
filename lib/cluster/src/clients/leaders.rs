//! Who leads which shard, as far as answers have told; and whom to ask instead where the leader does not answer here.
//!
//! ```text
//! asked            heard                          asked next
//! leader L         nothing                        the next replica; L is silent for a while
//! replica R        L leads, which is not silent   L
//! replica R        L leads, which is silent       R, to pass it on to L
//! R, to pass on    nothing                        the next replica
//! R, to pass on    that R does not reach L        R, who leads now
//! ```
//! Once L's silence is over one call tries it again, while others still go through R. So two nodes that cannot reach each
//! other write by a third, and nobody waits for a node that has just died any longer than before.

use crate::router::Heard;
use gnomon_model::{NodeId, ShardId};
use std::collections::HashMap;
use std::time::Duration;

/// How long one that did not answer is not asked itself where another passes on to it.
const SILENT_FOR: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
struct Lead {
    node: NodeId,
    /// Passes on to it.
    through: Option<NodeId>,
}

/// Times are those of the machine's monotonic clock.
#[derive(Default)]
pub(super) struct Leaders {
    by_shard: HashMap<ShardId, Lead>,
    /// Nodes that did not answer, until when they are not asked.
    silent: HashMap<NodeId, Duration>,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// As the leader.
    It(NodeId),
    /// To pass on to the leader.
    Through(NodeId),
}

impl Leaders {
    /// None where nothing has been heard of the shard.
    pub(super) fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        self.by_shard.get(&shard).map(|lead| lead.node)
    }

    /// Whom to ask, unless that has to be found out ([`Self::turn`]).
    pub(super) fn ask(&self, shard: ShardId) -> Option<Ask> {
        let lead = self.by_shard.get(&shard)?;
        lead.through.is_none().then_some(Ask::It(lead.node))
    }

    /// Whom to ask where the leader did not answer: itself, once each time its silence is over.
    pub(super) fn turn(&mut self, shard: ShardId, first: NodeId, now: Duration) -> Ask {
        let Some(lead) = self.by_shard.get(&shard).copied() else {
            return Ask::It(first);
        };
        match lead.through {
            Some(through) if self.is_silent(lead.node, now) => Ask::Through(through),
            Some(_) if self.waits_for(lead.node) => {
                self.silent.insert(lead.node, now + SILENT_FOR);
                Ask::It(lead.node)
            }
            // It has answered, or need not be asked through anybody.
            _ => {
                self.lead(shard, lead.node, None);
                Ask::It(lead.node)
            }
        }
    }

    fn is_silent(&self, node: NodeId, now: Duration) -> bool {
        self.silent.get(&node).is_some_and(|until| *until > now)
    }

    /// Whether an answer of this node is any news.
    pub(super) fn waits_for(&self, node: NodeId) -> bool {
        self.silent.contains_key(&node)
    }

    /// An answer of the node itself.
    pub(super) fn answered(&mut self, node: NodeId) {
        self.silent.remove(&node);
    }

    /// `asked` is not to be asked next, as far as it was to be: `hint` is, or else the replica after it.
    pub(super) fn moved(&mut self, shard: ShardId, replicas: &[NodeId], asked: NodeId, hint: Option<NodeId>) {
        let Some(next) = hint.or_else(|| after(replicas, asked)) else {
            return;
        };
        // Another call may have learnt better in the meantime.
        let believed = self.leader_of(shard).or(replicas.first().copied());
        if believed == Some(asked) {
            self.lead(shard, next, None);
        }
    }

    fn lead(&mut self, shard: ShardId, node: NodeId, through: Option<NodeId>) {
        self.by_shard.insert(shard, Lead { node, through });
    }

    /// What became of asking; `me` is this node, which passes nothing on to others.
    pub(super) fn heard(
        &mut self,
        shard: ShardId,
        replicas: &[NodeId],
        (asked, me): (Ask, NodeId),
        heard: Heard,
        now: Duration,
    ) {
        match (asked, heard) {
            (Ask::It(node), Heard::Answer) => self.answered(node),
            (Ask::Through(_), Heard::Answer) => {}
            (Ask::It(node), Heard::OtherLeads(hint)) => {
                self.answered(node);
                match hint.filter(|leader| self.is_silent(*leader, now)) {
                    None => self.moved(shard, replicas, node, hint),
                    Some(leader) if node != me => self.lead(shard, leader, Some(node)),
                    Some(leader) => {
                        let next = self.passes_on(replicas, me, leader, now);
                        self.moved(shard, replicas, node, next.or(hint));
                    }
                }
            }
            (Ask::It(node), Heard::Nothing) => {
                if node != me {
                    self.silent.insert(node, now + SILENT_FOR);
                }
                self.moved(shard, replicas, node, None);
            }
            (Ask::Through(node), heard) => {
                let is_news = self.by_shard.get(&shard).is_some_and(|lead| lead.through == Some(node));
                let next = match heard {
                    Heard::OtherLeads(Some(leader)) => Some(leader),
                    Heard::OtherLeads(None) => Some(node),
                    _ => after(replicas, node),
                };
                if let Some(next) = next.filter(|_| is_news) {
                    self.lead(shard, next, None);
                }
            }
        }
    }

    /// One that may know a way to the leader.
    fn passes_on(&self, replicas: &[NodeId], me: NodeId, leader: NodeId, now: Duration) -> Option<NodeId> {
        let mut others = replicas.iter().copied().filter(|node| *node != me && *node != leader);
        others.find(|node| !self.is_silent(*node, now))
    }
}

fn after(replicas: &[NodeId], node: NodeId) -> Option<NodeId> {
    let at = replicas.iter().position(|replica| *replica == node);
    replicas.get(at.map_or(0, |at| (at + 1) % replicas.len())).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);
    const REPLICAS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    struct Rig {
        leaders: Leaders,
        me: NodeId,
        now: Duration,
    }

    impl Rig {
        fn new(me: u64) -> Self {
            Self {
                leaders: Leaders::default(),
                me: NodeId(me),
                now: Duration::from_secs(100),
            }
        }

        fn ask(&mut self) -> Ask {
            let known = self.leaders.ask(SHARD);
            known.unwrap_or_else(|| self.leaders.turn(SHARD, REPLICAS[0], self.now))
        }

        fn hear(&mut self, heard: Heard) {
            let asked = self.ask();
            self.leaders.heard(SHARD, &REPLICAS, (asked, self.me), heard, self.now);
        }
    }

    const LEADS_1: Heard = Heard::OtherLeads(Some(NodeId(1)));

    #[test]
    fn a_leader_that_does_not_answer_is_asked_through_another() {
        // A scraper, and the second of three ingesters, which is not asked to pass on to the first.
        for (me, through) in [(9, 2), (2, 3)] {
            let mut rig = Rig::new(me);
            assert_eq!(rig.ask(), Ask::It(NodeId(1)));
            rig.hear(Heard::Nothing);
            assert_eq!(rig.ask(), Ask::It(NodeId(2)));
            rig.hear(LEADS_1);
            if me == 2 {
                assert_eq!(rig.ask(), Ask::It(NodeId(3)));
                rig.hear(LEADS_1);
            }
            assert_eq!(rig.ask(), Ask::Through(NodeId(through)));
            rig.hear(Heard::Answer);
            assert_eq!(rig.ask(), Ask::Through(NodeId(through)));
            // Once it is tried again, by one only.
            rig.now += SILENT_FOR;
            assert_eq!(rig.ask(), Ask::It(NodeId(1)));
            assert_eq!(rig.ask(), Ask::Through(NodeId(through)));
            rig.now += SILENT_FOR;
            assert_eq!(rig.leaders.leader_of(SHARD), Some(NodeId(1)));
            let asked = rig.ask();
            rig.leaders
                .heard(SHARD, &REPLICAS, (asked, rig.me), Heard::Answer, rig.now);
            assert!(!rig.leaders.waits_for(NodeId(1)));
        }
    }

    #[test]
    fn a_leader_that_answers_again_is_asked_itself() {
        let mut rig = Rig::new(9);
        rig.hear(Heard::Nothing);
        rig.hear(LEADS_1);
        rig.now += SILENT_FOR;
        rig.hear(Heard::Answer);
        assert_eq!(rig.ask(), Ask::It(NodeId(1)));
        assert_eq!(rig.ask(), Ask::It(NodeId(1)), "and so is the next time");
    }

    #[test]
    fn who_does_not_reach_it_either_is_asked_who_leads_now() {
        let mut rig = Rig::new(9);
        rig.hear(Heard::Nothing);
        rig.hear(LEADS_1);
        rig.hear(Heard::OtherLeads(None));
        assert_eq!(rig.ask(), Ask::It(NodeId(2)), "nobody yet");
        rig.hear(LEADS_1);
        assert_eq!(rig.ask(), Ask::Through(NodeId(2)));
        rig.hear(Heard::OtherLeads(Some(NodeId(3))));
        assert_eq!(rig.ask(), Ask::It(NodeId(3)), "the new leader");
        rig.hear(Heard::Answer);
        assert_eq!(rig.ask(), Ask::It(NodeId(3)));
    }

    #[test]
    fn one_that_passed_on_and_is_gone_is_left_for_the_next() {
        let mut rig = Rig::new(9);
        rig.hear(Heard::Nothing);
        rig.hear(LEADS_1);
        rig.hear(Heard::Nothing);
        assert_eq!(rig.ask(), Ask::It(NodeId(3)));
        rig.hear(LEADS_1);
        assert_eq!(rig.ask(), Ask::Through(NodeId(3)));
    }

    #[test]
    fn a_node_is_never_silent_to_itself() {
        let mut rig = Rig::new(1);
        rig.hear(Heard::Nothing);
        assert!(!rig.leaders.waits_for(NodeId(1)));
        assert_eq!(rig.ask(), Ask::It(NodeId(2)));
    }
}
