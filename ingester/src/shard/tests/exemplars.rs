//! Exemplars: the ring, parts, restarts, deletes.

use super::*;

impl Rig {
    /// A sample and exemplars of one series.
    fn with_exemplars(&mut self, name: &str, exemplars: &[(i64, f64)]) {
        let mut batch = builder();
        batch.begin_rows();
        let key = batch.new_series(named(name).as_ref());
        batch.sample(key, exemplars[0].0, 1.0);
        for (at, value) in exemplars {
            let trace = Labels::from_pairs([("trace_id", format!("{name}-{value}"))]);
            batch.exemplar(key, *at, *value, trace.as_ref());
        }
        self.append(batch);
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
