//! Appending to the shards that this node leads.

use super::{Shard, Shards};
use crate::shard::entry::Command;
use async_trait::async_trait;
use gnomon_cluster::node::CLOCK_MAY_BE_OFF_MS;
use gnomon_model::ids::START_TIMES_FEATURE_LEVEL;
use gnomon_model::{NodeId, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::batch::{BatchView, MAX_BATCH_BYTES, TickHeader, has_starts};
use gnomon_proto::service::ShardWriteService;
use gnomon_proto::v1::{AppendRequest, AppendResponse};
use prost::Message;

#[async_trait]
impl ShardWriteService for Shards {
    async fn append(&self, request: AppendRequest) -> Result<AppendResponse, ServiceError> {
        let started = self.clock.monotonic();
        let outcome = self.append_checked(&request).await;
        let elapsed = self.clock.monotonic().saturating_sub(started);
        self.metrics.append_seconds.observe(elapsed.as_secs_f64());
        match &outcome {
            Ok(response) => self.metrics.count(response),
            Err(error) => self.metrics.append_errors.with_label_values(&[kind(error)]).inc(),
        }
        outcome
    }

    async fn append_through(&self, request: AppendRequest, leader: u64) -> Result<AppendResponse, ServiceError> {
        let shard = self.get(request.shard)?;
        let is_known = !shard.log.is_leader() && shard.log.leader() == Some(NodeId(leader));
        match is_known {
            true => self.pass_on(&shard, NodeId(leader), request).await,
            false => self.append(request).await,
        }
    }
}

impl Shards {
    async fn append_checked(&self, request: &AppendRequest) -> Result<AppendResponse, ServiceError> {
        let shard = self.get(request.shard)?;
        if !shard.log.is_leader() {
            let leader = shard.log.leader().map(|id| id.0);
            return Err(ServiceError::NotLeader { leader });
        }
        let _permit = self
            .appends
            .try_acquire()
            .map_err(|_| ServiceError::Busy(format!("{} appends are in flight already", self.options.max_appends)))?;
        self.check_sealed(&shard)?;
        if request.starts_left_out {
            self.want_starts();
        }
        if has_starts(&request.batch) && !self.is_at(START_TIMES_FEATURE_LEVEL) {
            // Whoever sends it knows a newer state of the metadata group: it comes here in a moment, too.
            let text = "start timestamps are taken once this node knows that all others understand them";
            return Err(ServiceError::Busy(text.to_owned()));
        }
        let batch = check_batch(&request.batch)?;
        // Who is alone has nobody to say which time is right: the shard's goes on, as for all else.
        let now = match self.believed.has_others() {
            true => self.believed.now(),
            false => shard.stamp(),
        };
        check_ticks(&batch, now)?;
        if is_doubled(&shard, &batch) {
            return Ok(doubled(&batch));
        }
        let mut limits = self.limits_of(&shard);
        if request.only_newer {
            limits.out_of_order_ms = 0;
        }
        let command = Command::Batch {
            limits,
            batch: &request.batch[..],
        };
        let answer = shard.propose(command).await?;
        if answer.is_empty() {
            return Err(ServiceError::Unavailable(format!("shard {} is restarting", shard.id())));
        }
        AppendResponse::decode(answer)
            .map_err(|e| ServiceError::Internal(format!("answer of shard {} does not decode: {e}", shard.id())))
    }

    fn check_sealed(&self, shard: &Shard) -> Result<(), ServiceError> {
        let sealed = shard.machine.sealed_bytes();
        let most = self.options.max_sealed_bytes;
        if sealed > most {
            return Err(ServiceError::Busy(format!(
                "shard {} has {sealed} bytes that wait for the object store; writes are taken again below {most}",
                shard.id()
            )));
        }
        Ok(())
    }
}

/// What is proposed can be applied: apply has nobody to tell.
fn check_batch(batch: &[u8]) -> Result<BatchView<'_>, ServiceError> {
    if batch.len() > MAX_BATCH_BYTES {
        let bytes = batch.len();
        let text = format!("a batch of {bytes} bytes: at most {MAX_BATCH_BYTES} are taken");
        return Err(ServiceError::Invalid(text));
    }
    let checked = BatchView::parse(batch).and_then(|view| view.check().map(|()| view));
    checked.map_err(|e| ServiceError::Invalid(e.to_string()))
}

/// No scrape is of a time that is still to come. Were one taken from a scraper whose clock is ahead, the target's others
/// would be refused as older until that time has come.
fn check_ticks(view: &BatchView<'_>, now: TimestampMs) -> Result<(), ServiceError> {
    let newest_ms = now.0.saturating_add(CLOCK_MAY_BE_OFF_MS);
    let ahead = ticks(view)
        .flatten()
        .map(|tick| tick.tick_ms)
        .find(|tick_ms| *tick_ms > newest_ms);
    ahead.map_or(Ok(()), |tick_ms| {
        Err(ServiceError::Busy(format!(
            "a scrape of {} s ahead of this node's clock: the scraper's clock or this one is wrong",
            (tick_ms - now.0) / 1000
        )))
    })
}

/// The headers of the batch's ticks; none for rows.
fn ticks<'b>(batch: &'b BatchView<'_>) -> impl Iterator<Item = Option<TickHeader>> + 'b {
    batch.groups().map_while(Result::ok).map(|group| group.tick)
}

/// Whether the batch is ticks only, each of which another scraper has made. As far as is applied here: what is under way at
/// the same moment is not seen, and both are taken then.
fn is_doubled(shard: &Shard, batch: &BatchView<'_>) -> bool {
    let Some(Some(_)) = ticks(batch).next() else {
        return false;
    };
    shard.machine.read(|state| {
        let Some(head) = state.head(batch.tenant()) else {
            return false;
        };
        ticks(batch).all(|tick| {
            tick.is_some_and(|tick| {
                let known = head.targets.get(&tick.target);
                known.is_some_and(|target| target.is_doubled_by(&tick))
            })
        })
    })
}

/// Nothing of it was taken.
fn doubled(batch: &BatchView<'_>) -> AppendResponse {
    let count = ticks(batch).count();
    AppendResponse {
        refs: vec![0; batch.new_series().len()],
        ticks_taken: vec![false; count],
        // What an older scraper makes of it: it was there.
        ticks_repeated: vec![true; count],
        ticks_doubled: true,
        ..AppendResponse::default()
    }
}

fn kind(error: &ServiceError) -> &'static str {
    match error {
        ServiceError::NotLeader { .. } => "not_leader",
        ServiceError::Unavailable(_) => "unavailable",
        ServiceError::Busy(_) => "busy",
        ServiceError::Unknown(_) => "unknown",
        ServiceError::Invalid(_) => "invalid",
        ServiceError::NotFound(_) => "not_found",
        _ => "other",
    }
}
