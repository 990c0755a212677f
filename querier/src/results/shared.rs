//! Results shared by the queriers: those of a query are kept by the querier that it belongs to, which is asked first.

use super::steps::Steps;
use super::store::{Kept, Store};
use crate::fanout::Queriers;
use async_trait::async_trait;
use gnomon_cluster::owners::owner;
use gnomon_model::{Clock, LabelsRef, NodeId};
use gnomon_promql::RangeSeries;
use gnomon_proto::service::ResultsService;
use gnomon_proto::{ServiceError, v1};
use parking_lot::Mutex;
use prometheus::IntGauge;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a query waits for what another querier has kept.
const WAIT: Duration = Duration::from_millis(250);
/// How long another querier may take to take something: nobody waits for that.
const WAIT_TO_PUT: Duration = Duration::from_secs(5);
/// Results on their way to others at a time. What finds no place stays here.
const MOST_PUTS: usize = 16;
/// For so long a querier that did not answer is not asked.
const AWAY_FOR: Duration = Duration::from_secs(10);
/// Results that take about so much to send stay where they are.
const MOST_BYTES: usize = 4 << 20;

/// What this querier keeps, for itself and for others. Cheap to clone.
#[derive(Clone)]
pub struct ResultCache {
    pub(super) store: Arc<Store>,
    /// The build: another one may evaluate otherwise.
    pub(super) release: Arc<str>,
    /// What it takes.
    pub(super) bytes: IntGauge,
    others: Option<Arc<Others>>,
}

struct Others {
    queriers: Arc<dyn Queriers>,
    clock: Arc<dyn Clock>,
    /// Queriers that are not asked, until when by the monotonic clock.
    away: Mutex<HashMap<NodeId, Duration>>,
    puts: Arc<Semaphore>,
}

/// A querier that a query belongs to.
struct Owner {
    node: NodeId,
    service: Arc<dyn ResultsService>,
    others: Arc<Others>,
}

impl ResultCache {
    /// Within a bound of memory; none where that is 0. `release` names the build: what another one has evaluated is not
    /// used.
    #[must_use]
    pub fn new(max_bytes: u64, release: &str) -> Option<Self> {
        let bytes = IntGauge::new("gnomon_result_cache_bytes", "Memory that kept results take.").ok()?;
        (max_bytes > 0).then(|| Self {
            bytes,
            store: Arc::new(Store::new(max_bytes)),
            release: release.into(),
            others: None,
        })
    }

    /// Shares it with other queriers.
    #[must_use]
    pub fn shared(mut self, queriers: Arc<dyn Queriers>, clock: Arc<dyn Clock>) -> Self {
        self.others = Some(Arc::new(Others {
            queriers,
            clock,
            away: Mutex::default(),
            puts: Arc::new(Semaphore::new(MOST_PUTS)),
        }));
        self
    }

    /// What others are served.
    #[must_use]
    pub fn service(&self) -> Arc<dyn ResultsService> {
        Arc::new(Served(self.clone()))
    }

    pub(super) async fn get(&self, key: &str) -> Option<Kept> {
        if let Some(Owner { node, service, others }) = self.elsewhere(key) {
            let request = v1::ResultGetRequest { key: key.to_owned() };
            let answer = within(WAIT, service.get(request)).await;
            // Who does not answer in time would keep the next query waiting as well.
            let answer = others.noted(node, answer, |error| matches!(error, ServiceError::DeadlineExceeded(_)));
            let there = answer.and_then(|answer| answer.result).and_then(from_wire);
            if there.is_some() {
                return there;
            }
        }
        // What the owner has not may have stayed here.
        self.store.get(key)
    }

    /// Keeps results, here or where they belong; does not wait for that.
    pub(super) fn put(&self, key: &str, kept: Kept) {
        // The others have as much room, mostly.
        if self.store.takes(key, &kept)
            && is_sent(&kept)
            && let Some(owner) = self.elsewhere(key)
            && let Ok(place) = Arc::clone(&owner.others.puts).try_acquire_owned()
        {
            let (cache, key) = (self.clone(), key.to_owned());
            tokio::spawn(async move {
                let _place = place;
                if !owner.takes(&key, &kept).await {
                    cache.put_here(&key, kept);
                }
            });
            return;
        }
        self.put_here(key, kept);
    }

    fn put_here(&self, key: &str, kept: Kept) {
        self.store.put(key, kept);
        self.bytes.set(i64::try_from(self.store.bytes()).unwrap_or(i64::MAX));
    }

    /// Whom a query belongs to, if not to this querier.
    fn elsewhere(&self, key: &str) -> Option<Owner> {
        let others = self.others.as_ref()?;
        let node = owner(key.as_bytes(), &others.queriers.live())?;
        if node == others.queriers.own() || others.is_away(node) {
            return None;
        }
        let service = others.queriers.results(node).ok()?;
        let others = Arc::clone(others);
        Some(Owner { node, service, others })
    }
}

impl Owner {
    /// Whether it keeps them.
    async fn takes(&self, key: &str, kept: &Kept) -> bool {
        let request = v1::ResultPutRequest {
            key: key.to_owned(),
            result: to_wire(kept),
        };
        let taken = within(WAIT_TO_PUT, self.service.put(request)).await;
        self.others.noted(self.node, taken, |_| false).is_some()
    }
}

