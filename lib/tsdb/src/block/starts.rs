//! Start timestamps in a directory, since version 5: lists of them, each once, and which of them each row has.
//!
//! ```text
//! lists: uvarint  lists * starts              as in a page; the first start as its difference to the last one before
//! list of each row: uvarint*                  0 none | n the nth; nothing where there are no lists
//! ```

use super::layout::Input;
use crate::page::Starts;
use gnomon_model::labels::put_uvarint;
use std::collections::HashMap;
use std::sync::Arc;

/// Appends those of all rows.
pub(super) fn write<'r>(of_rows: impl Iterator<Item = Option<&'r Arc<Starts>>>, out: &mut Vec<u8>) {
    let mut lists: Vec<&Starts> = Vec::new();
    let mut known: HashMap<&Starts, u64> = HashMap::new();
    let mut numbers = Vec::new();
    for starts in of_rows {
        numbers.push(starts.map_or(0, |starts| {
            *known.entry(&**starts).or_insert_with(|| {
                lists.push(starts);
                lists.len() as u64
            })
        }));
    }
    put_uvarint(out, lists.len() as u64);
    if lists.is_empty() {
        return;
    }
    let mut before = 0;
    for list in &lists {
        list.write_after(before, out);
        before = list.last();
    }
    numbers.iter().for_each(|number| put_uvarint(out, *number));
}

/// Reads those of rows with so many samples each; none where they are no such.
pub(super) fn read(input: &mut Input<'_>, counts: &[u32]) -> Option<Vec<Option<Arc<Starts>>>> {
    let lists = input.length()?;
    // Two numbers each.
    if lists > input.0.len() / 2 {
        return None;
    }
    let mut all = Vec::with_capacity(lists);
    let mut before = 0;
    for _ in 0..lists {
        let (list, rest) = Starts::read_after(before, input.0)?;
        before = list.last();
        all.push(Arc::new(list));
        input.0 = rest;
    }
    if all.is_empty() {
        return Some(vec![None; counts.len()]);
    }
    let mut of_rows = Vec::with_capacity(counts.len());
    for count in counts {
        of_rows.push(match input.length()?.checked_sub(1) {
            None => None,
            Some(at) => Some(all.get(at).filter(|list| list.fit(*count))?.clone()),
        });
    }
    Some(of_rows)
}
