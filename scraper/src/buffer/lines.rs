//! Whose turn it is to be sent: targets whose shard answers, and for each other shard a line of those that wait for it.
//!
//! A target is told to be ready once a scrape of it was taken, or one of any target in its line. Else it stands in the line
//! of its home shard, of which one at a time is sent: a shard that is away costs one push at a time, however many wait for
//! it, and lines take turns.

use gnomon_model::TargetId;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;

/// A target's home shard; none as long as it is not known.
pub(super) type Home = Option<u32>;

/// How one came to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) home: Home,
    /// Out of the line: no other of it is sent until this has ended.
    is_probe: bool,
    /// Of the home, before.
    answers: u64,
}

#[derive(Debug, Default)]
struct Line {
    doubtful: VecDeque<TargetId>,
    /// One of them is being sent.
    is_probed: bool,
    /// It is in `turns`.
    has_turn: bool,
    /// Times that the shard answered.
    answers: u64,
    /// It did not the last time.
    is_away: bool,
}

/// Every target that holds something and of which nothing is being sent stands here, once; so does one that was given up
/// whole since, until it is its turn.
#[derive(Debug, Default)]
pub(super) struct Lines {
    ready: VecDeque<(Home, TargetId)>,
    by_home: HashMap<Home, Line>,
    /// Homes with a line of which none is being sent.
    turns: VecDeque<Home>,
    /// All that stand somewhere.
    waiting: HashSet<TargetId>,
}

impl Lines {
    /// It is not known whether a scrape of the target would be taken.
    pub(super) fn doubt(&mut self, home: Home, target: TargetId) {
        if self.waiting.insert(target) {
            self.by_home.entry(home).or_default().doubtful.push_back(target);
            self.give_turn(home);
        }
    }

    /// A scrape of the target was taken.
    pub(super) fn trust(&mut self, home: Home, target: TargetId) {
        if self.by_home.get(&home).is_some_and(|line| line.is_away) {
            self.doubt(home, target);
        } else if self.waiting.insert(target) {
            self.ready.push_back((home, target));
        }
    }

    fn give_turn(&mut self, home: Home) {
        let Some(line) = self.by_home.get_mut(&home) else {
            return;
        };
        if !line.has_turn && !line.is_probed && !line.doubtful.is_empty() {
            line.has_turn = true;
            self.turns.push_back(home);
        }
    }

    /// Who is next: out of a line where `doubtful`, and who is ready otherwise. One of `answered`, `failed` and `ended` has
    /// to follow.
    pub(super) fn next(&mut self, doubtful: bool) -> Option<(TargetId, Pass)> {
        while let Some(home) = self.turns.front().copied().filter(|_| doubtful) {
            self.turns.pop_front();
            let line = self.by_home.entry(home).or_default();
            line.has_turn = false;
            let Some(target) = line.doubtful.pop_front() else {
                continue;
            };
            line.is_probed = true;
            let pass = Pass {
                home,
                is_probe: true,
                answers: line.answers,
            };
            self.waiting.remove(&target);
            return Some((target, pass));
        }
        let (home, target) = self.ready.pop_front()?;
        self.waiting.remove(&target);
        let pass = Pass {
            home,
            is_probe: false,
            answers: self.by_home.get(&home).map_or(0, |line| line.answers),
        };
        Some((target, pass))
    }

    /// The shard answered: where that was asked on behalf of a line, all of it is ready.
    pub(super) fn answered(&mut self, pass: &Pass) {
        let line = self.by_home.entry(pass.home).or_default();
        line.answers += 1;
        line.is_away = false;
        if pass.is_probe {
            let all = std::mem::take(&mut line.doubtful);
            self.ready.extend(all.into_iter().map(|target| (pass.home, target)));
        }
        self.ended(pass);
    }

    /// It did not: then neither would it to others, unless it did to one of them meanwhile.
    pub(super) fn failed(&mut self, pass: &Pass) {
        let line = self.by_home.entry(pass.home).or_default();
        if line.answers == pass.answers && !line.is_away {
            line.is_away = true;
            let of_it = |(home, _): &(Home, TargetId)| *home == pass.home;
            line.doubtful
                .extend(self.ready.iter().filter(|one| of_it(one)).map(|(_, target)| *target));
            self.ready.retain(|one| !of_it(one));
        }
        self.ended(pass);
        self.give_turn(pass.home);
    }

    /// It is not being sent any more, and nothing was learnt about its shard.
    pub(super) fn ended(&mut self, pass: &Pass) {
        if pass.is_probe {
            self.by_home.entry(pass.home).or_default().is_probed = false;
            self.give_turn(pass.home);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines, doubtful: bool) -> Vec<(u64, Pass)> {
        std::iter::from_fn(|| lines.next(doubtful).map(|(target, pass)| (target.0, pass))).collect()
    }

    #[test]
    fn one_of_each_line_is_asked_and_an_answer_frees_its_line_only() {
        let mut lines = Lines::default();
        for target in 0..6 {
            lines.doubt(Some((target % 2) as u32), TargetId(target));
        }
        assert!(lines.next(false).is_none());
        let asked = all(&mut lines, true);
        assert_eq!(asked.iter().map(|one| one.0).collect::<Vec<_>>(), [0, 1]);
        lines.answered(&asked[0].1);
        lines.trust(Some(0), TargetId(0));
        let ready: Vec<_> = all(&mut lines, false).iter().map(|one| one.0).collect();
        assert_eq!(ready, [2, 4, 0]);
        lines.failed(&asked[1].1);
        lines.doubt(Some(1), TargetId(1));
        assert_eq!(
            lines.next(true).map(|one| one.0),
            Some(TargetId(3)),
            "the next of the line"
        );
        assert!(lines.next(true).is_none());
    }

    #[test]
    fn a_shard_that_goes_away_takes_its_own_out_of_the_ready_and_no_others() {
        let mut lines = Lines::default();
        for target in 0..6 {
            lines.trust(Some((target % 2) as u32), TargetId(target));
        }
        let (first, pass) = lines.next(false).unwrap();
        lines.failed(&pass);
        lines.doubt(pass.home, first);
        let ready: Vec<_> = all(&mut lines, false).iter().map(|one| one.0).collect();
        assert_eq!(ready, [1, 3, 5]);
        let (second, pass) = lines.next(true).unwrap();
        assert_eq!(second, TargetId(2));
        lines.answered(&pass);
        let ready: Vec<_> = all(&mut lines, false).iter().map(|one| one.0).collect();
        assert_eq!(ready, [4, 0]);
    }

    #[test]
    fn one_that_fails_while_others_of_its_shard_do_not_is_doubtful_alone() {
        let mut lines = Lines::default();
        for target in 0..3 {
            lines.trust(None, TargetId(target));
        }
        let (slow, bad) = lines.next(false).unwrap();
        let (_, good) = lines.next(false).unwrap();
        lines.answered(&good);
        lines.failed(&bad);
        lines.doubt(None, slow);
        assert_eq!(lines.next(false).map(|one| one.0), Some(TargetId(2)));
    }

    #[test]
    fn a_target_stands_in_line_once() {
        let mut lines = Lines::default();
        for _ in 0..3 {
            lines.doubt(Some(1), TargetId(1));
            lines.trust(Some(1), TargetId(1));
        }
        let asked = all(&mut lines, true);
        assert_eq!(asked.len(), 1);
        lines.ended(&asked[0].1);
        assert!(lines.next(true).is_none());
    }
}
