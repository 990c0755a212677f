//! A scrape in bytes of its own, with all that a push of it needs.
//!
//! ```text
//! tick      = raw:u32le zstd(body)                    raw = bytes of the body
//! body      = version:u8(1, or 2 with starts) tenant:text target:u64le term:uvarint tick_ms:svarint interval_ms:uvarint flags:u8
//!             labels:text  series:uvarint {labels:text}
//!             samples:uvarint {series:uvarint time:svarint value:f64le}
//!             histograms:uvarint {series:uvarint time:svarint prometheus.Histogram:text}
//!             exemplars:uvarint {series:uvarint time:svarint value:f64le labels:text}
//!             [ { items:uvarint start:svarint } ]                      version 2: of all samples, then of all histograms
//! flags     = 1 complete, 2 timestamps' staleness is tracked;  time = ms - tick_ms;  series = its place in the list
//! text      = length:uvarint bytes;  svarint = uvarint of the zigzag form
//! ```
//!
//! Metadata is not held back: it is sent with a later scrape.

use bytes::Bytes;
use gnomon_cluster::router::{Tick, TickExemplar, TickHistogram, TickSample};
use gnomon_model::labels::{get_uvarint, put_uvarint};
use gnomon_model::{Labels, LabelsRef, TargetId, TenantId};
use hashbrown::HashMap;
use xxhash_rust::xxh3::xxh3_128;

const VERSION: u8 = 1;
/// Of a body with start timestamps.
const WITH_STARTS: u8 = 2;
const COMPLETE: u8 = 1;
const TRACK: u8 = 2;
/// Of a body; a larger one is not held. A scrape's own limits (2 million samples) keep it far below.
const MAX_BODY_BYTES: usize = 1 << 30;
/// Labels of series of one target are much alike: the fastest level leaves a tenth.
const LEVEL: i32 = 1;

/// Why a scrape cannot be held, or bytes are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTick {
    #[error("a scrape of {0} bytes is too large to be held (1 GiB is the most)")]
    TooLarge(usize),
    #[error("a held scrape cannot be packed: {0}")]
    Pack(String),
    #[error("a held scrape is of version {0}, which a newer build wrote")]
    Newer(u8),
    #[error("a held scrape cannot be read: {0}")]
    Read(String),
}

/// A scrape as it was read back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeldTick {
    tenant: TenantId,
    target: TargetId,
    term: u64,
    tick_ms: i64,
    interval_ms: u64,
    complete: bool,
    track_timestamps_staleness: bool,
    labels: Labels,
    series: Vec<Labels>,
    samples: Vec<TickSample>,
    histograms: Vec<TickHistogram>,
    exemplars: Vec<TickExemplar>,
}

impl HeldTick {
    pub(crate) fn as_tick(&self) -> Tick<'_> {
        Tick {
            tenant: &self.tenant,
            target: self.target,
            term: self.term,
            tick_ms: self.tick_ms,
            interval_ms: self.interval_ms,
            complete: self.complete,
            track_timestamps_staleness: self.track_timestamps_staleness,
            target_labels: self.labels.as_ref(),
            samples: &self.samples,
            histograms: &self.histograms,
            exemplars: &self.exemplars,
            metadata: &[],
            labels: &self.series,
        }
    }
}

/// The series of a tick, each once, in the order of their first item.
#[derive(Default)]
struct Places {
    of: HashMap<u32, u64>,
    order: Vec<u32>,
}

