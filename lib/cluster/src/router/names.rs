//! Telling the shards of the epoch to come which series a target has.
//!
//! Staleness is decided in the shard, from the target's live set. At the beginning of an epoch that set is in the shards
//! before: so the last ticks before it go to the shards of the next epoch too, without samples. The first tick that these
//! take then finds what is missing, as if they had always had the target. One of these ticks that is lost costs nothing
//! but the marker of a series that ends just then.

use super::Router;
use super::tick::encode_names;
use super::types::Tick;
use gnomon_model::TimestampMs;
use std::time::Duration;

/// Ticks before an epoch's beginning that its shards are told. A target that was silent for longer than two of them and
/// 10 % is given up before.
const TICKS_TOLD: i64 = 4;
/// A scrape does not wait for longer.
const PATIENCE: Duration = Duration::from_secs(1);

impl Router {
    /// After a tick was taken: its names to the shards of the next epoch, where that is near.
    pub(super) async fn tell_names(&self, tick: &Tick<'_>) {
        let placement = self.placement.borrow().clone();
        let next_ms = placement
            .epoch_at(TimestampMs(tick.tick_ms))
            .and_then(|epoch| placement.end_of(epoch));
        let interval_ms = i64::try_from(tick.interval_ms).unwrap_or(i64::MAX);
        let near_ms = interval_ms.saturating_mul(TICKS_TOLD);
        let Some(next_ms) = next_ms.filter(|next| next.saturating_sub(tick.tick_ms) <= near_ms) else {
            return;
        };
        let lanes = match encode_names(self, tick, &placement, TimestampMs(next_ms)) {
            Ok(lanes) => lanes,
            Err(error) => {
                tracing::debug!(%error, "the shards of the next epoch do not hear of a tick");
                return;
            }
        };
        let sends = lanes
            .into_iter()
            .map(|lane| self.send_lane(lane, tick.labels, PATIENCE, true));
        for tally in futures::future::join_all(sends).await {
            if let Some(error) = tally.error {
                tracing::debug!(%error, "a shard of the next epoch does not hear of a tick");
            }
        }
    }
}
