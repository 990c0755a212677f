//! Remote write 2.0's message, and what of it gRPC's has: texts are in a table, once; series name them by number.
//!
//! Source: <https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/>.

use super::labels::what_is_wrong;
use super::scan::{self, BadBody, Fields, Span, Value};
use super::version_1::{add_histogram, kind_name};
use crate::ha::{Fill, Form, HaOptions, Replicas, Verdicts};
use crate::intake::{Intake, NO_LABELS, NotWritten, Rows, Written, put_canonical, reading};
use gnomon_cluster::router::{LabelSource, MetricInfo, RouterBatch, WriteOutcome};
use gnomon_model::labels::{get_uvarint, put_uvarint};
use gnomon_model::{LabelsBuilder, LabelsRef, TenantId};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Bytes of all labels of all series of a request together: a series of a few bytes can name texts of a megabyte.
const MAX_LABEL_BYTES: usize = 256 << 20;

/// A request, as ranges of its body.
pub(crate) struct Request<'a> {
    body: &'a [u8],
    /// gRPC's.
    pub(crate) id: u64,
    pub(crate) tenant: &'a [u8],
    symbols: Vec<Span>,
    series: Vec<Span>,
    ha: Option<&'a HaOptions>,
}

/// What a series says of its metric.
struct Metadata<'a> {
    kind: u64,
    help: &'a [u8],
    unit: &'a [u8],
}

impl<'a> Request<'a> {
    /// Bodies are below 4 GiB: the caller's limit sees to it.
    pub(crate) fn of(body: &'a [u8]) -> Result<Self, BadBody> {
        let mut request = Self {
            body,
            id: 0,
            tenant: &[],
            symbols: Vec::new(),
            series: Vec::new(),
            ha: None,
        };
        let mut fields = Fields::of("Request", body);
        while let Some((field, value)) = fields.next()? {
            let end = body.len() - fields.left();
            match (field, value) {
                // Remote write reserves both.
                (1, Value::Varint(id)) => request.id = id,
                (2, Value::Bytes(tenant)) => request.tenant = tenant,
                (4 | 5, _) => {
                    let length = fields.bytes(field, value)?.len();
                    let span = ((end - length) as u32, end as u32);
                    match field {
                        4 => request.symbols.push(span),
                        _ => request.series.push(span),
                    }
                }
                _ => {}
            }
        }
        Ok(request)
    }

    pub(crate) fn series_count(&self) -> u32 {
        self.series.len() as u32
    }

