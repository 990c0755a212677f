//! Samples that a shard does not own: the map by which they were sent is older than the shard's, or newer.
//!
//! A shard that is closed, because another placement epoch begins, refuses what is at or after that time as misrouted.
//! The map that says where it belongs comes in a moment: then it goes there, and whoever sent it hears nothing of it.
//! While there is none (the epoch is not in force yet) it is offered again until the time is up.

use super::Router;
use super::chunk::{Chunk, ChunkWriter, ITEM_BYTES, NamedSeries};
use super::rows::moved_key;
use super::send::{Lane, Misrouted};
use super::types::{LabelSource, WriteOutcome};
use crate::placement::{Owner, Placement, TenantSeed};
use gnomon_model::{LabelsRef, ShardId, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::batch::{BadBatch, BatchView, Item, SeriesKey};
use std::collections::HashMap;
use std::time::Duration;

/// Before the same shard is asked again, while the map is the same.
const ASK_AGAIN: Duration = Duration::from_millis(250);

pub(super) fn no_place(shard: ShardId) -> ServiceError {
    ServiceError::Unavailable(format!(
        "shard {shard} does not own samples of this time, and the shard that does is not known here yet: the placement \
         epoch that has it is not in force, or this node has not heard of it"
    ))
}

impl Router {
    /// Returns once the map may be another than `before`, or it is time to ask again.
    pub(super) async fn newer_map(&self, before: &Placement) {
        let mut placement = self.placement.clone();
        let changed = placement.wait_for(|now| **now != *before);
        // A map that nobody changes any more is asked again all the same.
        let _ = tokio::time::timeout(ASK_AGAIN, async {
            if changed.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await;
    }

    /// Brings batches that were refused as misrouted to where they belong, until all are taken: runs until it is dropped
    /// else.
    pub(super) async fn follow_misrouted(
        &self,
        mut open: Vec<Misrouted>,
        labels: &dyn LabelSource,
        deadline: Duration,
        outcome: &mut WriteOutcome,
    ) -> Result<(), ServiceError> {
        let mut sent_by = None;
        while !open.is_empty() {
            let placement = self.placement.borrow().clone();
            let mut lanes = Vec::new();
            for Misrouted { shard, chunk } in open {
                let elsewhere = as_rows(&chunk, Some(shard), &placement, labels)?;
                if !elsewhere.is_empty() {
                    lanes.extend(elsewhere);
                } else if is_tick(&chunk)? {
                    // The shard has taken the tick, and would take nothing more of it.
                    lanes.extend(as_rows(&chunk, None, &placement, labels)?);
                } else {
                    let chunks = vec![chunk];
                    lanes.push(Lane { shard, chunks });
                }
            }
            // Asked by this map already.
            if sent_by.as_ref() == Some(&placement) {
                self.newer_map(&placement).await;
            }
            sent_by = Some(placement);
            self.metrics
                .retries
                .with_label_values(&["misrouted"])
                .inc_by(lanes.len() as u64);
            let sends = lanes
                .into_iter()
                .map(|lane| self.send_lane(lane, labels, deadline, true));
            open = Vec::new();
            for mut tally in futures::future::join_all(sends).await {
                open.append(&mut tally.misrouted);
                outcome.merge(tally);
            }
        }
        Ok(())
    }
}

fn own_batch(error: BadBatch) -> ServiceError {
    ServiceError::Internal(format!("a batch of this router does not read back: {error}"))
}

fn is_tick(chunk: &Chunk) -> Result<bool, ServiceError> {
    let view = BatchView::parse(&chunk.bytes).map_err(own_batch)?;
    let first = view.groups().next().transpose().map_err(own_batch)?;
    Ok(first.is_some_and(|group| group.tick.is_some()))
}

/// The items of a batch that `placement` gives to other shards than `but`, as rows for those.
fn as_rows(
    chunk: &Chunk,
    but: Option<ShardId>,
    placement: &Placement,
    labels: &dyn LabelSource,
) -> Result<Vec<Lane>, ServiceError> {
    let view = BatchView::parse(&chunk.bytes).map_err(own_batch)?;
    let known: HashMap<u64, NamedSeries> = chunk.known.iter().map(|named| (named.reference.0, *named)).collect();
    let mut moving = Moving {
        view: &view,
        placement,
        seed: TenantSeed::of(view.tenant()),
        labels,
        only_newer: chunk.only_newer,
        texts: HashMap::new(),
        lanes: Vec::new(),
    };
    for group in view.groups() {
        for item in group.map_err(own_batch)?.items() {
            let item = item.map_err(own_batch)?;
            let (Item::Sample { key, timestamp_ms, .. }
            | Item::Histogram { key, timestamp_ms, .. }
            | Item::Exemplar { key, timestamp_ms, .. }) = &item
            else {
                // Metadata is of no time: it was taken.
                continue;
            };
            let named = match key {
                SeriesKey::Known(reference) => known.get(&reference.0).copied(),
                SeriesKey::New(index) => chunk.new.get(*index as usize).copied(),
            };
            if let Some(named) = named {
                moving.item(&item, named, *timestamp_ms, but)?;
            }
        }
    }
    let lanes = moving.lanes.into_iter();
    Ok(lanes
        .map(|(owner, writer)| Lane {
            shard: owner.shard,
            chunks: writer.finish(),
        })
        .collect())
}

struct Moving<'a> {
    view: &'a BatchView<'a>,
    placement: &'a Placement,
    seed: TenantSeed,
    labels: &'a dyn LabelSource,
    only_newer: bool,
    /// By the caller's number.
    texts: HashMap<u32, Vec<u8>>,
    lanes: Vec<(Owner, ChunkWriter)>,
}

impl Moving<'_> {
    fn item(
        &mut self,
        item: &Item<'_>,
        named: NamedSeries,
        at_ms: i64,
        but: Option<ShardId>,
    ) -> Result<(), ServiceError> {
        let text = self.texts.entry(named.series).or_insert_with(|| {
            let mut text = Vec::new();
            self.labels.write_labels(named.series, &mut text);
            text
        });
        let labels = LabelsRef::checked(text)
            .map_err(|e| ServiceError::Internal(format!("labels made again for a series: {e}")))?;
        let owner = self.placement.owner(self.seed, labels, TimestampMs(at_ms));
        let Some(owner) = owner.filter(|owner| Some(owner.shard) != but) else {
            return Ok(());
        };
        let at = self.lanes.iter().position(|(o, _)| *o == owner).unwrap_or_else(|| {
            let writer = ChunkWriter::rows(self.view.tenant(), owner.epoch).only_newer(self.only_newer);
            self.lanes.push((owner, writer));
            self.lanes.len() - 1
        });
        let writer = &mut self.lanes[at].1;
        let texts = match item {
            Item::Histogram { encoded, .. } => encoded.len(),
            Item::Exemplar { labels, .. } => labels.as_bytes().len(),
            Item::Sample { .. } | Item::Metadata { .. } => 0,
        };
        writer.make_room(ITEM_BYTES + texts + labels.as_bytes().len());
        let key = moved_key(named.key, self.view.epoch(), owner.epoch);
        let key = writer.new_series(key, named.series, labels);
        match item {
            Item::Sample { start_ms, value, .. } => {
                writer.items().since(*start_ms);
                writer.items().sample(key, at_ms, *value);
            }
            Item::Histogram { start_ms, encoded, .. } => {
                writer.items().since(*start_ms);
                writer.items().histogram(key, at_ms, encoded);
            }
            Item::Exemplar { value, labels, .. } => writer.items().exemplar(key, at_ms, *value, *labels),
            Item::Metadata { .. } => {}
        }
        Ok(())
    }
}
