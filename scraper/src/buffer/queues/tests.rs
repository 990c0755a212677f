use super::super::segment::EMPTY_BYTES;
use super::*;

fn held(tick_ms: i64, bytes: usize) -> Held {
    Held {
        seq: 0,
        term: 1,
        tick_ms,
        samples: 10,
        sole: false,
        place: Place::Memory(Bytes::from(vec![0; bytes])),
    }
}

fn name() -> Name {
    Arc::from(&[][..])
}

fn queues(memory_bytes: u64, disk_bytes: u64) -> Queues {
    Queues::new(
        Limits {
            memory_bytes,
            disk_bytes,
        },
        1 << 40,
    )
}

fn add(queues: &mut Queues, target: u64, tick_ms: i64, bytes: usize) -> Vec<Shed> {
    queues.add(TargetId(target), &name(), Some(0), held(tick_ms, bytes))
}

/// Times of what is sent, one after the other, all of it taken.
fn drain(queues: &mut Queues) -> Vec<(u64, i64)> {
    let mut sent = Vec::new();
    while let Some(work) = queues.next(true) {
        queues.sent(&work, Sent::Done);
        sent.push((work.target.0, work.held.tick_ms));
    }
    sent
}

/// As the tasks do it: the oldest into a segment of its own.
fn spill(queues: &mut Queues, segment: u64, most_bytes: u64) -> Vec<Shed> {
    let oldest = queues.oldest_in_memory(most_bytes, |_| true);
    let bytes: u64 = oldest.iter().map(|work| work.held.memory()).sum();
    let shed = queues.make_disk_room(bytes);
    put(queues, segment, &oldest);
    shed
}

fn put(queues: &mut Queues, segment: u64, works: &[Work]) {
    let mut offset = EMPTY_BYTES;
    let mut spots = Vec::new();
    for work in works {
        let bytes = (work.held.memory() + work.held.disk()) as u32;
        spots.push(Written {
            target: work.target,
            seq: work.held.seq,
            sole: work.held.sole,
            spot: Spot { segment, offset, bytes },
        });
        offset += u64::from(bytes);
    }
    queues.moved(segment, offset, &spots);
}

#[test]
fn targets_take_turns_and_each_goes_oldest_first() {
    let mut queues = queues(1 << 20, 0);
    for tick in 0..3 {
        add(&mut queues, 1, tick, 10);
        add(&mut queues, 2, 10 + tick, 10);
    }
    assert!(queues.holds(TargetId(1)));
    assert_eq!(drain(&mut queues), [(1, 0), (2, 10), (1, 1), (2, 11), (1, 2), (2, 12)]);
    assert!(!queues.holds(TargetId(1)));
    assert_eq!(queues.totals(), Totals::default());
}

#[test]
fn one_scrape_of_a_target_is_under_way_at_a_time_and_a_failed_one_stays_first() {
    let mut queues = queues(1 << 20, 0);
    add(&mut queues, 1, 0, 10);
    add(&mut queues, 1, 1, 10);
    let first = queues.next(true).unwrap();
    assert!(queues.next(true).is_none(), "the second waits for the first");
    assert!(queues.holds(TargetId(1)));
    queues.sent(&first, Sent::Later);
    assert!(queues.next(false).is_none(), "who is sure is asked in the other line");
    let again = queues.next(true).unwrap();
    assert_eq!(again.held.tick_ms, 0);
    queues.sent(&again, Sent::Done);
    assert_eq!(queues.next(false).map(|work| work.held.tick_ms), Some(1));
}

#[test]
fn a_big_target_does_not_push_small_ones_out() {
    let mut queues = queues(20_000, 0);
    for small in 10..20 {
        assert_eq!(add(&mut queues, small, 0, 10), []);
    }
    let mut shed = 0;
    for tick in 0..100 {
        for one in add(&mut queues, 1, tick, 2_000) {
            assert_eq!(one.target, TargetId(1), "the big one pays for itself");
            shed += one.samples;
        }
        assert!(queues.memory_used() <= 20_000);
    }
    let of = queues.of(TargetId(1));
    assert_eq!((of.ticks + shed / 10, of.shed_samples), (100, shed));
    assert_eq!(of.oldest_ms, 100 - of.ticks as i64, "its oldest go first");
    assert!((10..20).all(|small| queues.of(TargetId(small)).ticks == 1));
}

#[test]
fn what_is_larger_than_the_budget_is_shed_at_once_and_counted() {
    let mut none = queues(0, 0);
    let shed = add(&mut none, 1, 5, 100);
    assert_eq!((shed.len(), shed[0].samples, shed[0].ticks), (1, 10, 1));
    assert_eq!(none.of(TargetId(1)).shed_samples, 10);
    assert_eq!(none.totals(), Totals::default());
    assert!(none.next(true).is_none());
}

