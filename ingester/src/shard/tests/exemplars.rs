//! Exemplars: the ring, parts, restarts, deletes.

use super::*;

impl Rig {
    /// A sample and exemplars of one series.
    pub(super) fn with_exemplars(&mut self, name: &str, exemplars: &[(i64, f64)]) -> AppendResponse {
        let mut batch = builder();
        batch.begin_rows();
        let key = batch.new_series(named(name).as_ref());
        batch.sample(key, exemplars[0].0, 1.0);
        for (at, value) in exemplars {
            let trace = Labels::from_pairs([("trace_id", format!("{name}-{value}"))]);
            batch.exemplar(key, *at, *value, trace.as_ref());
        }
        self.append(batch)
    }
}

fn ring(state: &ShardState) -> Vec<(i64, f64)> {
    let all = head(state).exemplars.within(i64::MIN, i64::MAX);
    all.map(|e| (e.timestamp_ms, e.value)).collect()
}

fn of_part(rig: &Rig, number: u64) -> Option<Vec<(i64, f64)>> {
    let key = super::super::keys::part_exemplars(1, number);
    let bytes = rig.store.0.get(&key)?;
    let stored = super::super::records::read_exemplars(bytes).unwrap();
    Some(stored.iter().map(|e| (e.timestamp_ms, e.value)).collect())
}

#[test]
fn deleted_ones_are_gone_here_and_after_a_restart() {
    let mut rig = Rig::new();
    rig.with_exemplars("a", &[(T0, 1.0), (T0 + 1, 2.0), (T0 + 2, 3.0)]);
    rig.with_exemplars("b", &[(T0, 4.0), (T0 + 2, 5.0)]);
    rig.flush();
    // One that is stored and one that is not.
    rig.with_exemplars("a", &[(T0 + 3, 6.0), (T0 + 4, 7.0)]);
    rig.delete("a", T0 + 1, T0 + 3);
    let left = [(T0, 1.0), (T0, 4.0), (T0 + 2, 5.0), (T0 + 4, 7.0)];
    assert_eq!(ring(&rig.state), left);
    rig.flush();
    assert_eq!(ring(&rig.restored()), left);
    rig.state = rig.restored();
    // The newest of a series goes: an older one is taken again.
    rig.delete("a", T0 + 4, T0 + 4);
    rig.with_exemplars("a", &[(T0 + 1, 8.0)]);
    let left = [(T0, 1.0), (T0, 4.0), (T0 + 2, 5.0), (T0 + 1, 8.0)];
    assert_eq!(ring(&rig.state), left);
    rig.flush();
    assert_eq!(ring(&rig.restored()), left);
}

/// The live replica and one that started again take and keep the same from then on.
#[test]
fn after_a_delete_a_restarted_replica_has_the_same_ring() {
    let mut rig = Rig::new();
    rig.with_exemplars("a", &[(T0, 1.0), (T0 + 1, 2.0), (T0 + 5, 3.0)]);
    rig.with_exemplars("b", &[(T0, 4.0)]);
    rig.flush();
    // The newest of one series, and the last of the ring.
    rig.delete("a", T0 + 5, T0 + 5);
    rig.delete("b", T0, T0);
    rig.flush();
    let mut again = Rig {
        state: rig.restored(),
        store: rig.store.clone(),
        ..Rig::new()
    };
    for one in [&mut rig, &mut again] {
        assert_eq!(head(&one.state).exemplars.ends(), (0, 4));
        one.with_exemplars("a", &[(T0 + 1, 5.0), (T0 + 2, 6.0)]);
        assert_eq!(ring(&one.state), [(T0, 1.0), (T0 + 1, 2.0), (T0 + 2, 6.0)]);
        one.flush();
    }
    assert_eq!(dump(&rig.state), dump(&again.state));
    // All of them: what is left is where they were.
    rig.delete("a", T0, T0 + 5);
    rig.flush();
    assert_eq!(dump(&rig.restored()), dump(&rig.state));
    // A store of an earlier build says nothing of it.
    rig.store.0.remove(&super::super::keys::exemplar_ends(1));
    assert_eq!(head(&rig.restored()).exemplars.ends(), (0, 0));
}

#[test]
fn a_part_has_those_of_its_series_and_window() {
    let mut rig = Rig::new();
    rig.now_ms = T0 + 2 * WINDOW_MS;
    rig.with_exemplars("a", &[(T0, 1.0), (T0 + 1, 2.0)]);
    rig.with_exemplars("a", &[(T0 + WINDOW_MS, 3.0)]);
    rig.with_exemplars("b", &[(T0 + WINDOW_MS, 4.0)]);
    // Without a sample in the window.
    let mut batch = builder();
    batch.begin_rows();
    let key = batch.new_series(named("c").as_ref());
    batch.sample(key, T0 + WINDOW_MS, 1.0);
    batch.exemplar(key, T0 + 5, 9.0, Labels::empty().as_ref());
    rig.append(batch);
    rig.seal(T0);
    rig.flush();
    assert_eq!(of_part(&rig, 1), Some(vec![(T0, 1.0), (T0 + 1, 2.0)]));
    assert!(
        head(&rig.state).sealed[&1].exemplars.is_empty(),
        "what is durable takes no memory"
    );
    rig.apply(Command::Published {
        part: 1,
        catalogue_revision: 5,
    });
    rig.flush();
    assert_eq!(of_part(&rig, 1), None);
}

#[test]
fn a_seal_of_an_older_build_keeps_none() {
    let mut rig = Rig::new();
    rig.with_exemplars("a", &[(T0, 1.0)]);
    rig.apply(Command::Seal {
        window: TimeRange::window_of(TimestampMs(T0), WINDOW_MS),
        with_exemplars: false,
    });
    rig.flush();
    assert_eq!((of_part(&rig, 1), rig.state.counters.feature_level.0), (None, 1));
}
