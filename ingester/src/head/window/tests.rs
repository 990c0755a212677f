use super::*;

fn filled(samples: i64, value: impl Fn(i64) -> f64) -> (WindowPages, PageArena) {
    let mut arena = PageArena::default();
    let mut window = WindowPages::new(0, &Value::Float(value(0))).unwrap();
    for at in 1..samples {
        let put = window.put(at * 1000, Value::Float(value(at)), &mut arena);
        assert_eq!(put.unwrap(), Put::Taken);
    }
    (window, arena)
}

#[test]
fn pages_are_closed_by_their_length_or_their_samples() {
    let (constant, arena) = filled(480, |_| 1.0);
    assert_eq!((constant.page_count(), constant.sample_count(&arena)), (2, 480));
    let (noise, arena) = filled(480, |at| (at as f64).sin());
    assert_eq!((noise.page_count(), noise.sample_count(&arena)), (480 / 32, 480));
}

#[test]
fn pages_of_which_nothing_is_deleted_stay_as_they_are() {
    let pages = |window: &WindowPages, arena: &PageArena| window.pages(i64::MIN, i64::MAX, arena).unwrap();
    let (mut window, mut arena) = filled(490, |at| (at as f64).sin());
    let before = pages(&window, &arena);
    let mut deleted = Intervals::default();
    deleted.add(40_000, 50_000);
    deleted.add(100_000, 127_000);
    assert!(window.remove(&deleted, &mut arena).unwrap());
    let after = pages(&window, &arena);
    let kept = before.iter().filter(|page| !deleted.overlaps(page.min_ts, page.max_ts));
    assert!(kept.clone().count() == before.len() - 2 && kept.clone().all(|page| after.contains(page)));
    assert_eq!(window.sample_count(&arena), 490 - 11 - 28);
    assert!(after.windows(2).all(|w| w[0].max_ts < w[1].min_ts));
    // The page that grows goes on where the last one is that is left.
    deleted.add(470_000, i64::MAX);
    assert!(window.remove(&deleted, &mut arena).unwrap());
    assert_eq!((window.last_ms, window.sample_count(&arena)), (469_000, 470 - 11 - 28));
    assert_eq!(window.put(470_000, Value::Float(1.0), &mut arena).unwrap(), Put::Taken);
    deleted.add(i64::MIN, i64::MAX);
    assert!(!window.remove(&deleted, &mut arena).unwrap());
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
        for (window, arena) in &mut by_page {
            assert!(window.remove(&deleted, arena).unwrap());
        }
        let new = clock.monotonic() - begun;
        for (window, arena) in &mut whole {
            let mut samples = window.samples(arena).unwrap();
            samples.retain(|(t, _)| !deleted.contains(*t));
            assert!(window.replace(build(&samples).unwrap(), arena).unwrap());
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
    let late = |window: &mut WindowPages, arena: &mut PageArena| {
        for at in [1_500, 60_500, 90_500] {
            assert_eq!(window.put(at, Value::Float(at as f64), arena).unwrap(), Put::Taken);
        }
    };
    for (start_ms, end_ms) in [
        (0, 2_000),
        (60_000, 70_000),
        (60_500, 60_500),
        (91_000, 400_000),
        (0, 90_000),
    ] {
        let (mut window, mut arena) = filled(300, |at| (at as f64).sqrt());
        late(&mut window, &mut arena);
        let mut wanted = window.samples(&arena).unwrap();
        wanted.retain(|(t, _)| !(start_ms..=end_ms).contains(t));
        let mut deleted = Intervals::default();
        deleted.add(start_ms, end_ms);
        assert!(window.remove(&deleted, &mut arena).unwrap());
        let left = window.samples(&arena).unwrap();
        assert!(
            left.iter().map(|(t, _)| t).eq(wanted.iter().map(|(t, _)| t)),
            "{start_ms} {end_ms}"
        );
        assert_eq!(left.len() as u64, window.sample_count(&arena));
        let (newest_ms, value) = left.last().unwrap().clone();
        assert_eq!(window.put(newest_ms, value, &mut arena).unwrap(), Put::Duplicate);
    }
    // Late samples alone are left.
    let (mut window, mut arena) = filled(10, |at| at as f64);
    assert_eq!(window.put(1_500, Value::Float(3.0), &mut arena).unwrap(), Put::Taken);
    let mut deleted = Intervals::default();
    deleted.add(0, 1_499);
    deleted.add(1_501, 9_000);
    assert!(window.remove(&deleted, &mut arena).unwrap());
    assert_eq!(
        (window.sample_count(&arena), window.first_ms(&arena), window.last_ms),
        (1, 1_500, 1_500)
    );
}

#[test]
fn placed_pages_are_those_of_the_range() {
    for (mut window, mut arena) in [filled(300, |at| (at as f64).sqrt()), filled(300, |_| 5.0)] {
        for late in [false, true] {
            if late {
                let put = window.put(1_500, Value::Float(7.0), &mut arena);
                assert_eq!(put.unwrap(), Put::Taken);
            }
            let all = window.pages(i64::MIN, i64::MAX, &arena).unwrap();
            assert!(all.windows(2).all(|two| two[0].max_ts < two[1].min_ts));
            let samples: u32 = all.iter().map(|page| page.count).sum();
            assert_eq!(samples, 300 + u32::from(late));
            for (start_ms, end_ms) in [(0, 299_000), (40_000, 40_000), (250_000, i64::MAX), (300_000, i64::MAX)] {
                let pages = window.pages(start_ms, end_ms, &arena).unwrap();
                let expected = all.iter().filter(|page| page.overlaps(start_ms, end_ms));
                assert!(pages.iter().eq(expected), "{start_ms} {end_ms}");
                let mut one = Vec::new();
                window.place_header(start_ms, end_ms, &arena, &mut one).unwrap();
                assert_eq!(one.len(), usize::from(!pages.is_empty()));
                assert!(one.iter().all(|page| page.header.overlaps(start_ms, end_ms)));
            }
        }
    }
}

#[test]
fn what_is_rewritten_leaves_its_place_to_others() {
    let (mut window, mut arena) = filled(300, |at| (at as f64).sqrt());
    let before = window.closed.samples(&arena);
    for at in 0..LATE_SAMPLES as i64 {
        window.put(at * 1000 + 1, Value::Float(1.0), &mut arena).unwrap();
    }
    assert!(window.late().is_empty());
    let pages = window.pages(i64::MIN, i64::MAX, &arena).unwrap();
    let mut other = PageArena::default();
    window.move_to(&arena, &mut other).unwrap();
    assert!(other.used() < arena.used() && before < window.closed.samples(&other));
    assert_eq!(window.sample_count(&other), 300 + LATE_SAMPLES as u64);
    assert_eq!(window.pages(i64::MIN, i64::MAX, &other).unwrap(), pages);
}