    fn range(&self, (start, end): Span) -> &'a [u8] {
        self.body.get(start as usize..end as usize).unwrap_or(&[])
    }

    fn series(&self, number: u32) -> &'a [u8] {
        self.series.get(number as usize).map_or(&[], |span| self.range(*span))
    }

    fn symbol(&self, number: u64) -> Result<&'a [u8], BadBody> {
        let span = usize::try_from(number).ok().and_then(|n| self.symbols.get(n));
        span.map(|span| self.range(*span)).ok_or(BadBody::NoSymbol(number))
    }

    /// Name and value of each label that a message names in its field 1.
    fn each_label(
        &self,
        message: &'static str,
        bytes: &'a [u8],
        mut each: impl FnMut(&'a [u8], &'a [u8]),
    ) -> Result<(), BadBody> {
        let mut name = None;
        let mut take = |number: u64| {
            let text = self.symbol(number)?;
            match name.take() {
                None => name = Some(text),
                Some(name) => each(name, text),
            }
            Ok(())
        };
        let mut fields = Fields::of(message, bytes);
        while let Some((field, value)) = fields.next()? {
            if field != 1 {
                continue;
            }
            match value {
                Value::Varint(number) => take(number)?,
                other => {
                    let mut packed = fields.bytes(field, other)?;
                    while !packed.is_empty() {
                        let (number, rest) = get_uvarint(packed).ok_or(BadBody::Truncated)?;
                        take(number)?;
                        packed = rest;
                    }
                }
            }
        }
        match name {
            None => Ok(()),
            Some(_) => Err(BadBody::OddLabels),
        }
    }

    /// Checks what a series names, and appends its labels as they were sent: what identifies it.
    pub(crate) fn check(&self, number: u32, out: &mut Vec<u8>) -> Result<(), BadBody> {
        self.each_label("TimeSeries", self.series(number), |name, value| {
            for text in [name, value] {
                put_uvarint(out, text.len() as u64);
                out.extend_from_slice(text);
            }
        })
    }

    fn pair(&self, number: u32, ha: &HaOptions) -> Result<(Option<&'a str>, Option<&'a str>), BadBody> {
        let (mut cluster, mut replica) = (None, None);
        self.each_label("TimeSeries", self.series(number), |name, value| {
            if name == ha.cluster_label.as_bytes() {
                cluster = std::str::from_utf8(value).ok();
            } else if name == ha.replica_label.as_bytes() {
                replica = std::str::from_utf8(value).ok();
            }
        })?;
        Ok((cluster, replica))
    }

    /// Adds what a series has besides labels and metadata, and counts it.
    pub(crate) fn add_items(&self, number: u32, rows: &mut impl Rows, written: &mut Written) -> Result<(), BadBody> {
        let mut fields = Fields::of("TimeSeries", self.series(number));
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => {
                    let (timestamp_ms, value, start_ms) = scan::started_sample(fields.bytes(field, value)?)?;
                    rows.since(start_ms);
                    rows.sample(timestamp_ms, value);
                    written.samples += 1;
                }
                3 => {
                    let encoded = fields.bytes(field, value)?;
                    let head = scan::histogram(encoded)?;
                    rows.since(head.start_ms);
                    add_histogram(rows, &head, encoded);
                    written.histograms += 1;
                }
                4 => {
                    self.add_exemplar(rows, fields.bytes(field, value)?)?;
                    written.exemplars += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// An exemplar whose labels are no label set is left out, as in version 1.0.
    fn add_exemplar(&self, rows: &mut impl Rows, encoded: &'a [u8]) -> Result<(), BadBody> {
        let (mut timestamp_ms, mut number) = (0, 0.0);
        let mut fields = Fields::of("Exemplar", encoded);
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => number = fields.double(field, value)?,
                3 => timestamp_ms = fields.varint(field, value)? as i64,
                _ => {}
            }
        }
        let (mut builder, mut valid) = (LabelsBuilder::default(), true);
        self.each_label("Exemplar", encoded, |name, text| {
            match (std::str::from_utf8(name), std::str::from_utf8(text)) {
                (Ok(name), Ok(text)) if !name.is_empty() => builder.set(name, text),
                _ => valid = false,
            }
        })?;
        if valid {
            let mut labels = Vec::new();
            builder.write_to(&mut labels);
            rows.exemplar(timestamp_ms, number, LabelsRef::from_canonical(&labels));
        }
        Ok(())
    }

    /// Type, help and unit of the metric that a series is of; none where it says nothing.
    fn metadata(&self, number: u32) -> Result<Option<Metadata<'a>>, BadBody> {
        let mut found = None;
        let mut fields = Fields::of("TimeSeries", self.series(number));
        while let Some((field, value)) = fields.next()? {
            if field == 5 {
                found = Some(fields.bytes(field, value)?);
            }
        }
        let Some(encoded) = found else { return Ok(None) };
        let (mut kind, mut help, mut unit) = (0, 0, 0);
        let mut fields = Fields::of("Metadata", encoded);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => kind = fields.varint(field, value)?,
                3 => help = fields.varint(field, value)?,
                4 => unit = fields.varint(field, value)?,
                _ => {}
            }
        }
        if (kind, help, unit) == (0, 0, 0) {
            return Ok(None);
        }
        Ok(Some(Metadata {
            kind,
            help: self.symbol(help)?,
            unit: self.symbol(unit)?,
        }))
    }

    /// `last` is the metric told of last: series of one metric stand together.
    fn add_metadata(&self, number: u32, rows: &mut impl Rows, last: &mut &'a [u8]) -> Result<(), BadBody> {
        let Some(Metadata { kind, help, unit }) = self.metadata(number)? else {
            return Ok(());
        };
        let mut metric: &[u8] = &[];
        self.each_label("TimeSeries", self.series(number), |name, value| {
            if name == gnomon_model::METRIC_NAME.as_bytes() {
                metric = value;
            }
        })?;
        if metric.is_empty() || metric == *last {
            return Ok(());
        }
        *last = metric;
        let text = |bytes| std::str::from_utf8(bytes).ok();
        if let (Some(metric), Some(help), Some(unit)) = (text(metric), text(help), text(unit)) {
            let kind = kind_name(kind);
            // Parts of a family are series of their own here, and their metadata is the family's.
            let parts: &[&str] = match kind {
                "histogram" | "gaugehistogram" => &["_bucket", "_count", "_sum"],
                "summary" => &["_count", "_sum"],
                _ => &[],
            };
            let family = parts.iter().find_map(|part| metric.strip_suffix(part));
            rows.metadata(&MetricInfo {
                metric: family.unwrap_or(metric),
                kind,
                unit,
                help,
            });
        }
        Ok(())
    }

    fn replicas(&self, ha: &HaOptions) -> Result<Replicas<'a>, NotWritten> {
        let bad = |error: BadBody| NotWritten::Malformed(error.to_string());
        let mut replicas = Replicas::with_capacity(self.series.len());
        for number in 0..self.series_count() {
            let (cluster, replica) = self.pair(number, ha).map_err(bad)?;
            if !replicas.series(cluster, replica)? {
                continue;
            }
            let mut fields = Fields::of("TimeSeries", self.series(number));
            while let Some((field, value)) = fields.next().map_err(bad)? {
                let timestamp_ms = match field {
                    2 => scan::sample(fields.bytes(field, value).map_err(bad)?).map_err(bad)?.0,
                    3 => {
                        scan::histogram(fields.bytes(field, value).map_err(bad)?)
                            .map_err(bad)?
                            .timestamp_ms
                    }
                    _ => continue,
                };
                replicas.sample(timestamp_ms);
            }
        }
        Ok(replicas)
    }
}

