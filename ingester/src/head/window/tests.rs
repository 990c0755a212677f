use super::*;
use gnomon_model::STALE_NAN;
use gnomon_model::histogram::FloatHistogram;
use gnomon_tsdb::FloatPageBuilder;

fn filled(samples: i64, value: impl Fn(i64) -> f64) -> (WindowPages, Room) {
    let mut room = Room::default();
    let mut window = WindowPages::new(0, &Value::Float(value(0)).into(), &mut room).unwrap();
    for at in 1..samples {
        let put = window.put(at * 1000, Value::Float(value(at)).into(), &mut room);
        assert_eq!(put.unwrap(), Put::Taken);
    }
    (window, room)
}

#[test]
fn pages_are_closed_by_their_length_or_their_samples() {
    let (constant, room) = filled(480, |_| 1.0);
    assert_eq!((constant.page_count(&room), constant.sample_count(&room)), (2, 480));
    let (noise, room) = filled(480, |at| (at as f64).sin());
    assert_eq!((noise.page_count(&room), noise.sample_count(&room)), (480 / 32, 480));
}

#[test]
fn pages_of_which_nothing_is_deleted_stay_as_they_are() {
    let pages = |window: &WindowPages, room: &Room| window.pages(i64::MIN, i64::MAX, room).unwrap();
    let (mut window, mut room) = filled(490, |at| (at as f64).sin());
    let before = pages(&window, &room);
    let mut deleted = Intervals::default();
    deleted.add(40_000, 50_000);
    deleted.add(100_000, 127_000);
    assert!(window.remove(&deleted, &mut room).unwrap());
    let after = pages(&window, &room);
    let kept = before.iter().filter(|page| !deleted.overlaps(page.min_ts, page.max_ts));
    assert!(kept.clone().count() == before.len() - 2 && kept.clone().all(|page| after.contains(page)));
    assert_eq!(window.sample_count(&room), 490 - 11 - 28);
    assert!(after.windows(2).all(|w| w[0].max_ts < w[1].min_ts));
    // The page that grows goes on where the last one is that is left.
    deleted.add(470_000, i64::MAX);
    assert!(window.remove(&deleted, &mut room).unwrap());
    assert_eq!((window.last_ms, window.sample_count(&room)), (469_000, 470 - 11 - 28));
    assert_eq!(
        window.put(470_000, Value::Float(1.0).into(), &mut room).unwrap(),
        Put::Taken
    );
    deleted.add(i64::MIN, i64::MAX);
    assert!(!window.remove(&deleted, &mut room).unwrap());
}

/// What a delete of five minutes of two hours costs, beside rewriting all pages.
#[test]
#[ignore = "measures"]
fn measures_a_delete_over_a_part_of_a_window() {
    use gnomon_model::{Clock, SystemClock};
    const WINDOWS: i64 = 5_000;
    let clock = SystemClock::new();
    let mut deleted = Intervals::default();
    deleted.add(100_000, 120_000);
    for (what, value) in [("noise", f64::sin as fn(f64) -> f64), ("counters", f64::floor)] {
        let fill = || {
            (0..WINDOWS)
                .map(|n| filled(480, |at| value((at + n) as f64)))
                .collect::<Vec<_>>()
        };
        let (mut by_page, mut whole) = (fill(), fill());
        let begun = clock.monotonic();
        for (window, room) in &mut by_page {
            assert!(window.remove(&deleted, room).unwrap());
        }
        let new = clock.monotonic() - begun;
        for (window, room) in &mut whole {
            let mut samples = window.samples(room).unwrap();
            samples.retain(|(t, _)| !deleted.contains(*t));
            assert!(window.replace(build(&samples).unwrap(), room).unwrap());
        }
        let old = clock.monotonic() - begun - new;
        let of_200k = |took: std::time::Duration| took.as_secs_f64() * 200_000.0 / WINDOWS as f64;
        println!(
            "{what}: 200k series in {:.2} s, all pages {:.2} s",
            of_200k(new),
            of_200k(old)
        );
    }
}

