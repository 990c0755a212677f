//! Appending to the shards that this node leads.

use super::{Shard, Shards};
use crate::shard::entry::Command;
use async_trait::async_trait;
use gnomon_cluster::node::CLOCK_MAY_BE_OFF_MS;
use gnomon_model::TimestampMs;
use gnomon_proto::ServiceError;
use gnomon_proto::batch::{BatchView, MAX_BATCH_BYTES};
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
}

impl Shards {
    async fn append_checked(&self, request: &AppendRequest) -> Result<AppendResponse, ServiceError> {
        let shard = self.get(request.shard)?;
        if !shard.log.is_leader() {
            let leader = shard.log.leader().map(|id| id.0);
            return Err(ServiceError::NotLeader { leader });
        }
        let _permit = self.appends.try_acquire().map_err(|_| {
            ServiceError::Unavailable(format!("{} appends are in flight already", self.options.max_appends))
        })?;
        self.check_sealed(&shard)?;
        check_ticks(&check_batch(&request.batch)?, shard.stamp())?;
        let command = Command::Batch {
            limits: self.limits_of(&shard),
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
            return Err(ServiceError::Unavailable(format!(
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
    let invalid = |e: gnomon_proto::batch::BadBatch| ServiceError::Invalid(e.to_string());
    let view = BatchView::parse(batch).map_err(invalid)?;
    view.check().map_err(invalid)?;
    Ok(view)
}

/// No scrape is of a time that is still to come. Were one taken from a scraper whose clock is ahead, the target's others
/// would be refused as older until that time has come.
fn check_ticks(view: &BatchView<'_>, now: TimestampMs) -> Result<(), ServiceError> {
    let newest_ms = now.0.saturating_add(CLOCK_MAY_BE_OFF_MS);
    let ticks = view.groups().filter_map(|group| group.ok()?.tick);
    let ahead = ticks.map(|tick| tick.tick_ms).find(|tick_ms| *tick_ms > newest_ms);
    ahead.map_or(Ok(()), |tick_ms| {
        Err(ServiceError::Unavailable(format!(
            "a scrape of {} s ahead of this node's clock: the scraper's clock or this one is wrong",
            (tick_ms - now.0) / 1000
        )))
    })
}

fn kind(error: &ServiceError) -> &'static str {
    match error {
        ServiceError::NotLeader { .. } => "not_leader",
        ServiceError::Unavailable(_) => "unavailable",
        ServiceError::Unknown(_) => "unknown",
        ServiceError::Invalid(_) => "invalid",
        ServiceError::NotFound(_) => "not_found",
        _ => "other",
    }
}
