//! The buffer with shards that are away, slow, or have another owner's scrapes.

use super::tick::made::plain;
use super::*;
use async_trait::async_trait;
use gnomon_cluster::router::{TickOutcome, WriteOutcome};
use gnomon_model::SystemClock;
use gnomon_proto::ServiceError;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize};
use tempfile::TempDir;

/// Shards as the buffer sees them: newest term and tick of each target, and what was taken.
#[derive(Default)]
struct Shards {
    is_away: AtomicBool,
    /// Pushes that came meanwhile.
    refused: AtomicUsize,
    /// The cluster has nodes that understand no start timestamps.
    is_old: AtomicBool,
    /// One that does not answer, and how many pushes to it were under way at most.
    hangs: Option<u32>,
    hanging: Hanging,
    known: Mutex<BTreeMap<TargetId, (u64, i64)>>,
    /// Times of scrapes that another has made.
    doubles: Mutex<Vec<i64>>,
    /// Before this the shards take nothing for a tick that was made twice.
    earlier_than: AtomicI64,
    ticks: Mutex<Vec<(TargetId, i64)>>,
    rows: Mutex<Vec<(TargetId, i64)>>,
    asked: Notify,
}

#[derive(Default)]
struct Hanging {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Hanging {
    async fn forever(&self) {
        struct Ends<'a>(&'a AtomicUsize);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        let _ends = Ends(&self.now);
        self.most.fetch_max(now, Ordering::Relaxed);
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl TickSink for Shards {
    /// A hundred targets each.
    fn home(&self, tick: &Tick<'_>) -> Option<u32> {
        Some((tick.target.0 / 100) as u32)
    }

    fn keeps_starts(&self) -> bool {
        !self.is_old.load(Ordering::Relaxed)
    }

    async fn push_tick(&self, tick: &Tick<'_>, _deadline: Duration) -> Result<TickOutcome, ServiceError> {
        self.asked.notify_waiters();
        if self.hangs.is_some() && self.hangs == self.home(tick) {
            self.hanging.forever().await;
        }
        if self.is_away.load(Ordering::Relaxed) {
            // In turn: nobody leads, the leader has a full disk, it does not answer.
            return Err(match self.refused.fetch_add(1, Ordering::Relaxed) % 3 {
                0 => ServiceError::Unavailable("away".into()),
                1 => ServiceError::LimitExceeded("disk full".into()),
                _ => ServiceError::DeadlineExceeded("no answer".into()),
            });
        }
        let mut known = self.known.lock();
        let (term, last) = known.entry(tick.target).or_insert((0, i64::MIN));
        let mut outcome = TickOutcome::default();
        if self.doubles.lock().contains(&tick.tick_ms) {
            outcome.doubled = true;
        } else if tick.term < *term {
            outcome.older_term = true;
        } else if tick.tick_ms > *last {
            (*term, *last) = (tick.term, tick.tick_ms);
            outcome.taken = true;
            self.ticks.lock().push((tick.target, tick.tick_ms));
        } else {
            outcome.earlier = tick.tick_ms < self.earlier_than.load(Ordering::Relaxed);
        }
        Ok(outcome)
    }

    async fn push_rows(&self, tick: &Tick<'_>, _deadline: Duration) -> WriteOutcome {
        self.rows.lock().push((tick.target, tick.tick_ms));
        WriteOutcome {
            taken: tick.samples.len() as u64,
            ..WriteOutcome::default()
        }
    }
}

struct Rig {
    shards: Arc<Shards>,
    buffer: Arc<Buffer>,
    terms: watch::Sender<Terms>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Rig {
    fn new(memory_bytes: u64, disk: Option<(&TempDir, u64)>) -> Self {
        let shards = Arc::new(Shards::default());
        shards.is_away.store(true, Ordering::Relaxed);
        Self::with(shards, memory_bytes, disk)
    }

    fn with(shards: Arc<Shards>, memory_bytes: u64, disk: Option<(&TempDir, u64)>) -> Self {
        let (terms, told) = watch::channel(Terms::default());
        let options = BufferOptions {
            memory_bytes,
            folder: disk.map(|(folder, _)| folder.path().to_owned()),
            disk_bytes: disk.map_or(0, |(_, bytes)| bytes),
            terms: told,
        };
        let metrics = BufferMetrics::register(&prometheus::Registry::new()).unwrap();
        let sink = Arc::clone(&shards) as Arc<dyn TickSink>;
        let buffer = Arc::new(Buffer::new(options, sink, SystemClock::shared(), metrics));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        buffer.start(&stop, &tasks);
        Self {
            shards,
            buffer,
            terms,
            stop,
            tasks,
        }
    }

    fn hold(&self, target: u64, tick_ms: i64) {
        self.buffer.hold(&plain(target, tick_ms, &["a", "b"]).as_tick());
    }

    fn come_back(&self) {
        self.shards.is_away.store(false, Ordering::Relaxed);
    }

    async fn until(&self, what: &str, check: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !check(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(done.is_ok(), "{what}: {:?}", self.buffer.queues.lock().totals());
    }

    async fn until_empty(&self) {
        self.until("nothing waits any more", |rig| {
            rig.buffer.queues.lock().totals().ticks == 0
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.buffer.close().await;
    }

    fn shed(&self, why: Why) -> u64 {
        self.buffer
            .metrics
            .shed_samples
            .with_label_values(&[why.as_str()])
            .get()
    }
}

fn times(taken: &[(TargetId, i64)], target: u64) -> Vec<i64> {
    let of = taken.iter().filter(|(of, _)| of.0 == target);
    of.map(|(_, at)| *at).collect()
}

#[tokio::test]
async fn what_could_not_be_pushed_goes_once_the_shards_are_back_in_order_each_once() {
    let rig = Rig::new(1 << 20, None);
    for tick in 0..20 {
        for target in 1..=5 {
            rig.hold(target, tick);
        }
    }
    assert!(rig.buffer.holds(TargetId(3)) && !rig.buffer.holds(TargetId(9)));
    let of = rig.buffer.of(TargetId(3));
    assert_eq!((of.ticks, of.oldest_ms, of.shed_samples), (20, 0, 0));
    rig.shards.asked.notified().await;
    rig.come_back();
    rig.until_empty().await;
    let taken = rig.shards.ticks.lock().clone();
    for target in 1..=5 {
        assert_eq!(times(&taken, target), (0..20).collect::<Vec<_>>());
    }
    assert!(rig.shards.rows.lock().is_empty());
    assert_eq!(rig.buffer.metrics.sent.get(), 100);
    rig.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_memory_waits_on_disk_and_a_restart_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(80_000, Some((&dir, 1 << 20)));
    for tick in 0..200 {
        rig.hold(1 + tick as u64 % 3, tick);
        if tick % 10 == 9 {
            rig.until("memory is half empty again", |rig| {
                !rig.buffer.queues.lock().wants_to_spill()
            })
            .await;
        }
    }
    let before = rig.buffer.queues.lock().totals();
    assert!(before.ticks == 200 && before.disk_bytes > 0, "{before:?}");
    assert_eq!(rig.shed(Why::Budget), 0);
    rig.stop().await;

    let shards = Arc::new(Shards::default());
    let rig = Rig::with(shards, 80_000, Some((&dir, 1 << 20)));
    assert!(rig.buffer.holds(TargetId(77)), "until it is known what there is");
    rig.until_empty_after_loading().await;
    let taken = rig.shards.ticks.lock().clone();
    assert_eq!(taken.len(), 200);
    for target in 1..=3 {
        assert!(times(&taken, target).is_sorted());
    }
    rig.until("files are removed", |_| {
        std::fs::read_dir(dir.path()).unwrap().next().is_none()
    })
    .await;
    rig.stop().await;
}

#[tokio::test]
async fn what_has_waited_for_a_while_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(64 << 20, Some((&dir, 1 << 30)));
    // Of 0 to 6 it is known that nobody else made them; all are older than a while, and take next to nothing.
    rig.terms.send_modify(|terms| terms.note(1, 6));
    for tick in 0..10 {
        rig.hold(1, tick);
    }
    rig.until("those are on disk", |rig| rig.buffer.on_disk() == 7).await;
    // Nothing is said or written any more.
    rig.stop.cancel();
    rig.tasks.close();
    rig.tasks.wait().await;
    drop(rig);
    let rig = Rig::with(Arc::new(Shards::default()), 64 << 20, Some((&dir, 1 << 30)));
    rig.until_empty_after_loading().await;
    assert_eq!(times(&rig.shards.ticks.lock(), 1), (0..7).collect::<Vec<_>>());
    rig.stop().await;
}

/// Made while the lease was over, say; a segment of these takes all that is written at once.
#[tokio::test]
async fn scrapes_that_another_may_have_made_keep_no_later_ones_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(40_000, Some((&dir, 4_000)));
    let one = tick::write(&plain(1, 0, &["a", "b"]).as_tick(), true).unwrap().len() as u64;
    assert!(8 * one > rig.buffer.spill_bytes, "{one} bytes each");
    for tick in 100..108 {
        rig.hold(1, tick);
    }
    rig.hold(1, 50);
    rig.terms.send_modify(|terms| terms.note(1, 50));
    rig.until("it is on disk", |rig| rig.buffer.on_disk() == 1).await;
    assert_eq!(rig.shed(Why::Budget), 0);
    rig.stop().await;
}

impl Rig {
    async fn until_empty_after_loading(&self) {
        self.until("it is read", |rig| !rig.buffer.is_loading.load(Ordering::Acquire))
            .await;
        self.until_empty().await;
    }
}

#[tokio::test]
async fn a_file_that_is_damaged_on_disk_costs_what_is_in_it_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(20_000, Some((&dir, 1 << 20)));
    for tick in 0..5 {
        rig.hold(1, tick);
    }
    rig.stop().await;
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let rig = Rig::with(Arc::new(Shards::default()), 20_000, Some((&dir, 1 << 20)));
    rig.until_empty_after_loading().await;
    assert_eq!(times(&rig.shards.ticks.lock(), 1), [0, 1, 2, 3]);
    assert_eq!(rig.buffer.metrics.damaged_files.get(), 1);
    rig.stop().await;
}

/// The machine's clock was ahead, and was set back: nothing later waits for its time.
#[tokio::test]
async fn scrapes_of_a_time_that_is_still_to_come_keep_no_others_waiting() {
    let rig = Rig::new(1 << 20, None);
    let now_ms = SystemClock::shared().now().0;
    rig.hold(1, now_ms + 300_000);
    rig.hold(1, now_ms - 2_000);
    rig.hold(1, now_ms - 1_000);
    rig.terms.send_modify(|terms| terms.note(1, now_ms - 5_000));
    rig.come_back();
    rig.until_empty().await;
    assert_eq!(
        times(&rig.shards.ticks.lock(), 1),
        [now_ms - 2_000, now_ms - 1_000],
        "what is of a time that has come"
    );
    assert_eq!(rig.shed(Why::Clock), 2);
    rig.stop().await;
}

/// It is this node's clock that is behind: by the leader's, which renewed the lease, the time of what waits has come.
#[tokio::test]
async fn what_a_lease_covers_is_sent_also_where_this_nodes_own_clock_is_behind() {
    let rig = Rig::new(1 << 20, None);
    let leaders_ms = SystemClock::shared().now().0 + 300_000;
    for (target, tick_ms) in [(1, leaders_ms - 5_000), (1, leaders_ms), (1, leaders_ms + 5_000)] {
        rig.hold(target, tick_ms);
    }
    rig.terms.send_modify(|terms| terms.note(1, leaders_ms));
    rig.come_back();
    rig.until_empty().await;
    let all = [leaders_ms - 5_000, leaders_ms, leaders_ms + 5_000];
    assert_eq!(
        times(&rig.shards.ticks.lock(), 1),
        all,
        "also what a later renewal would cover"
    );
    assert_eq!(rig.shed(Why::Clock), 0);
    rig.stop().await;
}

/// All clocks were ahead, and were set back. Right samples would stand around one that is older than they.
#[tokio::test]
async fn what_is_of_a_time_to_come_by_all_clocks_is_given_up_whoever_made_it() {
    let rig = Rig::new(1 << 20, None);
    let now_ms = SystemClock::shared().now().0;
    rig.hold(1, now_ms + 300_000);
    rig.hold(1, now_ms - 1_000);
    rig.terms.send_modify(|terms| {
        terms.note(1, now_ms + 300_000);
        terms.note(1, now_ms);
    });
    rig.come_back();
    rig.until_empty().await;
    assert!(times(&rig.shards.rows.lock(), 1).is_empty());
    assert_eq!(times(&rig.shards.ticks.lock(), 1), [now_ms - 1_000]);
    assert_eq!(rig.shed(Why::Clock), 2, "its two samples");
    rig.stop().await;
}

#[tokio::test]
async fn budgets_that_are_too_small_shed_and_what_is_missing_is_what_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    for disk in [None, Some((&dir, 4_000))] {
        let rig = Rig::new(4_000, disk);
        for tick in 0..100 {
            rig.hold(1, tick);
            rig.hold(2, tick);
            tokio::task::yield_now().await;
        }
        rig.come_back();
        rig.until_empty().await;
        let taken = rig.shards.ticks.lock().len() as u64;
        assert!(taken > 0 && taken < 200);
        assert_eq!(rig.shed(Why::Budget), 2 * (200 - taken), "two samples each");
        let of = |target| rig.buffer.of(TargetId(target)).shed_samples;
        assert_eq!(of(1) + of(2), 2 * (200 - taken));
        assert!(times(&rig.shards.ticks.lock(), 1).ends_with(&[99]), "the newest stay");
        rig.stop().await;
    }
}

#[tokio::test]
async fn what_another_scraper_may_have_scraped_too_is_given_up_and_counted() {
    let rig = Rig::new(1 << 20, None);
    // Another has had the target since 5, under term 2.
    rig.shards.known.lock().insert(TargetId(1), (2, 50));
    for tick in 0..10 {
        rig.hold(1, tick);
    }
    // As of 4 this one was in the ring for sure.
    rig.terms.send_modify(|terms| terms.note(1, 4));
    rig.come_back();
    rig.until_empty().await;
    assert!(rig.shards.ticks.lock().is_empty());
    let mut rows = times(&rig.shards.rows.lock(), 1);
    rows.sort_unstable();
    assert_eq!(rows, [0, 1, 2, 3, 4]);
    assert_eq!(rig.shed(Why::OtherOwner), 2 * 5);
    assert_eq!(rig.buffer.of(TargetId(1)).shed_samples, 2 * 5);
    rig.stop().await;
}

#[tokio::test]
async fn a_scrape_that_another_made_as_well_is_not_offered_as_samples() {
    let rig = Rig::new(1 << 20, None);
    rig.shards.doubles.lock().extend([3, 4]);
    for tick in 3..6 {
        rig.hold(1, tick);
    }
    // That this one was in the ring for sure does not say that the other knew it.
    rig.terms.send_modify(|terms| terms.note(1, 9));
    rig.come_back();
    rig.until_empty().await;
    assert_eq!(times(&rig.shards.ticks.lock(), 1), [5]);
    assert!(rig.shards.rows.lock().is_empty());
    assert_eq!(rig.shed(Why::OtherOwner), 2 * 2);
    rig.stop().await;
}

/// Somebody's clock was ahead, or this one's is behind. As samples they would be taken, and counters would seem to fall.
#[tokio::test]
async fn a_scrape_that_is_well_before_the_shards_newest_is_given_up() {
    let rig = Rig::new(1 << 20, None);
    rig.shards.known.lock().insert(TargetId(1), (1, 5));
    rig.shards.earlier_than.store(5, Ordering::Relaxed);
    for tick in 3..7 {
        rig.hold(1, tick);
    }
    rig.come_back();
    rig.until_empty().await;
    assert_eq!(times(&rig.shards.ticks.lock(), 1), [6]);
    assert_eq!(times(&rig.shards.rows.lock(), 1), [5]);
    assert_eq!(rig.shed(Why::Clock), 2 * 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_tick_that_may_have_been_taken_before_is_offered_as_samples() {
    let rig = Rig::new(1 << 20, None);
    rig.shards.known.lock().insert(TargetId(1), (1, 3));
    for tick in 3..6 {
        rig.hold(1, tick);
    }
    rig.come_back();
    rig.until_empty().await;
    assert_eq!(times(&rig.shards.rows.lock(), 1), [3]);
    assert_eq!(times(&rig.shards.ticks.lock(), 1), [4, 5]);
    rig.stop().await;
}

#[tokio::test]
async fn without_a_budget_everything_is_lost_at_once_and_counted() {
    let rig = Rig::new(0, None);
    rig.hold(1, 0);
    assert!(!rig.buffer.holds(TargetId(1)));
    assert_eq!((rig.shed(Why::Budget), rig.buffer.of(TargetId(1)).shed_samples), (2, 2));
    rig.stop().await;
}

#[tokio::test]
async fn a_shard_that_hangs_keeps_those_of_another_waiting_for_nothing() {
    let shards = Shards {
        hangs: Some(1),
        ..Shards::default()
    };
    let rig = Rig::with(Arc::new(shards), 1 << 20, None);
    for tick in 0..5 {
        for target in (100..200).chain(0..20) {
            rig.hold(target, tick);
        }
    }
    rig.until("the other shard has its own", |rig| {
        (0..20).all(|target| !rig.buffer.holds(TargetId(target)))
    })
    .await;
    assert_eq!(rig.shards.ticks.lock().len(), 100);
    assert!((100..200).all(|target| rig.buffer.holds(TargetId(target))));
    assert_eq!(
        rig.shards.hanging.most.load(Ordering::Relaxed),
        1,
        "it is asked by one at a time"
    );
    rig.stop().await;
}

/// Which may be taken back to a build that would leave a file with start timestamps where it is.
#[tokio::test]
async fn starts_are_not_held_for_a_cluster_that_does_not_understand_them() {
    let rig = Rig::new(1 << 20, None);
    let mut tick = plain(1, 0, &["a", "b"]);
    tick.set_start(77);
    for (at, is_old) in [(0, true), (1, false)] {
        rig.shards.is_old.store(is_old, Ordering::Relaxed);
        rig.buffer.hold(&tick.as_tick());
        let held = rig.buffer.queues.lock().oldest_in_memory(u64::MAX, |_| true);
        let Place::Memory(bytes) = &held[at].held.place else {
            panic!("it is in memory")
        };
        let back = tick::read(bytes).unwrap();
        assert!(
            back.as_tick()
                .samples
                .iter()
                .all(|sample| (sample.start_ms == 0) == is_old)
        );
    }
    rig.stop().await;
}

#[tokio::test]
async fn homes_of_what_an_earlier_process_left_are_found_and_asked_apart() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(1 << 20, Some((&dir, 1 << 20)));
    for target in (100..150).chain(0..20) {
        rig.hold(target, 7);
    }
    rig.stop().await;
    let shards = Shards {
        hangs: Some(1),
        ..Shards::default()
    };
    let rig = Rig::with(Arc::new(shards), 1 << 20, Some((&dir, 1 << 20)));
    rig.until("the other shard has its own", |rig| {
        (0..20).all(|target| !rig.buffer.holds(TargetId(target)))
    })
    .await;
    assert_eq!(rig.shards.hanging.most.load(Ordering::Relaxed), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_scrape_that_the_disk_never_takes_is_given_up_alone() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(40_000, Some((&dir, 8_000)));
    for tick in 0..5 {
        rig.hold(1, tick);
    }
    let names: Vec<String> = (0..1_500).map(|n| format!("n{:x}", n * 7_919 % 65_537)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let large = plain(2, 0, &names);
    let bytes = tick::write(&large.as_tick(), true).unwrap().len();
    assert!(
        (10_000..35_000).contains(&bytes),
        "{bytes} bytes: more than the disk, less than memory"
    );
    rig.buffer.hold(&large.as_tick());
    rig.until("it is given up", |rig| rig.shed(Why::Budget) > 0).await;
    assert_eq!(rig.shed(Why::Budget), 1_500);
    assert_eq!(rig.buffer.of(TargetId(1)).ticks, 5);
    rig.come_back();
    rig.until_empty().await;
    assert_eq!(times(&rig.shards.ticks.lock(), 1), [0, 1, 2, 3, 4]);
    rig.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_now_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(20_000, Some((&dir, 1 << 20)));
    for tick in 0..5 {
        rig.hold(1, tick);
    }
    rig.buffer.save_all().await;
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let aside = dir.path().join("aside");
    std::fs::hard_link(&file, &aside).unwrap();
    // A link to itself in its place, at once: opening that fails, and is neither damage nor absence.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    std::fs::rename(&link, &file).unwrap();
    rig.come_back();
    rig.until("it is tried", |rig| rig.buffer.metrics.disk_errors.get() > 0)
        .await;
    std::fs::rename(&aside, &file).unwrap();
    rig.until_empty().await;
    assert_eq!(times(&rig.shards.ticks.lock(), 1), [0, 1, 2, 3, 4]);
    assert_eq!(rig.shed(Why::Damaged), 0);
    rig.stop().await;
}
