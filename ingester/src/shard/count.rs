//! Counting series by labels, from the index and each series' newest sample.

use super::machine::ShardMachine;
use super::select::{self, Found, Selected, check};
use crate::head::{Head, Newest, Ordinal, PairId, Stop};
use gnomon_model::{LabelsRef, is_stale_nan};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::{SelectBatch, SelectRequest, Series};
use gnomon_tsdb::page::{FloatPageBuilder, Page, PageSamples};
use roaring::RoaringBitmap;
use std::collections::HashMap;

/// Labels of groups in canonical bytes, with how many series each has.
type Counts = HashMap<Vec<u8>, u64>;

impl ShardMachine {
    /// The series of a request that have a sample at the end of its range, counted by labels.
    pub(crate) fn count(
        &self,
        request: &SelectRequest,
        by: &[String],
        stop: &Stop,
    ) -> Result<SelectBatch, ServiceError> {
        self.check_sound()?;
        let tenant = select::tenant(&request.tenant)?;
        let matchers = select::matchers(&request.matchers)?;
        let view = request.view.clone().unwrap_or_default();
        let mut selected = Selected::new(tenant.clone(), request, &self.read_budget())?;
        let (mut counts, unknown) = self.read(|state| {
            state.check_view(&tenant, &view, request.start_ms, request.end_ms)?;
            let Some(there) = state.tenants.get(&tenant) else {
                return Ok((Counts::new(), Vec::new()));
            };
            let head = &there.head;
            let wanted = head.select(&matchers, stop) & head.members(&view, request.start_ms, request.end_ms);
            let mut live = RoaringBitmap::new();
            let mut unknown = Vec::new();
            let parts = selected.parts_of(there, &view);
            for ordinal in wanted {
                check(stop)?;
                match head.newest_in(ordinal, request.start_ms, request.end_ms) {
                    Newest::Sample => drop(live.insert(ordinal)),
                    Newest::Unknown => {
                        let group = head.index.labels_of_group(head.pairs_of(ordinal), by);
                        if let Some(found) = selected.series_of(head, ordinal, &parts)? {
                            let bytes = group.capacity() + size_of::<(Vec<u8>, Found)>();
                            selected.hold(&found, bytes as u64, request.max_bytes)?;
                            unknown.push((group, found));
                        }
                    }
                    Newest::None => {}
                }
            }
            Ok::<_, ServiceError>((grouped(head, &live, by), unknown))
        })?;
        selected.share();
        for (group, found) in unknown {
            check(stop)?;
            if self.has_sample(&selected, found)? {
                *counts.entry(group).or_default() += 1;
            }
        }
        selected.check_parts(self)?;
        batch(counts, request.end_ms)
    }

    /// Whether the newest sample of the range is no stale marker.
    fn has_sample(&self, selected: &Selected, found: Found) -> Result<bool, ServiceError> {
        let pages = selected.pages_of(found, self.reader().as_deref())?;
        for page in pages.iter().rev() {
            if let Some(stale) = newest_is_stale(page, selected.start_ms, selected.end_ms)? {
                return Ok(!stale);
            }
        }
        Ok(false)
    }
}

/// Whether the newest sample of a page within the range is a stale marker; none where it has no sample there.
fn newest_is_stale(page: &Page, start_ms: i64, end_ms: i64) -> Result<Option<bool>, ServiceError> {
    let within = |at: i64| start_ms <= at && at <= end_ms;
    let samples = page.decode().map_err(|e| ServiceError::Internal(e.to_string()))?;
    Ok(match samples {
        PageSamples::Floats { timestamps, values } => {
            let newest = timestamps.iter().zip(&values).rev().find(|(at, _)| within(**at));
            newest.map(|(_, value)| is_stale_nan(*value))
        }
        PageSamples::Histograms(samples) => {
            let newest = samples.iter().rev().find(|sample| within(sample.timestamp_ms));
            newest.map(|sample| sample.histogram.is_stale())
        }
    })
}

fn grouped(head: &Head, live: &RoaringBitmap, by: &[String]) -> Counts {
    let mut counts = Counts::new();
    if live.is_empty() {
        return counts;
    }
    let index = &head.index;
    match by {
        [] => {
            counts.insert(Vec::new(), live.len());
        }
        // Rather set by set than series by series.
        [name] if (index.pairs_of(name).len() as u64) < live.len() => {
            let mut without = live.len();
            for id in index.pairs_of(name) {
                let count = index.postings(*id).map_or(0, |postings| postings.common(live));
                if count > 0 {
                    without -= count;
                    let mut labels = Vec::new();
                    index.write_labels(std::slice::from_ref(id), &mut labels);
                    counts.insert(labels, count);
                }
            }
            if without > 0 {
                counts.insert(Vec::new(), without);
            }
        }
        _ => {
            let mut by_pairs: HashMap<Vec<PairId>, u64> = HashMap::new();
            let mut key = Vec::new();
            for ordinal in live {
                key.clear();
                let listed = |id: &&PairId| by.iter().any(|name| name == index.text(**id).0);
                key.extend(head.pairs_of(ordinal).iter().filter(listed));
                match by_pairs.get_mut(&key) {
                    Some(count) => *count += 1,
                    None => drop(by_pairs.insert(key.clone(), 1)),
                }
            }
            for (pairs, count) in by_pairs {
                let mut labels = Vec::new();
                index.write_labels(&pairs, &mut labels);
                counts.insert(labels, count);
            }
        }
    }
    counts
}

fn batch(counts: Counts, end_ms: i64) -> Result<SelectBatch, ServiceError> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|(a, _), (b, _)| LabelsRef::from_canonical(a).cmp(&LabelsRef::from_canonical(b)));
    let mut batch = SelectBatch {
        series: Vec::with_capacity(counts.len()),
        counts: true,
        ..SelectBatch::default()
    };
    for (labels, count) in counts {
        let mut page = FloatPageBuilder::new();
        page.append(end_ms, count as f64)
            .map_err(|e| ServiceError::Internal(e.to_string()))?;
        batch.series.push(Series {
            labels: labels.into(),
            pages: page.page().map(select::wire_page).into_iter().collect(),
        });
    }
    Ok(batch)
}

impl Head {
    fn pairs_of(&self, ordinal: Ordinal) -> &[PairId] {
        self.series(ordinal).map_or(&[], |series| &series.labels)
    }
}
