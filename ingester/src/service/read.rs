//! Reading the heads of this node's shards.

use super::{Shard, Shards, evaluate};
use crate::head::{self, Head, SealedPart, Stop};
use crate::shard::select::{self, Selected, stored_exemplars};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use gnomon_cluster::blocking;
use gnomon_model::re2::is_costly;
use gnomon_model::{LabelsRef, SeriesRef, TenantId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::{EvaluateStream, SelectStream, ShardReadService};
use gnomon_proto::v1::{
    EvaluateRequest, Exemplar, ExemplarsRequest, ExemplarsResponse, HeadStatsRequest, HeadStatsResponse, LabelsRequest,
    LabelsResponse, MatcherSet, MetricMetadata, MetricMetadataRequest, MetricMetadataResponse, NameCount, SelectBatch,
    SelectRequest, SeriesExemplars,
};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Sealed parts whose exemplars are in one answer, at most: each has no more than a head.
const MOST_PARTS_OF_EXEMPLARS: usize = 16;

#[async_trait]
impl ShardReadService for Shards {
    async fn select(&self, request: SelectRequest) -> Result<SelectStream, ServiceError> {
        let shard = self.readable(request.shard, request.any_replica).await?;
        self.metrics.selects.inc();
        if let Some(counting) = request.counting.clone() {
            let counted = blocking(move |stop| shard.machine.count(&request, &counting.by, stop)).await;
            let counted = counted.inspect_err(|e| self.count_stale(e))?;
            return Ok(stream::once(async { Ok(counted) }).boxed());
        }
        let few = shard.machine.find_few(&request);
        let selected = match few.inspect_err(|e| self.count_stale(e))? {
            Some(selected) => selected,
            None => {
                let shard = shard.clone();
                let found = blocking(move |stop| shard.machine.find(&request, stop)).await;
                found.inspect_err(|e| self.count_stale(e))?
            }
        };
        // One batch is made when the one before was taken: what waits is bounded.
        let batches = stream::unfold(Some((shard, selected)), |state| async {
            let (shard, selected) = state?;
            let step = if selected.is_small() {
                Ok(next(&shard, selected))
            } else {
                blocking(move |_| Ok(next(&shard, selected))).await
            };
            match step {
                Ok((Ok(None), _, _)) => None,
                Ok((Ok(Some(batch)), shard, selected)) => Some((Ok(batch), Some((shard, selected)))),
                Ok((Err(error), _, _)) | Err(error) => Some((Err(error), None)),
            }
        });
        let metrics = self.metrics.clone();
        Ok(batches
            .inspect(move |batch| {
                if let Err(ServiceError::StaleView { .. }) = batch {
                    metrics.stale_views.inc();
                }
            })
            .boxed())
    }

    async fn evaluate(&self, request: EvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        let max_held_samples = request.max_held_samples;
        let mut matchers = request.select.iter().flat_map(|select| &select.matchers);
        let (select, fragment) = if matchers.any(|matcher| is_costly(&matcher.value)) {
            blocking(move |_| evaluate::checked(request)).await?
        } else {
            evaluate::checked(request)?
        };
        let shard = self.readable(select.shard, select.any_replica).await?;
        self.metrics.evaluations.inc();
        let limits = evaluate::limits(&shard.machine, max_held_samples);
        let few = shard.machine.find_few(&select).inspect_err(|e| self.count_stale(e))?;
        let selected = match few {
            Some(few) if evaluate::is_quick(&few, &fragment) => {
                return Ok(stream::iter(evaluate::at_once(&shard, few, &fragment, &limits)).boxed());
            }
            Some(few) => few,
            None => {
                let shard = shard.clone();
                let found = blocking(move |stop| shard.machine.find(&select, stop)).await;
                found.inspect_err(|e| self.count_stale(e))?
            }
        };
        let metrics = self.metrics.clone();
        Ok(evaluate::start(shard, selected, fragment, limits)
            .inspect(move |batch| {
                if let Err(ServiceError::StaleView { .. }) = batch {
                    metrics.stale_views.inc();
                }
            })
            .boxed())
    }

    async fn labels(&self, request: LabelsRequest) -> Result<LabelsResponse, ServiceError> {
        let shard = self.readable(request.shard, request.any_replica).await?;
        let found = blocking(move |stop| labels(&shard, &request, stop)).await;
        found.inspect_err(|e| self.count_stale(e))
    }

    async fn exemplars(&self, request: ExemplarsRequest) -> Result<ExemplarsResponse, ServiceError> {
        let shard = self.readable(request.shard, request.any_replica).await?;
        blocking(move |stop| exemplars(&shard, &request, stop)).await
    }

    async fn metric_metadata(&self, request: MetricMetadataRequest) -> Result<MetricMetadataResponse, ServiceError> {
        let shard = self.readable(request.shard, request.any_replica).await?;
        let tenant = select::tenant(&request.tenant)?;
        let limit = limit(request.limit);
        shard.machine.read(|state| {
            state.check_map(request.placement_epoch, i64::MAX)?;
            let all = state.head(&tenant).map(|h| h.metadata.iter());
            let wanted = |metric: &str| request.metric.is_empty() || metric == request.metric;
            let rows = all.into_iter().flatten().filter(|(metric, _)| wanted(metric));
            let row = |metric: &str, info: &crate::head::MetricInfo| MetricMetadata {
                metric: metric.to_owned(),
                r#type: info.kind.to_string(),
                help: info.help.to_string(),
                unit: info.unit.to_string(),
            };
            Ok(MetricMetadataResponse {
                metadata: rows.take(limit).map(|(metric, info)| row(metric, info)).collect(),
            })
        })
    }

    async fn head_stats(&self, request: HeadStatsRequest) -> Result<HeadStatsResponse, ServiceError> {
        let shard = self.get(request.shard)?;
        blocking(move |_| Ok(head_stats(&shard, request.limit as usize))).await
    }
}

type Step = (Result<Option<SelectBatch>, ServiceError>, Arc<Shard>, Selected);

fn next(shard: &Arc<Shard>, mut selected: Selected) -> Step {
    let batch = selected.next_batch(&shard.machine);
    (batch, shard.clone(), selected)
}

impl Shards {
    /// The shard, once it has applied everything that was acknowledged before the call. Where another node leads, that is
    /// what the caller is told, unless it said that any replica will do.
    async fn readable(&self, shard: u32, any_replica: bool) -> Result<Arc<Shard>, ServiceError> {
        let shard = self.get(shard)?;
        if any_replica {
            shard.log.read_index_here().await?;
        } else {
            shard.log.read_index().await?;
        }
        if !shard.machine.is_sound() {
            return Err(ServiceError::Unavailable(format!("shard {} is restarting", shard.id())));
        }
        Ok(shard)
    }

    fn count_stale(&self, error: &ServiceError) {
        if matches!(error, ServiceError::StaleView { .. }) {
            self.metrics.stale_views.inc();
        }
    }
}

/// Does the work on a thread where it may take its time; whoever stops waiting for it stops it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let stop = Stop::default();
    let _stops = stop.on_drop();
    blocking::blocking(move || work(&stop))
        .await
        .map_err(|e| ServiceError::Internal(format!("reading a head: {e}")))?
}

