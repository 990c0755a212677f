//! Writing a request of version 1.0.

use super::labels::{self, BodyLabels};
use super::scan::{self, BadBody, Fields, HistogramHead, Outline};
use crate::ha::{Fill, Form, HaOptions, Replicas, Verdicts};
use crate::intake::{Intake, NotWritten, Rows, Written, reading};
use gnomon_cluster::router::{MAX_ITEM_BYTES, MetricInfo, RouterBatch, WriteOutcome};
use gnomon_model::{LabelsBuilder, LabelsRef, TenantId};
use gnomon_proto::histogram::{is_too_fine, made_coarser};

/// The series of a decompressed body.
struct Series<'a> {
    labels: BodyLabels<'a>,
    identities: Vec<u128>,
    /// What each has besides labels.
    items: Vec<&'a [u8]>,
}

impl<'a> Series<'a> {
    fn of(intake: &'a Intake, body: &'a [u8], outline: &'a Outline) -> Result<Self, BadBody> {
        let labels = BodyLabels {
            body,
            series: &outline.series,
            ha: intake.ha_options(),
        };
        let count = outline.series.len();
        let (mut identities, mut items) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for number in 0..count as u32 {
            let (identity, others) = labels::identity(labels.bytes(number), intake.seed)?;
            identities.push(identity);
            items.push(others);
        }
        Ok(Self {
            labels,
            identities,
            items,
        })
    }

    /// Adds of each series what counts.
    fn add_to(
        &self,
        batch: &mut RouterBatch<'_>,
        verdicts: &mut Verdicts,
        written: &mut Written,
    ) -> Result<(), BadBody> {
        batch.announce(&self.identities);
        for (number, (identity, items)) in (0..).zip(self.identities.iter().zip(&self.items)) {
            batch.series(*identity, number);
            add_items(&mut verdicts.rows(number, batch), items, written)?;
        }
        Ok(())
    }

    /// Writes what fills the end of a turn.
    async fn fill(
        &self,
        intake: &Intake,
        tenant: &TenantId,
        verdicts: &mut Verdicts,
    ) -> Result<WriteOutcome, NotWritten> {
        let mut batch = intake.router.batch(tenant, &self.labels).only_newer();
        self.add_to(&mut batch, verdicts, &mut Written::default())
            .map_err(malformed)?;
        Ok(intake.filled(batch.send(intake.timeout).await))
    }
}

fn malformed(error: BadBody) -> NotWritten {
    NotWritten::Malformed(error.to_string())
}

/// Writes a decompressed body: nothing of it where it is malformed.
pub(crate) async fn write(intake: &Intake, tenant: &TenantId, body: &[u8]) -> Result<Written, NotWritten> {
    let size = body.len();
    let outline = reading(size, || Outline::of(body)).map_err(malformed)?;
    let _memory = intake.set_aside_for(outline.series.len() + outline.metadata.len(), size)?;
    let series = reading(size, || Series::of(intake, body, &outline)).map_err(malformed)?;
    let mut verdicts = match &intake.ha {
        Some(tracker) => {
            let replicas = reading(size, || replicas(&series, tracker.options()))?;
            replicas.judge(tracker, tenant, true).await?
        }
        None => Verdicts::default(),
    };
    let mut written = Written::default();
    if verdicts.begin_fills() {
        written.outcome = series.fill(intake, tenant, &mut verdicts).await?;
        if let Some(error) = &written.outcome.retryable {
            return Err(NotWritten::Retry(error.to_string()));
        }
    }
    verdicts.begin_own();
    let mut batch = intake.router.batch(tenant, &series.labels);
    reading(size, || {
        series.add_to(&mut batch, &mut verdicts, &mut written)?;
        outline.metadata.iter().try_for_each(|(start, end)| {
            let bytes = body.get(*start as usize..*end as usize).unwrap_or(&[]);
            add_metadata(&mut batch, bytes)
        })
    })
    .map_err(malformed)?;
    written.deduplicated = verdicts.dropped();
    intake.deduplicated(written.deduplicated);
    if let Some(tracker) = &intake.ha {
        verdicts.hold(tracker, Form::Version1, body);
    }
    written.outcome.add(batch.send(intake.timeout).await);
    Ok(written)
}

