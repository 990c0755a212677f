//! Every script of Prometheus' test language below `PROMQLTEST_DIR` (default: `promqltest` of the shared folder), both
//! ways: on the engine alone, and through the whole read path.

use crate::harness;
use crate::whole_path::{Done, WholePath};
use gnomon_promql::promqltest::{EngineAlone, Report, run_on};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of so many samples about half are in blocks, whatever the scripts load.
const ENOUGH_SAMPLES: usize = 5_000;

fn folder() -> Option<PathBuf> {
    match std::env::var_os("PROMQLTEST_DIR") {
        Some(folder) => Some(folder.into()),
        None => harness::shared("promqltest"),
    }
}

/// All scripts below a folder, the longest first, so that threads end at about the same time.
fn scripts(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "test") {
                let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                found.push((path, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    }
    found.sort_by_key(|(path, text)| (std::cmp::Reverse(text.len()), path.clone()));
    found
}

/// Prints what came of the scripts; the number of failures.
fn tell(way: &str, mut reports: Vec<(PathBuf, Report)>) -> (usize, usize) {
    reports.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut passed, mut failed) = (0, 0);
    for (path, report) in &reports {
        for failure in &report.failures {
            println!("{}:{}: {}", path.display(), failure.line, failure.message);
        }
        passed += report.passed;
        failed += report.failures.len();
    }
    println!("{way}: {} files, {passed} passed, {failed} failed", reports.len());
    (passed, failed)
}

#[test]
fn scripts_pass_on_the_engine_alone() {
    let Some(folder) = folder() else { return };
    let mut total = 0;
    // With and without delayed removal of names; nothing in Prometheus' scripts of today depends on it.
    for delayed in [true, false] {
        let run = |(path, text): (PathBuf, String)| (path, run_on(&text, &mut EngineAlone::new(delayed)));
        let reports = scripts(&folder).into_iter().map(run).collect();
        let way = format!("engine alone (promql-delayed-name-removal: {delayed})");
        let (passed, failed) = tell(&way, reports);
        assert!(failed == 0 || !delayed, "{failed} commands fail");
        total += passed;
    }
    assert!(total > 0, "there is no script below {}", folder.display());
}

/// Takes scripts until none is left.
fn work(scripts: &[(PathBuf, String)], next: &AtomicUsize) -> (Vec<(PathBuf, Report)>, Done) {
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads");
    let mut subject = WholePath::new(threads.handle().clone());
    let mut reports = Vec::new();
    while let Some((path, text)) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
        reports.push((path.clone(), run_on(text, &mut subject)));
    }
    (reports, subject.done)
}

#[test]
fn scripts_pass_through_the_whole_read_path() {
    let Some(folder) = folder() else { return };
    let scripts = scripts(&folder);
    let next = AtomicUsize::new(0);
    let (mut reports, mut done) = (Vec::new(), Done::default());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| work(&scripts, &next))).collect();
        for worker in workers {
            let (some, its) = worker.join().expect("a worker panicked");
            reports.extend(some);
            done = done.plus(its);
        }
    });
    let (passed, failed) = tell("whole read path", reports);
    println!(
        "{} queries over HTTP; {} samples from {} blocks, {} from heads",
        done.queries, done.flushed, done.blocks, done.kept
    );
    assert_eq!(failed, 0, "commands fail");
    assert!(passed > 0, "there is no script below {}", folder.display());
    let all = done.flushed + done.kept;
    assert!(
        all < ENOUGH_SAMPLES || ((all / 3..=2 * all / 3).contains(&done.flushed) && done.blocks > 0),
        "{done:?}: about half of it is to be in blocks"
    );
}