impl Places {
    fn place(&mut self, series: u32) -> u64 {
        let next = self.order.len() as u64;
        let place = *self.of.entry(series).or_insert(next);
        if place == next {
            self.order.push(series);
        }
        place
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_uvarint(out, text.len() as u64);
    out.extend_from_slice(text);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// A scrape's bytes; without start timestamps, as builds before there were some read it, where these are not to be kept.
///
/// # Errors
/// When it is too large.
pub(crate) fn write(tick: &Tick<'_>, keeps_starts: bool) -> Result<Bytes, BadTick> {
    let mut places = Places::default();
    let mut items = Vec::with_capacity(tick.samples.len() * 12 + 16);
    let since = |at: i64| at.wrapping_sub(tick.tick_ms);
    put_uvarint(&mut items, tick.samples.len() as u64);
    for sample in tick.samples {
        put_uvarint(&mut items, places.place(sample.series));
        put_signed(&mut items, since(sample.timestamp_ms));
        items.extend_from_slice(&sample.value.to_bits().to_le_bytes());
    }
    put_uvarint(&mut items, tick.histograms.len() as u64);
    for histogram in tick.histograms {
        put_uvarint(&mut items, places.place(histogram.series));
        put_signed(&mut items, since(histogram.timestamp_ms));
        put_text(&mut items, &histogram.encoded);
    }
    put_uvarint(&mut items, tick.exemplars.len() as u64);
    for exemplar in tick.exemplars {
        put_uvarint(&mut items, places.place(exemplar.series));
        put_signed(&mut items, since(exemplar.timestamp_ms));
        items.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
        put_text(&mut items, exemplar.labels.as_bytes());
    }
    let starts = if keeps_starts { starts(tick) } else { Vec::new() };
    if !starts.is_empty() {
        for (count, start_ms) in &starts {
            put_uvarint(&mut items, *count);
            put_signed(&mut items, *start_ms);
        }
    }
    let mut body = vec![if starts.is_empty() { VERSION } else { WITH_STARTS }];
    put_text(&mut body, tick.tenant.as_str().as_bytes());
    body.extend_from_slice(&tick.target.0.to_le_bytes());
    put_uvarint(&mut body, tick.term);
    put_signed(&mut body, tick.tick_ms);
    put_uvarint(&mut body, tick.interval_ms);
    let tracked = if tick.track_timestamps_staleness { TRACK } else { 0 };
    body.push(if tick.complete { COMPLETE } else { 0 } | tracked);
    put_text(&mut body, tick.target_labels.as_bytes());
    put_uvarint(&mut body, places.order.len() as u64);
    let mut labels = Vec::new();
    for series in &places.order {
        labels.clear();
        tick.labels.write_labels(*series, &mut labels);
        put_text(&mut body, &labels);
    }
    body.append(&mut items);
    pack(&body)
}

/// Starts of samples, then of histograms, and of how many one after another; none where none is known.
fn starts(tick: &Tick<'_>) -> Vec<(u64, i64)> {
    let samples = tick.samples.iter().map(|sample| sample.start_ms);
    let histograms = tick.histograms.iter().map(|histogram| histogram.start_ms);
    let mut runs: Vec<(u64, i64)> = Vec::new();
    for start_ms in samples.chain(histograms) {
        match runs.last_mut() {
            Some((count, last)) if *last == start_ms => *count += 1,
            _ => runs.push((1, start_ms)),
        }
    }
    if runs.iter().all(|(_, start_ms)| *start_ms == 0) {
        runs.clear();
    }
    runs
}

fn pack(body: &[u8]) -> Result<Bytes, BadTick> {
    let raw = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY_BYTES);
    let raw = raw.ok_or(BadTick::TooLarge(body.len()))?;
    let packed = zstd::bulk::compress(body, LEVEL).map_err(|e| BadTick::Pack(e.to_string()))?;
    let mut out = Vec::with_capacity(4 + packed.len());
    out.extend_from_slice(&raw.to_le_bytes());
    out.extend_from_slice(&packed);
    Ok(out.into())
}

fn bad(what: &str) -> BadTick {
    BadTick::Read(what.to_owned())
}

/// What is left of a body.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize, what: &str) -> Result<&'a [u8], BadTick> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or_else(|| bad(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, what: &str) -> Result<u8, BadTick> {
        Ok(self.take(1, what)?[0])
    }

    fn word(&mut self, what: &str) -> Result<u64, BadTick> {
        let bytes = self.take(8, what)?.try_into().map_err(|_| bad(what))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn number(&mut self, what: &str) -> Result<u64, BadTick> {
        let (value, rest) = get_uvarint(self.0).ok_or_else(|| bad(what))?;
        self.0 = rest;
        Ok(value)
    }

    fn signed(&mut self, what: &str) -> Result<i64, BadTick> {
        let value = self.number(what)?;
        Ok(((value >> 1) as i64) ^ -((value & 1) as i64))
    }

    fn text(&mut self, what: &str) -> Result<&'a [u8], BadTick> {
        let bytes = usize::try_from(self.number(what)?).map_err(|_| bad(what))?;
        self.take(bytes, what)
    }

    fn labels(&mut self, what: &str) -> Result<Labels, BadTick> {
        let text = self.text(what)?;
        LabelsRef::checked(text)
            .map(|labels| labels.to_owned())
            .map_err(|e| BadTick::Read(format!("{what}: {e}")))
    }

    /// How many items of at least `least` bytes follow.
    fn count(&mut self, least: usize, what: &str) -> Result<usize, BadTick> {
        let count = usize::try_from(self.number(what)?).map_err(|_| bad(what))?;
        if count > self.0.len() / least {
            return Err(bad(what));
        }
        Ok(count)
    }
}