async fn within<T>(wait: Duration, answer: impl Future<Output = Result<T, ServiceError>>) -> Result<T, ServiceError> {
    let answered = tokio::time::timeout(wait, answer).await;
    answered.unwrap_or_else(|_| Err(ServiceError::DeadlineExceeded(format!("no answer within {wait:?}"))))
}

impl Others {
    fn is_away(&self, node: NodeId) -> bool {
        let mut away = self.away.lock();
        let now = self.clock.monotonic();
        away.retain(|_, until| *until > now);
        away.contains_key(&node)
    }

    /// What a querier has answered. One that cannot be reached, or has no such service (an older build), is not asked for
    /// a while; nor is one that fails in a way that `also` says. One that is busy is: it says so at once.
    fn noted<T>(
        &self,
        node: NodeId,
        answer: Result<T, ServiceError>,
        also: impl FnOnce(&ServiceError) -> bool,
    ) -> Option<T> {
        let error = match answer {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        let is_away = matches!(error, ServiceError::Unavailable(_) | ServiceError::Invalid(_)) || also(&error);
        tracing::debug!(%node, %error, is_away, "another querier did not give, or take, results");
        if is_away {
            self.away.lock().insert(node, self.clock.monotonic() + AWAY_FOR);
        }
        None
    }
}

struct Served(ResultCache);

#[async_trait]
impl ResultsService for Served {
    async fn get(&self, request: v1::ResultGetRequest) -> Result<v1::ResultGetResponse, ServiceError> {
        let result = self.0.store.get(&request.key).as_ref().and_then(to_wire);
        Ok(v1::ResultGetResponse { result })
    }

