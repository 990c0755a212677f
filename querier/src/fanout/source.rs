//! The engine's source: streams that async tasks fill and the engine's thread empties, through bounded channels.

use super::apart::{self, Part, Pushes};
use super::block_parts::pump_stretches;
use super::fragments::Early;
use super::pump::{Apart, BATCH_SAMPLES, Batch, Came, Merged, decoding, evaluating, pump, pump_partials};
use super::receive::InBatches;
use super::scope::Amount;
use super::{Fanout, Scope, Selection};
use crate::error::{ApiError, ErrorType};
use futures::FutureExt;
use gnomon_cluster::layers::TraceContext;
use gnomon_model::Labels;
use gnomon_promql::partial::{FragmentAnswer, PartialIter};
use gnomon_promql::{Effort, Fragment, Plan, SelectRequest, SeriesIter, SeriesSource, SourceError};
use parking_lot::Mutex;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Batches between a task and the engine, per selector: so many are decoded at the same time.
const BATCHES_IN_FLIGHT: usize = 4;
/// As many pieces of answers to a fragment as come together, between a task and the engine.
const PARTIALS_IN_FLIGHT: usize = 4;
/// What the thread of the request may take for evaluating, in nanoseconds: threads that hand work to each other, and are
/// woken for it, take some hundred microseconds more.
const QUICK_NS: u64 = 1_000_000;
/// About what is taken, by a profile: for a sample that is decoded and looked at, each further time that it is looked at,
/// a histogram (but for its buckets), a series and each of its values, and each byte of labels and of histograms.
const SAMPLE_NS: u64 = 4;
const AGAIN_NS: u64 = 2;
const HISTOGRAM_NS: u64 = 1000;
const SERIES_NS: u64 = 500;
const VALUE_NS: u64 = 10;
const BYTE_NS: u64 = 1;
/// Selectors that are fetched before the engine asks for them; what they have in flight is held meanwhile.
const FETCHED_AHEAD: usize = 16;
/// A fragment on its way: what of it is evaluated elsewhere.
struct Fragmented {
    /// Said once all sources are open.
    split: oneshot::Receiver<Split>,
    /// What threads of this node make of the early steps.
    early: mpsc::Receiver<Option<Apart>>,
    partials: mpsc::Receiver<Option<Came>>,
}

/// Who evaluates which steps of a fragment.
#[derive(Clone, Copy)]
struct Split {
    /// Those from this one on are evaluated by shards,
    from_step: usize,
    /// and those before it by threads of this node, several at a time. Else by the engine.
    apart: bool,
}

/// A fragment, as far as it has been asked for.
enum Asked {
    /// Nobody evaluates it elsewhere: its request is fetched as others are.
    NotBegun,
    /// What stands for this request is fetched for the steps that are not evaluated elsewhere.
    Begun { request: usize, fragmented: Fragmented },
    /// Given to the first who asked for it.
    Taken { request: usize },
}

/// All selectors of one plan, being fetched.
pub(crate) struct Fetched {
    fanout: Arc<Fanout>,
    scope: Arc<Scope>,
    runtime: Handle,
    /// By selector; taken by the first who asks for it.
    streams: Vec<Mutex<Option<mpsc::Receiver<Option<Batch>>>>>,
    /// By fragment.
    fragments: Vec<Mutex<Asked>>,
    /// Whether all that is fetched ahead is here: then whoever reads does not wait.
    complete: bool,
    /// The reader must not wait, and had to.
    would_wait: AtomicBool,
    /// Whether the reader may wait.
    waits: bool,
}