impl LabelSource for Request<'_> {
    fn write_labels(&self, series: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let mut labels = Vec::with_capacity(16);
        let read = self.each_label("TimeSeries", self.series(series), |name, value| {
            labels.push((name, value))
        });
        if read.is_err() || put_canonical(labels, self.ha, out).is_none() {
            out.truncate(start);
            out.extend_from_slice(NO_LABELS);
        }
    }
}

/// The first series of a body whose labels are no label set, as of version 1.0.
pub(super) fn first_bad(body: &[u8]) -> Option<String> {
    let request = Request::of(body).ok()?;
    request.series.iter().find_map(|span| {
        let mut labels = Vec::new();
        let each = |name, value| labels.push((name, value));
        request.each_label("TimeSeries", request.range(*span), each).ok()?;
        what_is_wrong(&labels)
    })
}

/// Writes a decompressed body: nothing of it where it is malformed.
pub(crate) async fn write(intake: &Intake, tenant: &TenantId, body: &[u8]) -> Result<Written, NotWritten> {
    let request = reading(body.len(), || Request::of(body)).map_err(malformed)?;
    write_request(intake, tenant, request).await
}

/// The same of a request that was read already.
pub(crate) async fn write_request(
    intake: &Intake,
    tenant: &TenantId,
    mut request: Request<'_>,
) -> Result<Written, NotWritten> {
    let ha = intake.ha.clone();
    let size = request.body.len();
    let _memory = intake.set_aside_for(request.series.len(), size)?;
    let identities = reading(size, || identities(&request, intake.seed))?;
    let mut verdicts = match &ha {
        Some(tracker) => {
            let replicas = reading(size, || request.replicas(tracker.options()))?;
            replicas.judge(tracker, tenant, true).await?
        }
        None => Verdicts::default(),
    };
    request.ha = ha.as_deref().map(crate::ha::HaTracker::options);
    let mut written = Written::default();
    if verdicts.begin_fills() {
        written.outcome = fill_from(intake, tenant, &request, &identities, &mut verdicts).await?;
        if let Some(error) = &written.outcome.retryable {
            return Err(NotWritten::Retry(error.to_string()));
        }
    }
    verdicts.begin_own();
    let mut batch = intake.router.batch(tenant, &request);
    reading(size, || {
        add_series(&request, &identities, &mut batch, &mut verdicts, &mut written)?;
        let mut last: &[u8] = &[];
        (0..request.series_count())
            .try_for_each(|number| request.add_metadata(number, &mut batch, &mut last))
            .map_err(malformed)
    })?;
    written.deduplicated = verdicts.dropped();
    intake.deduplicated(written.deduplicated);
    if let Some(tracker) = &ha {
        verdicts.hold(tracker, Form::Version2, request.body);
    }
    written.outcome.add(batch.send(intake.timeout).await);
    Ok(written)
}

