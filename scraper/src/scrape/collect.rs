//! From a body to the samples of a tick.

use super::cache::{Seen, SeriesCache, SeriesHit};
use super::labels;
use super::limits::{self, Breach, DEFAULT_SAMPLE_LIMIT};
use super::metadata::Metadata;
use crate::config::{ScrapeConfig, ScrapeLimits};
use crate::parse::{EntryKind, Format, Parser, TextKey, parser_for};
use gnomon_cluster::router::{TickExemplar, TickHistogram, TickSample, is_exemplar_kept};
use gnomon_model::histogram::{FloatHistogram, ResetHint};
use gnomon_model::labels::Quoted;
use gnomon_model::{Labels, LabelsBuilder, LabelsRef};
use gnomon_proto::histogram::{BadHistogram, from_wire, to_wire};
use prost::Message;
use std::collections::HashSet;

/// How far before a sample its series' beginning is still noted.
const ZERO_REACH_MS: i64 = 60 * 60 * 1000;

/// How much later a scrape may stand than it was made.
const MOST_MOVED_MS: i64 = 50;

/// Buffers that are used again, whichever target's scrape comes next.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) samples: Vec<TickSample>,
    pub(super) histograms: Vec<TickHistogram>,
    pub(super) exemplars: Vec<TickExemplar>,
    /// Samples and histograms, by index, whose own time is the scrape's by chance.
    own_samples: Vec<usize>,
    own_histograms: Vec<usize>,
    labels: Vec<u8>,
    builder: LabelsBuilder,
}

impl Scratch {
    pub(super) fn clear(&mut self) {
        self.samples.clear();
        self.histograms.clear();
        self.exemplars.clear();
        self.own_samples.clear();
        self.own_histograms.clear();
    }

    /// The first millisecond from `tick_ms` on that no sample has of its own; samples of the scrape stand there then. Where
    /// there is none soon, all stays as it is.
    ///
    /// Series with times of their own do not go stale when they are exposed no more, and shards tell them by their time.
    fn part_from_own_times(&mut self, tick_ms: i64) -> i64 {
        if self.own_samples.is_empty() && self.own_histograms.is_empty() {
            return tick_ms;
        }
        let times = self.samples.iter().map(|s| s.timestamp_ms);
        let times = times.chain(self.histograms.iter().map(|h| h.timestamp_ms));
        let taken: HashSet<i64> = times.filter(|at| *at > tick_ms).collect();
        let mut later = tick_ms.saturating_add(1)..tick_ms.saturating_add(MOST_MOVED_MS);
        let Some(free) = later.find(|at| !taken.contains(at)) else {
            return tick_ms;
        };
        for (n, sample) in self.samples.iter_mut().enumerate() {
            if sample.timestamp_ms == tick_ms && self.own_samples.binary_search(&n).is_err() {
                sample.timestamp_ms = free;
            }
        }
        for (n, histogram) in self.histograms.iter_mut().enumerate() {
            if histogram.timestamp_ms == tick_ms && self.own_histograms.binary_search(&n).is_err() {
                histogram.timestamp_ms = free;
            }
        }
        free
    }
}

/// What a scrape had, for the report series and the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) scraped: u64,
    /// After metric relabelling.
    pub(super) kept: u64,
    pub(super) series_added: u64,
    pub(super) duplicates: u64,
}

/// Why a body was refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Parse(String),
    SampleLimit,
    LabelLimit(String),
    BucketLimit,
}

impl Refusal {
    /// In Prometheus' words; a limit that the job did not set is named as such.
    pub(super) fn message(&self, job: &ScrapeLimits) -> String {
        match self {
            Self::Parse(message) | Self::LabelLimit(message) => message.clone(),
            Self::SampleLimit if job.samples.is_none() => format!(
                "{}: more than {DEFAULT_SAMPLE_LIMIT} samples, and the job sets no sample_limit",
                limits::SAMPLE_LIMIT
            ),
            Self::SampleLimit => limits::SAMPLE_LIMIT.to_owned(),
            Self::BucketLimit => limits::BUCKET_LIMIT.to_owned(),
        }
    }
}

impl From<crate::parse::ParseError> for Refusal {
    fn from(error: crate::parse::ParseError) -> Self {
        Self::Parse(error.message)
    }
}

/// As Prometheus has it, one histogram that is none fails the scrape.
fn invalid_histogram(metric: &str, sum: f64, why: &BadHistogram) -> Refusal {
    let rule = match why {
        BadHistogram::CountMismatch { .. } if sum.is_nan() => {
            ": histogram's observation count should be at least the number of observations found in the buckets"
        }
        BadHistogram::CountMismatch { .. } => {
            ": histogram's observation count should equal the number of observations found in the buckets (in absence of NaN)"
        }
        _ => "",
    };
    Refusal::Parse(format!("invalid histogram of metric {}: {why}{rule}", Quoted(metric)))
}

