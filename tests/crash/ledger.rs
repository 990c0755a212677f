//! What may be read: of each sample the values that are possible, none among them. What was acknowledged has one.

#![allow(unreachable_pub, reason = "shared by several test binaries")]

use std::collections::{BTreeMap, BTreeSet};

/// Series and time, milliseconds.
pub type Place = (String, i64);
/// Values in bits; none is no sample.
type Possible = BTreeSet<Option<u64>>;

#[derive(Clone, Debug, Default)]
pub struct Ledger(BTreeMap<Place, Possible>);

/// Samples that were read.
pub type Samples = BTreeMap<Place, f64>;

impl Ledger {
    fn at(&mut self, place: &Place) -> &mut Possible {
        self.0.entry(place.clone()).or_insert_with(|| Possible::from([None]))
    }

    pub fn sent(&mut self, samples: &[(Place, f64)]) {
        for (place, value) in samples {
            self.at(place).insert(Some(value.to_bits()));
        }
    }

    pub fn acknowledged(&mut self, samples: &[(Place, f64)]) {
        for (place, value) in samples {
            *self.at(place) = Possible::from([Some(value.to_bits())]);
        }
    }

    fn matching(&mut self, delete: impl Fn(&Place) -> bool) -> impl Iterator<Item = &mut Possible> {
        self.0
            .iter_mut()
            .filter(move |(place, _)| delete(place))
            .map(|(_, possible)| possible)
    }

    pub fn delete_sent(&mut self, delete: impl Fn(&Place) -> bool) {
        for possible in self.matching(delete) {
            possible.insert(None);
        }
    }

    pub fn delete_acknowledged(&mut self, delete: impl Fn(&Place) -> bool) {
        for possible in self.matching(delete) {
            *possible = Possible::from([None]);
        }
    }

    /// How many samples there are; all that was sent is acknowledged.
    pub fn count(&self) -> usize {
        self.0.values().filter(|possible| !possible.contains(&None)).count()
    }

    /// What is wrong with what was read.
    pub fn differences(&self, read: &Samples) -> Vec<String> {
        let mut wrong = Vec::new();
        for (place, possible) in &self.0 {
            let found = read.get(place).map(|value| value.to_bits());
            if !possible.contains(&found) {
                let text = |bits: &Option<u64>| bits.map(f64::from_bits);
                let wanted: Vec<_> = possible.iter().map(text).collect();
                wrong.push(format!("{place:?} is {:?}, not one of {wanted:?}", text(&found)));
            }
        }
        let never = read.keys().filter(|place| !self.0.contains_key(*place));
        wrong.extend(never.map(|place| format!("{place:?} was never sent")));
        wrong
    }
}

#[test]
fn what_differs_is_found() {
    let place = |t: i64| ("a".to_owned(), t);
    let mut ledger = Ledger::default();
    ledger.sent(&[(place(1), 1.0), (place(2), 2.0), (place(3), 3.0)]);
    assert_eq!(ledger.differences(&Samples::new()), Vec::<String>::new());
    ledger.acknowledged(&[(place(1), 1.0), (place(2), 2.0)]);
    assert_eq!(ledger.differences(&Samples::new()).len(), 2);
    let read = Samples::from([(place(1), 1.0), (place(2), 3.0), (place(4), 4.0)]);
    assert_eq!(ledger.differences(&read).len(), 2);
    ledger.delete_sent(|(_, t)| *t == 1);
    assert_eq!(ledger.differences(&Samples::from([(place(2), 2.0)])).len(), 0);
    ledger.delete_acknowledged(|(_, t)| *t == 1);
    let read = Samples::from([(place(1), 1.0), (place(2), 2.0)]);
    assert_eq!((ledger.differences(&read).len(), ledger.count()), (1, 1));
}
