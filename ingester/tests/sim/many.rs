//! Many seeds, each in a process of its own, on all cores.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A run that takes more of a processor's time goes round in circles.
const MOST_TICKS: u64 = 180 * TICKS_PER_SECOND;
/// A run that has had none of it for so long stands still, or there is none to be had.
const IDLE: Duration = Duration::from_secs(300);
/// `USER_HZ` of Linux, wherever programs see it.
const TICKS_PER_SECOND: u64 = 100;
const SHOW_EVERY: u64 = 100;

pub(crate) enum Outcome {
    /// What it came to.
    Fine(String),
    /// All that it said.
    Failed(String),
}

/// Runs a seed; `is_told`: with all that happens, on standard error.
pub(crate) fn in_process(seed: u64, is_told: bool) -> Outcome {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command
        .args(["one_seed", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("GNOMON_SIM_SEED", seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    match is_told {
        true => command.env("GNOMON_SIM_TOLD", "1"),
        false => command.env_remove("GNOMON_SIM_TOLD").stderr(Stdio::piped()),
    };
    let mut child = command.spawn().expect("a process");
    let mut errors = child.stderr.take();
    // Both are read, lest it waits for one of them.
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(errors) = &mut errors {
            let _ = errors.read_to_string(&mut text);
        }
        text
    });
    let watched = watch(&mut child);
    let mut output = String::new();
    if let Some(mut said) = child.stdout.take() {
        let _ = said.read_to_string(&mut output);
    }
    let errors = reading.join().unwrap_or_default();
    let line = output.lines().find_map(|line| {
        line.find("seed ")
            .filter(|_| line.contains("hash"))
            .map(|at| line[at..].to_owned())
    });
    match (watched, line) {
        (Ok(true), Some(line)) => Outcome::Fine(line),
        (Ok(_), _) => Outcome::Failed(format!("{output}{errors}")),
        (Err(why), _) => Outcome::Failed(format!("{why}\n{output}{errors}")),
    }
}

/// Whether it ended well; one that stands still is ended.
fn watch(child: &mut Child) -> Result<bool, String> {
    let (mut had, mut since) = (0, Instant::now());
    loop {
        let has = ticks(child.id());
        if has != had {
            (had, since) = (has, Instant::now());
        }
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) if since.elapsed() > IDLE || has > MOST_TICKS => {
                let _ = child.kill();
                let _ = child.wait();
                let seconds = MOST_TICKS / TICKS_PER_SECOND;
                return Err(match has > MOST_TICKS {
                    true => format!("it has not ended within {seconds} s of a processor"),
                    false => format!("it has done nothing for {IDLE:?}"),
                });
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// What a process has had of processors: `utime` and `stime` of `/proc/PID/stat` (proc(5)), which follow the name in brackets.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = after_name.split_whitespace().skip(11).take(2);
    times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Runs seeds from `first` on, as many as `count`; those that fail.
pub(crate) fn many(first: u64, count: u64) -> Vec<u64> {
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let since = Instant::now();
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    if let Outcome::Failed(output) = in_process(seed, false) {
                        eprintln!("seed {seed} fails; make sim SEED={seed} runs it again\n{output}");
                        failed.lock().expect("no panic").push(seed);
                    }
                    let done = seed + 1 - first;
                    if done.is_multiple_of(SHOW_EVERY) {
                        let rate = done as f64 / since.elapsed().as_secs_f64();
                        let failures = failed.lock().expect("no panic").len();
                        eprintln!("{done} of {count} seeds, {rate:.1} a second, {failures} failures");
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("no panic");
    failed.sort_unstable();
    let took = since.elapsed().as_secs_f64();
    eprintln!(
        "{count} seeds from {first} on in {took:.0} s: {} failures {failed:?}",
        failed.len()
    );
    failed
}