#[test]
fn late_samples_are_deleted_and_kept_beside_pages() {
    let late = |window: &mut WindowPages, room: &mut Room| {
        for at in [1_500, 60_500, 90_500] {
            assert_eq!(
                window.put(at, Value::Float(at as f64).into(), room).unwrap(),
                Put::Taken
            );
        }
    };
    for (start_ms, end_ms) in [
        (0, 2_000),
        (60_000, 70_000),
        (60_500, 60_500),
        (91_000, 400_000),
        (0, 90_000),
    ] {
        let (mut window, mut room) = filled(300, |at| (at as f64).sqrt());
        late(&mut window, &mut room);
        let mut wanted = window.samples(&room).unwrap();
        wanted.retain(|(t, _)| !(start_ms..=end_ms).contains(t));
        let mut deleted = Intervals::default();
        deleted.add(start_ms, end_ms);
        assert!(window.remove(&deleted, &mut room).unwrap());
        let left = window.samples(&room).unwrap();
        assert!(
            left.iter().map(|(t, _)| t).eq(wanted.iter().map(|(t, _)| t)),
            "{start_ms} {end_ms}"
        );
        assert_eq!(left.len() as u64, window.sample_count(&room));
        let (newest_ms, value) = left.last().unwrap().clone();
        assert_eq!(window.put(newest_ms, value, &mut room).unwrap(), Put::Duplicate);
    }
    // Late samples alone are left.
    let (mut window, mut room) = filled(10, |at| at as f64);
    assert_eq!(
        window.put(1_500, Value::Float(3.0).into(), &mut room).unwrap(),
        Put::Taken
    );
    let mut deleted = Intervals::default();
    deleted.add(0, 1_499);
    deleted.add(1_501, 9_000);
    assert!(window.remove(&deleted, &mut room).unwrap());
    assert_eq!(
        (window.sample_count(&room), window.first_ms(&room), window.last_ms),
        (1, 1_500, 1_500)
    );
}

#[test]
fn placed_pages_are_those_of_the_range() {
    for (mut window, mut room) in [filled(300, |at| (at as f64).sqrt()), filled(300, |_| 5.0)] {
        for late in [false, true] {
            if late {
                let put = window.put(1_500, Value::Float(7.0).into(), &mut room);
                assert_eq!(put.unwrap(), Put::Taken);
            }
            let all = window.pages(i64::MIN, i64::MAX, &room).unwrap();
            assert!(all.windows(2).all(|two| two[0].max_ts < two[1].min_ts));
            let samples: u32 = all.iter().map(|page| page.count).sum();
            assert_eq!(samples, 300 + u32::from(late));
            for (start_ms, end_ms) in [(0, 299_000), (40_000, 40_000), (250_000, i64::MAX), (300_000, i64::MAX)] {
                let pages = window.pages(start_ms, end_ms, &room).unwrap();
                let expected = all.iter().filter(|page| page.overlaps(start_ms, end_ms));
                assert!(pages.iter().eq(expected), "{start_ms} {end_ms}");
                let mut one = Vec::new();
                window.place_header(start_ms, end_ms, &room, &mut one).unwrap();
                assert_eq!(one.len(), usize::from(!pages.is_empty()));
                assert!(one.iter().all(|page| page.header.overlaps(start_ms, end_ms)));
            }
        }
    }
}

#[test]
fn what_is_rewritten_leaves_its_place_to_others() {
    let (mut window, mut room) = filled(300, |at| (at as f64).sqrt());
    let before = window.closed.samples(&room.closed);
    for at in 0..LATE_SAMPLES as i64 {
        window.put(at * 1000 + 1, Value::Float(1.0).into(), &mut room).unwrap();
    }
    assert!(window.late().is_empty());
    let pages = window.pages(i64::MIN, i64::MAX, &room).unwrap();
    let mut other = PageArena::default();
    window.move_to(&room.closed, &mut other).unwrap();
    assert!(other.used() < room.closed.used() && before < window.closed.samples(&other));
    room.closed = other;
    assert_eq!(window.sample_count(&room), 300 + LATE_SAMPLES as u64);
    assert_eq!(window.pages(i64::MIN, i64::MAX, &room).unwrap(), pages);
}

