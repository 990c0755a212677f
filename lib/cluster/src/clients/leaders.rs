//! Who leads which shard, as far as answers have told; and whom to ask instead where the leader does not answer here.
//!
//! ```text
//! asked            heard                          asked next
//! leader L         nothing                        the next replica; L is silent for a while
//! replica R        L leads, which is not silent   L
//! replica R        L leads, which is silent       R, to pass it on to L
//! R, to pass on    nothing                        the next replica
//! R, to pass on    that it does not reach L       R, who leads now
//! R, to pass on    another leads                  that one
//! ```
//! Once L's silence is over one write tries it again, while others still go through R. So two nodes that cannot reach each
//! other write by a third, and nobody waits for a node that has just died any longer than before. Reads begin at R then, which
//! need not lead.

use super::silence::Silence;
use crate::router::Heard;
use gnomon_model::{NodeId, ShardId};
use std::collections::HashMap;
use std::time::Duration;

#[derive(Clone, Copy)]
struct Lead {
    node: NodeId,
    /// Passes on to it.
    through: Option<NodeId>,
}

impl Lead {
    /// Whom a call goes to.
    fn asked(self) -> NodeId {
        self.through.unwrap_or(self.node)
    }
}

/// Times are those of the machine's monotonic clock.
pub(super) struct Leaders {
    /// This node, which is never silent to itself, and passes nothing on to others for itself.
    me: NodeId,
    by_shard: HashMap<ShardId, Lead>,
    silence: Silence<NodeId>,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// As the leader.
    It(NodeId),
    /// To pass on to the leader.
    Through { node: NodeId, leader: NodeId },
}

impl Ask {
    pub(super) const fn node(self) -> NodeId {
        match self {
            Self::It(node) | Self::Through { node, .. } => node,
        }
    }
}

impl Leaders {
    pub(super) fn new(me: NodeId) -> Self {
        Self {
            me,
            by_shard: HashMap::new(),
            silence: Silence::default(),
        }
    }

    /// Who answers for the shard, as far as is known: its leader, or one that reaches it. None where nothing has been heard.
    pub(super) fn first_asked(&self, shard: ShardId) -> Option<NodeId> {
        self.by_shard.get(&shard).map(|lead| lead.asked())
    }

    /// Whom to ask to write, unless that has to be found out ([`Self::turn`]).
    pub(super) fn ask(&self, shard: ShardId) -> Option<Ask> {
        let lead = self.by_shard.get(&shard)?;
        lead.through.is_none().then_some(Ask::It(lead.node))
    }

    /// Whom to ask where the leader did not answer: itself, once each time its silence is over.
    pub(super) fn turn(&mut self, shard: ShardId, first: NodeId, now: Duration) -> Ask {
        let Some(lead) = self.by_shard.get(&shard).copied() else {
            return Ask::It(first);
        };
        let leader = lead.node;
        match lead.through {
            Some(node) if self.silence.lasts(leader, now) => Ask::Through { node, leader },
            Some(_) if self.silence.is_known(leader) => {
                self.silence.begin(leader, now);
                Ask::It(leader)
            }
            // It has answered, or need not be asked through anybody.
            _ => {
                self.lead(shard, leader, None);
                Ask::It(leader)
            }
        }
    }

    /// Whether an answer of this node is any news.
    pub(super) fn waits_for(&self, node: NodeId) -> bool {
        self.silence.is_known(node)
    }

    /// `asked` was asked in vain, as whoever answers for the shard: `hint` leads, or the replica after it is asked next.
    pub(super) fn moved(
        &mut self,
        shard: ShardId,
        replicas: &[NodeId],
        asked: NodeId,
        hint: Option<NodeId>,
        now: Duration,
    ) {
        let believed = self.first_asked(shard).or(replicas.first().copied());
        // Another call may have learnt better in the meantime.
        if believed != Some(asked) {
            return;
        }
        match hint.filter(|leader| *leader != asked && self.silence.lasts(*leader, now)) {
            Some(leader) if asked != self.me => self.lead(shard, leader, Some(asked)),
            Some(leader) => {
                // One that may know a way to it; else there is only the leader itself.
                let mut others = after(replicas, asked).filter(|next| *next != leader);
                let next = others.find(|next| !self.silence.lasts(*next, now));
                self.lead(shard, next.unwrap_or(leader), None);
            }
            None => {
                let mut others = after(replicas, asked);
                let speaks = |next: &NodeId| !self.silence.lasts(*next, now);
                let next = others.clone().find(speaks).or_else(|| others.next());
                if let Some(next) = hint.or(next) {
                    self.lead(shard, next, None);
                }
            }
        }
    }