fn limit(limit: u64) -> usize {
    match limit {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    }
}

/// Series that satisfy any of the sets; all where there is none.
fn matching(head: &Head, sets: &[MatcherSet], stop: &Stop) -> Result<RoaringBitmap, ServiceError> {
    if sets.is_empty() {
        return Ok(head.index.all().clone());
    }
    let mut found = RoaringBitmap::new();
    for set in sets {
        found |= head.select(&select::matchers(&set.matchers)?, stop);
        select::check(stop)?;
    }
    Ok(found)
}

fn labels(shard: &Shard, request: &LabelsRequest, stop: &Stop) -> Result<LabelsResponse, ServiceError> {
    let tenant = select::tenant(&request.tenant)?;
    let view = request.view.clone().unwrap_or_default();
    shard.machine.read(|state| {
        state.check_view(&tenant, &view, request.start_ms, request.end_ms)?;
        let Some(head) = state.head(&tenant) else {
            return Ok(LabelsResponse::default());
        };
        let series = matching(head, &request.matchers, stop)? & head.members(&view, request.start_ms, request.end_ms);
        let mut values = BTreeSet::new();
        if request.name.is_empty() {
            for (name, pairs) in head.index.names() {
                let carried = |id: &u32| head.index.postings(*id).is_some_and(|p| p.intersects(&series));
                if pairs.iter().any(carried) {
                    values.insert(name.to_owned());
                }
            }
        } else {
            for id in head.index.pairs_of(&request.name) {
                if head.index.postings(*id).is_some_and(|p| p.intersects(&series)) {
                    values.insert(head.index.text(*id).1.to_owned());
                }
            }
        }
        let values = values.into_iter().take(limit(request.limit)).collect();
        Ok(LabelsResponse { values })
    })
}

