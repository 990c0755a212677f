//! Selectors with the same matchers and overlapping times are read once; requests nobody makes any more go. Fragments
//! get their numbers, and requests of their own: what they read otherwise depends on what others can evaluate.

use super::fragments::only_request;
use crate::plan::{Fragment, NOT_PUSHED, Node, NodeKind, Plan, Pushed};
use crate::source::SelectRequest;
use std::collections::{HashMap, HashSet};

pub(super) fn merge(mut plan: Plan) -> Plan {
    let mut merger = Merger {
        plan: &plan,
        merged: Vec::new(),
        exclusive: Vec::new(),
        uses: Vec::new(),
        fragments: Vec::new(),
        log: Vec::new(),
        slots: HashMap::new(),
    };
    let mut root = plan.root.clone();
    merger.node(&mut root, false);
    let Merger {
        merged,
        uses,
        fragments,
        ..
    } = merger;
    plan.root = root;
    plan.requests = merged;
    plan.request_uses = uses;
    plan.fragments = fragments;
    plan
}

struct Merger<'p> {
    plan: &'p Plan,
    merged: Vec<SelectRequest>,
    /// Which of these are a fragment's.
    exclusive: Vec<bool>,
    uses: Vec<usize>,
    fragments: Vec<Pushed>,
    /// The numbers that were given, in the order of nodes.
    log: Vec<usize>,
    /// Numbers given below each shared node.
    slots: HashMap<usize, Vec<usize>>,
}

impl Merger<'_> {
    fn place(&mut self, request: &SelectRequest, exclusive: bool) -> usize {
        let fits = |(known, theirs): (&SelectRequest, &bool)| !theirs && goes_with(known, request);
        let at = self.merged.iter().zip(&self.exclusive).position(fits);
        let at = at.filter(|_| !exclusive).unwrap_or_else(|| {
            let id = self.merged.len();
            self.merged.push(SelectRequest { id, ..request.clone() });
            self.exclusive.push(exclusive);
            self.uses.push(0);
            id
        });
        let into = &mut self.merged[at];
        into.start_ms = into.start_ms.min(request.start_ms);
        into.end_ms = into.end_ms.max(request.end_ms);
        combine(into, request);
        self.uses[at] += 1;
        at
    }

    /// Goes through the nodes in the order of their evaluation; what is shared has the numbers of its first place.
    fn node(&mut self, at: &mut Node, in_fragment: bool) {
        if let NodeKind::Shared { slot, input } = &mut at.kind {
            if let Some(given) = self.slots.get(slot) {
                return same_again(input, &mut given.iter().copied());
            }
            let (slot, from) = (*slot, self.log.len());
            self.node(input, in_fragment);
            self.slots.insert(slot, self.log[from..].to_vec());
            return;
        }
        if let Some(id) = at.request_mut()
            && let Some(request) = self.plan.requests.get(*id).cloned()
        {
            *id = self.place(&request, in_fragment);
            self.log.push(*id);
        }
        if let NodeKind::Fragment { id, input } = &mut at.kind {
            let position = self.log.len();
            self.log.push(NOT_PUSHED);
            self.node(input, true);
            let pushed = only_request(input).and_then(|request| {
                let fragment = Fragment::of(input, self.merged.get(request)?, &self.plan.params)?;
                Some(Pushed { fragment, request })
            });
            if let Some(pushed) = pushed {
                *id = self.fragments.len();
                self.log[position] = *id;
                self.fragments.push(pushed);
            }
            return;
        }
        for child in at.children_mut() {
            self.node(child, in_fragment);
        }
    }
}

/// Gives nodes the numbers that their like has got.
fn same_again(at: &mut Node, given: &mut dyn Iterator<Item = usize>) {
    if let Some(id) = at.request_mut() {
        *id = given.next().unwrap_or(*id);
    }
    if let NodeKind::Fragment { id, .. } = &mut at.kind {
        *id = given.next().unwrap_or(*id);
    }
    at.children_mut().into_iter().for_each(|child| same_again(child, given));
}

/// Whether reading both at once is no more work than reading one after the other.
fn goes_with(a: &SelectRequest, b: &SelectRequest) -> bool {
    let overlap = a.start_ms <= b.end_ms && b.start_ms <= a.end_ms;
    // What is known of a histogram then depends on those before it.
    let stats = a.hints.histogram_stats || b.hints.histogram_stats;
    let same = (a.start_ms, a.end_ms, a.hints.histogram_stats) == (b.start_ms, b.end_ms, b.hints.histogram_stats);
    overlap && a.matchers == b.matchers && (same || !stats)
}

/// Hints that hold for both.
fn combine(into: &mut SelectRequest, other: &SelectRequest) {
    let (hints, other) = (&mut into.hints, &other.hints);
    if hints.func != other.func {
        hints.func = "";
    }
    if (&hints.grouping, hints.by) != (&other.grouping, other.by) {
        hints.grouping.clear();
        hints.by = false;
    }
    hints.range_ms = hints.range_ms.max(other.range_ms);
    hints.extended |= other.extended;
    hints.presence_only &= other.presence_only;
    hints.labels = match (hints.labels.take(), &other.labels) {
        (Some(mut labels), Some(more)) => {
            let known: HashSet<&str> = labels.iter().map(String::as_str).collect();
            let new = more.iter().filter(|label| !known.contains(label.as_str())).cloned();
            let new: Vec<String> = new.collect();
            labels.extend(new);
            Some(labels)
        }
        _ => None,
    };
}
