//! Evaluating a part of a query over a head.

use super::Shard;
use crate::shard::ShardMachine;
use crate::shard::select::{self, Selected};
use futures::Stream;
use gnomon_cluster::fragments::{self, PageSource};
use gnomon_promql::{CancelFlag, Fragment, Limits};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::{EvaluateBatch, EvaluateRequest, SelectRequest};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Messages that wait to be taken.
const BATCHES_IN_FLIGHT: usize = 4;

/// A request's parts, where this node can evaluate them.
pub(super) fn checked(request: EvaluateRequest) -> Result<(SelectRequest, Fragment), ServiceError> {
    let missing = |what: &str| ServiceError::Invalid(format!("a request to evaluate has no {what}"));
    let select = request.select.ok_or_else(|| missing("selection"))?;
    let wire = request.fragment.ok_or_else(|| missing("fragment"))?;
    let fragment = fragments::from_wire(&wire, select::matchers(&select.matchers)?)?;
    if fragment.samples() != (select.start_ms, select.end_ms) {
        return Err(ServiceError::Invalid(
            "the selection has not the times that the fragment looks at".to_owned(),
        ));
    }
    Ok((select, fragment))
}

/// What the caller and the node allow. `max_held_samples` is the caller's; 0 is left to this node.
pub(super) fn limits(machine: &ShardMachine, max_held_samples: u64) -> Limits {
    let mut limits = Limits {
        memory: machine.read_budget(),
        ..Limits::default()
    };
    if max_held_samples > 0 {
        limits.max_samples = max_held_samples;
    }
    limits
}

/// What is evaluated at once, without a thread of its own: samples, and samples times steps.
const FEW_SAMPLES: u64 = 8 << 10;
const FEW_VALUES: u64 = 64 << 10;

/// Whether evaluating takes some microseconds only.
pub(super) fn is_quick(selected: &Selected, fragment: &Fragment) -> bool {
    let (series, samples) = selected.size();
    let values = samples.max(series as u64).saturating_mul(fragment.steps as u64);
    selected.is_small() && samples <= FEW_SAMPLES && values <= FEW_VALUES && !selected.has_histograms()
}

/// Evaluates on this thread.
pub(super) fn at_once(
    shard: &Shard,
    mut selected: Selected,
    fragment: &Fragment,
    limits: &Limits,
) -> Vec<Result<EvaluateBatch, ServiceError>> {
    let mut batches = Vec::new();
    let source = PageSource::new(|| selected.next_batch(&shard.machine));
    let mut give = |batch| {
        batches.push(Ok(batch));
        true
    };
    let done = fragments::evaluate(fragment, &source, limits, &CancelFlag::new(), &mut give);
    batches.extend(done.err().map(Err));
    batches
}

/// Begins to evaluate; ends when what is given back is dropped.
pub(super) fn start(shard: Arc<Shard>, mut selected: Selected, fragment: Fragment, limits: Limits) -> Evaluating {
    let (sender, batches) = mpsc::channel(BATCHES_IN_FLIGHT);
    let cancel = CancelFlag::new();
    let evaluating = Evaluating {
        batches,
        cancel: cancel.clone(),
    };
    if selected.has_histograms() {
        let _ = sender.try_send(Err(ServiceError::Invalid(
            "histograms have to be evaluated in one place".to_owned(),
        )));
        return evaluating;
    }
    tokio::task::spawn_blocking(move || {
        let source = PageSource::new(|| selected.next_batch(&shard.machine));
        let mut give = |batch| sender.blocking_send(Ok(batch)).is_ok();
        if let Err(error) = fragments::evaluate(&fragment, &source, &limits, &cancel, &mut give) {
            // Nobody waits for it where it was not taken.
            let _ = sender.blocking_send(Err(error));
        }
    });
    evaluating
}

/// What comes of a fragment, as it comes.
pub(super) struct Evaluating {
    batches: mpsc::Receiver<Result<EvaluateBatch, ServiceError>>,
    cancel: CancelFlag,
}

impl Stream for Evaluating {
    type Item = Result<EvaluateBatch, ServiceError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_recv(context)
    }
}

impl Drop for Evaluating {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
