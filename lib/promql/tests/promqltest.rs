//! Runs the scripts of Prometheus' own test suite, and this project's, on the engine alone.

#![allow(clippy::unwrap_used)]

use gnomon_promql::promqltest::{EngineAlone, run_on};
use std::path::{Path, PathBuf};

/// The folder of this package, as cargo says it now: what comes from a cache was built elsewhere, it may be.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn suite() -> Option<PathBuf> {
    let root = package().join("../..");
    let dir = std::env::var_os("PROMQLTEST_DIR").map(PathBuf::from);
    let shared = || std::env::var_os("GNOMON_SHARED").map(|shared| PathBuf::from(shared).join("promqltest"));
    let dir = dir.or_else(shared).unwrap_or_else(|| root.join("../shared/promqltest"));
    dir.is_dir().then_some(dir)
}

/// All scripts below a folder.
fn scripts(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(scripts(&path));
        } else if path.extension().is_some_and(|extension| extension == "test") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Runs a folder's scripts: how many commands passed, and how many failed.
fn run(dir: &Path, delayed: bool) -> (usize, usize) {
    let (mut passed, mut failed) = (0, 0);
    for path in scripts(dir) {
        let text = std::fs::read(&path).unwrap();
        let report = run_on(&String::from_utf8_lossy(&text), &mut EngineAlone::new(delayed));
        for failure in &report.failures {
            println!("{}:{}: {}", path.display(), failure.line, failure.message);
        }
        passed += report.passed;
        failed += report.failures.len();
    }
    println!("{passed} passed, {failed} failed");
    (passed, failed)
}

#[test]
fn scripts_of_prometheus_pass() {
    let Some(dir) = suite() else {
        println!("skipped: the suite is not here; set PROMQLTEST_DIR");
        return;
    };
    let (passed, failed) = run(&dir, true);
    assert_eq!(failed, 0, "a script fails");
    assert!(passed > 0, "no script was run");
}

#[test]
fn own_scripts_pass() {
    for delayed in [true, false] {
        let (passed, failed) = run(&package().join("tests"), delayed);
        assert_eq!(failed, 0, "a script of this project fails");
        assert!(passed > 0, "no script was run");
    }
}