    async fn put(&self, request: v1::ResultPutRequest) -> Result<v1::ResultPutResponse, ServiceError> {
        let kept = request.result.and_then(from_wire);
        let kept = kept.ok_or_else(|| ServiceError::Invalid("a result to be kept is malformed".to_owned()))?;
        self.0.put_here(&request.key, kept);
        Ok(v1::ResultPutResponse {})
    }
}

/// Whether results are sent: not where there are histograms, or too much.
fn is_sent(kept: &Kept) -> bool {
    // A time and a value.
    let bytes = |series: &RangeSeries| series.labels.as_bytes().len() + 16 * series.floats.len();
    let all: usize = kept.series.iter().map(bytes).sum();
    all <= MOST_BYTES && kept.series.iter().all(|series| series.histograms.is_empty())
}

/// None where they are not sent.
fn to_wire(kept: &Kept) -> Option<v1::KeptResult> {
    if !is_sent(kept) {
        return None;
    }
    let series = kept.series.iter().map(|series| v1::KeptSeries {
        labels: series.labels.as_bytes().to_vec().into(),
        times_ms: series.floats.iter().map(|(time, _)| *time).collect(),
        values: series.floats.iter().map(|(_, value)| *value).collect(),
    });
    Some(v1::KeptResult {
        first_ms: kept.steps.first_ms,
        last_ms: kept.steps.last_ms,
        step_ms: kept.steps.step_ms,
        sources: kept.sources.to_be_bytes().to_vec().into(),
        series: series.collect(),
    })
}

/// None where it is malformed.
fn from_wire(wire: v1::KeptResult) -> Option<Kept> {
    let steps = Steps {
        first_ms: wire.first_ms,
        last_ms: wire.last_ms,
        step_ms: wire.step_ms,
    };
    if steps.step_ms <= 0 || steps.first_ms > steps.last_ms {
        return None;
    }
    let series = |series: v1::KeptSeries| {
        let labels = LabelsRef::checked(&series.labels).ok()?.to_owned();
        let times = &series.times_ms;
        let ascending = times.windows(2).all(|pair| pair[0] < pair[1]);
        let within = times.iter().all(|time| (steps.first_ms..=steps.last_ms).contains(time));
        (ascending && within && times.len() == series.values.len()).then(|| RangeSeries {
            labels,
            floats: series.times_ms.into_iter().zip(series.values).collect(),
            histograms: Vec::new(),
        })
    };
    let series: Vec<_> = wire.series.into_iter().map(series).collect::<Option<_>>()?;
    if series.windows(2).any(|pair| pair[0].labels >= pair[1].labels) {
        return None;
    }
    Some(Kept {
        steps,
        sources: u128::from_be_bytes(wire.sources.as_ref().try_into().ok()?),
        series: Arc::new(series),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{Labels, ManualClock, TimestampMs};
    use gnomon_proto::service::BlockReadService;

    struct Known {
        own: u64,
        /// None is away.
        other: Option<ResultCache>,
    }

    impl Queriers for Known {
        fn own(&self) -> NodeId {
            NodeId(self.own)
        }

        fn live(&self) -> Vec<NodeId> {
            vec![NodeId(1), NodeId(2)]
        }

        fn block_read(&self, _: NodeId) -> Result<Arc<dyn BlockReadService>, ServiceError> {
            Err(ServiceError::Unavailable("not here".into()))
        }

        fn results(&self, _: NodeId) -> Result<Arc<dyn ResultsService>, ServiceError> {
            let other = self.other.as_ref().map(ResultCache::service);
            Ok(other.unwrap_or_else(|| Arc::new(Gone)))
        }
    }

    struct Gone;

    #[async_trait]
    impl ResultsService for Gone {
        async fn get(&self, _: v1::ResultGetRequest) -> Result<v1::ResultGetResponse, ServiceError> {
            std::future::pending().await
        }

        async fn put(&self, _: v1::ResultPutRequest) -> Result<v1::ResultPutResponse, ServiceError> {
            Err(ServiceError::Unavailable("gone".into()))
        }
    }

    fn kept() -> Kept {
        let series = ["a", "b"].map(|name| RangeSeries {
            labels: Labels::from_pairs([("__name__", name)]),
            floats: vec![(10, 0.1), (30, -0.0)],
            histograms: Vec::new(),
        });
        Kept {
            steps: Steps {
                first_ms: 10,
                last_ms: 40,
                step_ms: 10,
            },
            sources: 77,
            series: Arc::new(series.into()),
        }
    }

    /// Time goes on once all tasks wait.
    async fn until_put() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn cache(own: u64, other: Option<ResultCache>) -> ResultCache {
        let clock = Arc::new(ManualClock::at(TimestampMs(0)));
        let cache = ResultCache::new(1 << 20, "a").unwrap();
        cache.shared(Arc::new(Known { own, other }), clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_is_kept_by_whom_it_belongs_to() {
        let second = cache(2, None);
        let first = cache(1, Some(second.clone()));
        for key in 0..20 {
            let key = key.to_string();
            first.put(&key, kept());
            until_put().await;
            let found = first.get(&key).await.unwrap();
            assert_eq!(
                (found.steps, found.sources, found.series),
                (kept().steps, 77, kept().series)
            );
            let here = owner(key.as_bytes(), &[NodeId(1), NodeId(2)]) == Some(NodeId(1));
            assert_eq!(
                (first.store.get(&key).is_some(), second.store.get(&key).is_some()),
                (here, !here)
            );
        }
        // Whoever is away keeps nobody waiting, and what is new is kept here.
        let began = tokio::time::Instant::now();
        let alone = cache(1, None);
        for key in 0..20 {
            let key = key.to_string();
            assert!(alone.get(&key).await.is_none());
            alone.put(&key, kept());
            until_put().await;
            assert!(alone.get(&key).await.is_some());
        }
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_sent_stays_here_and_is_found_again() {
        let mut histograms = kept();
        Arc::get_mut(&mut histograms.series).unwrap()[0]
            .histograms
            .push((20, Arc::default()));
        let mut long = kept();
        Arc::get_mut(&mut long.series).unwrap()[0].floats = (0..300_000).map(|time| (time, 0.5)).collect();
        for (wanted, bytes) in [(histograms, 1 << 20), (long, 64 << 20)] {
            let second = ResultCache::new(bytes, "a").unwrap();
            let clock = Arc::new(ManualClock::at(TimestampMs(0)));
            let known = Known {
                own: 1,
                other: Some(second.clone()),
            };
            let first = ResultCache::new(bytes, "a").unwrap().shared(Arc::new(known), clock);
            for key in 0..20 {
                let key = key.to_string();
                first.put(&key, wanted.clone());
                until_put().await;
                let found = first.get(&key).await.unwrap();
                assert_eq!((found.steps, found.series), (wanted.steps, wanted.series.clone()));
                assert!(second.store.get(&key).is_none());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_more_than_an_eighth_of_the_cache_takes_is_kept_nowhere() {
        let second = cache(2, None);
        let first = cache(1, Some(second.clone()));
        let mut large = kept();
        Arc::get_mut(&mut large.series).unwrap()[0].floats = (0..10_000).map(|time| (time, 0.5)).collect();
        for key in 0..20 {
            let key = key.to_string();
            first.put(&key, large.clone());
            until_put().await;
            assert!(first.get(&key).await.is_none());
            assert!(second.store.get(&key).is_none());
        }
    }

    #[test]
    fn what_is_malformed_is_not_taken() {
        let good = || to_wire(&kept()).unwrap();
        assert!(from_wire(good()).is_some());
        let bad: [fn(&mut v1::KeptResult); 8] = [
            |r| r.step_ms = 0,
            |r| r.first_ms = 41,
            |r| r.sources = vec![0; 15].into(),
            |r| r.series.swap(0, 1),
            |r| r.series[0].labels = vec![1, 2, 3].into(),
            |r| r.series[0].times_ms[1] = 10,
            |r| r.series[0].times_ms[1] = 50,
            |r| r.series[0].values.truncate(1),
        ];
        for change in bad {
            let mut wire = good();
            change(&mut wire);
            assert!(from_wire(wire).is_none());
        }
        let mut histograms = kept();
        Arc::get_mut(&mut histograms.series).unwrap()[0]
            .histograms
            .push((20, Arc::default()));
        assert!(to_wire(&histograms).is_none(), "they stay where they are");
    }
}