    fn lead(&mut self, shard: ShardId, node: NodeId, through: Option<NodeId>) {
        self.by_shard.insert(shard, Lead { node, through });
    }

    /// What became of asking to write.
    pub(super) fn heard(&mut self, shard: ShardId, replicas: &[NodeId], asked: Ask, heard: Heard, now: Duration) {
        match (asked, heard) {
            (Ask::It(node), Heard::Answer) => self.silence.end(node),
            (Ask::Through { .. }, Heard::Answer) => {}
            (Ask::It(node), Heard::OtherLeads(hint)) => {
                self.silence.end(node);
                self.moved(shard, replicas, node, hint, now);
            }
            (Ask::It(node), Heard::Nothing) => {
                if node != self.me {
                    self.silence.begin(node, now);
                }
                self.moved(shard, replicas, node, None, now);
            }
            (Ask::Through { node, .. }, Heard::OtherLeads(None)) => {
                if self.first_asked(shard) == Some(node) {
                    self.lead(shard, node, None);
                }
            }
            (Ask::Through { node, leader }, Heard::OtherLeads(hint)) => {
                // It does not know how to pass on: of a build before that.
                let hint = hint.filter(|hint| *hint != leader);
                self.moved(shard, replicas, node, hint, now);
            }
            (Ask::Through { node, .. }, Heard::Nothing) => self.moved(shard, replicas, node, None, now),
        }
    }
}

