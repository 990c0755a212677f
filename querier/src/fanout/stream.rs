//! Sorted streams of series from shards and blocks, checked as they come in, and their merge by labels.

use super::scope::{Amount, Scope};
use super::{Costs, Skipped, SourceCost};
use crate::error::{ApiError, ErrorType};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use gnomon_model::{Labels, LabelsRef};
use gnomon_promql::{MemoryBudget, Reserved};
use gnomon_proto::service::SelectStream;
use gnomon_proto::{ServiceError, v1};
use gnomon_tsdb::{Page, SeriesPages};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;
use std::time::Duration;

/// Series ascending by labels, several at a time.
pub type SeriesStream = BoxStream<'static, Result<Vec<SeriesPages>, ServiceError>>;

/// Takes a shard's batches apart.
pub(crate) fn of_shard(batches: SelectStream) -> SeriesStream {
    let series = |batch: v1::SelectBatch| batch.series.into_iter().map(series_from_wire).collect();
    batches.map(move |batch| batch.and_then(series)).boxed()
}

pub(super) fn series_from_wire(series: v1::Series) -> Result<SeriesPages, ServiceError> {
    let labels = LabelsRef::checked(&series.labels).map_err(|e| ServiceError::Internal(e.to_string()))?;
    let page = |page: v1::Page| Page::parse(page.data).map_err(|e| ServiceError::Internal(e.to_string()));
    Ok(SeriesPages {
        labels: labels.to_owned(),
        pages: series.pages.into_iter().map(page).collect::<Result<_, _>>()?,
    })
}

/// One of the streams that are merged.
pub(crate) struct Source {
    /// For messages: `shard 3 (samples from … to …)`.
    pub(crate) name: String,
    stream: SeriesStream,
    /// Those that came with the next.
    waiting: std::vec::IntoIter<SeriesPages>,
    /// The next series; none at the end.
    next: Option<SeriesPages>,
    memory: MemoryBudget,
    /// What the batch occupies that the waiting ones are of.
    held: Option<Reserved>,
    read: SourceCost,
    skipped: Skipped,
}

/// Bytes of a batch, bookkeeping included.
fn batch_bytes(series: &[SeriesPages]) -> u64 {
    let one = |series: &SeriesPages| {
        let pages: usize = series
            .pages
            .iter()
            .map(|page| page.bytes.len() + size_of::<Page>())
            .sum();
        size_of::<SeriesPages>() + series.labels.as_bytes().len() + pages
    };
    series.iter().map(one).sum::<usize>() as u64
}

impl Source {
    /// Reads the first series, so that what is wrong with a source shows before anything is merged.
    pub(crate) async fn open(
        name: String,
        stream: SeriesStream,
        memory: &MemoryBudget,
        skipped: Skipped,
    ) -> Result<Self, ServiceError> {
        let mut source = Self {
            name,
            stream,
            memory: memory.clone(),
            held: None,
            waiting: Vec::new().into_iter(),
            next: None,
            read: SourceCost::default(),
            skipped,
        };
        source.next = source.following().await?;
        Ok(source)
    }

    async fn following(&mut self) -> Result<Option<SeriesPages>, ServiceError> {
        loop {
            if let Some(series) = self.waiting.next() {
                return Ok(Some(series));
            }
            match self.stream.try_next().await? {
                Some(series) => {
                    let held = self.memory.reserve(batch_bytes(&series));
                    self.held = Some(held.map_err(|over| ServiceError::LimitExceeded(over.to_string()))?);
                    self.waiting = series.into_iter();
                }
                None => {
                    self.held = None;
                    return Ok(None);
                }
            }
        }
    }

    async fn advance(&mut self) -> Result<(), ServiceError> {
        let next = self.following().await?;
        if let (Some(before), Some(next)) = (&self.next, &next)
            && before.labels >= next.labels
        {
            return Err(ServiceError::Internal(format!(
                "{} gave its series out of order",
                self.name
            )));
        }
        self.next = next;
        Ok(())
    }
}

/// One series with its pages from every source that has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MergedSeries {
    pub(crate) labels: Labels,
    /// Each ascending by time; where two have a sample at one time, the earlier run's counts.
    pub(crate) runs: Vec<Vec<Page>>,
}

/// Sources whose next series has the same labels; ascending.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Equal {
    labels: Labels,
    sources: Vec<usize>,
}

