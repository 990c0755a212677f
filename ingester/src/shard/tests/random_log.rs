//! Any log gives the same shard, however often it is flushed and restored, and keeps what was acknowledged.

use super::*;
use crate::shard::entry::Bound;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// What a random log is made of.
#[derive(Clone, Debug)]
enum Step {
    Rows(Vec<(u8, i64, u8)>),
    Tick {
        target: u8,
        series: Vec<u8>,
        term: u8,
        first: bool,
        last: bool,
        names_only: bool,
    },
    /// Of one series: how long ago, and the value.
    Exemplars(u8, Vec<(i64, u8)>),
    /// The end or the beginning of the shard's time, so far from now.
    Until(i64),
    From(i64),
    Seal,
    Publish,
    Expire,
    /// Series of one kind, all or those of a number; from and to so long ago.
    Delete {
        kind: char,
        number: Option<u8>,
        from_ago: i64,
        to_ago: i64,
    },
    Wait(i64),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let row = (0..12u8, -4_000_000..700_000i64, 0..4u8);
    let near = (0..12u8, -60_000..1i64, 0..4u8);
    prop_oneof![
        3 => proptest::collection::vec(row, 1..20).prop_map(Step::Rows),
        3 => proptest::collection::vec(near, 1..80).prop_map(Step::Rows),
        4 => (0..2u8, proptest::collection::vec(0..8u8, 0..6), 1..3u8, any::<[bool; 2]>(), proptest::bool::weighted(0.2))
            .prop_map(|(target, series, term, [first, last], names_only)| {
                Step::Tick { target, series, term, first, last, names_only }
            }),
        2 => (0..3u8, proptest::collection::vec((-60_000..1i64, 0..3u8), 1..5))
            .prop_map(|(series, exemplars)| Step::Exemplars(series, exemplars)),
        1 => (-60_000..900_000i64).prop_map(Step::Until),
        1 => (-4_000_000..60_000i64).prop_map(Step::From),
        1 => Just(Step::Seal),
        1 => Just(Step::Publish),
        1 => Just(Step::Expire),
        2 => (prop_oneof![Just('s'), Just('t'), Just('e')], proptest::option::of(0..12u8), any::<bool>(), 0..6_000_000i64, -700_000..6_000_000i64)
            .prop_map(|(kind, number, all, from_ago, to_ago)| Step::Delete {
                kind,
                number,
                from_ago: if all { i64::MAX / 2 } else { from_ago },
                to_ago: if all { -i64::MAX / 2 } else { to_ago },
            }),
        3 => (0..2_000_000i64).prop_map(Step::Wait),
        2 => Just(Step::Flush),
    ]
}

/// What has to be there, and what must not be.
#[derive(Default)]
struct Model {
    acknowledged: BTreeMap<(u8, i64), f64>,
    deleted: BTreeSet<(u8, i64)>,
}

