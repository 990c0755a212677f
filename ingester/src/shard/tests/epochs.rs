//! A shard whose time has a beginning and an end.

use super::*;
use crate::shard::entry::Bound;
use crate::shard::state::TimeBounds;
use gnomon_proto::ServiceError;

/// Where one epoch ends and the next begins.
const T: i64 = T0 + 60_000;

impl Rig {
    fn until(&mut self, at_ms: i64, revision: u64) {
        self.apply(Command::Until(Bound {
            at_ms,
            epoch: 2,
            revision,
        }));
    }

    fn from(&mut self, at_ms: i64, revision: u64) {
        self.apply(Command::From(Bound {
            at_ms,
            epoch: 0,
            revision,
        }));
    }

    fn bounds(&self) -> (i64, i64) {
        let TimeBounds { from_ms, until_ms, .. } = self.state.counters.bounds;
        (from_ms, until_ms)
    }

    fn stale_at(&self, name: &str) -> Vec<i64> {
        let samples = self.values(name).into_iter();
        samples.filter(|(_, v)| is_stale_nan(*v)).map(|(t, _)| t).collect()
    }
}

fn names(tick_ms: i64) -> TickHeader {
    TickHeader {
        names_only: true,
        home: true,
        ..header(tick_ms)
    }
}

#[test]
fn samples_beyond_the_bounds_are_another_shards() {
    let (mut old, mut new) = (Rig::new(), Rig::new());
    old.until(T, 5);
    new.from(T, 5);
    let labels = named("a");
    let rows = [(&labels, T - 1, 1.0), (&labels, T, 2.0), (&labels, T + 1, 3.0)];
    let answer = old.rows(&rows);
    assert_eq!(
        (answer.samples_taken, reasons(&answer)),
        (1, vec![(Reason::Misrouted, 2)])
    );
    let answer = new.rows(&rows);
    assert_eq!(
        (answer.samples_taken, reasons(&answer)),
        (2, vec![(Reason::Misrouted, 1)])
    );
    assert_eq!(old.values("a"), [(T - 1, 1.0)]);
    assert_eq!(new.values("a"), [(T, 2.0), (T + 1, 3.0)]);
    // A series is not made for what is not taken.
    let answer = old.rows(&[(&named("b"), T, 2.0)]);
    assert_eq!((answer.refs, old.state.series_count()), (vec![0], 1));
}

#[test]
fn a_shard_that_has_later_samples_does_not_close() {
    let mut rig = Rig::new();
    rig.rows(&[(&named("a"), T + 3, 1.0)]);
    rig.until(T, 1);
    assert_eq!(rig.bounds(), (i64::MIN, i64::MAX));
    assert_eq!(rig.state.newest_sample_ms(), T + 3);
    rig.until(T + 4, 2);
    assert_eq!(rig.bounds(), (i64::MIN, T + 4));
    // A marker counts as a sample does.
    let mut rig = Rig::new();
    rig.tick(&header(T - 15_000), &["a"]);
    rig.tick(&header(T), &[]);
    assert_eq!(rig.stale_at("a"), [T]);
    rig.until(T, 1);
    assert_eq!(rig.bounds(), (i64::MIN, i64::MAX));
}

#[test]
fn what_is_older_than_what_the_log_has_changes_nothing_and_an_end_stays() {
    let mut rig = Rig::new();
    rig.until(T + WINDOW_MS, 7);
    rig.until(T, 6);
    assert_eq!(rig.bounds(), (i64::MIN, T + WINDOW_MS));
    rig.from(T - WINDOW_MS, 7);
    rig.from(T, 6);
    assert_eq!(rig.bounds().0, T - WINDOW_MS);
    rig.rows(&[(&named("a"), T, 1.0)]);
    rig.until(i64::MIN, 8);
    rig.until(T + WINDOW_MS, 9);
    assert_eq!(rig.bounds().1, i64::MIN);
    // No other shard has it either.
    assert_eq!(reasons(&rig.rows(&[(&named("b"), T, 1.0)])), [(Reason::TooOld, 1)]);
    let answer = rig.tick(&header(T), &["b"]);
    assert_eq!(
        (answer.ticks_taken.clone(), reasons(&answer)),
        (vec![false], vec![(Reason::TooOld, 1)])
    );
}

