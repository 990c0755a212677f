//! Where the memory of a head is, for tests and measurements.

use super::{Bounds, Head, Outcome, Value, WINDOW_MS, window_of};
use crate::shard::entry::Limits;
use gnomon_model::{LabelsBuilder, STALE_NAN, SeriesRef};

/// What an allocator adds to a piece, roughly.
const PIECE_COSTS: usize = 8;

impl Head {
    /// Memory by what it is for, in bytes.
    pub(crate) fn memory(&self) -> Vec<(&'static str, usize)> {
        let labels = self.slots.iter().flatten();
        let labels: usize = labels.map(|series| size_of_val(&*series.labels) + PIECE_COSTS).sum();
        let [texts, postings] = self.index.memory_bytes();
        let mut parts = vec![
            (
                "series",
                self.slots.capacity() * size_of_val(&self.slots[..]) / self.slots.len().max(1),
            ),
            ("label numbers of series", labels),
            ("references", self.by_ref.memory_bytes()),
            ("look-up by labels", self.by_labels.allocation_size()),
            ("order", self.order.lock().memory_bytes()),
            ("texts of labels", texts),
            ("postings", postings),
            (
                "what changed",
                self.changes
                    .pages
                    .values()
                    .map(|set| set.serialized_size())
                    .sum::<usize>(),
            ),
        ];
        for window in self.windows.values() {
            let [places, states] = window.memory_bytes();
            let [growing, samples] = window.room.growing.memory_bytes();
            parts.push(("window: places", places));
            parts.push(("window: state of series", states));
            parts.push(("window: pages that grow", growing));
            parts.push(("window: samples of pages that grow", samples));
            parts.push(("window: closed pages", window.room.closed.memory_bytes()));
        }
        parts
    }
}

fn bounds(proposed_at_ms: i64) -> Bounds {
    Bounds {
        limits: Limits::default(),
        proposed_at_ms,
        newest_ms: i64::MIN,
        from_ms: i64::MIN,
        until_ms: i64::MAX,
    }
}

/// Pods are rolled out anew in every window. Series that ended take hardly anything, and are gone with their samples.
#[test]
fn series_that_are_gone_leave_nothing_behind() {
    const SERIES: u64 = 2_000;
    let mut head = Head::new();
    let mut after = Vec::new();
    for generation in 0..10_u64 {
        let window = window_of(1_700_000_000_000 + generation as i64 * WINDOW_MS);
        let bounds = bounds(window.end.0);
        for i in 0..SERIES {
            let mut labels = LabelsBuilder::default();
            labels.set("__name__", &format!("metric_{}_total", i % 50));
            labels.set("pod", &format!("app-{generation}-{}", i / 50));
            let reference = SeriesRef(generation * SERIES + i + 1);
            let ordinal = head.add_series(reference, labels.build().as_ref());
            let values = (0..100).map(|at| f64::from(at).sin()).chain([STALE_NAN]);
            for (at, value) in (0_i64..).zip(values) {
                let at_ms = window.start.0 + at * 15_000;
                let put = head.put(ordinal, at_ms, Value::Float(value), &bounds);
                assert_eq!(put, Ok(Outcome::Taken));
            }
        }
        let room = &head.windows[&window.start.0].room;
        assert_eq!(
            room.growing.memory_bytes(),
            [0, 0],
            "pages of series that ended are closed"
        );
        if generation > 0 {
            let before = window_of(window.start.0 - 1);
            assert!(head.seal(before, generation, 0).unwrap());
            head.set_flushed();
            head.release_sealed_pages();
            head.drop_part(generation);
            head.remove_unused(i64::MAX);
            head.set_flushed();
        }
        assert_eq!(head.series_count(), SERIES);
        after.push(head.memory().iter().map(|(_, bytes)| bytes).sum::<usize>());
    }
    assert!(
        after[9] < after[2] + after[2] / 10,
        "bytes after each generation: {after:?}"
    );
}

/// Two windows are open for half an hour of every two: what grows, grows in one of them.
#[test]
fn a_series_that_goes_on_grows_in_one_window() {
    let mut head = Head::new();
    let window = window_of(1_700_000_000_000);
    let bounds = bounds(window.end.0);
    let mut labels = LabelsBuilder::default();
    labels.set("__name__", "metric");
    let ordinal = head.add_series(SeriesRef(1), labels.build().as_ref());
    let put = |head: &mut Head, at_ms: i64| {
        let put = head.put(ordinal, at_ms, Value::Float((at_ms as f64).sin()), &bounds);
        assert_eq!(put, Ok(Outcome::Taken));
    };
    let grows = |head: &Head| {
        let windows = head.windows.values();
        windows
            .map(|window| window.room.growing.memory_bytes() != [0, 0])
            .collect::<Vec<_>>()
    };
    for at in 0..10 {
        put(&mut head, window.start.0 + at * 15_000);
    }
    assert_eq!(grows(&head), [true]);
    put(&mut head, window.end.0);
    assert_eq!(grows(&head), [false, true]);
    // One that comes late after all is taken, and so is one in between.
    put(&mut head, window.start.0 + 200_000);
    put(&mut head, window.start.0 + 1);
    put(&mut head, window.end.0 + 15_000);
    let samples = head.windows.values().map(|window| window.samples).collect::<Vec<_>>();
    assert_eq!(samples, [12, 2]);
    let pages = head
        .open_pages(ordinal)
        .map(|(window, pages)| pages.sample_count(&window.room));
    assert!(pages.eq([12, 2]));
}