impl Rig {
    fn step(&mut self, step: &Step, model: &mut Model) -> Bytes {
        match step {
            Step::Rows(rows) => {
                let mut answer = Bytes::new();
                for (series, ago, value) in rows {
                    let (at, value) = (self.now_ms + ago, f64::from(*value));
                    let response = self.rows(&[(&named(&format!("s{series}")), at, value)]);
                    if response.samples_taken == 1 {
                        model.acknowledged.entry((*series, at)).or_insert(value);
                        model.deleted.remove(&(*series, at));
                    }
                    answer = response.encode_to_vec().into();
                }
                answer
            }
            Step::Tick {
                target,
                series,
                term,
                first,
                last,
                names_only,
            } => {
                let header = TickHeader {
                    target: TargetId(u64::from(*target)),
                    term: u64::from(*term),
                    first: *first,
                    last: *last,
                    names_only: *names_only,
                    ..header(self.now_ms / 15_000 * 15_000)
                };
                let names: Vec<_> = series.iter().map(|s| format!("t{s}")).collect();
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                self.tick(&header, &names).encode_to_vec().into()
            }
            Step::Exemplars(series, exemplars) => {
                let now_ms = self.now_ms;
                let at: Vec<_> = exemplars
                    .iter()
                    .map(|(ago, value)| (now_ms + ago, f64::from(*value)))
                    .collect();
                self.with_exemplars(&format!("e{series}"), &at).encode_to_vec().into()
            }
            Step::Until(ahead) => {
                let (at_ms, epoch, revision) = (self.now_ms + ahead, 2, self.now_ms as u64);
                self.apply(Command::Until(Bound { at_ms, epoch, revision }))
            }
            Step::From(ahead) => {
                let (at_ms, epoch, revision) = (self.now_ms + ahead, 0, self.now_ms as u64);
                self.apply(Command::From(Bound { at_ms, epoch, revision }))
            }
            Step::Seal => {
                let oldest = self
                    .state
                    .tenants
                    .values()
                    .filter_map(|t| t.head.windows.keys().next())
                    .min();
                let oldest = oldest.copied().unwrap_or(T0);
                self.apply(Command::Seal {
                    window: TimeRange::window_of(TimestampMs(oldest), WINDOW_MS),
                    with_exemplars: true,
                })
            }
            Step::Publish => {
                let part = self
                    .state
                    .tenants
                    .values()
                    .filter_map(|t| t.head.sealed.values().next())
                    .next();
                let Some((number, min, max)) = part.map(|p| (p.number, p.min_ms, p.max_ms)) else {
                    return Bytes::new();
                };
                // From now on these come from a block, or from a later part.
                model.acknowledged.retain(|(_, at), _| !(min..=max).contains(at));
                self.apply(Command::Published {
                    part: number,
                    catalogue_revision: number,
                })
            }
            Step::Expire => {
                let tenant = TenantId::anonymous();
                let targets = self.state.head(&tenant).map(|h| {
                    let silent = h.targets.iter().map(|(id, t)| SilentTarget {
                        tenant: tenant.clone(),
                        target: *id,
                        term: t.term,
                        heard_ms: t.heard_ms,
                    });
                    silent.collect()
                });
                self.apply(Command::ExpireTargets {
                    targets: targets.unwrap_or_default(),
                })
            }
            Step::Delete {
                kind,
                number,
                from_ago,
                to_ago,
            } => {
                let (start_ms, end_ms) = (self.now_ms - from_ago, self.now_ms - to_ago);
                let name = number.map_or_else(|| format!("{kind}.*"), |number| format!("{kind}{number}"));
                if *kind == 's' {
                    let (kept, gone) =
                        std::mem::take(&mut model.acknowledged)
                            .into_iter()
                            .partition(|((series, at), _)| {
                                number.is_some_and(|n| n != *series) || !(start_ms..=end_ms).contains(at)
                            });
                    model.acknowledged = kept;
                    model.deleted.extend(gone.into_keys());
                }
                self.delete(&name, start_ms, end_ms)
            }
            Step::Wait(ms) => {
                self.now_ms += ms;
                Bytes::new()
            }
            Step::Flush => {
                self.flush();
                Bytes::new()
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn equal_logs_give_equal_shards_and_restored_ones_are_the_same(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let (mut one, mut two) = (Rig::new(), Rig::new());
        let mut model = Model::default();
        for step in &steps {
            let answer = one.step(step, &mut model);
            // The other flushes at no time or always, and starts again each time.
            prop_assert_eq!(answer, two.step(step, &mut Model::default()));
            two.flush();
            two.state = two.restored();
        }
        one.flush();
        prop_assert_eq!(dump(&one.state), dump(&two.state));
        prop_assert_eq!(dump(&one.restored()), dump(&one.state));
        for (series, at) in &model.deleted {
            let samples = one.values(&format!("s{series}"));
            prop_assert!(samples.iter().all(|(t, _)| t != at), "series {} at {} is deleted", series, at);
        }
        for ((series, at), value) in &model.acknowledged {
            let samples = one.values(&format!("s{series}"));
            let found = samples.iter().find(|(t, _)| t == at).map(|(_, v)| *v);
            prop_assert_eq!(found, Some(*value), "series {} at {}", series, at);
        }
    }
}
