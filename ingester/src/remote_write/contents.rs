//! What a body holds, taken by the router, or only counted.

use super::labels::{self, BodyLabels};
use super::scan::Outline;
use super::{version_1, version_2};
use crate::intake::{Rows, Written};
use gnomon_cluster::router::{LabelSource, MetricInfo};
use gnomon_model::LabelsRef;

/// How much a body holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub series: u64,
    /// Series whose labels are no label set.
    pub bad_labels: u64,
    pub samples: u64,
    pub histograms: u64,
    pub exemplars: u64,
    pub metadata: u64,
}

impl Rows for Contents {
    fn since(&mut self, _: i64) {}

    fn sample(&mut self, _: i64, _: f64) {
        self.samples += 1;
    }

    fn histogram(&mut self, _: i64, _: &[u8]) {
        self.histograms += 1;
    }

    fn exemplar(&mut self, _: i64, _: f64, _: LabelsRef<'_>) {
        self.exemplars += 1;
    }

    fn metadata(&mut self, _: &MetricInfo<'_>) {
        self.metadata += 1;
    }
}

impl Contents {
    /// The same of a body of version 2.0.
    ///
    /// # Errors
    /// The words with which the receiver refuses it.
    pub fn of_version_2(compressed: &[u8], most: usize) -> Result<Self, String> {
        let body = super::decompress_at_most(compressed, most).map_err(|answer| answer.text)?;
        let request = version_2::Request::of(&body).map_err(|e| e.to_string())?;
        let mut contents = Self::default();
        let mut canonical = Vec::new();
        for number in 0..request.series_count() {
            canonical.clear();
            request.check(number, &mut canonical).map_err(|e| e.to_string())?;
            request
                .add_items(number, &mut contents, &mut Written::default())
                .map_err(|e| e.to_string())?;
            canonical.clear();
            request.write_labels(number, &mut canonical);
            contents.series += 1;
            contents.bad_labels += u64::from(LabelsRef::checked(&canonical).is_err());
        }
        Ok(contents)
    }

    /// Reads a compressed body as the receiver does, without writing it anywhere. `most` bounds the decompressed bytes.
    ///
    /// # Errors
    /// The words with which the receiver refuses it.
    pub fn of(compressed: &[u8], most: usize) -> Result<Self, String> {
        let body = super::decompress_at_most(compressed, most).map_err(|answer| answer.text)?;
        let outline = Outline::of(&body).map_err(|e| e.to_string())?;
        let source = BodyLabels {
            body: &body,
            series: &outline.series,
            ha: None,
        };
        let mut contents = Self::default();
        let mut canonical = Vec::new();
        for number in 0..outline.series.len() as u32 {
            let series = source.bytes(number);
            let (_, items) = labels::identity(series, 0).map_err(|e| e.to_string())?;
            version_1::add_items(&mut contents, items, &mut Written::default()).map_err(|e| e.to_string())?;
            canonical.clear();
            source.write_labels(number, &mut canonical);
            contents.series += 1;
            contents.bad_labels += u64::from(LabelsRef::checked(&canonical).is_err());
        }
        for (start, end) in &outline.metadata {
            let bytes = body.get(*start as usize..*end as usize).unwrap_or(&[]);
            version_1::add_metadata(&mut contents, bytes).map_err(|e| e.to_string())?;
        }
        Ok(contents)
    }
}
