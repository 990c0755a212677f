//! Label names and values.

use super::layout::split_key;
use super::{BlockError, BlockReader};
use gnomon_model::{Labels, Matcher};
use std::collections::BTreeSet;

/// With so few candidates their labels are read, instead of the postings of every value.
const FEW_CANDIDATES: u64 = 4096;
/// Chunks of series that are read at a time.
const CHUNKS_AT_A_TIME: usize = 16;

impl BlockReader {
    /// Names of labels of the series that satisfy all `matchers`, sorted.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn label_names(&self, matchers: &[Matcher]) -> Result<Vec<String>, BlockError> {
        if matchers.is_empty() {
            return Ok(self.values.names.iter().map(|(name, _)| name.clone()).collect());
        }
        let candidates = self.candidates(matchers).await?;
        let mut names = BTreeSet::new();
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
        if matchers.is_empty() {
            return self.values_where(name, None).await;
        }
        let candidates = self.candidates(matchers).await?;
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
        mut series: roaring::RoaringBitmap,
        mut visit: impl FnMut(&Labels) + Send,
    ) -> Result<(), BlockError> {
        while !series.is_empty() {
            let chunks = self.next_chunks(&series, CHUNKS_AT_A_TIME);
            let Some(last) = chunks.last() else {
                return Err(self.damaged("postings name a series that is not there"));
            };
            for (chunk, part) in chunks.iter().zip(self.series_parts(&chunks).await?) {
                for (ordinal, labels) in (chunk.first_series..).zip(&part.labels) {
                    if series.contains(ordinal) {
                        visit(labels);
                    }
                }
            }
            series.remove_range(..last.first_series + last.series);
        }
        Ok(())
    }
}
