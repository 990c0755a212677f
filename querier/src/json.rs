//! JSON byte for byte as Prometheus writes it, into a buffer or, for large answers, into a channel a chunk at a time.

use crate::writers::{MAY_STAND_STILL, Writers};
use bytes::Bytes;
use gnomon_model::LabelsRef;
use gnomon_model::gofloat;
use gnomon_model::histogram::FloatHistogram;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;

/// Bytes that gather before a chunk is sent.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// A reader that takes nothing for so long is given up, so that it does not keep a thread.
pub(crate) const READER_PATIENCE: Duration = Duration::from_secs(60);

/// Whoever was to read the answer has gone, or does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reader of the answer has gone")]
pub(crate) struct Gone;

/// Where chunks go.
#[derive(Debug)]
pub(crate) struct Sink {
    chunks: mpsc::Sender<Bytes>,
    runtime: Handle,
    /// Those among which this one has a place.
    writers: &'static Writers,
}

impl Sink {
    pub(crate) const fn new(chunks: mpsc::Sender<Bytes>, runtime: Handle, writers: &'static Writers) -> Self {
        Self {
            chunks,
            runtime,
            writers,
        }
    }

    /// Blocks while the channel is full, so it must not run on an async thread.
    pub(crate) fn send(&self, chunk: Bytes) -> Result<(), Gone> {
        self.runtime.block_on(self.give(chunk))
    }

    async fn give(&self, chunk: Bytes) -> Result<(), Gone> {
        let chunk = match self.chunks.send_timeout(chunk, MAY_STAND_STILL).await {
            Ok(()) => return Ok(()),
            Err(SendTimeoutError::Timeout(chunk)) => chunk,
            Err(SendTimeoutError::Closed(_)) => return Err(Gone),
        };
        let mut still = self.writers.stands_still();
        tokio::select! {
            biased;
            sent = self.chunks.send_timeout(chunk, READER_PATIENCE.saturating_sub(MAY_STAND_STILL)) => {
                sent.map_err(|_| Gone)
            }
            () = still.ended() => Err(Gone),
        }
    }
}

/// A JSON text in the making.
#[derive(Debug)]
pub(crate) struct Json {
    buffer: String,
    sink: Option<Sink>,
}

impl Json {
    /// All of it in memory.
    pub(crate) fn buffer() -> Self {
        Self {
            buffer: String::new(),
            sink: None,
        }
    }

    /// Chunk by chunk; [`Json::breathe`] blocks as [`Sink::send`] does.
    pub(crate) fn chunks(sink: Sink) -> Self {
        Self {
            buffer: String::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4),
            sink: Some(sink),
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.buffer.into()
    }

    /// To be called between elements: sends what has gathered, if it is much.
    pub(crate) fn breathe(&mut self) -> Result<(), Gone> {
        if self.buffer.len() >= CHUNK_BYTES {
            self.send()
        } else {
            Ok(())
        }
    }

    pub(crate) fn finish(mut self) -> Result<(), Gone> {
        self.send()
    }