#[test]
fn bounds_outlast_a_restart_and_only_they_change_the_stored_form() {
    let mut rig = Rig::new();
    rig.flush();
    assert_eq!(rig.store.0[&b"c"[..]][0], 1, "an older build reads it");
    rig.until(T, 5);
    rig.flush();
    assert_eq!(rig.restored().counters, rig.state.counters);
    rig.from(i64::MIN, 6);
    rig.from(T - WINDOW_MS, 7);
    rig.flush();
    let counters = rig.restored().counters;
    assert_eq!(counters, rig.state.counters);
    assert_eq!((counters.bounds.next_epoch, counters.bounds.revision), (2, 7));
}

#[test]
fn readers_with_an_old_map_are_told() {
    let mut rig = Rig::new();
    rig.until(T, 5);
    let view = |placement_epoch| gnomon_proto::v1::View {
        placement_epoch,
        ..gnomon_proto::v1::View::default()
    };
    let tenant = TenantId::anonymous();
    let check = |epoch, end_ms| rig.state.check_view(&tenant, &view(epoch), i64::MIN, end_ms);
    assert_eq!(check(1, T - 1), Ok(()));
    assert_eq!(check(1, T), Err(ServiceError::StaleMap { epoch: 2 }));
    assert_eq!(check(2, T), Ok(()));
}

#[test]
fn a_tick_that_is_another_shards_changes_nothing() {
    let mut rig = Rig::new();
    rig.tick(&header(T - 15_000), &["a"]);
    rig.until(T, 1);
    let before = dump(&rig.state);
    let answer = rig.tick(&header(T), &["b"]);
    assert_eq!(answer.ticks_taken, [false]);
    assert_eq!(reasons(&answer), [(Reason::Misrouted, 1)]);
    assert_eq!(dump(&rig.state), before);
    // Nor does one that is before the shard's time, unless it only names.
    let mut rig = Rig::new();
    rig.from(T, 1);
    rig.rows(&[(&named("c"), T, 1.0)]);
    let before = dump(&rig.state);
    assert_eq!(reasons(&rig.tick(&header(T - 1), &["b"])), [(Reason::Misrouted, 1)]);
    assert_eq!(dump(&rig.state), before);
    // One that names what is not before it has no place.
    let answer = rig.tick(&names(T), &["b"]);
    assert_eq!((answer.ticks_taken, answer.rejections.len()), (vec![false], 0));
    assert_eq!(dump(&rig.state), before);
}

#[test]
fn series_that_ended_with_the_epoch_before_are_marked_in_the_next() {
    let mut rig = Rig::new();
    rig.from(T, 1);
    let other = ShardId(9);
    let told = TickHeader {
        other_shards: vec![other],
        ..names(T - 15_000)
    };
    let answer = rig.tick(&told, &["stays", "ends"]);
    assert_eq!((answer.samples_taken, answer.series_added), (0, 0));
    assert_eq!(answer.ticks_taken, [true]);
    assert!(answer.refs.iter().all(|r| *r > 0), "the router learns them");
    assert!(rig.values("stays").is_empty());
    let first = TickHeader {
        home: true,
        ..header(T)
    };
    let answer = rig.tick(&first, &["stays", "new"]);
    assert_eq!(
        (answer.samples_taken, answer.series_added),
        (2, 1),
        "one of them is new"
    );
    assert_eq!(
        answer.target_shards[0].shards,
        [other.0],
        "shards that had series of the target"
    );
    assert_eq!(rig.stale_at("ends"), [T]);
    assert!(rig.stale_at("stays").is_empty());
    // A series that is named only is gone without a trace once nothing misses it.
    rig.seal(T0);
    rig.flush();
    let part = *head(&rig.state).sealed.keys().next().unwrap();
    rig.apply(Command::Published {
        part,
        catalogue_revision: 1,
    });
    assert!(head(&rig.state).find_labels(named("ends").as_ref()).is_none());
}