/// One body being collected.
pub(super) struct Collector<'a> {
    pub(super) config: &'a ScrapeConfig,
    pub(super) target: &'a Labels,
    /// Where samples without a time of their own stand. A millisecond or more later after a body with samples whose own time
    /// it is.
    pub(super) tick_ms: i64,
    pub(super) cache: &'a mut SeriesCache,
    pub(super) scratch: &'a mut Scratch,
    pub(super) metadata: &'a Metadata,
    pub(super) counts: Counts,
}

impl Collector<'_> {
    /// Reads the whole body into the scratch. On a refusal what is in the scratch is to be thrown away.
    pub(super) fn collect(&mut self, format: Format, body: &[u8]) -> Result<(), Refusal> {
        let config = self.config;
        let classic_too = config.always_scrape_classic_histograms;
        let mut parser = parser_for(format, body, config.scrape_native_histograms, classic_too);
        self.cache.begin_round();
        let read = self.read(&mut *parser).and_then(|()| match self.is_over() {
            true => Err(Refusal::SampleLimit),
            false => Ok(()),
        });
        match &read {
            Ok(()) => {
                self.tick_ms = self.scratch.part_from_own_times(self.tick_ms);
                self.cache.end_round();
                self.metadata.end_round();
            }
            Err(_) => self.cache.abandon_round(),
        }
        read
    }

    /// More samples than the limit were seen: they are counted only, so that memory stays bounded by it.
    fn is_over(&self) -> bool {
        self.counts.kept > limits::sample_limit(&self.config.limits)
    }

    fn read(&mut self, parser: &mut dyn Parser) -> Result<(), Refusal> {
        while let Some(kind) = parser.next_entry_after(self.cache.likely())? {
            match kind {
                EntryKind::Type | EntryKind::Help | EntryKind::Unit => self.metadata.note(kind, parser),
                EntryKind::Comment => {}
                EntryKind::Sample | EntryKind::Histogram => {
                    self.counts.scraped += 1;
                    if let Some(hit) = self.find(parser)? {
                        self.keep(kind, parser, hit)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The series under the parser; none where relabelling drops it.
    #[inline]
    fn find(&mut self, parser: &dyn Parser) -> Result<Option<SeriesHit>, Refusal> {
        let key = parser.key();
        match self.cache.see(key) {
            Seen::Series(hit) => Ok(Some(hit)),
            Seen::Dropped => Ok(None),
            Seen::Unknown => self.introduce(key, parser),
        }
    }

    fn introduce(&mut self, key: TextKey, parser: &dyn Parser) -> Result<Option<SeriesHit>, Refusal> {
        // One more would be beyond the limit: it is not remembered.
        let over = self.counts.kept >= limits::sample_limit(&self.config.limits);
        let Scratch { labels, builder, .. } = &mut *self.scratch;
        labels.clear();
        parser.write_labels(labels)?;
        let exposed = LabelsRef::from_canonical(labels);
        if !labels::finish(exposed, parser, self.target, self.config, builder) {
            self.cache.insert_dropped(key);
            return Ok(None);
        }
        labels.clear();
        builder.write_to(labels);
        let labels = LabelsRef::from_canonical(labels);
        limits::check_labels(labels, self.config).map_err(|breach| match breach {
            Breach::Invalid(message) => Refusal::Parse(message),
            Breach::LabelLimit(message) => Refusal::LabelLimit(message),
        })?;
        if over {
            self.counts.kept += 1;
            return Ok(None);
        }
        let too_many = || Refusal::Parse("more series than can be numbered".to_owned());
        self.cache.insert(key, labels).map(Some).ok_or_else(too_many)
    }

    #[inline]
    fn keep(&mut self, kind: EntryKind, parser: &mut dyn Parser, hit: SeriesHit) -> Result<(), Refusal> {
        self.counts.kept += 1;
        if self.is_over() {
            return Ok(());
        }
        self.counts.series_added += u64::from(hit.new);
        let own = parser.timestamp_ms().filter(|_| self.config.honor_timestamps);
        if hit.again && own.is_none() {
            self.counts.duplicates += 1;
            return Ok(());
        }
        let timestamp_ms = own.unwrap_or(self.tick_ms);
        if self.config.zero_at_created {
            self.keep_zero(kind, parser, hit, timestamp_ms)?;
        }
        if own.is_some() {
            self.note_own(kind, timestamp_ms);
        }
        match kind {
            EntryKind::Histogram => self.keep_histogram(parser, hit, timestamp_ms)?,
            _ => self.scratch.samples.push(TickSample {
                identity: hit.identity,
                series: hit.series,
                timestamp_ms,
                start_ms: parser.created_ms().unwrap_or(0),
                value: parser.value(),
            }),
        }
        self.keep_exemplars(parser, hit, timestamp_ms)
    }

    /// Before a sample is kept that has a time of its own.
    fn note_own(&mut self, kind: EntryKind, at_ms: i64) {
        if at_ms != self.tick_ms || self.config.track_timestamps_staleness {
            return;
        }
        match kind {
            EntryKind::Histogram => self.scratch.own_histograms.push(self.scratch.histograms.len()),
            _ => self.scratch.own_samples.push(self.scratch.samples.len()),
        }
    }

    /// Puts a 0 where the series began, once for each beginning. One that lies further back than the head of a Prometheus
    /// takes samples is left out, as there.
    fn keep_zero(
        &mut self,
        kind: EntryKind,
        parser: &dyn Parser,
        hit: SeriesHit,
        before_ms: i64,
    ) -> Result<(), Refusal> {
        let reach = before_ms.saturating_sub(ZERO_REACH_MS)..before_ms;
        let Some(created_ms) = parser.created_ms().filter(|at| reach.contains(at)) else {
            return Ok(());
        };
        if !self.cache.note_created(hit.series, created_ms) {
            return Ok(());
        }
        if kind != EntryKind::Histogram {
            self.note_own(kind, created_ms);
            self.scratch.samples.push(TickSample {
                identity: hit.identity,
                series: hit.series,
                timestamp_ms: created_ms,
                start_ms: created_ms,
                value: 0.0,
            });
            return Ok(());
        }
        let Some(native) = parser.histogram()? else {
            return Ok(());
        };
        // Of the same shape, so that it needs no page of its own.
        let zero = FloatHistogram {
            reset_hint: ResetHint::Reset,
            schema: native.histogram.schema,
            zero_threshold: native.histogram.zero_threshold,
            custom_values: native.histogram.custom_values,
            ..FloatHistogram::default()
        };
        let wire = to_wire(&zero, native.is_integer, created_ms);
        self.note_own(kind, created_ms);
        self.scratch.histograms.push(TickHistogram {
            identity: hit.identity,
            series: hit.series,
            timestamp_ms: created_ms,
            start_ms: created_ms,
            encoded: wire.encode_to_vec(),
        });
        Ok(())
    }

    fn keep_histogram(&mut self, parser: &dyn Parser, hit: SeriesHit, timestamp_ms: i64) -> Result<(), Refusal> {
        let Some(mut native) = parser.histogram()? else {
            return Ok(());
        };
        if !limits::fit_histogram(&mut native, &self.config.limits) {
            return Err(Refusal::BucketLimit);
        }
        let wire = to_wire(&native.histogram, native.is_integer, timestamp_ms);
        // Shards check the same, and would leave it out.
        from_wire(&wire).map_err(|why| invalid_histogram(&parser.family(), native.histogram.sum, &why))?;
        self.scratch.histograms.push(TickHistogram {
            identity: hit.identity,
            series: hit.series,
            timestamp_ms,
            start_ms: parser.created_ms().unwrap_or(0),
            encoded: wire.encode_to_vec(),
        });
        Ok(())
    }

    #[inline]
    fn keep_exemplars(&mut self, parser: &mut dyn Parser, hit: SeriesHit, at: i64) -> Result<(), Refusal> {
        loop {
            let labels = &mut self.scratch.labels;
            labels.clear();
            let Some(exemplar) = parser.exemplar(labels)? else {
                return Ok(());
            };
            if !is_exemplar_kept(LabelsRef::from_canonical(labels)) {
                continue;
            }
            let timestamp_ms = exemplar.timestamp_ms.unwrap_or(at);
            let end = labels.len();
            labels.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
            // Without a time of its own an exemplar that stays the same is the same one.
            labels.extend_from_slice(&exemplar.timestamp_ms.unwrap_or(0).to_le_bytes());
            if self.cache.note_exemplar(hit.series, xxhash_rust::xxh3::xxh3_64(labels)) {
                let labels = LabelsRef::from_canonical(&labels[..end]).to_owned();
                self.scratch.exemplars.push(TickExemplar {
                    identity: hit.identity,
                    series: hit.series,
                    timestamp_ms,
                    value: exemplar.value,
                    labels,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
