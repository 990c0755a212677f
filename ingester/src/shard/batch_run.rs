//! One batch on its way into a head.

use super::state::Counters;
use crate::head::{BadPage, Bounds, Exemplar, Head, MetricInfo, Ordinal, Outcome, Sample, Value, Verdict};
use crate::shard::entry::Limits;
use gnomon_model::{LabelsRef, SeriesRef, is_stale_nan};
use gnomon_proto::batch::{BadBatch, BatchView, Group, Item, SeriesKey, TickHeader};
use gnomon_proto::histogram::from_wire;
use gnomon_proto::v1::rejection::Reason;
use gnomon_proto::v1::{AppendResponse, Rejection, TargetShards};

/// Where an item's series is.
enum Place<'a> {
    At(Ordinal),
    /// Not there yet: its labels, and its number among the batch's new series.
    New(u32, LabelsRef<'a>),
    /// A reference the shard did not give, or gave to a series that is gone.
    Unknown(SeriesRef),
}

pub(crate) struct BatchRun<'a, 'b> {
    head: &'a mut Head,
    counters: &'a mut Counters,
    new_labels: &'a [LabelsRef<'b>],
    /// Where the batch's new series are, once looked up and there.
    new_places: Vec<Option<Ordinal>>,
    /// Exemplars that came before the first sample of their series.
    early: Vec<(u32, Exemplar)>,
    /// Series of the tick at work that are live.
    seen: Vec<Ordinal>,
    response: &'a mut AppendResponse,
    pub(crate) bounds: Bounds,
    /// Series of other tenants, for the limit.
    pub(crate) series_elsewhere: u64,
}

impl<'a, 'b> BatchRun<'a, 'b> {
    pub(crate) fn new(
        head: &'a mut Head,
        counters: &'a mut Counters,
        view: &'a BatchView<'b>,
        response: &'a mut AppendResponse,
    ) -> Self {
        let new_labels = view.new_series();
        let new_places = new_labels.iter().map(|labels| head.find_labels(*labels)).collect();
        let bounds = Bounds {
            limits: Limits::default(),
            proposed_at_ms: 0,
            newest_ms: counters.newest_ms,
            from_ms: counters.bounds.from_ms,
            until_ms: counters.bounds.until_ms,
        };
        Self {
            head,
            counters,
            new_labels,
            new_places,
            early: Vec::new(),
            seen: Vec::new(),
            response,
            bounds,
            series_elsewhere: 0,
        }
    }

    /// Takes group by group; ends at the first that is not well formed.
    pub(crate) fn groups(&mut self, view: &BatchView<'b>) -> Result<Result<(), BadBatch>, BadPage> {
        for group in view.groups() {
            let group = match group {
                Ok(group) => group,
                Err(bad) => return Ok(Err(bad)),
            };
            let done = match &group.tick {
                Some(header) => self.tick(&group, header)?,
                None => self.items(&group, None)?,
            };
            if let Err(bad) = done {
                return Ok(Err(bad));
            }
        }
        Ok(Ok(()))
    }

    /// Completes the answer.
    pub(crate) fn finish(self) {
        let head = self.head;
        for (number, mut exemplar) in self.early {
            let place = self.new_places.get(number as usize).copied().flatten();
            if let Some(series) = place.and_then(|o| head.series(o)) {
                exemplar.series = series.reference;
                head.exemplars.push(exemplar);
            }
        }
        let reference = |place: &Option<Ordinal>| place.and_then(|o| head.series(o)).map_or(0, |s| s.reference.0);
        self.response.refs = self.new_places.iter().map(reference).collect();
        self.response.unknown_refs.sort_unstable();
        self.response.unknown_refs.dedup();
        self.counters.newest_ms = self.bounds.newest_ms;
        self.counters.samples += self.response.samples_taken;
    }