#[test]
fn names_that_come_late_or_from_who_owns_the_target_no_more_are_refused() {
    let mut rig = Rig::new();
    rig.from(T, 1);
    let by = |term, tick_ms| TickHeader { term, ..names(tick_ms) };
    assert_eq!(rig.tick(&by(2, T - 15_000), &["a"]).ticks_taken, [true]);
    assert_eq!(rig.tick(&by(1, T - 10_000), &["b"]).ticks_taken, [false]);
    assert_eq!(rig.tick(&by(2, T - 15_000), &["b"]).ticks_taken, [false]);
    let first = TickHeader { term: 2, ..header(T) };
    rig.tick(&first, &["a"]);
    assert_eq!(rig.tick(&by(2, T - 5_000), &["b"]).ticks_taken, [false]);
    let paused = TickHeader {
        term: 1,
        ..header(T + 15_000)
    };
    assert_eq!(
        rig.tick(&paused, &[]).ticks_taken,
        [false],
        "the term came with the names"
    );
}

fn silent(heard_ms: i64) -> Command {
    Command::ExpireTargets {
        targets: vec![SilentTarget {
            tenant: TenantId::anonymous(),
            target: TargetId(7),
            term: 1,
            heard_ms,
        }],
    }
}

/// The last tick is in the shard before, the marker is due in the next: it is there once.
#[test]
fn a_target_that_ends_with_an_epoch_is_marked_once() {
    let last = T - 5_000;
    let (mut old, mut new) = (Rig::new(), Rig::new());
    for rig in [&mut old, &mut new] {
        rig.now_ms = last;
    }
    old.tick(&header(last), &["a"]);
    old.until(T, 1);
    new.from(T, 1);
    new.tick(&names(last), &["a"]);
    for rig in [&mut old, &mut new] {
        rig.now_ms = last + 40_000;
        rig.apply(silent(last));
    }
    assert!(old.stale_at("a").is_empty());
    assert_eq!(new.stale_at("a"), [last + 15_000]);
}

#[test]
fn a_closed_shard_marks_only_what_was_silent_before_its_end() {
    let run = |last: i64| {
        let mut rig = Rig::new();
        rig.now_ms = last;
        rig.tick(&header(last), &["a"]);
        rig.until(T, 1);
        rig.now_ms = T + 700_000;
        rig.apply(silent(last));
        assert!(
            head(&rig.state).targets[&TargetId(7)].is_idle(),
            "it lets go of the target"
        );
        rig.stale_at("a")
    };
    let patience = 2 * 15_000 + 1_500;
    assert_eq!(run(T - patience - 1), [T - patience - 1 + 15_000]);
    // One tick was missed, and the next is in the next epoch.
    assert_eq!(run(T - patience), [] as [i64; 0]);
    assert_eq!(run(T - 20_000), [] as [i64; 0]);
}

#[test]
fn a_shard_takes_everything_again_once_the_epoch_after_it_is_called_off() {
    let mut rig = Rig::new();
    rig.until(T, 5);
    assert_eq!(reasons(&rig.rows(&[(&named("a"), T, 1.0)])), [(Reason::Misrouted, 1)]);
    rig.apply(Command::Until(Bound {
        at_ms: i64::MAX,
        epoch: 0,
        revision: 6,
    }));
    // One that was on its way as the epoch was called off.
    rig.until(T, 5);
    assert_eq!(rig.bounds(), (i64::MIN, i64::MAX));
    assert_eq!(rig.rows(&[(&named("a"), T, 1.0)]).samples_taken, 1);
    let view = gnomon_proto::v1::View {
        placement_epoch: 1,
        ..gnomon_proto::v1::View::default()
    };
    let checked = rig.state.check_view(&TenantId::anonymous(), &view, i64::MIN, T);
    assert_eq!(checked, Ok(()), "who never heard of it reads everything here");
}