    fn send(&mut self) -> Result<(), Gone> {
        let Some(sink) = &self.sink else { return Ok(()) };
        let chunk = std::mem::replace(&mut self.buffer, String::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4));
        sink.send(chunk.into())
    }

    pub(crate) fn raw(&mut self, text: &str) {
        self.buffer.push_str(text);
    }

    pub(crate) fn number(&mut self, number: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.buffer, "{number}");
    }

    /// Elements of an array or object with commas between them.
    pub(crate) fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) -> Result<(), Gone> {
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.buffer.push(',');
            }
            each(self, item);
            self.breathe()?;
        }
        Ok(())
    }

    /// A string as label names and values are written: quotes, backslashes and control characters escaped.
    pub(crate) fn text(&mut self, text: &str) {
        self.escaped(text, false);
    }

    /// A string as everything else is written: `<`, `>`, `&` and the two line separators of JavaScript escaped as well.
    pub(crate) fn text_for_html(&mut self, text: &str) {
        self.escaped(text, true);
    }

    fn escaped(&mut self, text: &str, for_html: bool) {
        self.buffer.push('"');
        let mut plain_from = 0;
        for (at, c) in text.char_indices() {
            if let Some(length) = self.escape(&text[plain_from..at], c, for_html) {
                plain_from = at + length;
            }
        }
        self.buffer.push_str(&text[plain_from..]);
        self.buffer.push('"');
    }

    /// Writes `before` and the escape of `c`, where it needs one; its length in bytes.
    fn escape(&mut self, before: &str, c: char, for_html: bool) -> Option<usize> {
        let short = match c {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\u{2028}' | '\u{2029}' | '<' | '>' | '&' if for_html => "",
            c if c < ' ' => "",
            _ => return None,
        };
        self.buffer.push_str(before);
        if short.is_empty() {
            let _ = write!(self.buffer, "\\u{:04x}", c as u32);
        } else {
            self.buffer.push_str(short);
        }
        Some(c.len_utf8())
    }

    /// Milliseconds as seconds: `1435781451.781`, `1435781451`.
    pub(crate) fn timestamp(&mut self, ms: i64) {
        if ms < 0 {
            self.buffer.push('-');
        }
        let (seconds, fraction) = (ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000);
        gofloat::push_integer(&mut self.buffer, seconds);
        if fraction != 0 {
            let _ = write!(self.buffer, ".{fraction:03}");
        }
    }

    /// Milliseconds as seconds the way that Go writes a float (scalars and strings have it so): `1.5`.
    pub(crate) fn seconds(&mut self, ms: i64) {
        self.number(ms as f64 / 1000.0);
    }

    /// A float without an exponent, as Go's format `f` (scalars have it so).
    pub(crate) fn plain_float(&mut self, value: f64) {
        match value {
            f64::INFINITY => self.raw("+Inf"),
            f64::NEG_INFINITY => self.raw("-Inf"),
            // Rust's shortest form has no exponent either.
            finite => self.number(finite),
        }
    }

    /// A sample value, in quotes.
    pub(crate) fn value(&mut self, value: f64) {
        self.buffer.push('"');
        gofloat::push_json(&mut self.buffer, value);
        self.buffer.push('"');
    }

    pub(crate) fn labels(&mut self, labels: LabelsRef<'_>) {
        self.buffer.push('{');
        for (i, (name, value)) in labels.iter().enumerate() {
            if i > 0 {
                self.buffer.push(',');
            }
            self.text(name);
            self.buffer.push(':');
            self.text(value);
        }
        self.buffer.push('}');
    }

    /// `[time, "value"]`.
    pub(crate) fn point(&mut self, timestamp_ms: i64, value: f64) {
        self.buffer.push('[');
        self.timestamp(timestamp_ms);
        self.buffer.push(',');
        self.value(value);
        self.buffer.push(']');
    }

    /// `[time, {"count": …, "sum": …, "buckets": […]}]`.
    pub(crate) fn histogram_point(&mut self, timestamp_ms: i64, histogram: &FloatHistogram) {
        self.buffer.push('[');
        self.timestamp(timestamp_ms);
        self.raw(r#",{"count":"#);
        self.value(histogram.count);
        self.raw(r#","sum":"#);
        self.value(histogram.sum);
        let mut any = false;
        crate::buckets::for_each(histogram, |bucket| {
            self.raw(if any { "," } else { r#","buckets":["# });
            any = true;
            self.buffer.push('[');
            self.number(bucket.boundaries);
            for number in [bucket.lower, bucket.upper, bucket.count] {
                self.buffer.push(',');
                self.value(number);
            }
            self.buffer.push(']');
        });
        self.raw(if any { "]}]" } else { "}]" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::Labels;

    fn written(write: impl FnOnce(&mut Json)) -> String {
        let mut json = Json::buffer();
        write(&mut json);
        json.buffer
    }

    #[test]
    fn strings_are_escaped_as_go_does() {
        assert_eq!(
            written(|j| j.text("a\"b\\c\nd\te\u{1}ü<&>\u{2028}")),
            "\"a\\\"b\\\\c\\nd\\te\\u0001ü<&>\u{2028}\""
        );
        assert_eq!(
            written(|j| j.text_for_html("<&>\u{2028}")),
            r#""\u003c\u0026\u003e\u2028""#
        );
        let labels = Labels::from_pairs([("__name__", "up"), ("path", "a<b")]);
        assert_eq!(
            written(|j| j.labels(labels.as_ref())),
            r#"{"__name__":"up","path":"a<b"}"#
        );
    }

    #[test]
    fn scalars_have_neither_exponents_nor_padding() {
        for (ms, text) in [
            (0, "0"),
            (1_500, "1.5"),
            (1_435_781_451_780, "1435781451.78"),
            (-20, "-0.02"),
        ] {
            assert_eq!(written(|j| j.seconds(ms)), text);
        }
        for (value, text) in [
            (1e21, "1000000000000000000000"),
            (1e-7, "0.0000001"),
            (-0.0, "-0"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(written(|j| j.plain_float(value)), text);
        }
    }

    #[test]
    fn times_and_values_are_written_as_prometheus_does() {
        for (ms, text) in [
            (0, "0"),
            (1, "0.001"),
            (1_435_781_451_781, "1435781451.781"),
            (-1_500, "-1.500"),
            (20, "0.020"),
        ] {
            assert_eq!(written(|j| j.timestamp(ms)), text);
        }
        for (value, text) in [
            (1.0, "\"1\""),
            (0.1, "\"0.1\""),
            (1e21, "\"1e+21\""),
            (1e20, "\"100000000000000000000\""),
            (1e-7, "\"1e-07\""),
            (1e-6, "\"0.000001\""),
            (9.9999e-7, "\"9.9999e-07\""),
            (999_999_999_999_999_900_000.0, "\"999999999999999900000\""),
            (-1e21, "\"-1e+21\""),
            (5e-324, "\"5e-324\""),
            (2.225_073_858_507_201e-308, "\"2.225073858507201e-308\""),
            (f64::MAX, "\"1.7976931348623157e+308\""),
            (1.0 / 3.0, "\"0.3333333333333333\""),
            (f64::INFINITY, "\"+Inf\""),
            (f64::NAN, "\"NaN\""),
            (f64::NEG_INFINITY, "\"-Inf\""),
            (-0.0, "\"-0\""),
        ] {
            assert_eq!(written(|j| j.value(value)), text);
        }
    }
}
