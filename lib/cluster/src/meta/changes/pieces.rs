//! An update in pieces, none of which is too large for a message.

use super::{LISTS, Listed, each_list, records, rest};
use gnomon_proto::v1::{MetaState, MetaUpdate};
use std::sync::Arc;

/// A piece is closed once its records have so many bytes. One record has less than a MiB.
const PIECE_BYTES: usize = 2 << 20;

/// Gives the pieces of one update, each made when it is asked for.
pub(crate) struct Pieces {
    base_revision: u64,
    /// Whose lists are to be told.
    set: Arc<MetaState>,
    /// How much of each has been.
    told: [usize; LISTS],
    /// Go with the first piece.
    rest: Option<MetaState>,
    gone: Option<MetaState>,
    revision: u64,
    catalogue_revision: u64,
    records: usize,
    is_over: bool,
}

impl Pieces {
    /// All of a state.
    pub(crate) fn whole(state: Arc<MetaState>) -> Self {
        Self {
            base_revision: 0,
            told: [0; LISTS],
            rest: Some(rest(&state)),
            gone: None,
            revision: state.revision,
            catalogue_revision: state.catalogue_revision,
            records: records(&state),
            is_over: false,
            set: state,
        }
    }

    /// What leads from the state of `base_revision` to `state`.
    pub(super) fn between(
        base_revision: u64,
        state: &MetaState,
        set: MetaState,
        gone: MetaState,
        rest: Option<MetaState>,
    ) -> Self {
        Self {
            base_revision,
            set: Arc::new(set),
            told: [0; LISTS],
            rest,
            gone: Some(gone),
            revision: state.revision,
            catalogue_revision: state.catalogue_revision,
            records: records(state),
            is_over: false,
        }
    }
}

impl Iterator for Pieces {
    type Item = MetaUpdate;

    fn next(&mut self) -> Option<MetaUpdate> {
        if self.is_over {
            return None;
        }
        let has_rest = self.rest.is_some();
        let mut set = self.rest.take().unwrap_or_default();
        let mut room = PIECE_BYTES;
        let mut told = self.told.iter_mut();
        let mut is_over = true;
        macro_rules! take {
            ($list:ident) => {
                if let Some(told) = told.next() {
                    set.$list = taken(&self.set.$list, told, &mut room);
                    is_over &= *told == self.set.$list.len();
                }
            };
        }
        each_list!(take);
        self.is_over = is_over;
        let (revision, catalogue_revision, records) = match is_over {
            true => (self.revision, self.catalogue_revision, self.records as u64),
            false => (0, 0, 0),
        };
        Some(MetaUpdate {
            base_revision: self.base_revision,
            revision,
            catalogue_revision,
            set: Some(set),
            has_rest,
            gone: self.gone.take(),
            records,
        })
    }
}

/// Records from where the last piece ended, as long as there is room.
fn taken<T: Listed>(list: &[T], told: &mut usize, room: &mut usize) -> Vec<T> {
    let from = *told;
    while *told < list.len() && *room > 0 {
        *room = room.saturating_sub(list[*told].encoded_len());
        *told += 1;
    }
    list[from..*told].to_vec()
}