    /// A tick is taken as a whole, or nothing of it.
    fn tick(&mut self, group: &Group<'b>, header: &TickHeader) -> Result<Result<(), BadBatch>, BadPage> {
        // What is only named is from before the shard's time; everything else is of it.
        let is_before = header.tick_ms < self.bounds.from_ms;
        if header.names_only != is_before || !(is_before || self.bounds.owns(header.tick_ms)) {
            if !header.names_only {
                self.refuse(self.bounds.not_owned(), &[], header.tick_ms);
            }
            self.response.ticks_taken.push(false);
            self.response.ticks_repeated.push(false);
            return Ok(Ok(()));
        }
        match self.find_unknown(group) {
            Err(bad) => return Ok(Err(bad)),
            Ok(true) => {
                self.response.ticks_taken.push(false);
                self.response.ticks_repeated.push(false);
                return Ok(Ok(()));
            }
            Ok(false) => {}
        }
        let mut target = self.head.targets.remove(&header.target).unwrap_or_default();
        let verdict = target.begin(header, self.bounds.proposed_at_ms);
        let mut done = Ok(());
        if verdict == Verdict::Take {
            done = self.items(group, Some(header))?;
            let added = target.see(&mut self.seen);
            self.seen.clear();
            if !header.names_only {
                self.response.series_added += added;
            }
            let gone = target.end(header);
            if !header.names_only {
                self.head.mark_stale(&gone, header.tick_ms, &self.bounds)?;
            }
            if header.home {
                self.response.target_shards.push(TargetShards {
                    target: header.target.0,
                    shards: target.other_shards(),
                });
            }
        }
        self.response.ticks_taken.push(verdict == Verdict::Take);
        self.response.ticks_repeated.push(verdict == Verdict::Repeated);
        self.response.tick_earlier |=
            verdict == Verdict::Repeated && !header.names_only && target.is_well_after(header);
        self.head.targets.insert(header.target, target);
        self.head.changes.targets.insert(header.target);
        Ok(done)
    }

    /// Notes the references of the group that the head does not know; whether there are any.
    fn find_unknown(&mut self, group: &Group<'b>) -> Result<bool, BadBatch> {
        let before = self.response.unknown_refs.len();
        for item in group.items() {
            let (Item::Sample { key, .. } | Item::Histogram { key, .. } | Item::Exemplar { key, .. }) = item? else {
                continue;
            };
            if let SeriesKey::Known(reference) = key
                && self.head.find_ref(reference).is_none()
            {
                self.response.unknown_refs.push(reference.0);
            }
        }
        Ok(self.response.unknown_refs.len() > before)
    }

    fn items(&mut self, group: &Group<'b>, tick: Option<&TickHeader>) -> Result<Result<(), BadBatch>, BadPage> {
        for item in group.items() {
            let item = match item {
                Ok(item) => item,
                Err(bad) => return Ok(Err(bad)),
            };
            match item {
                Item::Sample {
                    key,
                    timestamp_ms,
                    start_ms,
                    value,
                } => {
                    let value = Value::Float(value);
                    self.sample(key, timestamp_ms, Sample { value, start_ms }, tick)?;
                }
                Item::Histogram {
                    key,
                    timestamp_ms,
                    start_ms,
                    encoded,
                } => self.histogram(key, (timestamp_ms, start_ms), encoded, tick)?,
                Item::Exemplar {
                    key,
                    timestamp_ms,
                    value,
                    labels,
                } => self.exemplar(key, timestamp_ms, value, labels),
                Item::Metadata {
                    metric,
                    kind,
                    unit,
                    help,
                } => self.head.set_metadata(
                    metric,
                    MetricInfo {
                        kind: kind.into(),
                        unit: unit.into(),
                        help: help.into(),
                    },
                ),
            }
        }
        Ok(Ok(()))
    }

