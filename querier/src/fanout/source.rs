//! The engine's source: streams that async tasks fill and the engine's thread empties, through bounded channels.

use super::samples::decode;
use super::stream::MergedSeries;
use super::{Fanout, Scope, Selection};
use crate::error::{ApiError, ErrorType};
use gnomon_cluster::layers::TraceContext;
use gnomon_promql::{SelectRequest, Series, SeriesIter, SeriesSource, SourceError};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Series (still encoded) between a task and the engine, per selector.
const SERIES_IN_FLIGHT: usize = 32;

/// None is the end; a channel that closes without it was given up.
type Item = Option<MergedSeries>;

/// All selectors of one plan, being fetched.
pub(crate) struct Fetched {
    fanout: Arc<Fanout>,
    scope: Arc<Scope>,
    runtime: Handle,
    /// By selector; taken by the first who asks for it.
    streams: Vec<Mutex<Option<mpsc::Receiver<Item>>>>,
}

impl Fetched {
    /// Begins to fetch; must be called on an async thread.
    pub(crate) fn start(fanout: &Arc<Fanout>, scope: &Arc<Scope>, requests: &[SelectRequest]) -> Self {
        let mut fetched = Self {
            fanout: Arc::clone(fanout),
            scope: Arc::clone(scope),
            runtime: Handle::current(),
            streams: Vec::new(),
        };
        let streams = requests.iter().map(|request| Mutex::new(Some(fetched.fetch(request))));
        fetched.streams = streams.collect();
        fetched
    }

    fn fetch(&self, request: &SelectRequest) -> mpsc::Receiver<Item> {
        let (sender, receiver) = mpsc::channel(SERIES_IN_FLIGHT);
        let selection = Selection {
            matchers: request.matchers.clone(),
            start_ms: request.start_ms,
            end_ms: request.end_ms,
            labels_only: false,
        };
        let (fanout, scope) = (Arc::clone(&self.fanout), Arc::clone(&self.scope));
        self.runtime.spawn(TraceContext::carried(async move {
            let work = pump(&fanout, &scope, &selection, &sender);
            let outcome = tokio::select! {
                outcome = work => outcome,
                () = scope.token.cancelled() => Ok(()),
                () = sender.closed() => Ok(()),
            };
            if let Err(error) = outcome {
                scope.fail(error);
            }
        }));
        receiver
    }

    fn receiver(&self, request: &SelectRequest) -> mpsc::Receiver<Item> {
        let slot = self.streams.get(request.id);
        let taken = slot.and_then(|slot| slot.lock().take());
        taken.unwrap_or_else(|| self.fetch(request))
    }
}

async fn pump(
    fanout: &Fanout,
    scope: &Arc<Scope>,
    selection: &Selection,
    sender: &mpsc::Sender<Item>,
) -> Result<(), ApiError> {
    let mut merge = fanout.select(scope, selection).await?;
    loop {
        let series = merge.next().await?;
        let is_end = series.is_none();
        if sender.send(series).await.is_err() || is_end {
            return Ok(());
        }
    }
}

impl SeriesSource for Fetched {
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesIter + '_>, SourceError> {
        Ok(Box::new(Receiving {
            receiver: self.receiver(request),
            scope: &self.scope,
            start_ms: request.start_ms,
            end_ms: request.end_ms,
            ended: false,
        }))
    }
}

struct Receiving<'a> {
    receiver: mpsc::Receiver<Item>,
    scope: &'a Scope,
    start_ms: i64,
    end_ms: i64,
    ended: bool,
}

impl Receiving<'_> {
    fn given_up(&self) -> SourceError {
        let reason = self.scope.failure().map(|error| error.message);
        SourceError(reason.unwrap_or_else(|| "fetching of series was given up".to_owned()))
    }
}

impl SeriesIter for Receiving<'_> {
    fn next_series(&mut self) -> Result<Option<Series>, SourceError> {
        while !self.ended {
            let Some(item) = self.receiver.blocking_recv() else {
                return Err(self.given_up());
            };
            let Some(series) = item else {
                self.ended = true;
                break;
            };
            let samples = decode(&series.runs, self.start_ms, self.end_ms).map_err(|error| {
                let error = ApiError::new(ErrorType::Internal, format!("series {}: {error}", series.labels));
                self.scope.fail(error.clone());
                SourceError(error.message)
            })?;
            if !samples.is_empty() {
                return Ok(Some(Series {
                    labels: series.labels,
                    samples,
                }));
            }
        }
        Ok(None)
    }
}