impl Fetched {
    /// Begins to fetch; must be called on an async thread. Parts of the plan are evaluated apart where `pushes` says how.
    pub(crate) fn start(fanout: &Arc<Fanout>, scope: &Arc<Scope>, plan: &Plan, pushes: Option<&Pushes>) -> Self {
        let mut fetched = Self {
            fanout: Arc::clone(fanout),
            scope: Arc::clone(scope),
            runtime: Handle::current(),
            streams: Vec::new(),
            fragments: Vec::new(),
            complete: true,
            would_wait: AtomicBool::new(false),
            waits: true,
        };
        if plan.selectors().len() > 1 {
            scope.note_others();
        }
        let mut streams: Vec<Option<mpsc::Receiver<Option<Batch>>>> = plan.selectors().iter().map(|_| None).collect();
        // Where steps are counted the samples have to be seen.
        if let Some(pushes) = pushes.filter(|_| !plan.params().count_steps) {
            for (id, (fragment, request)) in plan.pushed().enumerate() {
                let counted = plan.selectors().get(request).is_none_or(is_counted);
                if counted || id >= FETCHED_AHEAD {
                    fetched.fragments.push(Mutex::new(Asked::NotBegun));
                    continue;
                }
                let (samples, fragmented, done) = fetched.fetch_fragment(format!("f{id}"), fragment, pushes);
                fetched.complete &= done;
                if let Some(stream) = streams.get_mut(request) {
                    *stream = Some(samples);
                }
                fetched.fragments.push(Mutex::new(Asked::Begun { request, fragmented }));
            }
        }
        // What is most likely counted only is not fetched before it is asked for.
        for (at, (mut stream, request)) in streams.into_iter().zip(plan.selectors()).enumerate() {
            let ahead = at < FETCHED_AHEAD && !is_counted(request);
            if stream.is_none() && ahead {
                let (fetching, done) = fetched.fetch(request);
                fetched.complete &= done;
                stream = Some(fetching);
            }
            fetched.complete &= stream.is_some();
            fetched.streams.push(Mutex::new(stream));
        }
        fetched
    }

    /// Whether all is here, and little, so that it may be evaluated by a thread that must not wait.
    /// [`Self::would_have_waited`] tells if there was something to wait for after all.
    pub(crate) fn is_quick(&mut self, effort: Effort) -> bool {
        let quick = self.complete && evaluation_ns(self.scope.fetched(), effort) <= QUICK_NS;
        self.waits = !quick;
        quick
    }

    pub(crate) fn would_have_waited(&self) -> bool {
        self.would_wait.load(Ordering::Relaxed)
    }

    /// Does what can be done at once; the rest is a task of its own. Whether there is none.
    fn begin(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        // Who panics closes his channels, which tells whoever reads them.
        let work = AssertUnwindSafe(work).catch_unwind().map(drop);
        let mut work = Box::pin(TraceContext::carried(work));
        let done = work.as_mut().now_or_never().is_some();
        if !done {
            self.runtime.spawn(work);
        }
        done
    }

    /// Before waiting.
    fn wait(&self) -> Result<(), SourceError> {
        if self.waits {
            return Ok(());
        }
        self.would_wait.store(true, Ordering::Relaxed);
        Err(SourceError(
            "the query has to be evaluated where it can wait".to_owned(),
        ))
    }

    /// The next item; none at the end, which is an item too. An error where the channel was given up before.
    pub(super) fn next<T>(&self, receiver: &mut mpsc::Receiver<Option<T>>) -> Result<Option<T>, SourceError> {
        let item = match receiver.try_recv() {
            Ok(item) => Some(item),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
            Err(mpsc::error::TryRecvError::Empty) => {
                self.wait()?;
                receiver.blocking_recv()
            }
        };
        item.ok_or_else(|| given_up(&self.scope))
    }

    /// What a task of this query gives; `what` it does, should it panic.
    pub(super) fn join<T>(&self, task: JoinHandle<Result<T, ApiError>>, what: &str) -> Result<T, SourceError> {
        self.wait()?;
        let done = self.runtime.block_on(task).unwrap_or_else(|panicked| {
            let what = format!("{what} failed: {panicked}");
            Err(ApiError::new(ErrorType::Internal, what))
        });
        done.map_err(|error| self.failed(error))
    }

    /// Keeps what failed, for the answer.
    pub(super) fn failed(&self, error: ApiError) -> SourceError {
        self.scope.fail(error.clone());
        SourceError(error.message)
    }

