//! The crash matrix: a script that puts a node through everything that storage does, run once for each operation at the
//! seams of storage and each way in which it can fail. After each run everything that was acknowledged is there once,
//! what was deleted stays away, and the bucket holds what its catalogue says and nothing else (docs/reliability.md).

#![allow(unreachable_pub, clippy::unwrap_used)]

#[path = "crash/engine.rs"]
mod engine;
#[path = "crash/injector.rs"]
mod injector;
#[path = "crash/ledger.rs"]
mod ledger;
#[path = "crash/node.rs"]
mod node;
#[path = "crash/script.rs"]
mod script;
#[path = "crash/services.rs"]
mod services;
#[path = "crash/verify.rs"]
mod verify;

use futures::StreamExt;
use gnomon_model::{Clock, SystemClock};
use gnomon_tsdb::block::PART_BYTES;
use injector::{Case, Class, Kind, Point};
use node::Setting;
use std::collections::BTreeMap;

/// Every how manyeth case is run; `make test-crash` runs each.
const STRIDE: usize = 41;

/// Nodes that run at the same time.
const AT_ONCE: usize = 4;

fn stride() -> usize {
    let given = std::env::var("GNOMON_CRASH_STRIDE").ok();
    given.map_or(STRIDE, |text| text.parse().expect("GNOMON_CRASH_STRIDE is a number"))
}

/// All cases, by the operations of a run without a fault.
fn cases(counts: &BTreeMap<(&'static str, Class), u32>) -> Vec<Case> {
    let mut all = Vec::new();
    for ((step, class), count) in counts {
        for number in 0..*count {
            let point = Point {
                step,
                class: *class,
                number,
            };
            all.extend(class.kinds().iter().map(|kind| Case { point, kind: *kind }));
        }
    }
    all
}

/// Runs some of the cases and prints how many of them, by step and kind.
async fn matrix(title: &str, setting: Setting, kinds: &[Kind], classes: impl Fn(Class) -> bool) {
    // With RUST_LOG: what the node says.
    let said = std::env::var("RUST_LOG").unwrap_or_else(|_| "off".into());
    let filter = tracing_subscriber::EnvFilter::new(said);
    let _ = tracing_subscriber::fmt().with_env_filter(filter).try_init();
    let clock = SystemClock::new();
    let begun = clock.monotonic();
    let counts = script::run(None, setting).await.counts;
    let wanted = |case: &Case| kinds.contains(&case.kind) && classes(case.point.class);
    let all: Vec<Case> = cases(&counts).into_iter().filter(wanted).collect();
    let mut tried: BTreeMap<(&str, Kind), usize> = BTreeMap::new();
    let (mut fired, mut missed, mut failed) = (0, 0, Vec::new());
    let chosen: Vec<Case> = all.iter().copied().step_by(stride()).collect();
    let runs = chosen.into_iter().map(|case| async move {
        // A case that fails does not hold up the others.
        (case, tokio::spawn(script::run(Some(case), setting)).await)
    });
    let mut runs = futures::stream::iter(runs).buffer_unordered(AT_ONCE);
    while let Some((case, outcome)) = runs.next().await {
        match outcome {
            Ok(outcome) if outcome.fired => {
                fired += 1;
                *tried.entry((case.point.step, case.kind)).or_default() += 1;
            }
            // Threads take turns otherwise than in the run that was counted.
            Ok(_) => missed += 1,
            Err(_) => failed.push(case.to_string()),
        }
    }
    println!(
        "{title}: {fired} of {} faults tried in {:?}, {missed} did not come up",
        all.len(),
        clock.monotonic().saturating_sub(begun)
    );
    let steps: std::collections::BTreeSet<&str> = tried.keys().map(|(step, _)| *step).collect();
    for step in steps {
        let of = |kind: &Kind| format!("{} {}", kind.name(), tried.get(&(step, *kind)).copied().unwrap_or(0));
        println!("  {step}: {}", kinds.iter().map(of).collect::<Vec<_>>().join(", "));
    }
    assert!(
        failed.is_empty(),
        "{} of {} cases failed: {failed:#?}",
        failed.len(),
        fired + failed.len()
    );
    assert!(fired > 0 && missed * 2 <= fired, "{missed} faults did not come up");
}

/// Blocks of the script are one request.
const WHOLE: Setting = Setting {
    power_cuts: false,
    part_bytes: PART_BYTES,
};

/// Some hundred bytes each, so that every block has several.
const SMALL_PART_BYTES: usize = 512;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_whatever_fails_once() {
    matrix("RocksDB and a folder", WHOLE, &Kind::ALL, |_| true).await;
}

/// The same, with an engine that loses what was not synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_by_a_power_cut() {
    let kinds = [Kind::CrashBefore, Kind::CrashAfter];
    let setting = Setting {
        power_cuts: true,
        ..WHOLE
    };
    matrix("power cuts", setting, &kinds, |class| {
        class == Class::Write || class == Class::Put
    })
    .await;
}

/// Blocks are uploaded in parts: an upload that began, each part, its end, and giving it up can fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_by_an_upload_in_parts() {
    let setting = Setting {
        part_bytes: SMALL_PART_BYTES,
        ..WHOLE
    };
    matrix("uploads in parts", setting, &Kind::ALL, |class| class == Class::Upload).await;
}