/// Reads what [`write`] made.
///
/// # Errors
/// When the bytes are not a scrape of this version.
pub(crate) fn read(bytes: &[u8]) -> Result<HeldTick, BadTick> {
    let mut head = Rest(bytes);
    let raw = head.take(4, "its length")?.try_into().map_err(|_| bad("its length"))?;
    let raw = u32::from_le_bytes(raw) as usize;
    if raw > MAX_BODY_BYTES {
        return Err(BadTick::TooLarge(raw));
    }
    let body = zstd::bulk::decompress(head.0, raw).map_err(|e| BadTick::Read(e.to_string()))?;
    let mut rest = Rest(&body);
    let version = rest.byte("its version")?;
    match version {
        VERSION | WITH_STARTS => {}
        0 => return Err(bad("its version")),
        newer => return Err(BadTick::Newer(newer)),
    }
    let tenant = std::str::from_utf8(rest.text("the tenant")?).map_err(|_| bad("the tenant"))?;
    let tenant = tenant.parse().map_err(|_| bad("the tenant"))?;
    let target = TargetId(rest.word("the target")?);
    let term = rest.number("the term")?;
    let tick_ms = rest.signed("the time")?;
    let interval_ms = rest.number("the interval")?;
    let flags = rest.byte("the flags")?;
    let labels = rest.labels("the target's labels")?;
    let mut tick = HeldTick {
        tenant,
        target,
        term,
        tick_ms,
        interval_ms,
        complete: flags & COMPLETE != 0,
        track_timestamps_staleness: flags & TRACK != 0,
        labels,
        series: Vec::new(),
        samples: Vec::new(),
        histograms: Vec::new(),
        exemplars: Vec::new(),
    };
    for _ in 0..rest.count(1, "the number of series")? {
        tick.series.push(rest.labels("labels of a series")?);
    }
    read_items(&mut rest, &mut tick)?;
    if version == WITH_STARTS {
        read_starts(&mut rest, &mut tick)?;
    }
    match rest.0.len() {
        0 => Ok(tick),
        more => Err(BadTick::Read(format!("{more} bytes too many"))),
    }
}

fn read_items(rest: &mut Rest<'_>, tick: &mut HeldTick) -> Result<(), BadTick> {
    let identities: Vec<u128> = tick.series.iter().map(|l| xxh3_128(l.as_bytes())).collect();
    let tick_ms = tick.tick_ms;
    let item = |rest: &mut Rest<'_>| -> Result<(u32, u128, i64), BadTick> {
        let place = rest.number("an item's series")?;
        let at = usize::try_from(place).ok().and_then(|at| identities.get(at));
        let identity = *at.ok_or_else(|| bad("an item's series"))?;
        let series = u32::try_from(place).map_err(|_| bad("an item's series"))?;
        Ok((series, identity, tick_ms.wrapping_add(rest.signed("an item's time")?)))
    };
    for _ in 0..rest.count(10, "the number of samples")? {
        let (series, identity, timestamp_ms) = item(rest)?;
        tick.samples.push(TickSample {
            identity,
            series,
            timestamp_ms,
            start_ms: 0,
            value: f64::from_bits(rest.word("a value")?),
        });
    }
    for _ in 0..rest.count(3, "the number of histograms")? {
        let (series, identity, timestamp_ms) = item(rest)?;
        tick.histograms.push(TickHistogram {
            identity,
            series,
            timestamp_ms,
            start_ms: 0,
            encoded: rest.text("a histogram")?.to_vec(),
        });
    }
    for _ in 0..rest.count(11, "the number of exemplars")? {
        let (series, identity, timestamp_ms) = item(rest)?;
        tick.exemplars.push(TickExemplar {
            identity,
            series,
            timestamp_ms,
            value: f64::from_bits(rest.word("an exemplar's value")?),
            labels: rest.labels("an exemplar's labels")?,
        });
    }
    Ok(())
}

fn read_starts(rest: &mut Rest<'_>, tick: &mut HeldTick) -> Result<(), BadTick> {
    let (mut left, mut start) = (0, 0);
    let samples = tick.samples.iter_mut().map(|sample| &mut sample.start_ms);
    let histograms = tick.histograms.iter_mut().map(|histogram| &mut histogram.start_ms);
    for start_ms in samples.chain(histograms) {
        if left == 0 {
            left = rest.number("the number of starts")?;
            start = rest.signed("a start")?;
        }
        left = left.checked_sub(1).ok_or_else(|| bad("the number of starts"))?;
        *start_ms = start;
    }
    match left {
        0 => Ok(()),
        _ => Err(bad("the number of starts")),
    }
}

#[cfg(test)]
mod tests {
    use super::made::plain;
    use super::*;

