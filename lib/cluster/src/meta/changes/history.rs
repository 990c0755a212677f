//! Which records changed after which revision.

use super::{Listed, Pieces, each_list, records, rest};
use gnomon_proto::v1::MetaState;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

/// Changes that are remembered.
const MAX_CHANGES: usize = 4096;
/// Names of records in them, together: some MiB.
const MAX_NAMES: usize = 16 << 10;

/// The newest state of those it was shown, and by which records it differs from earlier ones.
#[derive(Default)]
pub(crate) struct History {
    newest: Arc<MetaState>,
    rest: MetaState,
    changes: VecDeque<Change>,
    /// In all changes.
    names: usize,
    /// From this revision on it is known what changed.
    known_from: u64,
}

/// From one state that was shown to the next one.
struct Change {
    /// Of the later one.
    revision: u64,
    /// The records that are new, not as they were, or gone: their names.
    names: MetaState,
    count: usize,
    has_rest: bool,
}

impl History {
    /// Takes a state in. One that is not newer than the newest is no news. Looks at all of the state.
    pub(crate) fn observe(&mut self, state: &Arc<MetaState>) {
        if state.revision <= self.newest.revision {
            return;
        }
        let rest = rest(state);
        if self.newest.revision == 0 {
            self.known_from = state.revision;
        } else {
            let names = changed(&self.newest, state);
            let count = records(&names);
            self.names += count;
            self.changes.push_back(Change {
                revision: state.revision,
                names,
                count,
                has_rest: rest != self.rest,
            });
            self.forget_oldest();
        }
        (self.newest, self.rest) = (state.clone(), rest);
    }

    fn forget_oldest(&mut self) {
        while self.changes.len() > MAX_CHANGES || self.names > MAX_NAMES {
            let Some(oldest) = self.changes.pop_front() else { return };
            self.names -= oldest.count;
            self.known_from = oldest.revision;
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.newest.revision
    }

    /// What leads from the state of a revision to the newest one; all of that where it is not known what differs.
    pub(crate) fn since(&self, have_revision: u64) -> Pieces {
        // A state between two that were shown may have had what both have not.
        let changes = &self.changes;
        let is_shown = have_revision == self.known_from
            || changes
                .binary_search_by_key(&have_revision, |change| change.revision)
                .is_ok();
        if have_revision == 0 || !is_shown {
            return Pieces::whole(self.newest.clone());
        }
        let later = self.changes.iter().rev();
        let later: Vec<&Change> = later.take_while(|change| change.revision > have_revision).collect();
        let (mut set, mut gone) = (MetaState::default(), MetaState::default());
        macro_rules! find {
            ($list:ident) => {
                let names = later.iter().flat_map(|change| &change.names.$list);
                (set.$list, gone.$list) = found(names.collect(), &self.newest.$list);
            };
        }
        each_list!(find);
        let has_rest = later.iter().any(|change| change.has_rest);
        Pieces::between(
            have_revision,
            &self.newest,
            set,
            gone,
            has_rest.then(|| self.rest.clone()),
        )
    }
}

/// What became of records: as they are now, in the order of the list, and the names of those that are not there.
fn found<T: Listed>(mut names: Vec<&T>, list: &[T]) -> (Vec<T>, Vec<T>) {
    names.sort_by(|a, b| a.order(b));
    names.dedup_by(|a, b| a.order(b) == Ordering::Equal);
    if names.is_empty() {
        return (Vec::new(), Vec::new());
    }
    if !T::ASCENDS {
        let is_named = |record: &&T| names.binary_search_by(|name| name.order(record)).is_ok();
        let set: Vec<T> = list.iter().filter(is_named).cloned().collect();
        let is_gone = |name: &&&T| !set.iter().any(|record| record.order(name) == Ordering::Equal);
        let gone = names.iter().filter(is_gone).map(|name| name.named()).collect();
        return (set, gone);
    }
    let (mut set, mut gone) = (Vec::new(), Vec::new());
    for name in names {
        match list.binary_search_by(|record| record.order(name)) {
            Ok(at) => set.push(list[at].clone()),
            Err(_) => gone.push(name.named()),
        }
    }
    (set, gone)
}

/// The names of the records by which two states differ.
fn changed(old: &MetaState, new: &MetaState) -> MetaState {
    let mut names = MetaState::default();
    let same_blocks = old.catalogue_revision == new.catalogue_revision;
    macro_rules! compare {
        (blocks) => {
            // The most there is; and none changes without that revision.
            if !same_blocks {
                names.blocks = differing(&old.blocks, &new.blocks);
            }
        };
        ($list:ident) => {
            names.$list = differing(&old.$list, &new.$list);
        };
    }
    each_list!(compare);
    names
}

fn differing<T: Listed>(old: &[T], new: &[T]) -> Vec<T> {
    if T::ASCENDS {
        return merged(old.iter(), new.iter());
    }
    merged(sorted(old).into_iter(), sorted(new).into_iter())
}

fn sorted<T: Listed>(list: &[T]) -> Vec<&T> {
    let mut sorted = Vec::from_iter(list);
    sorted.sort_by(|a, b| a.order(b));
    sorted
}

/// Of two lists that ascend.
fn merged<'a, T: Listed + 'a>(old: impl Iterator<Item = &'a T>, new: impl Iterator<Item = &'a T>) -> Vec<T> {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    let mut names = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return names,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(was), Some(is)) => was.order(is),
        };
        let was = old.next_if(|_| order != Ordering::Greater);
        let is = new.next_if(|_| order != Ordering::Less);
        if was != is {
            names.extend(was.or(is).map(T::named));
        }
    }
}
