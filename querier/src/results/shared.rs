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

/// How long a query waits for what another querier has kept, and for its taking something.
const WAIT: Duration = Duration::from_millis(250);
/// For so long a querier that did not answer is not asked.
const AWAY_FOR: Duration = Duration::from_secs(10);
/// Results with more points stay here.
const MOST_POINTS: usize = 1 << 20;

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
        }));
        self
    }

    /// What others are served.
    #[must_use]
    pub fn service(&self) -> Arc<dyn ResultsService> {
        Arc::new(Served(self.clone()))
    }

    pub(super) async fn get(&self, key: &str) -> Option<Kept> {
        if let Some((node, service, others)) = self.elsewhere(key) {
            let request = v1::ResultGetRequest { key: key.to_owned() };
            match others.within(node, service.get(request)).await {
                Some(answer) => return from_wire(answer.result?),
                None => return self.store.get(key),
            }
        }
        self.store.get(key)
    }

    pub(super) async fn put(&self, key: &str, kept: Kept) {
        if let Some((node, service, others)) = self.elsewhere(key)
            && let Some(result) = to_wire(&kept)
        {
            let request = v1::ResultPutRequest {
                key: key.to_owned(),
                result: Some(result),
            };
            if others.within(node, service.put(request)).await.is_some() {
                return;
            }
        }
        self.put_here(key, kept);
    }

    fn put_here(&self, key: &str, kept: Kept) {
        self.store.put(key, kept);
        self.bytes.set(i64::try_from(self.store.bytes()).unwrap_or(i64::MAX));
    }

    /// Whom a query belongs to, if not to this querier.
    fn elsewhere(&self, key: &str) -> Option<(NodeId, Arc<dyn ResultsService>, &Others)> {
        let others = self.others.as_deref()?;
        let node = owner(key.as_bytes(), &others.queriers.live())?;
        if node == others.queriers.own() || others.is_away(node) {
            return None;
        }
        let service = others.queriers.results(node).ok()?;
        Some((node, service, others))
    }
}

impl Others {
    fn is_away(&self, node: NodeId) -> bool {
        let mut away = self.away.lock();
        let now = self.clock.monotonic();
        away.retain(|_, until| *until > now);
        away.contains_key(&node)
    }

    async fn within<T>(&self, node: NodeId, answer: impl Future<Output = Result<T, ServiceError>>) -> Option<T> {
        let why = match tokio::time::timeout(WAIT, answer).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {WAIT:?}"),
        };
        tracing::debug!(%node, why, "results are not asked of another querier for a while");
        self.away.lock().insert(node, self.clock.monotonic() + AWAY_FOR);
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

/// None where there are histograms, or too much.
fn to_wire(kept: &Kept) -> Option<v1::KeptResult> {
    let points: usize = kept.series.iter().map(|series| series.floats.len()).sum();
    if points > MOST_POINTS || kept.series.iter().any(|series| !series.histograms.is_empty()) {
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
            first.put(&key, kept()).await;
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
            alone.put(&key, kept()).await;
            assert!(alone.get(&key).await.is_some());
        }
        assert!(began.elapsed() < Duration::from_secs(1));
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