#[test]
fn a_page_that_was_put_by_grows_again() {
    let (mut window, mut room) = filled(100, |at| at as f64 / 3.0);
    let samples = |window: &WindowPages, room: &Room| {
        let samples = window.samples(room).unwrap().into_iter();
        let floats = samples.map(|(t, sample)| match sample.value {
            Value::Float(value) => (t, value.to_bits()),
            Value::Histogram(_) => panic!("a histogram at {t}"),
        });
        floats.collect::<Vec<_>>()
    };
    let before = samples(&window, &room);
    let pages = window.page_count(&room);
    for _ in 0..2 {
        window.put_by(&mut room).unwrap();
        assert_eq!(room.growing.memory_bytes(), [0, 0]);
        assert_eq!((window.page_count(&room), window.sample_count(&room)), (pages, 100));
        assert_eq!((window.first_ms(&room), window.last_ms), (0, 99_000));
        assert_eq!(samples(&window, &room), before);
    }
    let mut put = |t, value| window.put(t, Value::Float(value).into(), &mut room).unwrap();
    assert_eq!(put(99_000, 33.0), Put::Duplicate);
    assert_eq!(put(98_000, 33.0), Put::Conflict);
    assert_eq!(put(98_500, 7.0), Put::Taken);
    assert_eq!(put(100_000, 8.0), Put::Taken);
    assert!(matches!(window.newest, NewestPage::Grows(_)));
    let mut expected = before;
    expected.insert(99, (98_500, 7.0f64.to_bits()));
    expected.push((100_000, 8.0f64.to_bits()));
    assert_eq!(samples(&window, &room), expected);
    // What is deleted of it, too.
    window.put_by(&mut room).unwrap();
    let mut deleted = Intervals::default();
    deleted.add(97_000, i64::MAX);
    assert!(window.remove(&deleted, &mut room).unwrap());
    expected.truncate(97);
    assert_eq!(samples(&window, &room), expected);
}

#[test]
fn a_page_that_was_put_by_is_flushed_as_the_newest() {
    for last in [1.5, STALE_NAN] {
        let (mut window, mut room) = filled(100, |at| (at as f64).sin());
        let (mut closed, mut tail): (Vec<Page>, Vec<Page>) = (Vec::new(), Vec::new());
        let mut flush = |window: &mut WindowPages, room: &Room| {
            let unflushed = window.unflushed(room).unwrap();
            assert_eq!(unflushed.first_number, closed.len());
            closed.extend(unflushed.closed.into_iter().map(ClosedPage::to_page));
            tail = unflushed.tail;
            window.set_flushed();
            (closed.len(), tail[0].count)
        };
        assert_eq!(flush(&mut window, &room), (3, 4));
        window.put(100_000, Value::Float(last).into(), &mut room).unwrap();
        window.put_by(&mut room).unwrap();
        assert_eq!(flush(&mut window, &room), (3, 5));
        let (written, newest) = (closed.clone(), tail.clone());
        let mut other = Room::default();
        let closed = ClosedPages::of(&written, &mut other.closed).unwrap();
        let mut restored = WindowPages::restore(closed, &newest, &mut other).unwrap();
        let all = |window: &WindowPages, room: &Room| window.pages(i64::MIN, i64::MAX, room).unwrap();
        assert_eq!(all(&restored, &other), all(&window, &room));
        assert_eq!(window.ends_stale(&room), Some(last.is_nan()));
        assert_eq!(restored.ends_stale(&other), Some(last.is_nan()));
        // Both go on in the same way.
        for (window, room) in [(&mut window, &mut room), (&mut restored, &mut other)] {
            for at in 101..140 {
                window
                    .put(at * 1000, Value::Float((at as f64).sin()).into(), room)
                    .unwrap();
            }
            let unflushed = window.unflushed(room).unwrap();
            assert_eq!((unflushed.first_number, unflushed.closed.len()), (3, 1));
            assert_eq!(window.sample_count(room), 140);
        }
    }
}

