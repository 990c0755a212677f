//! Matchers as they travel.

use crate::v1::label_matcher::Op;
use crate::v1::{LabelMatcher, MatcherSet};
use gnomon_model::{MatchOp, Matcher};

#[must_use]
pub fn to_wire(matchers: &[Matcher]) -> Vec<LabelMatcher> {
    let wire = |matcher: &Matcher| LabelMatcher {
        op: match matcher.op() {
            MatchOp::Equal => Op::Equal,
            MatchOp::NotEqual => Op::NotEqual,
            MatchOp::Regex => Op::Regex,
            MatchOp::NotRegex => Op::NotRegex,
        } as i32,
        name: matcher.name().to_owned(),
        value: matcher.value().to_owned(),
    };
    matchers.iter().map(wire).collect()
}

#[must_use]
pub fn sets_to_wire(sets: &[Vec<Matcher>]) -> Vec<MatcherSet> {
    let wire = |set: &Vec<Matcher>| MatcherSet { matchers: to_wire(set) };
    sets.iter().map(wire).collect()
}

/// # Errors
/// Why an expression is none here.
pub fn from_wire(matchers: &[LabelMatcher]) -> Result<Vec<Matcher>, String> {
    let read = |matcher: &LabelMatcher| {
        let op = match matcher.op() {
            Op::Equal => MatchOp::Equal,
            Op::NotEqual => MatchOp::NotEqual,
            Op::Regex => MatchOp::Regex,
            Op::NotRegex => MatchOp::NotRegex,
        };
        Matcher::new(matcher.name.as_str(), op, matcher.value.as_str()).map_err(|e| e.to_string())
    };
    matchers.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_come_back() {
        let matchers = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]
            .map(|op| Matcher::new("a", op, "b.*").unwrap());
        let back = from_wire(&to_wire(&matchers)).unwrap();
        assert!(
            back.iter()
                .zip(&matchers)
                .all(|(a, b)| a.op() == b.op() && a.name() == b.name())
        );
        assert_eq!(back.len(), 4);
        let sets = sets_to_wire(&[matchers.to_vec(), Vec::new()]);
        assert_eq!((sets.len(), sets[0].matchers.len(), sets[1].matchers.len()), (2, 4, 0));
        let bad = LabelMatcher {
            op: Op::Regex as i32,
            name: "a".into(),
            value: "(".into(),
        };
        assert!(from_wire(&[bad]).is_err());
    }
}
