//! Sending encoded batches to a shard's leader until they are taken, refused or out of time.

use super::Router;
use super::cache::Known;
use super::chunk::Chunk;
use super::resend;
use super::types::{LabelSource, Refused, WriteOutcome};
use gnomon_model::{LabelsRef, NodeId, SeriesRef, ShardId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::ShardWriteService;
use gnomon_proto::v1::rejection::Reason;
use gnomon_proto::v1::{AppendRequest, AppendResponse, Rejection};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tower::retry::budget::Budget;

/// The client of one replica of a shard.
#[derive(Clone)]
pub struct ShardWriter {
    pub node: NodeId,
    pub client: Arc<dyn ShardWriteService>,
    /// It does not lead, and is asked to pass batches on to this one, which does not answer here.
    pub to: Option<NodeId>,
}

/// What was heard of a replica that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It leads, or is busy.
    Answer,
    /// It does not lead; who does, where it knows.
    OtherLeads(Option<NodeId>),
    /// That another node is there, or nothing at all.
    Nothing,
}

/// Where the shards' leaders are.
pub trait ShardWriters: Send + Sync + 'static {
    /// The client of the node that leads the shard, as far as is known.
    ///
    /// # Errors
    /// `Unavailable` where no replica's address is known (yet).
    fn leader(&self, shard: ShardId) -> Result<ShardWriter, ServiceError>;
    /// What became of asking: who is asked next goes by it. One that is busy is asked again: others would send it back at once.
    fn heard(&self, _shard: ShardId, _asked: &ShardWriter, _heard: Heard) {}
}

/// Rounds of "unknown reference" that one batch may take: after the first only a shard that forgets has more.
const MAX_RESENDS: u8 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// The same while a replica answers that it does not lead: an election is over in a second or two, and is not to be noticed
/// long after it.
const WITHOUT_LEADER: Duration = Duration::from_millis(200);
/// A leader that works may take so long: who has less patience learns nothing of it from its silence.
const LEAST_ATTEMPT: Duration = Duration::from_secs(1);
/// Redirects that are followed at once; then they wait like any other retry.
const QUICK_REDIRECTS: u32 = 3;

/// Batches for one shard, sent in order.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) shard: ShardId,
    pub(super) chunks: Vec<Chunk>,
}

/// A batch with samples that the shard it was sent to does not own.
#[derive(Debug)]
pub(super) struct Misrouted {
    pub(super) shard: ShardId,
    pub(super) chunk: Chunk,
}

/// What the answers of one shard add up to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) taken: u64,
    pub(super) duplicates: u64,
    pub(super) series_added: u64,
    pub(super) refused: Vec<Refused>,
    /// A tick group was refused as a whole.
    pub(super) tick_refused: bool,
    /// It was, and not because it came twice.
    pub(super) tick_of_older_term: bool,
    /// Another scraper made it.
    pub(super) tick_doubled: bool,
    /// The shard's newest tick of the target is well after it.
    pub(super) tick_earlier: bool,
    /// Batches with samples that the shard does not own. Of one that is a tick nothing was taken where `ticks_misrouted`
    /// counts it.
    pub(super) misrouted: Vec<Misrouted>,
    pub(super) ticks_misrouted: usize,
    pub(super) target_shards: Vec<(u64, Vec<u32>)>,
    pub(super) error: Option<ServiceError>,
}

impl Tally {
    fn add(&mut self, response: AppendResponse) {
        self.taken += response.samples_taken;
        self.duplicates += response.duplicates;
        self.series_added += response.series_added;
        // Misrouted ones are not refused: they go elsewhere.
        for rejection in response
            .rejections
            .into_iter()
            .filter(|r| r.reason() != Reason::Misrouted)
        {
            add_refused(&mut self.refused, refused(rejection));
        }
        for target in response.target_shards {
            self.target_shards.push((target.target, target.shards));
        }
    }
}

fn refused(rejection: Rejection) -> Refused {
    let labels = LabelsRef::checked(&rejection.example_labels).ok();
    Refused {
        reason: rejection.reason(),
        count: rejection.count,
        example: labels.map(|l| (l.to_owned(), rejection.example_timestamp_ms)),
    }
}

pub(super) fn add_refused(all: &mut Vec<Refused>, one: Refused) {
    if one.count == 0 {
        return;
    }
    match all.iter_mut().find(|r| r.reason == one.reason) {
        Some(same) => {
            same.count += one.count;
            same.example = same.example.take().or(one.example);
        }
        None => all.push(one),
    }
}

