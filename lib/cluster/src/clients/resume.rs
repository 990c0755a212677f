//! Streams of series that are gone on with at another replica where one breaks off, or stands still.
//!
//! Series come in the order of their labels, each whole: what follows the last one that came is read at the other replica,
//! at its applied index, which holds all that was acknowledged before. Where that one has moved samples to blocks since, it
//! says so (`StaleView`), and whoever reads plans anew.

use super::replicas::{Replicas, is_passing};
use bytes::Bytes;
use futures::StreamExt;
use gnomon_model::{LabelsRef, NodeId, ShardId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::{EvaluateStream, SelectStream, ShardReadService};
use gnomon_proto::v1::{EvaluateRequest, SelectBatch, SelectRequest};
use std::sync::Arc;
use std::time::Duration;

/// How often one stream is gone on with.
const MAX_RESUMES: u32 = 4;
/// A stream of which nothing has come for so long, while it was waited for, stands still.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// The series of a selection, from whichever replica.
pub(super) struct Series {
    pub(super) replicas: Arc<Replicas>,
    pub(super) request: SelectRequest,
    pub(super) node: NodeId,
    pub(super) stream: SelectStream,
    /// Labels of the last series that was given.
    last: Option<Bytes>,
    /// What was given are counts, of one moment.
    counted: bool,
    resumes: u32,
}

impl Series {
    pub(super) fn new(replicas: Arc<Replicas>, request: SelectRequest, node: NodeId, stream: SelectStream) -> Self {
        Self {
            replicas,
            request,
            node,
            stream,
            last: None,
            counted: false,
            resumes: 0,
        }
    }

    pub(super) fn into_stream(self) -> SelectStream {
        futures::stream::unfold(Some(self), |series| async {
            let mut series = series?;
            let item = series.next().await?;
            let goes_on = item.is_ok();
            Some((item, goes_on.then_some(series)))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<SelectBatch, ServiceError>> {
        loop {
            let lost = match tokio::time::timeout(STALLED_AFTER, self.stream.next()).await {
                Ok(None) => return None,
                Ok(Some(Ok(batch))) => match self.not_given(batch) {
                    Some(batch) => return Some(Ok(batch)),
                    None => continue,
                },
                Ok(Some(Err(error))) if is_passing(&error) => error,
                Ok(Some(Err(error))) => return Some(Err(error)),
                Err(_) if self.is_alone() => continue,
                Err(_) => {
                    let node = self.node;
                    self.replicas.note_slow(node);
                    ServiceError::Unavailable(format!("node {node} gave no series for {STALLED_AFTER:?}"))
                }
            };
            if self.counted || self.resumes == MAX_RESUMES {
                return Some(Err(lost));
            }
            if let Err(error) = self.resume(&lost).await {
                return Some(Err(error));
            }
        }
    }

    /// Nobody else has the series.
    fn is_alone(&self) -> bool {
        self.replicas.directory.replicas(ShardId(self.request.shard)).len() <= 1
    }

    async fn resume(&mut self, lost: &ServiceError) -> Result<(), ServiceError> {
        self.resumes += 1;
        let (shard, node) = (self.request.shard, self.node);
        tracing::debug!(shard, %node, error = %lost, "a stream of series is gone on with");
        self.replicas
            .directory
            .metrics
            .resumes
            .with_label_values(&["ShardRead"])
            .inc();
        (self.node, self.stream) = select(&self.replicas, &self.request, Some(node)).await?;
        Ok(())
    }

    /// What of a batch was not given before; none where that is nothing.
    fn not_given(&mut self, mut batch: SelectBatch) -> Option<SelectBatch> {
        if let Some(last) = self.last.as_ref().filter(|_| self.resumes > 0) {
            let last = LabelsRef::from_canonical(last);
            // What are no labels is for the reader to see.
            let is_new = |labels: &Bytes| LabelsRef::checked(labels).map_or(true, |labels| labels > last);
            batch.series.retain(|series| is_new(&series.labels));
            if batch.series.is_empty() {
                return None;
            }
        }
        self.counted |= batch.counts;
        let last = batch.series.last().map(|series| &series.labels);
        if let Some(last) = last.filter(|labels| LabelsRef::checked(labels).is_ok()) {
            self.last = Some(last.clone());
        }
        Some(batch)
    }
}

/// Opens a stream of series.
pub(super) async fn select(
    replicas: &Replicas,
    request: &SelectRequest,
    lost: Option<NodeId>,
) -> Result<(NodeId, SelectStream), ServiceError> {
    let ask = |service: Arc<dyn ShardReadService>, any_replica| {
        let request = SelectRequest {
            any_replica,
            ..request.clone()
        };
        async move { service.select(request).await }
    };
    replicas.ask(ShardId(request.shard), lost, ask).await
}

/// Opens an evaluation.
pub(super) async fn evaluate(
    replicas: &Replicas,
    request: &EvaluateRequest,
    lost: Option<NodeId>,
) -> Result<(NodeId, EvaluateStream), ServiceError> {
    let shard = request.select.as_ref().map_or(0, |select| select.shard);
    let ask = |service: Arc<dyn ShardReadService>, any_replica| {
        let mut request = request.clone();
        if let Some(select) = &mut request.select {
            select.any_replica = any_replica;
        }
        async move { service.evaluate(request).await }
    };
    replicas.ask(ShardId(shard), lost, ask).await
}

/// What comes of a fragment. It is evaluated anew at another replica where it breaks off before anything came; later on,
/// what came cannot be told from what would come again, and whoever asked begins anew.
pub(super) fn evaluation(
    replicas: Arc<Replicas>,
    request: EvaluateRequest,
    (node, stream): (NodeId, EvaluateStream),
) -> EvaluateStream {
    struct State {
        replicas: Arc<Replicas>,
        request: EvaluateRequest,
        node: NodeId,
        stream: EvaluateStream,
        /// How often it may be begun anew.
        left: u32,
    }
    let state = State {
        replicas,
        request,
        node,
        stream,
        left: MAX_RESUMES,
    };
    futures::stream::unfold(Some(state), |state| async {
        let mut state = state?;
        loop {
            match state.stream.next().await? {
                Err(error) if is_passing(&error) && state.left > 0 => {
                    state.left -= 1;
                    let again = evaluate(&state.replicas, &state.request, Some(state.node)).await;
                    match again {
                        Ok((node, stream)) => (state.node, state.stream) = (node, stream),
                        Err(error) => return Some((Err(error), None)),
                    }
                }
                Ok(batch) => {
                    state.left = 0;
                    return Some((Ok(batch), Some(state)));
                }
                Err(error) => return Some((Err(error), None)),
            }
        }
    })
    .boxed()
}