/// Writes of a body that was held what fills the end of a turn.
pub(crate) async fn fill(intake: &Intake, fill: &Fill, body: &[u8]) -> Result<WriteOutcome, NotWritten> {
    let Some(ha) = intake.ha_options() else {
        return Ok(WriteOutcome::default());
    };
    let mut request = Request::of(body).map_err(malformed)?;
    let _memory = intake.set_aside_for(request.series.len(), body.len())?;
    let identities = identities(&request, intake.seed)?;
    let mut verdicts = request.replicas(ha)?.only_fills(&fill.stand_by, fill.window);
    request.ha = Some(ha);
    fill_from(intake, &fill.stand_by.tenant, &request, &identities, &mut verdicts).await
}

async fn fill_from(
    intake: &Intake,
    tenant: &TenantId,
    request: &Request<'_>,
    identities: &[u128],
    verdicts: &mut Verdicts,
) -> Result<WriteOutcome, NotWritten> {
    let mut batch = intake.router.batch(tenant, request).only_newer();
    add_series(request, identities, &mut batch, verdicts, &mut Written::default())?;
    Ok(intake.filled(batch.send(intake.timeout).await))
}

/// Adds of each series what counts.
fn add_series(
    request: &Request<'_>,
    identities: &[u128],
    batch: &mut RouterBatch<'_>,
    verdicts: &mut Verdicts,
    written: &mut Written,
) -> Result<(), NotWritten> {
    batch.announce(identities);
    for (number, identity) in (0..).zip(identities) {
        batch.series(*identity, number);
        request
            .add_items(number, &mut verdicts.rows(number, batch), written)
            .map_err(malformed)?;
    }
    Ok(())
}

fn malformed(error: BadBody) -> NotWritten {
    NotWritten::Malformed(error.to_string())
}

fn identities(request: &Request<'_>, seed: u64) -> Result<Vec<u128>, NotWritten> {
    let mut identities = Vec::with_capacity(request.series.len());
    let (mut labels, mut total) = (Vec::new(), 0);
    for number in 0..request.series_count() {
        labels.clear();
        request
            .check(number, &mut labels)
            .map_err(|error| NotWritten::Malformed(error.to_string()))?;
        total += labels.len();
        if total > MAX_LABEL_BYTES {
            return Err(NotWritten::Malformed(format!(
                "the labels of the request's series have more than {MAX_LABEL_BYTES} bytes together: send fewer series \
                 in a request"
            )));
        }
        identities.push(xxh3_128_with_seed(&labels, seed));
    }
    Ok(identities)
}