    /// Begins to have a fragment evaluated, and to fetch the samples for its steps that cannot be.
    fn fetch_fragment(
        &self,
        part: String,
        fragment: &Fragment,
        pushes: &Pushes,
    ) -> (mpsc::Receiver<Option<Batch>>, Fragmented, bool) {
        let (sender, samples) = mpsc::channel(BATCHES_IN_FLIGHT);
        let (say, split) = oneshot::channel();
        let (give_early, early) = mpsc::channel(BATCHES_IN_FLIGHT);
        let (give, partials) = mpsc::channel(PARTIALS_IN_FLIGHT);
        let (fanout, scope, fragment) = (Arc::clone(&self.fanout), Arc::clone(&self.scope), fragment.clone());
        let pushes = pushes.clone();
        let done = self.begin(async move {
            let work = async {
                let opened = fanout.open_fragment(&scope, &part, &fragment).await?;
                let (from_step, is_whole) = (opened.from_step, opened.is_whole);
                let samples = async {
                    let (merge, selection) = match opened.early {
                        Early::Samples(merge, selection) => (merge, selection),
                        Early::Nobody => {
                            let _ = say.send(Split {
                                from_step,
                                apart: false,
                            });
                            return Ok(());
                        }
                        Early::Stretches(stretches) => {
                            let _ = say.send(Split { from_step, apart: true });
                            return pump_stretches(&fanout, &scope, (&part, stretches), &pushes, &give_early).await;
                        }
                    };
                    let mut merge = merge.of(part.clone());
                    let first = Merged::next(&mut merge, pushes.batch_samples).await?;
                    let apart = !first.is_end && !is_whole && !apart::has_histograms(&first.series);
                    let _ = say.send(Split { from_step, apart });
                    if apart {
                        let early = Part {
                            fragment: fragment.first_steps(from_step),
                            before: 0,
                            total: from_step,
                        };
                        pump(
                            evaluating(&scope, early, &pushes),
                            (merge, first),
                            pushes.batch_samples,
                            &give_early,
                        )
                        .await
                    } else {
                        pump(
                            decoding(&scope, &selection, first.is_end),
                            (merge, first),
                            BATCH_SAMPLES,
                            &sender,
                        )
                        .await
                    }
                };
                futures::try_join!(samples, pump_partials(opened.partials, &give)).map(|_| ())
            };
            let outcome = tokio::select! {
                outcome = work => outcome,
                () = scope.token.cancelled() => Ok(()),
            };
            if let Err(error) = outcome {
                scope.fail(error);
            }
        });
        let fragmented = Fragmented { split, early, partials };
        (samples, fragmented, done)
    }

    fn fetch(&self, request: &SelectRequest) -> (mpsc::Receiver<Option<Batch>>, bool) {
        let (sender, receiver) = mpsc::channel(BATCHES_IN_FLIGHT);
        let selection = selection(request);
        let (fanout, scope) = (Arc::clone(&self.fanout), Arc::clone(&self.scope));
        let part = format!("#{}", request.id);
        let done = self.begin(async move {
            let work = async {
                let mut merge = fanout.select(&scope, &selection).await?.of(part);
                let first = Merged::next(&mut merge, BATCH_SAMPLES).await?;
                pump(
                    decoding(&scope, &selection, first.is_end),
                    (merge, first),
                    BATCH_SAMPLES,
                    &sender,
                )
                .await
            };
            let outcome = tokio::select! {
                outcome = work => outcome,
                () = scope.token.cancelled() => Ok(()),
                () = sender.closed() => Ok(()),
            };
            if let Err(error) = outcome {
                scope.fail(error);
            }
        });
        (receiver, done)
    }

    /// The fragment for the first who asks. Whoever asks again evaluates it himself, from all samples: what is fetched for
    /// the first are those of some steps.
    fn take_fragment(&self, id: usize) -> Option<Fragmented> {
        let mut asked = self.fragments.get(id)?.lock();
        match std::mem::replace(&mut *asked, Asked::NotBegun) {
            Asked::NotBegun => None,
            Asked::Begun { request, fragmented } => {
                *asked = Asked::Taken { request };
                Some(fragmented)
            }
            Asked::Taken { request } => {
                *asked = Asked::Taken { request };
                drop(self.streams.get(request)?.lock().take());
                None
            }
        }
    }