/// The other replicas, from the one after `node` on.
fn after(replicas: &[NodeId], node: NodeId) -> impl Iterator<Item = NodeId> + Clone {
    let at = replicas.iter().position(|replica| *replica == node);
    let from = at.map_or(0, |at| at + 1);
    let around = (0..replicas.len()).map(move |n| replicas[(from + n) % replicas.len()]);
    around.filter(move |next| *next != node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::silence::SILENT_FOR;

    const SHARD: ShardId = ShardId(0);
    const REPLICAS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    struct Rig {
        leaders: Leaders,
        now: Duration,
    }

    impl Rig {
        fn new(me: u64) -> Self {
            Self {
                leaders: Leaders::new(NodeId(me)),
                now: Duration::from_secs(100),
            }
        }

        /// A scraper to which the leader has fallen silent, and the second replica names it all the same.
        fn apart() -> Self {
            let mut rig = Self::new(9);
            rig.hear(Heard::Nothing);
            rig.hear(LEADS_1);
            rig
        }

        fn ask(&mut self) -> Ask {
            let known = self.leaders.ask(SHARD);
            known.unwrap_or_else(|| self.leaders.turn(SHARD, REPLICAS[0], self.now))
        }

        fn hear(&mut self, heard: Heard) {
            let asked = self.ask();
            self.leaders.heard(SHARD, &REPLICAS, asked, heard, self.now);
        }
    }

    fn through(node: u64) -> Ask {
        Ask::Through {
            node: NodeId(node),
            leader: NodeId(1),
        }
    }

    const LEADS_1: Heard = Heard::OtherLeads(Some(NodeId(1)));

    #[test]
    fn a_leader_that_does_not_answer_is_asked_through_another() {
        // A scraper, and the second of three ingesters, which is not asked to pass on to the first.
        for (me, other) in [(9, 2), (2, 3)] {
            let mut rig = Rig::new(me);
            assert_eq!(rig.ask(), Ask::It(NodeId(1)));
            rig.hear(Heard::Nothing);
            assert_eq!(rig.ask(), Ask::It(NodeId(2)));
            rig.hear(LEADS_1);
            if me == 2 {
                assert_eq!(rig.ask(), Ask::It(NodeId(3)));
                rig.hear(LEADS_1);
            }
            assert_eq!(rig.ask(), through(other));
            rig.hear(Heard::Answer);
            assert_eq!(rig.ask(), through(other));
            // Once it is tried again, by one only.
            rig.now += SILENT_FOR;
            assert_eq!(rig.ask(), Ask::It(NodeId(1)));
            assert_eq!(rig.ask(), through(other));
            rig.now += SILENT_FOR;
            assert_eq!(rig.leaders.first_asked(SHARD), Some(NodeId(other)), "to read");
            let asked = rig.ask();
            rig.leaders.heard(SHARD, &REPLICAS, asked, Heard::Answer, rig.now);
            assert!(!rig.leaders.waits_for(NodeId(1)));
        }
    }

    #[test]
    fn a_leader_that_answers_again_is_asked_itself() {
        let mut rig = Rig::apart();
        rig.now += SILENT_FOR;
        rig.hear(Heard::Answer);
        assert_eq!(rig.ask(), Ask::It(NodeId(1)));
        assert_eq!(rig.ask(), Ask::It(NodeId(1)), "and so is the next time");
    }

    #[test]
    fn who_does_not_reach_it_either_is_asked_who_leads_now() {
        let mut rig = Rig::apart();
        rig.hear(Heard::OtherLeads(None));
        assert_eq!(rig.ask(), Ask::It(NodeId(2)), "nobody yet");
        rig.hear(LEADS_1);
        assert_eq!(rig.ask(), through(2));
        rig.hear(Heard::OtherLeads(Some(NodeId(3))));
        assert_eq!(rig.ask(), Ask::It(NodeId(3)), "the new leader");
        rig.hear(Heard::Answer);
        assert_eq!(rig.ask(), Ask::It(NodeId(3)));
    }

    #[test]
    fn one_that_passed_on_and_is_gone_is_left_for_the_next() {
        let mut rig = Rig::apart();
        rig.hear(Heard::Nothing);
        assert_eq!(rig.ask(), Ask::It(NodeId(3)));
        rig.hear(LEADS_1);
        assert_eq!(rig.ask(), through(3));
    }

    #[test]
    fn reads_in_vain_do_not_lose_the_way_to_the_leader() {
        let mut rig = Rig::apart();
        let read = |rig: &mut Rig, asked: u64, hint: Option<u64>| {
            let hint = hint.map(NodeId);
            rig.leaders.moved(SHARD, &REPLICAS, NodeId(asked), hint, rig.now);
        };
        read(&mut rig, 1, None);
        assert_eq!(rig.ask(), through(2), "asked by one who knew less");
        read(&mut rig, 2, Some(1));
        assert_eq!(rig.ask(), through(2));
        read(&mut rig, 2, None);
        assert_eq!(rig.ask(), Ask::It(NodeId(3)), "rather than the one that is silent");
    }

    #[test]
    fn a_leader_that_was_away_for_a_moment_is_asked_where_nobody_else_can_be() {
        // Of three replicas this node is the second, and the third is gone.
        let mut rig = Rig::new(2);
        rig.hear(Heard::Nothing);
        assert_eq!(rig.ask(), Ask::It(NodeId(2)));
        rig.hear(LEADS_1);
        assert_eq!(rig.ask(), Ask::It(NodeId(3)));
        rig.hear(Heard::Nothing);
        assert_eq!(rig.ask(), Ask::It(NodeId(2)));
        rig.hear(LEADS_1);
        assert_eq!(rig.ask(), Ask::It(NodeId(1)));
    }

    #[test]
    fn one_of_an_older_build_passes_nothing_on() {
        let mut rig = Rig::apart();
        assert_eq!(rig.ask(), through(2));
        rig.hear(LEADS_1);
        assert_eq!(rig.ask(), Ask::It(NodeId(3)));
    }

    #[test]
    fn late_news_change_nothing() {
        let mut rig = Rig::new(9);
        rig.hear(Heard::Nothing);
        rig.hear(Heard::OtherLeads(Some(NodeId(3))));
        let (late, now) = (Ask::It(NodeId(2)), rig.now);
        rig.leaders.heard(SHARD, &REPLICAS, late, LEADS_1, now);
        assert_eq!(rig.ask(), Ask::It(NodeId(3)));
    }

    #[test]
    fn a_node_is_never_silent_to_itself() {
        let mut rig = Rig::new(1);
        rig.hear(Heard::Nothing);
        assert!(!rig.leaders.waits_for(NodeId(1)));
        assert_eq!(rig.ask(), Ask::It(NodeId(2)));
    }
}
