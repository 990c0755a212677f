//! Writers and readers: each on a machine without shards, through the router and the directory that a process has.

use super::clock::Origin;
use super::ledger::{self, Key, Ledger, Unread, labels_of, value_of};
use super::machine::Running;
use super::trace::Trace;
use gnomon_cluster::node::NodeHandle;
use gnomon_cluster::router::{Router, RouterOptions};
use gnomon_model::{Labels, TenantId};
use gnomon_proto::v1::MetaState;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SERIES: usize = 4;
/// How long one attempt of a writer may take before it is made again.
const DEADLINE: Duration = Duration::from_secs(4);

/// What writers and readers share.
#[derive(Clone)]
pub(crate) struct Sheet {
    pub(crate) seed: u64,
    pub(crate) origin: Origin,
    pub(crate) trace: Trace,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    /// Writers begin nothing new once it is cancelled.
    pub(crate) enough: CancellationToken,
}

/// A router on a machine.
pub(crate) fn router(node: &NodeHandle) -> Result<Router, prometheus::Error> {
    let directory = node.directory.clone();
    let (placement, registry) = (directory.placement(), prometheus::Registry::new());
    Router::new(RouterOptions::default(), placement, directory, &registry)
}

/// Writes a few samples of each of its series, again and again; each write is repeated until it is acknowledged.
pub(crate) async fn write(sheet: Sheet, writer: usize, router: Arc<Router>) {
    let mut random = StdRng::seed_from_u64(sheet.seed ^ 0x7772_6974 ^ (writer as u64) << 40);
    let labels: Vec<Labels> = (0..SERIES).map(|series| labels_of(writer, series)).collect();
    let texts: Vec<String> = labels.iter().map(|labels| labels.as_ref().to_string()).collect();
    let tenant = TenantId::anonymous();
    while !sheet.enough.is_cancelled() {
        let now_ms = sheet.origin.true_ms();
        let times: Vec<i64> = (0..random.random_range(1..4)).map(|i| now_ms + i).collect();
        let with: Vec<usize> = (0..SERIES).filter(|_| random.random_bool(0.7)).collect();
        let keys: Vec<Key> = with
            .iter()
            .flat_map(|series| times.iter().map(|at| (texts[*series].clone(), *at)))
            .collect();
        sheet.ledger.lock().begin(&keys);
        let mut attempt = 0;
        while !keys.is_empty() {
            attempt += 1;
            let mut batch = router.batch(&tenant, &labels);
            for series in &with {
                batch.series(((writer * SERIES + series) as u128) << 64 | 1, *series as u32);
                for at in &times {
                    batch.sample(*at, value_of(writer, *series, *at));
                }
            }
            let outcome = batch.send(DEADLINE).await;
            if !outcome.refused.is_empty() || outcome.failed.is_some() {
                return sheet
                    .trace
                    .fail(format!("writer {writer} is refused what is valid: {outcome:?}"));
            }
            if outcome.retryable.is_none() {
                let done = outcome.taken + outcome.duplicates;
                if done != keys.len() as u64 {
                    let sent = keys.len();
                    return sheet.trace.fail(format!(
                        "writer {writer}: {done} of {sent} samples acknowledged as a whole"
                    ));
                }
                break;
            }
            if attempt % 8 == 0
                && let Some(error) = &outcome.retryable
            {
                let text = format!("writer {writer} at attempt {attempt}: {error}");
                sheet.trace.event(text);
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
        }
        sheet.ledger.lock().acknowledge(&keys);
        if attempt > 1 {
            sheet
                .trace
                .event(format!("writer {writer} is through at attempt {attempt}"));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..400))).await;
    }
}

/// The newest placement epoch that a state knows.
pub(crate) fn newest_epoch(state: &MetaState) -> u32 {
    state.epochs.last().map_or(0, |epoch| epoch.epoch)
}

/// Reads again and again what was acknowledged before, and nothing else may come.
pub(crate) async fn read(sheet: Sheet, reader: usize, running: Running) {
    let mut random = StdRng::seed_from_u64(sheet.seed ^ 0x7265_6164 ^ (reader as u64) << 40);
    let reads = running.node.directory.shard_reads();
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..900))).await;
        let from_ms = match random.random_bool(0.2) {
            true => i64::MIN,
            false => sheet.origin.true_ms() - 8000,
        };
        let expected = sheet.ledger.lock().expected(from_ms);
        let mut found = ledger::Found::new();
        let mut unread = None;
        // As this machine knows them: a shard says where it should know of more.
        let state = running.node.directory.state();
        let epoch = newest_epoch(&state);
        let shards = state.epochs.iter().flat_map(|epoch| epoch.shards.clone());
        for shard in shards {
            if let Err(error) = ledger::read(reads.as_ref(), shard, from_ms, epoch, false, &mut found).await {
                unread = Some(error);
                break;
            }
        }
        match unread {
            None => {
                let wrong = sheet.ledger.lock().judge(&expected, &found);
                if let Some(wrong) = wrong {
                    return sheet.trace.fail(format!("reader {reader}: {wrong}"));
                }
            }
            Some(Unread::NotNow(error)) if error.is_retryable() => {}
            Some(Unread::NotNow(error)) => {
                return sheet
                    .trace
                    .fail(format!("reader {reader}: an answer that no reader can use: {error}"));
            }
            Some(Unread::Wrong(wrong)) => return sheet.trace.fail(format!("reader {reader}: {wrong}")),
        }
    }
}
