//! The cluster in simulation: real nodes on one thread, with simulated disks, network and clocks, and everything that may
//! go wrong with them decided by a seed (docs/reliability.md, "Simulation").
//!
//! ```text
//! make sim SEEDS=10000     many seeds, on all cores
//! make sim SEED=17         one of them, with all that happens
//! ```
//! Each seed runs in a process of its own: the same seed is the same run, to the last message.

#[path = "sim/bodies.rs"]
mod bodies;
#[path = "sim/clients.rs"]
mod clients;
#[path = "sim/clock.rs"]
mod clock;
#[path = "sim/ledger.rs"]
mod ledger;
#[path = "sim/machine.rs"]
mod machine;
#[path = "sim/many.rs"]
mod many;
#[path = "sim/nemesis.rs"]
mod nemesis;
#[path = "sim/network.rs"]
mod network;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/scraped.rs"]
mod scraped;
#[path = "sim/scrapers.rs"]
mod scrapers;
#[path = "sim/targets.rs"]
mod targets;
#[path = "sim/trace.rs"]
mod trace;
#[path = "sim/watch.rs"]
mod watch;

use many::{Outcome, in_process, many};
use std::sync::atomic::{AtomicBool, Ordering};

/// Seeds that every run of the tests has; those in which something was found belong here.
const ALWAYS: [u64; 27] = [
    1, 2, 3, 11, 12, 32, 41, 60, 63, 73, 81, 94, 104, 105, 106, 107, 274, 534, 1136, 1192, 1779, 2246, 6981, 7611,
    30424, 80677, 97280,
];
/// And of those with scrapers.
const WITH_SCRAPERS: [u64; 10] = [8, 130, 270, 315, 698, 930, 5049, 5108, 6789, 8290];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

static PANICKED: AtomicBool = AtomicBool::new(false);

/// What [`many::in_process`] starts, in a process of its own.
#[test]
#[ignore = "one seed, of GNOMON_SIM_SEED"]
fn one_seed() {
    let Some(seed) = number("GNOMON_SIM_SEED") else { return };
    let is_told = std::env::var_os("GNOMON_SIM_TOLD").is_some();
    let usual = std::panic::take_hook();
    if is_told {
        // On another thread: what it takes at random is none of the simulation's.
        std::thread::spawn(log).join().expect("a log");
    }
    let has_quit = AtomicBool::new(false);
    // A task that panics is one that is missing.
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or_default();
        // openraft's own, in a call that comes while a group ends: the call has no answer then. It holds a lock, so that calls
        // after it panic too.
        if text.contains("RaftCore should have already quit") {
            has_quit.store(true, Ordering::SeqCst);
            return;
        }
        let is_openraft = info.location().is_some_and(|at| at.file().contains("openraft"));
        if is_openraft && is_of_an_older_term(text) {
            return;
        }
        if is_openraft && text.contains("PoisonError") && has_quit.load(Ordering::SeqCst) {
            return;
        }
        PANICKED.store(true, Ordering::SeqCst);
        usual(info);
    }));
    let simulation = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        gnomon_chance::seed_this_thread(seed);
        gnomon_cluster::blocking::do_at_once_here();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.expect("a runtime").block_on(run::run(seed, is_told))
    });
    let report = simulation.expect("a thread").join().expect("no panic");
    println!(
        "seed {seed}: hash {:016x}, {} messages, {} samples acknowledged, {:.1} s",
        report.hash,
        report.messages,
        report.acknowledged,
        report.lasted.as_secs_f64()
    );
    if let Some(why) = report.failure {
        panic!("seed {seed}: {why}\n{}", report.newest.join("\n"));
    }
    assert!(
        !PANICKED.load(Ordering::SeqCst),
        "seed {seed}: something panicked, see above\n{}",
        report.newest.join("\n")
    );
}

/// openraft's own, and in builds with debug assertions only: a stream of one that leads no more is asked for more before it is
/// told so, and what it has sent was taken back from the log for entries of a newer term. Without the assertion it ends in that
/// very call, with nothing sent (`leader_changed` in openraft's `stream_state.rs`).
fn is_of_an_older_term(panic: &str) -> bool {
    let Some((_, range)) = panic.split_once("read_log_entries received reversed range: ") else {
        return false;
    };
    let Some((before, last)) = range
        .split_once("log_id_range: (")
        .and_then(|(_, ids)| ids.split_once(", "))
    else {
        return false;
    };
    let term = |id: &str| id.split_once('.').and_then(|(term, _)| term.parse::<u64>().ok());
    term(before).zip(term(last)).is_some_and(|(before, last)| before < last)
}

/// What the nodes log, with simulated times; `GNOMON_SIM_LOG` says how much.
fn log() {
    use tracing_subscriber::fmt::time::FormatTime;
    struct Simulated;
    thread_local! {
        /// The first line is of the beginning, or nearly so.
        static BEGAN: tokio::time::Instant = tokio::time::Instant::now();
    }
    impl FormatTime for Simulated {
        fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
            write!(
                w,
                "{:>10.3} s ",
                BEGAN.with(tokio::time::Instant::elapsed).as_secs_f64()
            )
        }
    }
    let Ok(level) = std::env::var("GNOMON_SIM_LOG") else {
        return;
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_timer(Simulated);
    drop(subscriber.try_init());
}

#[test]
fn a_handful_of_seeds() {
    for seed in ALWAYS.into_iter().chain(WITH_SCRAPERS) {
        println!("seed {seed}");
        if let Outcome::Failed(output) = in_process(seed, false) {
            panic!("seed {seed} fails; make sim SEED={seed} runs it again\n{output}");
        }
    }
}

/// Else no failure could be had again.
#[test]
fn the_same_seed_is_the_same_run() {
    let sum = |seed| match in_process(seed, false) {
        Outcome::Fine(line) => line,
        Outcome::Failed(output) => panic!("{output}"),
    };
    // Without scrapers, and with them.
    for (seed, next) in [(5, 6), (8, 9)] {
        let (one, again, other) = (sum(seed), sum(seed), sum(next));
        assert_eq!(one, again);
        assert_ne!(
            one.split_once(':').map(|p| p.1.to_owned()),
            other.split_once(':').map(|p| p.1.to_owned())
        );
    }
}

/// `make sim`.
#[test]
#[ignore = "many seeds: make sim"]
fn many_seeds() {
    if let Some(seed) = number("GNOMON_SIM_SEED") {
        match in_process(seed, true) {
            Outcome::Fine(line) => return println!("{line}"),
            Outcome::Failed(_) => panic!("seed {seed} fails"),
        }
    }
    let first = number("GNOMON_SIM_FIRST").unwrap_or(1);
    let failed = many(first, number("GNOMON_SIM_SEEDS").unwrap_or(200));
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}