#[test]
fn what_is_being_sent_is_not_shed() {
    let mut queues = queues(2_500, 0);
    add(&mut queues, 1, 0, 1_000);
    let work = queues.next(true).unwrap();
    add(&mut queues, 1, 1, 1_000);
    let shed = add(&mut queues, 1, 2, 1_000);
    assert_eq!(shed.iter().map(|s| s.ticks).sum::<u64>(), 1);
    assert_eq!(queues.of(TargetId(1)).oldest_ms, 0);
    queues.sent(&work, Sent::Done);
    assert_eq!(drain(&mut queues), [(1, 2)]);
}

#[test]
fn memory_goes_to_disk_in_order_and_comes_back_in_order() {
    let mut queues = queues(20_000, 1 << 20);
    let mut segment = 0;
    for tick in 0..40 {
        assert_eq!(add(&mut queues, 1 + tick as u64 % 2, tick, 500), []);
        while queues.wants_to_spill() {
            segment += 1;
            assert_eq!(spill(&mut queues, segment, 2_000), []);
        }
    }
    assert!(segment > 3);
    assert!(queues.memory_used() <= 20_000);
    let sent = drain(&mut queues);
    for target in [1, 2] {
        let times: Vec<_> = sent.iter().filter(|s| s.0 == target).map(|s| s.1).collect();
        assert_eq!(times.len(), 20);
        assert!(times.is_sorted(), "{times:?}");
    }
    assert_eq!(
        queues.take_dead().len() as u64,
        segment,
        "all files go once all is sent"
    );
    assert_eq!(queues.totals(), Totals::default());
}

#[test]
fn the_disk_is_a_budget_too_and_the_big_target_pays() {
    let mut queues = queues(200_000, 40_000);
    add(&mut queues, 9, 0, 100);
    let mut shed = Vec::new();
    let mut segment = 0;
    for tick in 0..100 {
        shed.extend(add(&mut queues, 1, tick, 2_000));
        segment += 1;
        shed.extend(spill(&mut queues, segment, 1));
        loop {
            let works = queues.to_rewrite(2_200);
            if works.is_empty() {
                break;
            }
            segment += 1;
            put(&mut queues, segment, &works);
            queues.take_dead();
        }
        queues.take_dead();
        assert!(queues.files <= 40_000 + 2_200, "{} bytes of files", queues.files);
    }
    assert!(shed.iter().all(|s| s.target == TargetId(1)));
    let gone: u64 = shed.iter().map(|s| s.ticks).sum();
    assert_eq!(gone + queues.of(TargetId(1)).ticks, 100);
    assert!(gone > 50);
    assert_eq!(queues.of(TargetId(9)).ticks, 1);
}

#[test]
fn what_an_earlier_process_held_goes_before_what_came_since() {
    let mut queues = queues(1 << 20, 1 << 20);
    add(&mut queues, 1, 100, 10);
    let spot = |offset| Spot {
        segment: 3,
        offset,
        bytes: 50,
    };
    let old = |seq, tick_ms| Held {
        seq,
        place: Place::Disk(spot(seq * 50)),
        ..held(tick_ms, 0)
    };
    let found = vec![
        (TargetId(1), name(), old(1, 90)),
        (TargetId(2), name(), old(2, 91)),
        (TargetId(1), name(), old(3, 95)),
    ];
    let newest = 1 << 41;
    assert_eq!(queues.adopt(&[(3, 200), (4, 8)], newest, found), []);
    assert!(queues.next_segment() > newest, "files that cannot be read have theirs");
    assert_eq!(queues.take_dead(), [4], "nothing is in it");
    assert_eq!(queues.totals().ticks, 4);
    let sent = drain(&mut queues);
    let of_one: Vec<_> = sent.iter().filter(|s| s.0 == 1).map(|s| s.1).collect();
    assert_eq!(of_one, [90, 95, 100]);
    assert_eq!(queues.take_dead(), [3]);
}

#[test]
fn one_that_is_never_taken_counts_as_shed_and_the_next_follows() {
    let mut queues = queues(1 << 20, 0);
    add(&mut queues, 1, 0, 10);
    add(&mut queues, 1, 1, 10);
    let work = queues.next(true).unwrap();
    queues.sent(&work, Sent::Never);
    assert_eq!(queues.of(TargetId(1)).shed_samples, 10);
    assert_eq!(drain(&mut queues), [(1, 1)]);
}

/// Brings all in memory to disk, so many bytes at a time; the number of the last segment.
fn spill_all(queues: &mut Queues, mut segment: u64, most_bytes: u64) -> u64 {
    while queues.has_memory() {
        segment += 1;
        assert_eq!(spill(queues, segment, most_bytes), []);
    }
    segment
}

