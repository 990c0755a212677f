//! Label names and values.

use super::cache::SeriesPart;
use super::dictionary_view::View;
use super::layout::SeriesChunk;
use super::layout::split_key;
use super::{BlockError, BlockReader};
use gnomon_model::{Labels, Matcher};
use std::collections::BTreeSet;

/// With so few candidates their labels are read, instead of the postings of every value.
const FEW_CANDIDATES: u64 = 4096;

impl BlockReader {
    /// Names of labels of the series that satisfy all `matchers`, sorted.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn label_names(&self, matchers: &[Matcher]) -> Result<Vec<String>, BlockError> {
        if matchers.is_empty() {
            return Ok(self.counts_of_label_values().map(|(name, _)| name.to_owned()).collect());
        }
        let mut view = View::default();
        let candidates = self.candidates(matchers, &mut view).await?;
        let mut names = BTreeSet::new();
        if let Some(table) = self.symbol_table() {
            let mut seen = BTreeSet::new();
            self.for_each_part(candidates.series, |_, part| {
                let kept = part.satisfying(&candidates.wanted, table);
                let Some(rows) = &part.rows else { return };
                for (run, _) in rows.runs_of(&kept) {
                    seen.extend(rows.shapes[run.shape].iter().copied());
                }
            })
            .await?;
            return Ok(seen
                .into_iter()
                .map(|name| table.names[name as usize].text.clone())
                .collect());
        }
        self.for_each_label_set(candidates.series, |labels| {
            if candidates.check.iter().all(|m| m.matches_labels(labels.as_ref())) {
                for (name, _) in labels.iter() {
                    if !names.contains(name) {
                        names.insert(name.to_owned());
                    }
                }
            }
        })
        .await?;
        Ok(names.into_iter().collect())
    }

    /// Values of one label of the series that satisfy all `matchers`, sorted.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn label_values(&self, name: &str, matchers: &[Matcher]) -> Result<Vec<String>, BlockError> {
        if let Some(table) = self.symbol_table() {
            return self.values_by_numbers(table, name, matchers).await;
        }
        if matchers.is_empty() {
            return self.values_where(name, None).await;
        }
        let candidates = self.candidates(matchers, &mut View::default()).await?;
        if candidates.check.is_empty() && candidates.series.len() > FEW_CANDIDATES {
            return self.values_where(name, Some(&candidates.series)).await;
        }
        let mut values = BTreeSet::new();
        self.for_each_label_set(candidates.series, |labels| {
            if let Some(value) = labels.get(name)
                && !values.contains(value)
                && candidates.check.iter().all(|m| m.matches_labels(labels.as_ref()))
            {
                values.insert(value.to_owned());
            }
        })
        .await?;
        Ok(values.into_iter().collect())
    }

    /// All values, or those that a series of `among` has.
    async fn values_where(
        &self,
        name: &str,
        among: Option<&roaring::RoaringBitmap>,
    ) -> Result<Vec<String>, BlockError> {
        let mut values = Vec::new();
        for chunk in self.value_chunks_of(name) {
            for entry in self.value_chunk(chunk).await?.iter() {
                if split_key(&entry.key).is_none_or(|(n, _)| n != name) {
                    continue;
                }
                let value = entry.value().to_owned();
                let is_wanted = match among {
                    None => true,
                    Some(among) => !self.union([entry]).await?.is_disjoint(among),
                };
                if is_wanted {
                    values.push(value);
                }
            }
        }
        Ok(values)
    }

    async fn for_each_label_set(
        &self,
        series: roaring::RoaringBitmap,
        mut visit: impl FnMut(&Labels) + Send,
    ) -> Result<(), BlockError> {
        let wanted = series.clone();
        self.for_each_part(series, |chunk, part| {
            for (ordinal, at) in (chunk.first_series..).zip(0..part.len()) {
                if let Some(labels) = part.labels(at).filter(|_| wanted.contains(ordinal)) {
                    visit(labels);
                }
            }
        })
        .await
    }

    /// All chunks with one of `series`, in their order.
    pub(super) async fn for_each_part(
        &self,
        mut series: roaring::RoaringBitmap,
        mut visit: impl FnMut(&SeriesChunk, &SeriesPart) + Send,
    ) -> Result<(), BlockError> {
        while !series.is_empty() {
            let chunks = self.next_chunks(&series, self.chunks_at_a_time(true));
            let Some(last) = chunks.last() else {
                return Err(self.damaged("postings name a series that is not there"));
            };
            for (chunk, part) in chunks.iter().zip(self.series_parts(&chunks).await?) {
                visit(chunk, &part);
            }
            series.remove_range(..last.first_series + last.series);
        }
        Ok(())
    }
}
