//! Writing a request of version 1.0.

use super::labels::{self, BodyLabels};
use super::scan::{self, BadBody, Fields, Outline};
use crate::ha::{Form, HaOptions, Replicas, Verdicts};
use crate::intake::{Intake, NotWritten, Rows, Written};
use gnomon_cluster::router::{MetricInfo, RouterBatch};
use gnomon_model::{LabelsBuilder, LabelsRef, TenantId};

/// Writes a decompressed body: nothing of it where it is malformed.
pub(crate) async fn write(intake: &Intake, tenant: &TenantId, body: &[u8]) -> Result<Written, NotWritten> {
    let bad = |error: BadBody| NotWritten::Malformed(error.to_string());
    let outline = Outline::of(body).map_err(bad)?;
    let ha = intake.ha_options();
    let labels = BodyLabels {
        body,
        series: &outline.series,
        ha,
    };
    let count = outline.series.len();
    let (mut identities, mut items) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for number in 0..count as u32 {
        let (identity, others) = labels::identity(labels.bytes(number), intake.seed).map_err(bad)?;
        identities.push(identity);
        items.push(others);
    }
    let mut verdicts = match (&intake.ha, ha) {
        (Some(tracker), Some(ha)) => replicas(&labels, &items, ha)?.judge(tracker, tenant).await?,
        _ => Verdicts::default(),
    };
    let mut written = Written::default();
    if verdicts.begin_fills() {
        let mut batch = intake.router.batch(tenant, &labels).only_newer();
        add_series(&mut batch, &identities, &items, &mut verdicts, &mut Written::default()).map_err(bad)?;
        written.filled = intake.filled(&batch.send(intake.timeout).await)?;
    }
    verdicts.begin_own();
    let mut batch = intake.router.batch(tenant, &labels);
    add_series(&mut batch, &identities, &items, &mut verdicts, &mut written).map_err(bad)?;
    for (start, end) in &outline.metadata {
        let bytes = body.get(*start as usize..*end as usize).unwrap_or(&[]);
        add_metadata(&mut batch, bytes).map_err(bad)?;
    }
    written.deduplicated = verdicts.dropped();
    intake.deduplicated(written.deduplicated);
    written.outcome = batch.send(intake.timeout).await;
    if let (Some(tracker), None) = (&intake.ha, &written.outcome.retryable) {
        verdicts.hold(tracker, tenant, Form::Version1, body);
    }
    Ok(written)
}

fn add_series(
    batch: &mut RouterBatch<'_>,
    identities: &[u128],
    items: &[&[u8]],
    verdicts: &mut Verdicts,
    written: &mut Written,
) -> Result<(), BadBody> {
    batch.announce(identities);
    for (number, (identity, items)) in (0..).zip(identities.iter().zip(items)) {
        batch.series(*identity, number);
        add_items(&mut verdicts.rows(number, batch), items, written)?;
    }
    Ok(())
}

/// Whose series they are. One pass more over the samples, where HA pairs are looked for.
fn replicas<'a>(labels: &BodyLabels<'a>, items: &[&[u8]], ha: &HaOptions) -> Result<Replicas<'a>, NotWritten> {
    let bad = |error: BadBody| NotWritten::Malformed(error.to_string());
    let mut replicas = Replicas::with_capacity(items.len());
    for (number, items) in items.iter().enumerate() {
        let (cluster, replica) = labels::pair(labels.bytes(number as u32), ha);
        if !replicas.series(cluster, replica)? {
            continue;
        }
        let mut fields = Fields::of("TimeSeries", items);
        while let Some((field, value)) = fields.next().map_err(bad)? {
            let timestamp_ms = match field {
                2 => scan::sample(fields.bytes(field, value).map_err(bad)?).map_err(bad)?.0,
                4 => scan::histogram_time(fields.bytes(field, value).map_err(bad)?).map_err(bad)?,
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
                batch.histogram(scan::histogram_time(encoded)?, encoded);
                written.histograms += 1;
            }
            _ => {}
        }
    }
    Ok(())
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
