//! Counting gives what reading all samples gives.

use super::*;
use crate::shard::ShardMachine;
use gnomon_cluster::raft::{Applied, StateMachine};
use gnomon_proto::v1::{LabelMatcher, SelectRequest, label_matcher::Op};
use gnomon_tsdb::page::Page;

const MINUTE_MS: i64 = 60_000;

struct Machine {
    machine: ShardMachine,
    rig: Rig,
    index: u64,
}

impl Machine {
    fn apply(&mut self, command: Command) {
        self.index += 1;
        let payload = self.rig.entry(command);
        let entry = Applied {
            index: self.index,
            term: 1,
            payload: &payload,
        };
        self.machine.apply(&[entry]);
    }

    fn rows(&mut self, labels: &[(&str, &str)], samples: &[(i64, f64)]) {
        let labels = Labels::from_pairs(labels.iter().copied());
        let mut batch = builder();
        batch.begin_rows();
        for (at, value) in samples {
            let key = batch.new_series(labels.as_ref());
            batch.sample(key, *at, *value);
        }
        let (limits, batch) = (self.rig.limits, batch.finish());
        self.apply(Command::Batch { limits, batch });
    }

    /// By reading every series.
    fn read(&self, request: &SelectRequest, by: &[String]) -> BTreeMap<Vec<u8>, u64> {
        let mut selected = self.machine.find(request, &Stop::default()).unwrap();
        let mut counts = BTreeMap::new();
        while let Some(batch) = selected.next_batch(&self.machine).unwrap() {
            for series in batch.series {
                let mut samples = Vec::new();
                for page in series.pages {
                    match Page::parse(page.data).unwrap().decode().unwrap() {
                        PageSamples::Floats { timestamps, values } => {
                            samples.extend(timestamps.into_iter().zip(values))
                        }
                        PageSamples::Histograms(_) => panic!("there are none"),
                    }
                }
                let within = |(at, _): &&(i64, f64)| request.start_ms <= *at && *at <= request.end_ms;
                if samples
                    .iter()
                    .rfind(within)
                    .is_none_or(|(_, value)| is_stale_nan(*value))
                {
                    continue;
                }
                let pairs = LabelsRef::checked(&series.labels).unwrap();
                let group = Labels::from_pairs(pairs.iter().filter(|(name, _)| by.iter().any(|by| by == name)));
                *counts.entry(group.as_bytes().to_vec()).or_default() += 1;
            }
        }
        counts
    }

    fn count(&self, request: &SelectRequest, by: &[String]) -> BTreeMap<Vec<u8>, u64> {
        let batch = self.machine.count(request, by, &Stop::default()).unwrap();
        assert!(batch.counts);
        let number = |series: gnomon_proto::v1::Series| {
            let page = Page::parse(series.pages[0].data.clone()).unwrap();
            let PageSamples::Floats { timestamps, values } = page.decode().unwrap() else {
                panic!("a count is a float");
            };
            assert_eq!(timestamps, [request.end_ms]);
            (series.labels.to_vec(), values[0] as u64)
        };
        batch.series.into_iter().map(number).collect()
    }
}

#[test]
fn counts_are_those_of_reading_all_samples() {
    let mut machine = Machine {
        machine: ShardMachine::new(ShardId(0)),
        rig: Rig::new(),
        index: 0,
    };
    let end = T0 + WINDOW_MS + 30 * MINUTE_MS;
    machine.rig.now_ms = end;
    let ages = [0, 1, 4, 5, 6, 20, 40, 90];
    for (n, age) in ages.iter().enumerate() {
        for (m, last) in [1.0, STALE_NAN].into_iter().enumerate() {
            let (job, instance) = (format!("job-{}", n % 3), format!("{n}-{m}"));
            let labels = [
                ("__name__", "up"),
                ("instance", instance.as_str()),
                ("job", job.as_str()),
            ];
            let at = end - age * MINUTE_MS;
            let samples = [(at - 2 * MINUTE_MS, 2.0), (at, last)];
            machine.rows(&labels[..3 - usize::from(n == 4)], &samples);
        }
    }
    let all = LabelMatcher {
        name: "__name__".into(),
        value: "u.".into(),
        op: Op::Regex as i32,
    };
    for sealed in [false, true] {
        if sealed {
            let window = TimeRange::window_of(TimestampMs(T0), WINDOW_MS);
            machine.apply(Command::Seal {
                window,
                with_exemplars: false,
            });
        }
        for at in [
            end,
            end - MINUTE_MS,
            end - 3 * MINUTE_MS,
            end - 31 * MINUTE_MS,
            end - 89 * MINUTE_MS,
        ] {
            for by in [
                &[][..],
                &["job"],
                &["__name__"],
                &["instance", "job"],
                &["instance"],
                &["nowhere"],
            ] {
                let by: Vec<String> = by.iter().map(|name| (*name).to_owned()).collect();
                let request = SelectRequest {
                    tenant: "anonymous".into(),
                    matchers: vec![all.clone()],
                    start_ms: at - 5 * MINUTE_MS + 1,
                    end_ms: at,
                    ..SelectRequest::default()
                };
                let (counted, read) = (machine.count(&request, &by), machine.read(&request, &by));
                assert_eq!(counted, read, "at {at}, by {by:?}");
                assert!(!read.is_empty() || at < end - 3 * MINUTE_MS);
            }
        }
    }
}
