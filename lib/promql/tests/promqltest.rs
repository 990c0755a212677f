//! Runs the scripts of Prometheus' own test suite, and this project's. The number of `eval` commands that pass is
//! recorded a file and may only grow.

#![allow(clippy::unwrap_used)]

use gnomon_promql::promqltest::{EngineAlone, run_on};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// File, and how many of its commands pass at least.
const RECORDED: &[(&str, usize)] = &[
    ("aggregators.test", 160),
    ("at_modifier.test", 78),
    ("duration_expression.test", 59),
    ("extended_vectors.test", 169),
    ("fill-modifier.test", 46),
    ("functions.test", 431),
    ("histograms.test", 185),
    ("info.test", 53),
    ("literals.test", 25),
    ("native_histograms.test", 522),
    ("operators.test", 214),
    ("selectors.test", 31),
];

fn suite() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
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

/// Runs a folder's scripts: passed commands by file, and the number that failed.
fn run(dir: &Path, delayed: bool) -> (BTreeMap<String, usize>, usize) {
    let mut passed = BTreeMap::new();
    let mut failed = 0;
    for path in scripts(dir) {
        let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
        let report = run_on(&std::fs::read_to_string(&path).unwrap(), &mut EngineAlone::new(delayed));
        for failure in &report.failures {
            println!("{name}:{}: {}", failure.line, failure.message);
        }
        println!("{name}: {} passed, {} failed", report.passed, report.failures.len());
        failed += report.failures.len();
        passed.insert(name, report.passed);
    }
    println!("{} passed, {failed} failed", passed.values().sum::<usize>());
    (passed, failed)
}

#[test]
fn prometheus_suite_passes_as_far_as_recorded() {
    let Some(dir) = suite() else {
        println!("skipped: the suite is not here; set PROMQLTEST_DIR");
        return;
    };
    // Nothing in these scripts depends on when names are dropped.
    for delayed in [true, false] {
        let (passed, _) = run(&dir, delayed);
        for (name, recorded) in RECORDED {
            let now = passed.get(*name).copied().unwrap_or(0);
            assert!(now >= *recorded, "{name}: {now} commands pass, {recorded} are recorded");
        }
    }
}

#[test]
fn own_scripts_pass() {
    let (passed, failed) = run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), true);
    assert_eq!(failed, 0, "a script of this project fails");
    assert!(passed.values().sum::<usize>() > 0, "no script was run");
}