    #[inline]
    fn place(&self, key: SeriesKey) -> Place<'b> {
        match key {
            SeriesKey::Known(reference) => match self.head.find_ref(reference) {
                Some(ordinal) => Place::At(ordinal),
                None => Place::Unknown(reference),
            },
            SeriesKey::New(number) => {
                let labels = self.new_labels.get(number as usize).copied();
                match self.new_places.get(number as usize).copied().flatten() {
                    Some(ordinal) => Place::At(ordinal),
                    None => Place::New(number, labels.unwrap_or(LabelsRef::from_canonical(&[]))),
                }
            }
        }
    }

    #[inline]
    fn sample(
        &mut self,
        key: SeriesKey,
        timestamp_ms: i64,
        sample: Sample,
        tick: Option<&TickHeader>,
    ) -> Result<(), BadPage> {
        let names_only = tick.is_some_and(|header| header.names_only);
        let ordinal = match self.place(key) {
            Place::At(ordinal) => ordinal,
            Place::Unknown(reference) => {
                self.response.unknown_refs.push(reference.0);
                return Ok(());
            }
            Place::New(number, labels) => match self.admit(number, labels, timestamp_ms, names_only) {
                Ok(ordinal) => ordinal,
                Err(reason) => {
                    self.refuse(reason, labels.as_bytes(), timestamp_ms);
                    return Ok(());
                }
            },
        };
        let is_marker = matches!(sample.value, Value::Float(value) if is_stale_nan(value));
        let is_of_tick = |header: &TickHeader| timestamp_ms == header.tick_ms || header.track_timestamps_staleness;
        if tick.is_some_and(is_of_tick) && !is_marker {
            self.seen.push(ordinal);
        }
        if names_only {
            return Ok(());
        }
        let outcome = self.head.put(ordinal, timestamp_ms, sample, &self.bounds)?;
        match outcome {
            Outcome::Taken => {
                self.response.samples_taken += 1;
                self.bounds.newest_ms = self.bounds.newest_ms.max(timestamp_ms);
            }
            Outcome::Duplicate => self.response.duplicates += 1,
            Outcome::Refused(reason) => {
                let mut labels = Vec::new();
                if !self.response.rejections.iter().any(|r| r.reason() == reason) {
                    self.head.write_labels(ordinal, &mut labels);
                }
                self.refuse(reason, &labels, timestamp_ms);
            }
        }
        Ok(())
    }

    /// Makes a series for a sample that will be taken, or for one that only says that there is the series.
    fn admit(
        &mut self,
        number: u32,
        labels: LabelsRef<'b>,
        timestamp_ms: i64,
        names_only: bool,
    ) -> Result<Ordinal, Reason> {
        // The same labels may stand twice among the new ones.
        let there = self.head.find_labels(labels);
        let ordinal = match there {
            Some(ordinal) => ordinal,
            None => {
                if !names_only {
                    self.bounds.check(timestamp_ms, i64::MIN)?;
                }
                let limit = self.bounds.limits.max_series;
                if limit > 0 && self.series_elsewhere + self.head.series_count() >= limit {
                    return Err(Reason::SeriesLimit);
                }
                let limit = self.bounds.limits.max_series_per_metric;
                if limit > 0 && self.head.series_of_metric(labels) >= limit {
                    return Err(Reason::MetricLimit);
                }
                if labels.is_empty() {
                    return Err(Reason::InvalidLabels);
                }
                let reference = SeriesRef(self.counters.next_ref);
                self.counters.next_ref += 1;
                self.head.add_series(reference, labels)
            }
        };
        if let Some(place) = self.new_places.get_mut(number as usize) {
            *place = Some(ordinal);
        }
        Ok(ordinal)
    }

    fn histogram(
        &mut self,
        key: SeriesKey,
        (timestamp_ms, start_ms): (i64, i64),
        encoded: &[u8],
        tick: Option<&TickHeader>,
    ) -> Result<(), BadPage> {
        let decoded = Item::decode_histogram(encoded)
            .ok()
            .and_then(|wire| from_wire(&wire).ok());
        match decoded {
            Some(decoded) => {
                let value = Value::Histogram(Box::new(decoded));
                self.sample(key, timestamp_ms, Sample { value, start_ms }, tick)
            }
            None => {
                let mut labels = Vec::new();
                match self.place(key) {
                    Place::At(ordinal) => self.head.write_labels(ordinal, &mut labels),
                    Place::New(_, new) => labels.extend_from_slice(new.as_bytes()),
                    Place::Unknown(_) => {}
                }
                self.refuse(Reason::InvalidHistogram, &labels, timestamp_ms);
                Ok(())
            }
        }
    }

    /// An exemplar whose series gets no sample is left out, unless a resend can change that.
    fn exemplar(&mut self, key: SeriesKey, timestamp_ms: i64, value: f64, labels: LabelsRef<'_>) {
        if !self.bounds.owns(timestamp_ms) {
            self.refuse(self.bounds.not_owned(), &[], timestamp_ms);
            return;
        }
        let mut exemplar = Exemplar {
            series: SeriesRef(0),
            timestamp_ms,
            value,
            labels: labels.as_bytes().into(),
        };
        match self.place(key) {
            Place::At(ordinal) => {
                if let Some(series) = self.head.series(ordinal) {
                    exemplar.series = series.reference;
                    self.head.exemplars.push(exemplar);
                }
            }
            Place::New(number, _) => self.early.push((number, exemplar)),
            Place::Unknown(reference) => self.response.unknown_refs.push(reference.0),
        }
    }

    fn refuse(&mut self, reason: Reason, labels: &[u8], timestamp_ms: i64) {
        let rejections = &mut self.response.rejections;
        match rejections.iter_mut().find(|r| r.reason() == reason) {
            Some(there) => there.count += 1,
            None => rejections.push(Rejection {
                reason: reason as i32,
                count: 1,
                example_labels: labels.to_vec().into(),
                example_timestamp_ms: timestamp_ms,
            }),
        }
    }
}
