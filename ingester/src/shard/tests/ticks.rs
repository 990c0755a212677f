//! Ticks of targets: markers, terms, pieces, and targets that fall silent.

use super::*;

/// The target of [`header`], which was heard of last then.
fn silent(heard_ms: i64) -> SilentTarget {
    SilentTarget {
        tenant: TenantId::anonymous(),
        target: TargetId(7),
        term: 1,
        heard_ms,
    }
}

#[test]
fn a_vanished_series_is_marked_and_comes_back() {
    let mut rig = Rig::new();
    let first = rig.tick(&header(T0), &["a", "b"]);
    assert_eq!((first.ticks_taken, first.series_added), (vec![true], 2));
    assert_eq!(rig.tick(&header(T0 + 15_000), &["a"]).series_added, 0);
    assert!(is_stale_nan(rig.values("b")[1].1));
    assert_eq!(rig.tick(&header(T0 + 30_000), &["a", "b"]).series_added, 1);
    assert_eq!(rig.values("b").len(), 3);
    // A failed scrape: a whole tick with report series only.
    rig.tick(&header(T0 + 45_000), &["up"]);
    assert!(["a", "b"].iter().all(|n| is_stale_nan(rig.values(n).last().unwrap().1)));
    // No second marker.
    rig.tick(&header(T0 + 60_000), &["up"]);
    assert_eq!(rig.values("a").last().unwrap().0, T0 + 45_000);
}

#[test]
fn older_terms_and_repeated_ticks_are_refused() {
    let mut rig = Rig::new();
    let mut next = header(T0);
    next.term = 2;
    assert_eq!(rig.tick(&next, &["a"]).ticks_taken, [true]);
    assert_eq!(rig.tick(&next, &["a", "b"]).ticks_taken, [false]);
    assert_eq!(rig.tick(&header(T0 + 15_000), &["b"]).ticks_taken, [false]);
    assert_eq!(rig.values("b"), []);
    assert_eq!(rig.values("a"), [(T0, 1.0)]);
    next.tick_ms = T0 + 15_000;
    assert_eq!(rig.tick(&next, &["a"]).ticks_taken, [true]);
}

#[test]
fn a_tick_in_pieces_is_whole_with_its_last() {
    let mut rig = Rig::new();
    rig.tick(&header(T0), &["a", "b", "c"]);
    let piece = |first, last| TickHeader {
        first,
        last,
        ..header(T0 + 15_000)
    };
    assert_eq!(rig.tick(&piece(true, false), &["a"]).ticks_taken, [true]);
    // The same piece again is harmless.
    assert_eq!(rig.tick(&piece(true, false), &["a"]).duplicates, 1);
    assert_eq!(rig.values("c").len(), 1);
    rig.tick(&piece(false, true), &["b"]);
    assert!(is_stale_nan(rig.values("c")[1].1));
    assert!(["a", "b"].iter().all(|n| rig.values(n).len() == 2));
    // Its first piece missing, or not complete: nothing is known to be gone.
    rig.tick(
        &TickHeader {
            first: false,
            ..header(T0 + 30_000)
        },
        &["a"],
    );
    rig.tick(
        &TickHeader {
            complete: false,
            ..header(T0 + 45_000)
        },
        &["a"],
    );
    assert_eq!(rig.values("b").len(), 2);
    rig.tick(&header(T0 + 60_000), &["a"]);
    assert!(is_stale_nan(rig.values("b")[2].1));
}

#[test]
fn an_unfinished_tick_leaves_its_series_live() {
    let mut rig = Rig::new();
    rig.tick(
        &TickHeader {
            last: false,
            ..header(T0)
        },
        &["a", "b"],
    );
    rig.tick(&header(T0 + 15_000), &["a"]);
    assert!(is_stale_nan(rig.values("b")[1].1));
}

#[test]
fn a_tick_with_an_unknown_reference_takes_nothing() {
    let mut rig = Rig::new();
    let mut batch = builder();
    batch.begin_tick(&header(T0));
    let key = batch.new_series(named("a").as_ref());
    batch.sample(key, T0, 1.0);
    batch.sample(SeriesKey::Known(SeriesRef(77)), T0, 1.0);
    let response = rig.append(batch);
    assert_eq!((response.ticks_taken, response.unknown_refs), (vec![false], vec![77]));
    assert_eq!(rig.values("a"), []);
    assert_eq!(rig.tick(&header(T0), &["a"]).ticks_taken, [true]);
}

#[test]
fn own_timestamps_get_no_markers_unless_asked_for() {
    for track in [false, true] {
        let mut rig = Rig::new();
        let mut first = header(T0 + 15_000);
        first.track_timestamps_staleness = track;
        let mut batch = builder();
        batch.begin_tick(&first);
        let key = batch.new_series(named("own").as_ref());
        batch.sample(key, T0 + 14_000, 1.0);
        assert_eq!(rig.append(batch).series_added, u64::from(track));
        let mut second = first.clone();
        second.tick_ms += 15_000;
        rig.tick(&second, &["a"]);
        assert_eq!(rig.values("own").len(), if track { 2 } else { 1 });
    }
}

