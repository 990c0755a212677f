//! What OpenMetrics demands of the samples of one classic histogram together.

use gnomon_model::{Labels, LabelsRef};

/// Goes over the samples of a family in their order.
#[derive(Default)]
pub(super) struct HistogramCheck {
    current: Option<Current>,
}

/// One histogram at one time.
struct Current {
    labels: Labels,
    timestamp: Option<f64>,
    /// The last bucket: bound and count.
    bucket: Option<(f64, f64)>,
    count: Option<f64>,
    sum: bool,
    gauge_sum: Option<f64>,
    negative_buckets: bool,
}

impl HistogramCheck {
    pub(super) fn add(
        &mut self,
        labels: Labels,
        suffix: &str,
        sample: LabelsRef<'_>,
        value: f64,
        timestamp: Option<f64>,
    ) -> Result<(), String> {
        let same = |c: &Current| c.labels == labels && c.timestamp == timestamp;
        if !self.current.as_ref().is_some_and(same) {
            self.finish()?;
        }
        let current = self.current.get_or_insert(Current {
            labels,
            timestamp,
            bucket: None,
            count: None,
            sum: false,
            gauge_sum: None,
            negative_buckets: false,
        });
        match suffix {
            "_bucket" => current.add_bucket(sample, value)?,
            "_count" | "_gcount" => current.count = Some(value),
            "_sum" => current.sum = true,
            "_gsum" => current.gauge_sum = Some(value),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.current.take().map_or(Ok(()), |current| current.check())
    }
}

impl Current {
    fn add_bucket(&mut self, sample: LabelsRef<'_>, value: f64) -> Result<(), String> {
        let bound = sample.get("le").unwrap_or_default();
        let bound = super::float::parse_float(bound.as_bytes()).unwrap_or(f64::NAN);
        self.negative_buckets |= bound < 0.0;
        if let Some((last, count)) = self.bucket {
            if bound <= last {
                return Err(format!("bucket {sample} is out of order"));
            }
            if value < count {
                return Err(format!(
                    "bucket {sample} has {value}, less than the {count} of the one before"
                ));
            }
        }
        self.bucket = Some((bound, value));
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let labels = &self.labels;
        let total = match self.bucket {
            Some((f64::INFINITY, total)) => total,
            _ => return Err(format!("histogram {labels} lacks the bucket +Inf")),
        };
        let has_sum = self.sum || self.gauge_sum.is_some();
        match self.count {
            Some(count) if count != total => Err(format!("histogram {labels} counts {count}, its bucket +Inf {total}")),
            Some(_) if !has_sum => Err(format!("histogram {labels} has a count and no sum")),
            None if has_sum => Err(format!("histogram {labels} has a sum and no count")),
            _ if self.negative_buckets && self.sum => {
                Err(format!("histogram {labels} has buckets below zero and a sum"))
            }
            _ if !self.negative_buckets && self.gauge_sum.is_some_and(|s| s < 0.0) => Err(format!(
                "histogram {labels} has a negative sum without buckets below zero"
            )),
            _ => Ok(()),
        }
    }
}