#[test]
fn places_of_what_is_on_disk_do_not_make_each_scrape_a_file() {
    let mut queues = queues(100_000, 1 << 24);
    for tick in 0..390 {
        add(&mut queues, 1, tick, 10);
    }
    let mut segment = spill_all(&mut queues, 0, 4_000);
    assert!(queues.on_disk() * PLACE_BYTES > 49_000, "half of the memory");
    let before = segment;
    for tick in 390..890 {
        assert_eq!(add(&mut queues, 1, tick, 308), []);
        while queues.wants_to_spill() {
            segment += 1;
            spill(&mut queues, segment, 4_000);
        }
    }
    assert!((30..=60).contains(&(segment - before)), "{} segments", segment - before);
}

#[test]
fn many_small_segments_become_few_and_nothing_of_them_is_lost() {
    let mut queues = queues(1 << 20, 1 << 24);
    for tick in 0..1_100 {
        add(&mut queues, 1 + tick as u64 % 2, tick, 10);
    }
    let mut segment = spill_all(&mut queues, 0, 1);
    assert_eq!(queues.segments.len(), 1_100);
    let mut joins = 0;
    loop {
        let works = queues.to_join();
        if works.is_empty() {
            break;
        }
        joins += 1;
        segment += 1;
        put(&mut queues, segment, &works);
        queues.take_dead();
    }
    assert_eq!((joins, queues.segments.len()), (1, 1));
    let sent = drain(&mut queues);
    for target in [1, 2] {
        let times: Vec<_> = sent.iter().filter(|s| s.0 == target).map(|s| s.1).collect();
        assert!(times.len() == 550 && times.is_sorted());
    }
}

#[test]
fn a_segment_that_is_whole_is_not_written_again_whatever_room_is_wanted() {
    let mut queues = queues(1 << 20, 40_000);
    for tick in 0..10 {
        add(&mut queues, 1, tick, 2_000);
    }
    spill_all(&mut queues, 0, 1 << 20);
    assert!(queues.to_rewrite(1 << 20).is_empty(), "what is no record is not dead");
    let sent = |queues: &mut Queues| {
        let work = queues.next(true).unwrap();
        queues.sent(&work, Sent::Done);
    };
    sent(&mut queues);
    sent(&mut queues);
    assert!(queues.to_rewrite(1 << 20).is_empty(), "a fifth is");
    sent(&mut queues);
    let works = queues.to_rewrite(1 << 20);
    assert_eq!(works.len(), 7);
    put(&mut queues, 100, &works);
    assert_eq!(queues.take_dead(), [1]);
    assert!(queues.to_rewrite(1 << 20).is_empty());
}

#[test]
fn what_is_known_when_it_is_written_is_known_afterwards() {
    let mut queues = queues(1 << 20, 1 << 20);
    add(&mut queues, 1, 5, 10);
    let mut works = queues.oldest_in_memory(1 << 20, |_| true);
    works[0].held.sole = true;
    put(&mut queues, 1, &works);
    assert!(queues.next(true).unwrap().held.sole);
}

#[test]
fn what_is_not_wanted_keeps_nothing_behind_it_from_disk() {
    let mut queues = queues(1 << 20, 1 << 20);
    for tick in 0..6 {
        add(&mut queues, 1, tick, 1_000);
    }
    let wanted = queues.oldest_in_memory(2_400, |held| held.tick_ms >= 3);
    let times: Vec<_> = wanted.iter().map(|work| work.held.tick_ms).collect();
    assert_eq!(times, [3, 4], "the oldest of them, as many as fit");
}

#[test]
fn what_a_newer_build_wrote_is_passed_over_and_its_file_stays() {
    let mut queues = queues(1 << 20, 1 << 20);
    add(&mut queues, 1, 5, 10);
    add(&mut queues, 1, 6, 10);
    spill_all(&mut queues, 0, 1 << 20);
    let live_share = queues.live_share();
    let work = queues.next(true).unwrap();
    queues.sent(&work, Sent::Aside);
    assert_eq!(drain(&mut queues), [(1, 6)]);
    assert_eq!(queues.take_dead(), [0; 0]);
    assert!(queues.totals().disk_bytes > 0 && queues.live_share() < live_share);
    assert_eq!(queues.of(TargetId(1)).shed_samples, 0);
}

#[test]
fn one_that_belongs_into_another_line_is_sent_from_there() {
    let mut queues = queues(1 << 20, 0);
    add(&mut queues, 1, 0, 10);
    add(&mut queues, 2, 0, 10);
    let work = queues.next(true).unwrap();
    queues.sent(&work, Sent::Moves(Some(7)));
    let both = [queues.next(true).unwrap(), queues.next(true).unwrap()];
    let mut of: Vec<_> = both.iter().map(|work| (work.target.0, work.pass.home)).collect();
    of.sort_unstable();
    assert_eq!(of, [(1, Some(7)), (2, Some(0))]);
}