/// Several sorted streams as one. Sources mostly have the same series, so that those that stand at the same labels are
/// kept together and compared with each other rather than with all.
pub(crate) struct Merge {
    sources: Vec<Source>,
    /// The next labels of all sources that have not ended, smallest first; no labels twice.
    heap: BinaryHeap<Reverse<Equal>>,
    scope: Arc<Scope>,
    /// The part of the plan that asked, and when.
    of: String,
    since: Duration,
}

impl Drop for Merge {
    fn drop(&mut self) {
        let Some(costs) = self.scope.costs() else { return };
        for source in self.sources.drain(..) {
            let cost = SourceCost {
                of: self.of.clone(),
                source: source.name,
                pages_skipped: source.skipped.get(),
                ..source.read
            };
            costs.add(self.since, cost);
        }
    }
}

impl Merge {
    /// The order of `sources` decides between samples of one time.
    pub(crate) fn new(sources: Vec<Source>, scope: Arc<Scope>) -> Self {
        let mut merge = Self {
            heap: BinaryHeap::with_capacity(sources.len()),
            sources,
            of: String::new(),
            since: scope.costs().map_or(Duration::ZERO, Costs::now),
            scope,
        };
        merge.gather((0..merge.sources.len()).collect());
        merge
    }

    /// Tells which part of the plan this is for.
    pub(crate) fn of(mut self, part: String) -> Self {
        self.of = part;
        self
    }

    /// Enters sources (ascending) at their next series.
    fn gather(&mut self, mut advanced: Vec<usize>) {
        advanced.retain(|at| self.sources[*at].next.is_some());
        while let Some(next) = advanced.first().and_then(|at| self.sources[*at].next.as_ref()) {
            let labels = next.labels.clone();
            let equal = |at: &usize| self.sources[*at].next.as_ref().is_some_and(|n| n.labels == labels);
            if advanced.iter().all(equal) {
                let sources = advanced;
                self.heap.push(Reverse(Equal { labels, sources }));
                return;
            }
            let (sources, others) = advanced.into_iter().partition(equal);
            advanced = others;
            self.heap.push(Reverse(Equal { labels, sources }));
        }
    }

    /// The next series; none at the end. Labels strictly ascend.
    pub(crate) async fn next(&mut self) -> Result<Option<MergedSeries>, ApiError> {
        let Some(Reverse(mut first)) = self.heap.pop() else {
            return Ok(None);
        };
        while let Some(top) = self.heap.peek_mut().filter(|top| top.0.labels == first.labels) {
            let Reverse(more) = PeekMut::pop(top);
            first.sources.extend(more.sources);
        }
        first.sources.sort_unstable();
        let mut series = MergedSeries {
            labels: first.labels,
            runs: Vec::with_capacity(first.sources.len()),
        };
        for at in &first.sources {
            self.take(*at, &mut series).await?;
        }
        self.gather(first.sources);
        Ok(Some(series))
    }

    async fn take(&mut self, at: usize, series: &mut MergedSeries) -> Result<(), ApiError> {
        let source = &mut self.sources[at];
        if let Some(current) = &mut source.next {
            let pages = std::mem::take(&mut current.pages);
            let mut amount = Amount {
                series: 1,
                ..Amount::of_bytes(series.labels.as_bytes().len() as u64)
            };
            for page in &pages {
                let count = u64::from(page.count);
                amount.bytes += page.bytes.len() as u64;
                amount.samples += count;
                amount.histograms += if page.coding.is_of_floats() { 0 } else { count };
            }
            amount.here = amount.samples;
            let read = &mut source.read;
            read.series += 1;
            read.samples += amount.samples;
            read.bytes += amount.bytes;
            read.pages += pages.len() as u64;
            self.scope.charge(amount)?;
            series.runs.push(pages);
        }
        match source.advance().await {
            Ok(()) => {}
            Err(error) => {
                let name = &source.name;
                source.next = None;
                if matches!(error, ServiceError::NotFound(_) | ServiceError::StaleView { .. }) {
                    self.scope.note_moved();
                }
                ended_early(&self.scope, name, error)?;
            }
        }
        Ok(())
    }
}

