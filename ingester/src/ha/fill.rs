//! Writes what was held of a stand-by whose turn has begun, behind what there is of each series.

use super::HaTracker;
use super::held::{Fill, Form, HeldRequest};
use crate::intake::{Intake, NotWritten, Written};
use crate::remote_write::{version_1, version_2};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a request is tried: samples of the turn itself are written meanwhile, and nothing fills in before them.
const TRY_FOR: Duration = Duration::from_secs(30);
/// Pairs that are written side by side.
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
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        let due = tracker.held().due(&state, tracker.options().update_ms());
        tracker.note_held();
        let writing = futures::stream::iter(due).for_each_concurrent(AT_ONCE, |fill| {
            let (intake, tracker) = (Arc::clone(&intake), Arc::clone(&tracker));
            async move {
                write(&intake, &tracker, &fill).await;
                tracker.held().filled(&fill);
            }
        });
        if stop.run_until_cancelled(writing).await.is_none() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn write(intake: &Intake, tracker: &HaTracker, fill: &Fill) {
    let until = tokio::time::Instant::now() + TRY_FOR;
    let (mut filled, mut lost) = (0, 0);
    for request in &fill.requests {
        match write_until(intake, request, until).await {
            Ok(written) => filled += written.filled,
            Err(error) => {
                let (cluster, replica) = (&request.stand_by.cluster, &request.stand_by.replica);
                tracing::warn!(%error, cluster, replica, "HA pair: a held request was not written");
                lost += 1;
            }
        }
    }
    tracker.count_not_filled(lost);
    let requests = fill.requests.len();
    let cluster = &fill.pair.cluster;
    tracing::info!(
        cluster,
        requests,
        lost,
        filled,
        "HA pair: samples that were held are behind those of the turn before"
    );
}

async fn write_until(
    intake: &Intake,
    request: &HeldRequest,
    until: tokio::time::Instant,
) -> Result<Written, NotWritten> {
    let body = snap::raw::Decoder::new().decompress_vec(&request.body);
    let body = body.map_err(|error| NotWritten::Malformed(error.to_string()))?;
    loop {
        let written = match request.form {
            Form::Version1 => version_1::write(intake, &request.tenant, &body).await,
            Form::Version2 => version_2::write(intake, &request.tenant, &body).await,
        };
        let error = match written {
            Ok(written) => match &written.outcome.retryable {
                None => return Ok(written),
                Some(error) => NotWritten::Retry(error.to_string()),
            },
            Err(error) => error,
        };
        if matches!(error, NotWritten::Malformed(_)) || tokio::time::Instant::now() + TRY_AGAIN >= until {
            return Err(error);
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