/// Times and starts of all samples.
fn starts(window: &WindowPages, room: &Room) -> Vec<(i64, i64)> {
    let samples = window.samples(room).unwrap().into_iter();
    samples.map(|(t, sample)| (t, sample.start_ms)).collect()
}

#[test]
fn samples_keep_their_starts_whatever_becomes_of_their_pages() {
    let start_of = |at: i64| match at {
        ..100 => 0,
        100..400 => -5_000,
        _ => 400_000,
    };
    let started = |at: i64, value: f64| Sample {
        value: Value::Float(value),
        start_ms: start_of(at),
    };
    let mut room = Room::default();
    let mut window = WindowPages::new(0, &started(0, 0.0), &mut room).unwrap();
    let mut expected = vec![(0, 0)];
    for at in (1..700).filter(|at| at % 10 != 5) {
        // Pages that grow, that are closed, that were put by and grow again.
        if at % 90 == 0 {
            window.put_by(&mut room).unwrap();
        }
        let put = window.put(at * 1000, started(at, (at as f64).sin()), &mut room);
        assert_eq!(put.unwrap(), Put::Taken);
        expected.push((at * 1000, start_of(at)));
    }
    assert_eq!(starts(&window, &room), expected);
    // Late ones, which are worked in after a while.
    for at in (1..700).filter(|at| at % 10 == 5) {
        let put = window.put(at * 1000, started(at, 7.0), &mut room);
        assert_eq!(put.unwrap(), Put::Taken);
        expected.push((at * 1000, start_of(at)));
    }
    expected.sort_unstable();
    assert_eq!(starts(&window, &room), expected);
    // The same sample with another start is the same sample.
    let again = Sample {
        value: Value::Float(7.0),
        start_ms: 1,
    };
    assert_eq!(window.put(405_000, again, &mut room).unwrap(), Put::Duplicate);
    // What is stored.
    let unflushed = window.unflushed(&room).unwrap();
    let closed: Vec<Page> = unflushed.closed.iter().map(|page| page.to_page()).collect();
    let mut other = Room::default();
    let closed = ClosedPages::of(&closed, &mut other.closed).unwrap();
    let restored = WindowPages::restore(closed, &unflushed.tail, &mut other).unwrap();
    assert_eq!(starts(&restored, &other), expected);
    // What is sealed, and read.
    let pages = window.pages(i64::MIN, i64::MAX, &room).unwrap();
    let sealed = pages
        .iter()
        .flat_map(|page| page.starts().unwrap().iter(page.count).collect::<Vec<_>>());
    assert!(sealed.eq(expected.iter().map(|(_, start)| *start)));
    let mut deleted = Intervals::default();
    deleted.add(95_000, 399_000);
    assert!(window.remove(&deleted, &mut room).unwrap());
    expected.retain(|(t, _)| !deleted.contains(*t));
    assert_eq!(starts(&window, &room), expected);
}

#[test]
fn histograms_keep_their_starts_and_a_page_without_any_takes_no_room_for_them() {
    let histogram = |count: f64, start_ms: i64| Sample {
        value: Value::Histogram(Box::new(Decoded {
            histogram: FloatHistogram {
                count,
                ..FloatHistogram::default()
            },
            is_integer: true,
        })),
        start_ms,
    };
    let mut room = Room::default();
    let mut window = WindowPages::new(0, &histogram(0.0, 0), &mut room).unwrap();
    for at in 1..10 {
        window.put(at, histogram(at as f64, at / 5 * 5), &mut room).unwrap();
    }
    assert!(window.ends_with_histogram(&room));
    let expected: Vec<_> = (0..10).map(|at| (at, at / 5 * 5)).collect();
    assert_eq!(starts(&window, &room), expected);
    window.put_by(&mut room).unwrap();
    assert_eq!(starts(&window, &room), expected);
    assert_eq!(size_of::<GrowingPage>(), size_of::<FloatPageBuilder>());
}
