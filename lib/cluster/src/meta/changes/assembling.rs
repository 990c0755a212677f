//! States from what came of them.

use super::{Listed, each_list, records};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::{MetaState, MetaUpdate};
use std::cmp::Ordering;
use std::sync::Arc;

/// Puts updates on a state, one after another.
pub(crate) struct Assembling {
    state: Arc<MetaState>,
    /// Pieces of an update have come, and more are to.
    is_under_way: bool,
}

impl Assembling {
    /// Begins with what is there.
    pub(crate) fn on(base: Arc<MetaState>) -> Self {
        Self {
            state: base,
            is_under_way: false,
        }
    }

    /// Takes one piece; the state, where it was the last one of an update.
    ///
    /// # Errors
    /// `Damaged` where it does not fit to what is here.
    pub(crate) fn put(&mut self, update: MetaUpdate) -> Result<Option<Arc<MetaState>>, ServiceError> {
        if !self.is_under_way {
            match update.base_revision {
                0 => self.state = Arc::default(),
                base if base == self.state.revision => {}
                base => return Err(self.unfit(&format!("a change of revision {base}"))),
            }
        }
        let state = Arc::make_mut(&mut self.state);
        let gone = update.gone.unwrap_or_default();
        let mut set = update.set.unwrap_or_default();
        macro_rules! put {
            ($list:ident) => {
                remove(&mut state.$list, gone.$list);
                insert(&mut state.$list, std::mem::take(&mut set.$list));
            };
        }
        each_list!(put);
        if update.has_rest {
            macro_rules! keep {
                ($list:ident) => {
                    set.$list = std::mem::take(&mut state.$list);
                };
            }
            each_list!(keep);
            (set.revision, set.catalogue_revision) = (state.revision, state.catalogue_revision);
            *state = set;
        }
        self.is_under_way = update.revision == 0;
        if self.is_under_way {
            return Ok(None);
        }
        (state.revision, state.catalogue_revision) = (update.revision, update.catalogue_revision);
        if records(state) as u64 != update.records {
            return Err(self.unfit(&format!("{} records", update.records)));
        }
        Ok(Some(self.state.clone()))
    }

    fn unfit(&self, to: &str) -> ServiceError {
        ServiceError::Damaged(format!(
            "the metadata state of revision {} with {} records, put together from changes, does not fit to {to}",
            self.state.revision,
            records(&self.state)
        ))
    }
}

fn remove<T: Listed>(list: &mut Vec<T>, mut gone: Vec<T>) {
    if gone.is_empty() {
        return;
    }
    gone.sort_by(|a, b| a.order(b));
    list.retain(|record| gone.binary_search_by(|name| name.order(record)).is_err());
}

/// So many new records are put in their places one by one; more are sorted in.
const FEW: usize = 16;

/// Records take the place of those of their names; others come where they belong, or to the end of a list without order.
fn insert<T: Listed>(list: &mut Vec<T>, set: Vec<T>) {
    let (Some(first), Some(last)) = (set.first(), list.last()) else {
        list.extend(set);
        return;
    };
    if T::ASCENDS && last.order(first) == Ordering::Less {
        list.extend(set);
        return;
    }
    let mut new = Vec::new();
    for record in set {
        let place = match T::ASCENDS {
            true => list.binary_search_by(|there| there.order(&record)).ok(),
            false => list.iter().position(|there| there.order(&record).is_eq()),
        };
        match place {
            Some(at) => list[at] = record,
            None => new.push(record),
        }
    }
    if !T::ASCENDS {
        list.extend(new);
    } else if new.len() <= FEW {
        for record in new {
            let (Ok(at) | Err(at)) = list.binary_search_by(|there| there.order(&record));
            list.insert(at, record);
        }
    } else {
        list.extend(new);
        list.sort_by(T::order);
    }
}