    fn receiver(&self, request: &SelectRequest) -> Result<mpsc::Receiver<Option<Batch>>, SourceError> {
        let slot = self.streams.get(request.id);
        let taken = slot.and_then(|slot| slot.lock().take());
        if let Some(receiver) = taken {
            return Ok(receiver);
        }
        self.wait()?;
        let _runtime = self.runtime.enter();
        Ok(self.fetch(request).0)
    }
}

/// About how long it takes to evaluate what was fetched.
fn evaluation_ns(of: Amount, effort: Effort) -> u64 {
    let again = effort.overlap.saturating_sub(1);
    let each_float = SAMPLE_NS.saturating_add(AGAIN_NS.saturating_mul(again));
    // Which of them have the many buckets is not known, but that all together are what was fetched.
    let buckets = of.bytes.saturating_mul(BYTE_NS);
    let each_histogram = HISTOGRAM_NS.saturating_add(buckets).saturating_mul(effort.overlap);
    let each_series = SERIES_NS.saturating_add(VALUE_NS.saturating_mul(effort.steps));
    let terms = [
        of.here.saturating_mul(each_float),
        of.histograms.saturating_mul(each_histogram),
        // A plan without series has values too.
        of.series.max(1).saturating_mul(each_series),
        of.bytes.saturating_mul(BYTE_NS).saturating_mul(effort.text),
    ];
    terms.into_iter().fold(0, u64::saturating_add)
}

fn selection(request: &SelectRequest) -> Selection {
    Selection {
        matchers: request.matchers.clone(),
        start_ms: request.start_ms,
        end_ms: request.end_ms,
        labels_only: false,
    }
}

/// Whether a request is for counting series at one instant.
fn is_counted(request: &SelectRequest) -> bool {
    let hints = &request.hints;
    matches!(hints.func, "count" | "group") && hints.by && hints.step_ms == 0 && hints.range_ms == 0
}

impl SeriesSource for Fetched {
    fn select(&self, request: &SelectRequest) -> Result<Box<dyn SeriesIter + '_>, SourceError> {
        Ok(Box::new(InBatches::new(self, self.receiver(request)?)))
    }

    fn count(&self, request: &SelectRequest, by: &[String]) -> Result<Option<Vec<(Labels, u64)>>, SourceError> {
        if !is_counted(request) {
            return Ok(None);
        }
        self.wait()?;
        let (part, selection) = (format!("#{}", request.id), selection(request));
        let counted = self.runtime.block_on(TraceContext::carried(async {
            tokio::select! {
                counts = self.fanout.count(&self.scope, &part, &selection, by) => counts.map(Some),
                () = self.scope.token.cancelled() => Ok(None),
            }
        }));
        match counted {
            Ok(Some(counts)) => Ok(counts.map(|counts| counts.into_iter().collect())),
            Ok(None) => Err(SourceError("the query has ended".to_owned())),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn fragment(&self, id: usize, fragment: &Fragment) -> Result<Option<FragmentAnswer<'_>>, SourceError> {
        let Some(Fragmented {
            mut split,
            early,
            partials,
        }) = self.take_fragment(id)
        else {
            return Ok(None);
        };
        let Split { from_step, apart } = match split.try_recv() {
            Ok(split) => split,
            Err(oneshot::error::TryRecvError::Closed) => return Err(given_up(&self.scope)),
            Err(oneshot::error::TryRecvError::Empty) => {
                self.wait()?;
                split.blocking_recv().map_err(|_| given_up(&self.scope))?
            }
        };
        let early = || -> Box<dyn PartialIter> { Box::new(InBatches::new(self, early)) };
        Ok((apart || from_step < fragment.steps).then(|| FragmentAnswer {
            from_step,
            early: apart.then(early),
            partials: Box::new(InBatches::new(self, partials)),
        }))
    }
}

fn given_up(scope: &Scope) -> SourceError {
    let reason = scope.failure().map(|error| error.message);
    SourceError(reason.unwrap_or_else(|| "fetching of series was given up".to_owned()))
}