#[test]
fn a_silent_target_expires_unless_it_came_back() {
    let mut rig = Rig::new();
    rig.tick(&header(T0), &["a"]);
    let silent = silent(rig.now_ms);
    rig.now_ms += 32_000;
    rig.tick(&header(T0 + 15_000), &["a"]);
    rig.apply(Command::ExpireTargets {
        targets: vec![silent.clone()],
    });
    assert_eq!(rig.values("a").len(), 2);
    let silent = SilentTarget {
        heard_ms: rig.now_ms,
        ..silent
    };
    rig.apply(Command::ExpireTargets { targets: vec![silent] });
    let values = rig.values("a");
    assert_eq!(values[2].0, T0 + 30_000);
    assert!(is_stale_nan(values[2].1));
    assert_eq!(rig.tick(&header(T0 + 45_000), &["a"]).series_added, 1);
}

#[test]
fn a_target_that_was_scraped_all_the_same_comes_late_with_every_tick() {
    let mut rig = Rig::new();
    rig.tick(&header(T0), &["a"]);
    let silent = silent(rig.now_ms);
    rig.now_ms += 120_000;
    rig.apply(Command::ExpireBetweenTicks { targets: vec![silent] });
    // Its scraper was cut off, and held what it scraped.
    for tick in 1..=8 {
        let taken = rig.tick(&header(T0 + tick * 15_000), &["a"]).ticks_taken;
        assert_eq!(taken, [true], "tick {tick}");
    }
    let values = rig.values("a");
    let markers: Vec<_> = values.iter().filter(|v| is_stale_nan(v.1)).map(|v| v.0).collect();
    assert_eq!(markers, [T0 + 7_500]);
    let times: Vec<_> = values.iter().filter(|v| !is_stale_nan(v.1)).map(|v| v.0).collect();
    assert_eq!(times, (0..=8).map(|tick| T0 + tick * 15_000).collect::<Vec<_>>());
}

#[test]
fn the_next_tick_is_taken_after_the_marker_of_one_that_began_late() {
    let mut rig = Rig::new();
    rig.tick(&header(T0 + 7_000), &["a"]);
    let silent = silent(rig.now_ms);
    rig.now_ms += 120_000;
    rig.apply(Command::ExpireBetweenTicks { targets: vec![silent] });
    let taken = rig.tick(&header(T0 + 15_000), &["a"]).ticks_taken;
    assert_eq!(taken, [true], "the tick on the grid");
    let times: Vec<_> = rig.values("a").iter().map(|v| (v.0, is_stale_nan(v.1))).collect();
    assert_eq!(times, [(T0 + 7_000, false), (T0 + 14_500, true), (T0 + 15_000, false)]);
}

/// Logs of earlier builds have such an entry: its effect stays what it was.
#[test]
fn an_old_entry_marks_at_the_last_tick_where_the_interval_is_not_known() {
    let target = || crate::head::Target {
        last_tick_ms: Some(T0),
        ..crate::head::Target::default()
    };
    assert_eq!(target().expire(i64::MIN, MarkerPlace::NextTick).0, T0);
    assert_eq!(target().expire(i64::MIN, MarkerPlace::BetweenTicks).0, T0 + 1);
}

#[test]
fn a_refusal_says_whether_the_tick_was_there_or_another_owns_the_target() {
    let mut rig = Rig::new();
    let newer = TickHeader {
        term: 3,
        ..header(T0 + 15_000)
    };
    let first = rig.tick(&newer, &["a"]);
    assert_eq!((first.ticks_taken, first.ticks_repeated), (vec![true], vec![false]));
    let again = rig.tick(&newer, &["a"]);
    assert_eq!((again.ticks_taken, again.ticks_repeated), (vec![false], vec![true]));
    let older = TickHeader {
        term: 2,
        ..header(T0 + 30_000)
    };
    let older = rig.tick(&older, &["a"]);
    assert_eq!((older.ticks_taken, older.ticks_repeated), (vec![false], vec![false]));
}

/// A quarter of the interval is 3.75 s.
#[test]
fn a_refusal_says_whether_the_shard_has_a_later_tick_or_this_one() {
    let mut rig = Rig::new();
    let of = |term, tick_ms| TickHeader {
        term,
        ..header(tick_ms)
    };
    rig.tick(&of(3, T0 + 30_000), &["a"]);
    for (tick, is_earlier) in [
        (of(3, T0 + 30_000), false),
        (of(3, T0 + 26_251), false),
        (of(3, T0 + 26_250), true),
        (of(2, T0), false),
        (of(4, T0), true),
        (of(4, T0 + 45_000), false),
    ] {
        let answer = rig.tick(&tick, &["a"]);
        assert_eq!(answer.tick_earlier, is_earlier, "{tick:?}");
    }
    // A target that counted as gone has no tick where its markers stand.
    let silent = silent(rig.now_ms);
    rig.apply(Command::ExpireTargets {
        targets: vec![SilentTarget { term: 4, ..silent }],
    });
    let held = rig.tick(&of(4, T0 + 50_000), &["a"]);
    assert_eq!((held.ticks_repeated, held.tick_earlier), (vec![true], false));
}

#[test]
fn the_home_remembers_other_shards_for_some_ticks() {
    let mut rig = Rig::new();
    let mut home = header(T0);
    home.home = true;
    home.other_shards = vec![ShardId(5)];
    assert_eq!(rig.tick(&home, &["a"]).target_shards[0].shards, [5]);
    home.other_shards.clear();
    for tick in 1..=3 {
        home.tick_ms = T0 + tick * 15_000;
        assert_eq!(rig.tick(&home, &["a"]).target_shards[0].shards, [5]);
    }
    home.tick_ms = T0 + 60_000;
    assert_eq!(rig.tick(&home, &["a"]).target_shards[0].shards, [0u32; 0]);
}
