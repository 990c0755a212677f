//! What each node of a running plan costs. Where nobody asks, a node costs one branch more.

use super::column::{Column, Kind};
use crate::plan::Node;
use gnomon_model::Clock;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

/// What one node took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCost {
    /// Spent in the node itself, without what it evaluates and without those who take what it gives.
    pub own: Duration,
    /// Columns that it gave.
    pub columns: u64,
    /// Values in them.
    pub values: u64,
    /// Series that it read from the source, or had read by others.
    pub series: u64,
    /// Samples in them.
    pub samples: u64,
}

/// The identity of a node while a plan runs.
pub(crate) fn identity(node: &Node) -> usize {
    std::ptr::from_ref(node) as usize
}

/// Keeps account of the nodes of one query.
pub(crate) struct Analyzer<'c> {
    clock: &'c dyn Clock,
    costs: RefCell<HashMap<usize, NodeCost>>,
    /// The node at work, and since when.
    at: Cell<usize>,
    since: Cell<Duration>,
}

impl<'c> Analyzer<'c> {
    pub(crate) fn new(clock: &'c dyn Clock) -> Self {
        Self {
            since: Cell::new(clock.monotonic()),
            clock,
            costs: RefCell::default(),
            at: Cell::new(0),
        }
    }

    /// Another node takes over; the one before comes back.
    pub(crate) fn switch(&self, to: usize) -> usize {
        let now = self.clock.monotonic();
        let from = self.at.replace(to);
        let spent = now.saturating_sub(self.since.replace(now));
        self.costs.borrow_mut().entry(from).or_default().own += spent;
        from
    }

    pub(crate) fn gave(&self, node: usize, column: &Column) {
        let mut costs = self.costs.borrow_mut();
        let cost = costs.entry(node).or_default();
        cost.columns += 1;
        cost.values += column.kinds.iter().filter(|kind| **kind != Kind::Absent).count() as u64;
    }

    pub(crate) fn read(&self, series: u64, samples: u64) {
        let mut costs = self.costs.borrow_mut();
        let cost = costs.entry(self.at.get()).or_default();
        cost.series += series;
        cost.samples += samples;
    }

    pub(crate) fn into_costs(self) -> HashMap<usize, NodeCost> {
        self.costs.into_inner()
    }
}