    #[test]
    fn a_tick_reads_back_as_it_was_to_the_bit() {
        let mut given = plain(7, 1000, &["a", "b"]);
        given.samples[1].value = f64::from_bits(0x7ff8_0000_0000_0002);
        given.samples[1].timestamp_ms = 400;
        let series = given.samples[0];
        given.histograms.push(TickHistogram {
            identity: series.identity,
            series: series.series,
            timestamp_ms: 1001,
            start_ms: -4,
            encoded: vec![1, 2, 3],
        });
        given.exemplars.push(TickExemplar {
            identity: series.identity,
            series: series.series,
            timestamp_ms: -5,
            value: 2.5,
            labels: Labels::from_pairs([("trace", "x")]),
        });
        let bytes = write(&given.as_tick(), true).unwrap();
        let back = read(&bytes).unwrap();
        assert_eq!(back.samples[1].value.to_bits(), given.samples[1].value.to_bits());
        let (mut plain_back, mut plain_given) = (back.clone(), given.clone());
        plain_back.samples[1].value = 0.0;
        plain_given.samples[1].value = 0.0;
        assert_eq!(plain_back, plain_given);
        assert_eq!(write(&back.as_tick(), true).unwrap(), bytes);
    }

    #[test]
    fn starts_are_held_and_a_tick_without_is_as_it_was_before_there_were_some() {
        let mut tick = plain(7, 1000, &["a", "b", "c"]);
        let version = |tick: &HeldTick| {
            let bytes = write(&tick.as_tick(), true).unwrap();
            assert_eq!(read(&bytes).as_ref(), Ok(tick));
            zstd::bulk::decompress(&bytes[4..], 1 << 20).unwrap()[0]
        };
        assert_eq!(version(&tick), VERSION);
        tick.samples[1].start_ms = 77;
        tick.samples[2].start_ms = 77;
        assert_eq!(version(&tick), WITH_STARTS);
        let without = write(&tick.as_tick(), false).unwrap();
        assert_eq!(
            without,
            write(&plain(7, 1000, &["a", "b", "c"]).as_tick(), true).unwrap()
        );
    }

    #[test]
    fn damage_anywhere_is_an_error_or_a_tick_and_never_a_panic() {
        let tick = plain(7, 1000, &["a", "b", "c"]);
        damage(&write(&tick.as_tick(), true).unwrap());
        let mut started = tick;
        started.samples[1].start_ms = 1 << 40;
        damage(&write(&started.as_tick(), true).unwrap());
    }

    fn damage(bytes: &[u8]) {
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "{end} bytes");
        }
        let raw = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let body = zstd::bulk::decompress(&bytes[4..], raw).unwrap();
        for at in 0..body.len() {
            for bit in 0..8 {
                let mut body = body.clone();
                body[at] ^= 1 << bit;
                let _ = read(&pack(&body).unwrap());
            }
            let _ = read(&pack(&body[..at]).unwrap()).unwrap_err();
        }
    }

    #[test]
    fn one_of_a_newer_build_is_told_from_one_that_is_damaged() {
        let bytes = write(&plain(7, 1000, &["a"]).as_tick(), true).unwrap();
        let raw = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let mut body = zstd::bulk::decompress(&bytes[4..], raw).unwrap();
        body[0] = WITH_STARTS + 1;
        assert_eq!(read(&pack(&body).unwrap()), Err(BadTick::Newer(WITH_STARTS + 1)));
        body[0] = 0;
        assert!(matches!(read(&pack(&body).unwrap()), Err(BadTick::Read(_))));
    }

    #[test]
    fn labels_that_are_alike_take_little() {
        let names: Vec<String> = (0..1000).map(|n| format!("http_requests_in_flight_{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let bytes = write(&plain(7, 1000, &names).as_tick(), true).unwrap();
        assert!(bytes.len() < 24 * names.len(), "{} bytes", bytes.len());
    }
}

#[cfg(test)]
pub(crate) mod made {
    //! Ticks for tests.

    use super::*;

    impl HeldTick {
        /// Of all samples.
        pub(crate) fn set_start(&mut self, start_ms: i64) {
            self.samples.iter_mut().for_each(|sample| sample.start_ms = start_ms);
        }
    }

    pub(crate) fn plain(target: u64, tick_ms: i64, names: &[&str]) -> HeldTick {
        let series: Vec<Labels> = names
            .iter()
            .map(|name| Labels::from_pairs([("__name__", *name), ("instance", "host-1:9100"), ("job", "app")]))
            .collect();
        let samples = series.iter().zip(0u32..).map(|(labels, series)| TickSample {
            identity: xxh3_128(labels.as_bytes()),
            series,
            timestamp_ms: tick_ms,
            start_ms: 0,
            value: f64::from(series) + 0.5,
        });
        HeldTick {
            tenant: TenantId::anonymous(),
            target: TargetId(target),
            term: 1,
            tick_ms,
            interval_ms: 1000,
            complete: true,
            track_timestamps_staleness: false,
            labels: Labels::from_pairs([("instance", "host-1:9100"), ("job", "app")]),
            samples: samples.collect(),
            series,
            histograms: Vec::new(),
            exemplars: Vec::new(),
        }
    }
}