/// Exemplars of parts that wait for their upload, by part, which newer ones may have pushed out of memory.
fn exemplars_of_parts(
    shard: &Shard,
    tenant: &TenantId,
    request: &ExemplarsRequest,
) -> Result<BTreeMap<u64, Vec<head::Exemplar>>, ServiceError> {
    let (tenant_number, parts) = shard.machine.read(|state| {
        let there = state.tenants.get(tenant);
        let durable = there.into_iter().flat_map(|there| there.head.sealed.values());
        let durable = durable.filter(|part| part.pages.is_none());
        let in_time = |p: &&SealedPart| p.window.start.0 <= request.end_ms && request.start_ms < p.window.end.0;
        // The newest, where there are very many: an answer is one message.
        let numbers = durable.filter(in_time).map(|part| part.number).rev();
        let numbers: Vec<u64> = numbers.take(MOST_PARTS_OF_EXEMPLARS).collect();
        (there.map_or(0, |there| there.number), numbers)
    });
    let mut found = BTreeMap::new();
    if parts.is_empty() {
        return Ok(found);
    }
    let reader = shard.machine.reader();
    let reader = reader.ok_or_else(|| ServiceError::Unavailable("the shard is starting".into()))?;
    for part in parts {
        found.insert(part, stored_exemplars(&reader, tenant_number, part)?);
    }
    Ok(found)
}

fn exemplars(shard: &Shard, request: &ExemplarsRequest, stop: &Stop) -> Result<ExemplarsResponse, ServiceError> {
    let tenant = select::tenant(&request.tenant)?;
    let stored = exemplars_of_parts(shard, &tenant, request)?;
    shard.machine.read(|state| {
        state.check_map(request.placement_epoch, request.end_ms)?;
        let Some(head) = state.head(&tenant) else {
            return Ok(ExemplarsResponse::default());
        };
        let series = matching(head, &request.matchers, stop)?;
        let mut by_series: BTreeMap<SeriesRef, Vec<Exemplar>> = BTreeMap::new();
        let mut add = |exemplar: &head::Exemplar, part: Option<&SealedPart>| {
            let Some(ordinal) = head.find_ref(exemplar.series).filter(|o| series.contains(*o)) else {
                return;
            };
            let at_ms = exemplar.timestamp_ms;
            let is_wanted = (request.start_ms..=request.end_ms).contains(&at_ms);
            if is_wanted && part.is_none_or(|part| !head.deleted_in(part, ordinal).contains(at_ms)) {
                by_series.entry(exemplar.series).or_default().push(Exemplar {
                    labels: exemplar.labels.to_vec().into(),
                    value: exemplar.value,
                    timestamp_ms: at_ms,
                });
            }
        };
        for part in head.sealed.values() {
            let stored = stored.get(&part.number).into_iter().flatten();
            for exemplar in stored.chain(&part.exemplars) {
                add(exemplar, Some(part));
            }
        }
        for exemplar in head.exemplars.within(request.start_ms, request.end_ms) {
            add(exemplar, None);
        }
        let mut rows: Vec<_> = by_series
            .into_iter()
            .map(|(reference, exemplars)| {
                let mut labels = Vec::new();
                if let Some(ordinal) = head.find_ref(reference) {
                    head.write_labels(ordinal, &mut labels);
                }
                SeriesExemplars {
                    labels: labels.into(),
                    exemplars,
                }
            })
            .collect();
        rows.sort_by(|a, b| LabelsRef::from_canonical(&a.labels).cmp(&LabelsRef::from_canonical(&b.labels)));
        Ok(ExemplarsResponse { series: rows })
    })
}

fn head_stats(shard: &Shard, limit: usize) -> HeadStatsResponse {
    let mut stats = shard.machine.read(|state| {
        let mut stats = HeadStatsResponse {
            min_ms: i64::MAX,
            max_ms: i64::MIN,
            ..HeadStatsResponse::default()
        };
        for tenant in state.tenants.values() {
            tenant.head.add_stats(&mut stats, limit > 0);
            if let Some((min, max)) = tenant.head.time_bounds() {
                stats.min_ms = stats.min_ms.min(min);
                stats.max_ms = stats.max_ms.max(max);
            }
        }
        stats
    });
    if stats.min_ms > stats.max_ms {
        (stats.min_ms, stats.max_ms) = (0, 0);
    }
    for list in [
        &mut stats.series_count_by_metric_name,
        &mut stats.label_value_count_by_label_name,
        &mut stats.memory_bytes_by_label_name,
        &mut stats.series_count_by_label_pair,
    ] {
        top(list, limit);
    }
    stats
}

/// The largest, ties by name.
fn top(list: &mut Vec<NameCount>, limit: usize) {
    list.sort_unstable_by(|a, b| b.value.cmp(&a.value).then_with(|| a.name.cmp(&b.name)));
    list.truncate(limit);
}