/// Writes of a body that was held what fills the end of a turn.
pub(crate) async fn fill(intake: &Intake, fill: &Fill, body: &[u8]) -> Result<WriteOutcome, NotWritten> {
    let Some(ha) = intake.ha_options() else {
        return Ok(WriteOutcome::default());
    };
    let outline = Outline::of(body).map_err(malformed)?;
    let _memory = intake.set_aside_for(outline.series.len(), body.len())?;
    let series = Series::of(intake, body, &outline).map_err(malformed)?;
    let mut verdicts = replicas(&series, ha)?.only_fills(&fill.stand_by, fill.window);
    series.fill(intake, &fill.stand_by.tenant, &mut verdicts).await
}

/// Whose series they are. One pass more over the samples, where HA pairs are looked for.
fn replicas<'a>(series: &Series<'a>, ha: &HaOptions) -> Result<Replicas<'a>, NotWritten> {
    let mut replicas = Replicas::with_capacity(series.items.len());
    for (number, items) in series.items.iter().enumerate() {
        let (cluster, replica) = labels::pair(series.labels.bytes(number as u32), ha);
        if !replicas.series(cluster, replica)? {
            continue;
        }
        let mut fields = Fields::of("TimeSeries", items);
        while let Some((field, value)) = fields.next().map_err(malformed)? {
            let timestamp_ms = match field {
                2 => {
                    scan::sample(fields.bytes(field, value).map_err(malformed)?)
                        .map_err(malformed)?
                        .0
                }
                4 => {
                    scan::histogram(fields.bytes(field, value).map_err(malformed)?)
                        .map_err(malformed)?
                        .timestamp_ms
                }
                _ => continue,
            };
            replicas.sample(timestamp_ms);
        }
    }
    Ok(replicas)
}

/// Adds what a series has besides labels, and counts it.
pub(super) fn add_items(batch: &mut impl Rows, series: &[u8], written: &mut Written) -> Result<(), BadBody> {
    let mut fields = Fields::of("TimeSeries", series);
    while let Some((field, value)) = fields.next()? {
        match field {
            2 => {
                let (timestamp_ms, value) = scan::sample(fields.bytes(field, value)?)?;
                batch.sample(timestamp_ms, value);
                written.samples += 1;
            }
            3 => {
                add_exemplar(batch, fields.bytes(field, value)?)?;
                written.exemplars += 1;
            }
            4 => {
                let encoded = fields.bytes(field, value)?;
                add_histogram(batch, &scan::histogram(encoded)?, encoded);
                written.histograms += 1;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Adds a histogram, at the finest resolution that is kept where it is finer.
pub(super) fn add_histogram(rows: &mut impl Rows, head: &HistogramHead, encoded: &[u8]) {
    // A longer one is refused by its length, and is not decoded.
    let is_made_coarser = is_too_fine(head.schema) && encoded.len() <= MAX_ITEM_BYTES;
    let coarser = is_made_coarser.then(|| made_coarser(encoded)).flatten();
    rows.histogram(head.timestamp_ms, coarser.as_deref().unwrap_or(encoded));
}

/// An exemplar whose labels are no label set is left out, as Prometheus does.
fn add_exemplar(batch: &mut impl Rows, encoded: &[u8]) -> Result<(), BadBody> {
    let mut builder = LabelsBuilder::default();
    let mut valid = true;
    let (timestamp_ms, value) = scan::exemplar(encoded, |name, text| {
        match (std::str::from_utf8(name), std::str::from_utf8(text)) {
            (Ok(name), Ok(text)) if !name.is_empty() => builder.set(name, text),
            _ => valid = false,
        }
    })?;
    if valid {
        let mut labels = Vec::new();
        builder.write_to(&mut labels);
        batch.exemplar(timestamp_ms, value, LabelsRef::from_canonical(&labels));
    }
    Ok(())
}

pub(super) fn add_metadata(batch: &mut impl Rows, encoded: &[u8]) -> Result<(), BadBody> {
    let metadata = scan::metadata(encoded)?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    if let (Some(metric), Some(help), Some(unit)) = (text(metadata.metric), text(metadata.help), text(metadata.unit))
        && !metric.is_empty()
    {
        batch.metadata(&MetricInfo {
            metric,
            kind: kind_name(metadata.kind),
            unit,
            help,
        });
    }
    Ok(())
}

/// Of a metric's type in both versions.
pub(super) fn kind_name(kind: u64) -> &'static str {
    let kinds = [
        "unknown",
        "counter",
        "gauge",
        "histogram",
        "gaugehistogram",
        "summary",
        "info",
        "stateset",
    ];
    usize::try_from(kind)
        .ok()
        .and_then(|k| kinds.get(k))
        .copied()
        .unwrap_or("unknown")
}
