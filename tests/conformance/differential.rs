//! Random queries of Debian's Prometheus 2.42 and of gnomon, over the same samples: their answers must be equal within
//! 1e-12. `GNOMON_DIFFERENTIAL` says how many queries (instant and range each), `GNOMON_SEED` which.

#[path = "differential/data.rs"]
mod data;
#[path = "differential/equal.rs"]
mod equal;
#[path = "differential/generate.rs"]
mod generate;

use crate::answers::{self, seconds};
use crate::harness::client::encode;
use crate::harness::reference::Prometheus;
use crate::harness::{Http, peers, remote};
use crate::store::Store;
use equal::Outcome;
use futures::StreamExt;
use generate::Query;
use gnomon_promql::promqltest::Answer;

/// What runs with all other tests.
const QUERIES: usize = 400;
const SEED: u64 = 20_260_801;
/// Asked at the same time.
const AT_ONCE: usize = 8;
/// After so many the run ends.
const ENOUGH_DIFFERENCES: usize = 20;

fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number"))
}

/// Writes the same to both; the second half is in gnomon's heads, the first in its blocks.
async fn write(store: &mut Store, reference: &Http, seed: u64) {
    let batches = data::batches(seed);
    let half = batches.len() / 2;
    for (i, batch) in batches.into_iter().enumerate() {
        if i == half {
            store.flush().await.expect("blocks");
        }
        let body = remote::body(batch);
        store.write(body.clone()).await.expect("gnomon takes it");
        let (code, text) = remote::send(reference, body).await.expect("Prometheus is there");
        assert!((200..300).contains(&code), "Prometheus: {code}: {text}");
    }
}

/// A difference, with both answers, shortened.
fn shown(number: u64, query: &Query, why: &str, ours: &Told, theirs: &Told) -> String {
    let (ours, theirs) = (format!("{ours:?}"), format!("{theirs:?}"));
    format!("#{number} {query}\n  {why:.600}\n  gnomon: {ours:.1500}\n  Prometheus: {theirs:.1500}")
}

type Told = Result<Answer, String>;

/// Both answers.
async fn ask(store: &Store, reference: &Http, query: &Query) -> (Told, Told) {
    let time = match query.step_ms {
        None => format!("query?time={}", seconds(query.start_ms)),
        Some(step_ms) => {
            let (start, end) = (seconds(query.start_ms), seconds(query.end_ms));
            format!("query_range?start={start}&end={end}&step={}", seconds(step_ms))
        }
    };
    let path = |text: &str| format!("/api/v1/{time}&query={}", encode(text));
    let (ours, theirs) = (path(&query.text), path(&query.for_reference()));
    let ((_, ours), (_, theirs)) = tokio::join!(store.get(&ours), reference.get(&theirs));
    (answers::read(&ours), answers::read(&theirs))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_queries_are_answered_as_prometheus_does() {
    let Some(program) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let reference = Prometheus::for_remote_write(&program, folder.path()).await;
    let (count, seed) = (
        number("GNOMON_DIFFERENTIAL", QUERIES as u64),
        number("GNOMON_SEED", SEED),
    );
    let mut store = Store::new(false);
    write(&mut store, &reference.http, seed).await;
    println!("differential: seed {seed}, {count} queries, each instant and range");
    let counts = run(&store, &reference.http, seed, count).await;
    println!(
        "differential: {} queries, each instant and range: {} differences; {} answers excepted (docs/compat.md), {} \
         with a result; seed {seed}",
        counts.queries, counts.different, counts.excepted, counts.with_result
    );
    assert_eq!(
        counts.different, 0,
        "differences; GNOMON_SEED={seed} gives the same queries again"
    );
    assert!(
        counts.with_result * 2 >= counts.queries,
        "{counts:?}: the queries mean too little"
    );
}

/// What came of a run. Each query has two answers.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    queries: usize,
    with_result: usize,
    excepted: usize,
    different: usize,
}

async fn run(store: &Store, reference: &Http, seed: u64, count: u64) -> Counts {
    let asked = futures::stream::iter(0..count).map(async |number| {
        let mut all = Vec::new();
        for query in generate::queries(seed, number) {
            let (ours, theirs) = ask(store, reference, &query).await;
            let outcome = equal::compare(&query.text, &ours, &theirs);
            let outcome = outcome.map_err(|why| shown(number, &query, &why, &ours, &theirs));
            all.push((equal::has_result(&theirs), outcome));
        }
        all
    });
    let mut asked = asked.buffered(AT_ONCE);
    let began = tokio::time::Instant::now();
    let mut counts = Counts::default();
    while let Some(answers) = asked.next().await {
        counts.queries += 1;
        for (has_result, outcome) in answers {
            counts.with_result += usize::from(has_result);
            match outcome {
                Ok(Outcome::Equal) => {}
                Ok(Outcome::Excepted) => counts.excepted += 1,
                Err(difference) => {
                    counts.different += 1;
                    println!("DIFFERENT {difference}");
                }
            }
        }
        if counts.queries.is_multiple_of(1000) {
            let rate = counts.queries as f64 / began.elapsed().as_secs_f64();
            println!("{counts:?}; {rate:.0} queries/s");
        }
        if counts.different >= ENOUGH_DIFFERENCES {
            break;
        }
    }
    counts
}
