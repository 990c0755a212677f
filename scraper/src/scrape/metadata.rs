//! What a target says about its metric families.

use crate::parse::{EntryKind, MetricKind, Parser};
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;

/// Scrapes after which a family that is not exposed any more is forgotten, as in Prometheus.
const KEPT_ROUNDS: u32 = 10;

/// Longer texts are cut: they are kept for every target.
const MAX_TEXT_BYTES: usize = 4096;

/// More families of one target are not kept.
const MAX_FAMILIES: usize = 50_000;

/// Of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FamilyMetadata {
    pub kind: MetricKind,
    pub help: String,
    pub unit: String,
}

#[derive(Default)]
struct Entry {
    family: FamilyMetadata,
    round: u32,
    /// Taken by the sink as it is now.
    sent: bool,
}

/// The families of one target; read by the status API while scrapes write it.
#[derive(Default)]
pub(crate) struct Metadata {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    families: HashMap<String, Entry>,
    round: u32,
}

fn cut(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT_BYTES {
        return text;
    }
    let end = text.floor_char_boundary(MAX_TEXT_BYTES);
    Cow::Owned(text[..end].to_owned())
}

impl Metadata {
    /// All families, in no order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&str, &FamilyMetadata)) {
        for (name, entry) in &self.inner.lock().families {
            visit(name, &entry.family);
        }
    }

    /// Notes the Type, Help or Unit entry under the parser.
    pub(super) fn note(&self, what: EntryKind, parser: &dyn Parser) {
        let name = parser.family();
        if name.len() > MAX_TEXT_BYTES {
            return;
        }
        let mut inner = self.inner.lock();
        let (round, full) = (inner.round, inner.families.len() >= MAX_FAMILIES);
        let entry = match inner.families.get_mut(name.as_ref()) {
            Some(entry) => entry,
            None if full => return,
            None => inner.families.entry(name.into_owned()).or_default(),
        };
        entry.round = round;
        let family = &mut entry.family;
        let changed = match what {
            EntryKind::Type => std::mem::replace(&mut family.kind, parser.kind()) != parser.kind(),
            EntryKind::Help => replace(&mut family.help, cut(parser.text())),
            EntryKind::Unit => replace(&mut family.unit, cut(parser.text())),
            _ => false,
        };
        entry.sent &= !changed;
    }

    /// Ends a scrape that was whole.
    pub(super) fn end_round(&self) {
        let mut inner = self.inner.lock();
        let round = inner.round;
        inner.round = round.wrapping_add(1);
        inner.families.retain(|_, e| round.wrapping_sub(e.round) < KEPT_ROUNDS);
    }

    /// What the sink has not taken yet.
    pub(super) fn unsent(&self) -> Vec<(String, FamilyMetadata)> {
        let inner = self.inner.lock();
        let unsent = inner.families.iter().filter(|(_, e)| !e.sent);
        unsent.map(|(name, e)| (name.clone(), e.family.clone())).collect()
    }

    /// The sink took these.
    pub(super) fn mark_sent(&self, taken: &[(String, FamilyMetadata)]) {
        let mut inner = self.inner.lock();
        for (name, family) in taken {
            if let Some(entry) = inner.families.get_mut(name) {
                entry.sent |= entry.family == *family;
            }
        }
    }
}

fn replace(old: &mut String, new: Cow<'_, str>) -> bool {
    if *old == new {
        return false;
    }
    *old = new.into_owned();
    true
}