/// A source that fails for reasons of its own, or is damaged, leaves a gap, which is said; a limit or a defect ends the request.
pub(crate) fn ended_early(scope: &Scope, name: &str, error: ServiceError) -> Result<(), ApiError> {
    match error {
        // Of this querier or of the shard: the text is whole.
        ServiceError::LimitExceeded(text) => Err(ApiError::new(ErrorType::Execution, text)),
        ServiceError::Invalid(_) | ServiceError::Internal(_) | ServiceError::Cancelled => Err(ApiError::new(
            match error {
                ServiceError::Cancelled => ErrorType::Canceled,
                _ => ErrorType::Internal,
            },
            format!("{name}: {error}"),
        )),
        error => scope.missing(format!("{name} could not be read, the result is incomplete: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::FetchLimits;

    fn labels(name: &str) -> Labels {
        Labels::from_pairs([("__name__", name)])
    }

    async fn source(names: &[&str], end: Option<ServiceError>) -> Source {
        let series = |name: &&str| {
            Ok(vec![SeriesPages {
                labels: labels(name),
                pages: Vec::new(),
            }])
        };
        let items: Vec<_> = names.iter().map(series).chain(end.map(Err)).collect();
        let memory = MemoryBudget::default();
        Source::open(
            "shard 1".into(),
            futures::stream::iter(items).boxed(),
            &memory,
            Skipped::default(),
        )
        .await
        .unwrap()
    }

    async fn merged(sources: Vec<Source>, strict: bool) -> (Result<Vec<(Labels, usize)>, ApiError>, Vec<String>) {
        let scope = Arc::new(Scope::new(strict, FetchLimits::default()));
        let mut merge = Merge::new(sources, Arc::clone(&scope));
        let mut all = Vec::new();
        loop {
            match merge.next().await {
                Ok(Some(series)) => all.push((series.labels, series.runs.len())),
                Ok(None) => return (Ok(all), scope.warnings()),
                Err(error) => return (Err(error), scope.warnings()),
            }
        }
    }

    #[tokio::test]
    async fn a_source_that_goes_away_while_it_is_read_is_noted() {
        for (end, moved) in [
            (ServiceError::NotFound("the object is gone".into()), true),
            (ServiceError::StaleView { revision: 3 }, true),
            (ServiceError::Unavailable("nobody answers".into()), false),
        ] {
            let scope = Arc::new(Scope::new(false, FetchLimits::default()));
            let mut merge = Merge::new(vec![source(&["a"], Some(end)).await], Arc::clone(&scope));
            assert!(merge.next().await.unwrap().is_some());
            assert!(merge.next().await.unwrap().is_none());
            assert_eq!((scope.has_moved(), scope.warnings().len()), (moved, 1));
        }
    }

    #[tokio::test]
    async fn equal_series_come_once_with_a_run_of_each_source() {
        let sources = vec![
            source(&["a", "c", "d"], None).await,
            source(&["b", "c"], None).await,
            source(&[], None).await,
            source(&["c", "e"], None).await,
        ];
        let (series, warnings) = merged(sources, false).await;
        let expected = [("a", 1), ("b", 1), ("c", 3), ("d", 1), ("e", 1)];
        assert_eq!(series.unwrap(), expected.map(|(n, runs)| (labels(n), runs)));
        assert!(warnings.is_empty());
    }

    #[tokio::test]
    async fn a_source_lost_on_the_way_is_a_warning_or_an_error() {
        let lost = || Some(ServiceError::Unavailable("gone".into()));
        let (series, warnings) = merged(
            vec![source(&["a", "b"], lost()).await, source(&["c"], None).await],
            false,
        )
        .await;
        assert_eq!(series.unwrap().len(), 3);
        assert_eq!(
            warnings,
            ["shard 1 could not be read, the result is incomplete: unavailable: gone"]
        );
        let (series, _) = merged(vec![source(&["a"], lost()).await], true).await;
        assert_eq!(series.unwrap_err().kind, ErrorType::Unavailable);
        let (series, _) = merged(
            vec![source(&["a"], Some(ServiceError::Internal("bits".into()))).await],
            false,
        )
        .await;
        assert_eq!(series.unwrap_err().kind, ErrorType::Internal);
    }

    #[tokio::test]
    async fn disorder_is_an_error() {
        let (series, _) = merged(vec![source(&["b", "a"], None).await], false).await;
        assert!(series.unwrap_err().message.contains("out of order"));
    }
}
