//! What groups tell about themselves.

use crate::store::metrics::register;
use gnomon_model::GroupId;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::time::Duration;

/// The families; one per host.
#[derive(Clone)]
pub(crate) struct HostMetrics {
    restarts: IntCounterVec,
    leader: IntGaugeVec,
    applied: IntGaugeVec,
    flushes: IntCounterVec,
    flush_bytes: IntCounterVec,
    flush_seconds: HistogramVec,
    proposals: IntCounterVec,
    pub(crate) snapshots_sent: IntCounter,
    pub(crate) snapshots_received: IntCounter,
}

/// One group's children.
#[derive(Clone)]
pub(crate) struct GroupMetrics {
    pub(crate) restarts: IntCounter,
    pub(crate) leader: IntGauge,
    pub(crate) applied: IntGauge,
    flushes: IntCounter,
    flush_bytes: IntCounter,
    flush_seconds: prometheus::Histogram,
    pub(crate) proposals: IntCounter,
}

impl HostMetrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters =
            |name: &str, help: &str| register(registry, IntCounterVec::new(Opts::new(name, help), &["group"]));
        let gauges = |name: &str, help: &str| register(registry, IntGaugeVec::new(Opts::new(name, help), &["group"]));
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help));
        Ok(Self {
            restarts: counters(
                "gnomon_raft_group_restarts_total",
                "Times a group was restarted after it failed.",
            )?,
            leader: gauges("gnomon_raft_leader", "1 where this node leads the group.")?,
            applied: gauges("gnomon_raft_applied_index", "Log index the group's state stands at.")?,
            flushes: counters("gnomon_raft_flushes_total", "Flushes of a group's state to the store.")?,
            flush_bytes: counters(
                "gnomon_raft_flush_bytes_total",
                "Bytes written by flushes of a group's state.",
            )?,
            flush_seconds: register(
                registry,
                HistogramVec::new(
                    HistogramOpts::new("gnomon_raft_flush_seconds", "Time of one flush, sync included.")
                        .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0]),
                    &["group"],
                ),
            )?,
            proposals: counters("gnomon_raft_proposals_total", "Entries proposed on this node.")?,
            snapshots_sent: counter(
                "gnomon_raft_snapshots_sent_total",
                "Snapshots that a follower has installed.",
            )?,
            snapshots_received: counter(
                "gnomon_raft_snapshots_received_total",
                "Snapshots installed on this node.",
            )?,
        })
    }

    /// The group is not here any more.
    pub(crate) fn forget(&self, group: GroupId) {
        let label = group.to_string();
        for counters in [&self.restarts, &self.flushes, &self.flush_bytes, &self.proposals] {
            let _ = counters.remove_label_values(&[&label]);
        }
        for gauges in [&self.leader, &self.applied] {
            let _ = gauges.remove_label_values(&[&label]);
        }
        let _ = self.flush_seconds.remove_label_values(&[&label]);
    }

    pub(crate) fn group(&self, group: GroupId) -> GroupMetrics {
        let label = group.to_string();
        let labels = [label.as_str()];
        GroupMetrics {
            restarts: self.restarts.with_label_values(&labels),
            leader: self.leader.with_label_values(&labels),
            applied: self.applied.with_label_values(&labels),
            flushes: self.flushes.with_label_values(&labels),
            flush_bytes: self.flush_bytes.with_label_values(&labels),
            flush_seconds: self.flush_seconds.with_label_values(&labels),
            proposals: self.proposals.with_label_values(&labels),
        }
    }
}

impl GroupMetrics {
    pub(crate) fn flushed(&self, bytes: usize, taken: Duration) {
        self.flushes.inc();
        self.flush_bytes.inc_by(bytes as u64);
        self.flush_seconds.observe(taken.as_secs_f64());
    }
}