impl WriteOutcome {
    pub(super) fn merge(&mut self, tally: Tally) {
        self.taken += tally.taken;
        self.duplicates += tally.duplicates;
        for one in tally.refused {
            add_refused(&mut self.refused, one);
        }
        if let Some(error) = tally.error {
            self.fail(error);
        }
    }

    /// Some of the write was not done; the first reason counts.
    pub(super) fn fail(&mut self, error: ServiceError) {
        let place = if error.may_succeed_later() {
            &mut self.retryable
        } else {
            &mut self.failed
        };
        place.get_or_insert(error);
    }
}

/// An answer, and whether an attempt before it may have been carried out.
struct Answer {
    response: AppendResponse,
    after_unknown: bool,
}

impl Router {
    /// Sends a lane's batches one after another. What was taken before an error or the end of `deadline` counts. `again`
    /// says that some of it may have been sent before.
    pub(super) async fn send_lane(
        &self,
        lane: Lane,
        labels: &dyn LabelSource,
        deadline: Duration,
        again: bool,
    ) -> Tally {
        let shard = lane.shard;
        let mut tally = Tally::default();
        let mut last_error = None;
        // One that does not answer is found out while there is time for another.
        let attempt_timeout = self.options.attempt_timeout.min((deadline / 2).max(LEAST_ATTEMPT));
        let sending = self.send_chunks(lane, labels, again, attempt_timeout, &mut tally, &mut last_error);
        let result = tokio::time::timeout(deadline, sending).await;
        tally.error = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(last_error.unwrap_or_else(|| {
                ServiceError::DeadlineExceeded(format!("shard {shard} did not answer within {deadline:?}"))
            })),
        };
        tally
    }

    async fn send_chunks(
        &self,
        lane: Lane,
        labels: &dyn LabelSource,
        again: bool,
        attempt_timeout: Duration,
        tally: &mut Tally,
        last_error: &mut Option<ServiceError>,
    ) -> Result<(), ServiceError> {
        let shard = lane.shard;
        let mut queue: VecDeque<(Chunk, u8)> = lane.chunks.into_iter().map(|c| (c, 0)).collect();
        while let Some((chunk, round)) = queue.pop_front() {
            let Answer {
                mut response,
                after_unknown,
            } = self.append(shard, &chunk, attempt_timeout, last_error).await?;
            self.learn(shard, &chunk, &response);
            let unknown = std::mem::take(&mut response.unknown_refs);
            let is_misrouted = response.rejections.iter().any(|r| r.reason() == Reason::Misrouted);
            if unknown.is_empty() {
                let no_tick = response.ticks_taken.contains(&false);
                tally.ticks_misrouted += usize::from(no_tick && is_misrouted);
                // A repeated tick after an attempt of unknown outcome is that attempt, which was carried out; so is one that is sent
                // again by a newer map. Who says why it refuses one: an older term is none of the attempts before, and an attempt
                // that was carried out would have been the newest.
                let says_why = response.ticks_repeated.len() == response.ticks_taken.len();
                let is_repeated = response.ticks_repeated.contains(&true);
                let was_sent = after_unknown || again;
                let is_anothers = response.ticks_doubled || response.tick_earlier;
                let may_be_ours = was_sent && !is_anothers && (is_repeated || !says_why);
                let is_refused = no_tick && !(may_be_ours || is_misrouted);
                tally.tick_refused |= is_refused;
                tally.tick_of_older_term |= is_refused && !is_repeated;
                tally.tick_doubled |= response.ticks_doubled;
                tally.tick_earlier |= response.tick_earlier;
                tally.add(response);
                if is_misrouted {
                    tally.misrouted.push(Misrouted { shard, chunk });
                }
                continue;
            }
            tally.add(response);
            self.forget(shard, &chunk, &unknown, labels);
            if round >= MAX_RESENDS {
                return Err(ServiceError::Unavailable(format!(
                    "shard {shard} does not keep the references it gives"
                )));
            }
            self.metrics.resends.inc();
            let named = resend::with_labels(&chunk, &unknown, labels)?;
            for chunk in named.into_iter().rev() {
                queue.push_front((chunk, round + 1));
            }
            if is_misrouted {
                tally.misrouted.push(Misrouted { shard, chunk });
            }
        }
        Ok(())
    }

    fn learn(&self, shard: ShardId, chunk: &Chunk, response: &AppendResponse) {
        for (named, reference) in chunk.new.iter().zip(&response.refs) {
            if *reference != 0 {
                let known = Known {
                    reference: SeriesRef(*reference),
                    shard,
                };
                self.cache.insert(named.key, known);
            }
        }
    }

    /// The next tick, or write, looks these up again, and no others.
    fn forget(&self, shard: ShardId, chunk: &Chunk, unknown: &[u64], labels: &dyn LabelSource) {
        let unknown: std::collections::HashSet<u64> = unknown.iter().copied().collect();
        let named = || chunk.known.iter().filter(|n| unknown.contains(&n.reference.0));
        for named in named() {
            self.cache.forget(named.key, named.reference);
        }
        if let Some(memo) = labels.memo() {
            memo.forget(shard, named().map(|named| (named.series, named.reference)));
        }
    }

    /// Asks until there is an answer or an error that asking again would not change. Runs until it is dropped else.
    async fn append(
        &self,
        shard: ShardId,
        chunk: &Chunk,
        attempt_timeout: Duration,
        last_error: &mut Option<ServiceError>,
    ) -> Result<Answer, ServiceError> {
        self.metrics.batches.inc();
        self.metrics.batch_bytes.inc_by(chunk.bytes.len() as u64);
        self.budget.deposit();
        let mut after_unknown = false;
        let mut backoff = FIRST_BACKOFF;
        let mut redirects = 0;
        let mut was_busy = false;
        loop {
            let error = match self.attempt(shard, chunk, attempt_timeout).await {
                Ok(response) => {
                    return Ok(Answer {
                        response,
                        after_unknown,
                    });
                }
                Err(error) => error,
            };
            let after_busy = std::mem::replace(&mut was_busy, matches!(error, ServiceError::Busy(_)));
            let reason = match &error {
                ServiceError::NotLeader { leader } => {
                    if leader.is_some() && redirects < QUICK_REDIRECTS {
                        redirects += 1;
                        if !after_busy {
                            backoff = FIRST_BACKOFF;
                        }
                        self.metrics.retries.with_label_values(&["not-leader"]).inc();
                        *last_error = Some(error);
                        continue;
                    }
                    backoff = backoff.min(WITHOUT_LEADER);
                    "not-leader"
                }
                ServiceError::Busy(_) => "busy",
                // Another node may have the address of a leader that is gone: its disk is new, say.
                ServiceError::Unavailable(_) | ServiceError::OtherCluster(_) => "unavailable",
                ServiceError::Unknown(_) | ServiceError::DeadlineExceeded(_) | ServiceError::Cancelled => {
                    after_unknown = true;
                    "unknown"
                }
                _ => return Err(error),
            };
            tracing::debug!(%shard, %error, "batch not taken; trying again");
            self.metrics.retries.with_label_values(&[reason]).inc();
            *last_error = Some(error);
            self.wait(&mut backoff).await;
        }
    }

    /// Waits between attempts; longer while too many of all sends are retries.
    async fn wait(&self, backoff: &mut Duration) {
        loop {
            let jitter = rand::random_range(0.5..1.0);
            tokio::time::sleep(backoff.mul_f64(jitter)).await;
            *backoff = (*backoff * 2).min(MAX_BACKOFF);
            if self.budget.withdraw() {
                return;
            }
            *backoff = MAX_BACKOFF;
        }
    }

    async fn attempt(&self, shard: ShardId, chunk: &Chunk, timeout: Duration) -> Result<AppendResponse, ServiceError> {
        let writer = self.writers.leader(shard)?;
        let request = AppendRequest {
            shard: shard.0,
            batch: chunk.bytes.clone(),
            starts_left_out: self.leaves_out_starts(),
            only_newer: chunk.only_newer,
        };
        let sent = match writer.to {
            None => writer.client.append(request),
            Some(leader) => writer.client.append_through(request, leader.0),
        };
        let result = match tokio::time::timeout(timeout, sent).await {
            Ok(result) => result,
            Err(_) => Err(ServiceError::Unknown(format!(
                "shard {shard} on node {} did not answer within {timeout:?}",
                writer.node
            ))),
        };
        let heard = match &result {
            Err(ServiceError::NotLeader { leader }) => Heard::OtherLeads(leader.map(NodeId)),
            Err(ServiceError::Unavailable(_) | ServiceError::Unknown(_) | ServiceError::OtherCluster(_)) => {
                Heard::Nothing
            }
            // Nobody has said anything.
            Err(ServiceError::DeadlineExceeded(_) | ServiceError::Cancelled) => return result,
            _ => Heard::Answer,
        };
        self.writers.heard(shard, &writer, heard);
        result
    }
}
