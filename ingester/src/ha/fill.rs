//! Writes what was held of a stand-by whose turn has begun, behind what there is of each series.

use super::HaTracker;
use super::held::{Fill, Form, HeldRequest};
use super::waits::FOR_OWN;
use crate::intake::{Intake, NotWritten};
use crate::remote_write::{version_1, version_2};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use gnomon_cluster::router::WriteOutcome;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Of pairs: each has a request in memory as it was before it was compressed.
const AT_ONCE: usize = 8;
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// What is held of pairs of which nothing is heard any more goes with their state, which is looked at as often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Runs until `stop`, where HA pairs are looked for.
pub async fn fill_turns(intake: Arc<Intake>, stop: CancellationToken) {
    let Some(tracker) = intake.ha.clone().filter(|tracker| tracker.held().is_on()) else {
        return;
    };
    let mut states = tracker.states();
    let at_once = Semaphore::new(AT_ONCE);
    let mut writing = FuturesUnordered::new();
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        for fill in tracker.held().due(&state, tracker.options().update_ms()) {
            writing.push(write(&intake, &tracker, &at_once, fill));
        }
        tracker.note_held();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            // There may be more of the same by now.
            Some(()) = writing.next() => {}
            () = tracker.held().arrived.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn write(intake: &Intake, tracker: &HaTracker, at_once: &Semaphore, fill: Fill) {
    let Ok(_permit) = at_once.acquire().await else { return };
    let until = Instant::now() + FOR_OWN;
    let (mut filled, mut refused, mut lost, mut why) = (0, 0, 0, None);
    for request in &fill.requests {
        match write_one(intake, &fill, request, until).await {
            Ok(outcome) => {
                filled += outcome.taken;
                refused += outcome.refused.iter().map(|one| one.count).sum::<u64>();
            }
            Err(error) => {
                lost += 1;
                why.get_or_insert(error);
            }
        }
    }
    tracker.count_not_filled(lost);
    let (cluster, replica, requests) = (&fill.stand_by.cluster, &fill.stand_by.replica, fill.requests.len());
    match why {
        None => tracing::info!(
            cluster,
            replica,
            requests,
            filled,
            "HA pair: what was held of it is written"
        ),
        Some(error) => {
            tracing::warn!(cluster, replica, requests, lost, filled, refused, %error, "HA pair: not all that was held of it is written");
        }
    }
}

async fn write_one(
    intake: &Intake,
    fill: &Fill,
    request: &HeldRequest,
    until: Instant,
) -> Result<WriteOutcome, NotWritten> {
    let body = snap::raw::Decoder::new().decompress_vec(&request.body);
    let body = body.map_err(|error| NotWritten::Malformed(error.to_string()))?;
    loop {
        let written = async {
            match request.form {
                Form::Version1 => version_1::fill(intake, fill, &body).await,
                Form::Version2 => version_2::fill(intake, fill, &body).await,
            }
        };
        let error = match timeout_at(until, written).await {
            Ok(Ok(outcome)) => match (&outcome.retryable, &outcome.failed) {
                (Some(error), _) => NotWritten::Retry(error.to_string()),
                (None, Some(error)) => return Err(NotWritten::Malformed(error.to_string())),
                (None, None) => return Ok(outcome),
            },
            Ok(Err(error)) => error,
            Err(_) => NotWritten::Retry(format!("its shards did not take it within {} s", FOR_OWN.as_secs())),
        };
        if matches!(error, NotWritten::Malformed(_)) || Instant::now() + TRY_AGAIN >= until {
            return Err(error);
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
