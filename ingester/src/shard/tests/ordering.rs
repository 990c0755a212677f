//! Many series that are new come in the order of their labels, and who asks for them can leave before they are sorted.

use super::*;
use crate::shard::ShardMachine;
use gnomon_cluster::raft::{Applied, StateMachine};
use gnomon_proto::v1::{LabelMatcher, SelectRequest, label_matcher::Op};

/// More than one slice.
pub(super) const SERIES: u32 = 20_000;

fn add(machine: &ShardMachine, rig: &Rig, index: u64, from: u32) {
    let payload = many(rig, from);
    machine.apply(&[Applied {
        index,
        term: 1,
        payload: &payload,
    }]);
}

/// An entry with a sample of each of many new series.
pub(super) fn many(rig: &Rig, from: u32) -> Bytes {
    let mut batch = builder();
    let keys: Vec<_> = (from..from + SERIES)
        .map(|n| {
            let scattered = format!("{:08x}", n.wrapping_mul(2_654_435_761));
            batch.new_series(Labels::from_pairs([("__name__", "m"), ("n", scattered.as_str())]).as_ref())
        })
        .collect();
    batch.begin_rows();
    for key in keys {
        batch.sample(key, T0, 1.0);
    }
    let (limits, batch) = (rig.limits, batch.finish());
    rig.entry(Command::Batch { limits, batch })
}

#[test]
fn many_new_series_are_sorted_in_slices_unless_nobody_waits() {
    let (machine, rig) = (ShardMachine::new(ShardId(0)), Rig::new());
    let request = SelectRequest {
        tenant: "anonymous".into(),
        matchers: vec![LabelMatcher {
            name: "__name__".into(),
            value: "m".into(),
            op: Op::Equal as i32,
        }],
        start_ms: T0,
        end_ms: T0,
        ..SelectRequest::default()
    };
    let is_due = || machine.read(|state| head(state).is_order_due(u64::from(SERIES)));
    for round in 0..2 {
        add(&machine, &rig, u64::from(round) + 1, round * SERIES);
        assert!(is_due());
        let stop = Stop::default();
        drop(stop.on_drop());
        let left = machine.find(&request, &stop);
        assert!(left.is_err_and(|error| error == gnomon_proto::ServiceError::Cancelled));
        assert!(is_due(), "nothing was sorted for nobody");
        let mut found = machine.find(&request, &Stop::default()).unwrap();
        assert!(!is_due());
        let mut labels = Vec::new();
        while let Some(batch) = found.next_batch(&machine).unwrap() {
            labels.extend(batch.series.into_iter().map(|series| series.labels));
        }
        assert_eq!(labels.len() as u32, (round + 1) * SERIES);
        assert!(labels.is_sorted_by(|a, b| LabelsRef::from_canonical(a) < LabelsRef::from_canonical(b)));
    }
}
