//! Scripts on a [`Store`]: what they load is written as samples, about half of it flushed to blocks, and queries go
//! through the HTTP API. Names are removed late, as upstream does it where it runs scripts.

use crate::answers::{self, seconds};
use crate::harness::client::encode;
use crate::harness::remote;
use crate::store::Store;
use gnomon_promql::SampleValue;
use gnomon_promql::promqltest::{Answer, LoadedSample, LoadedSeries, Subject, When};
use gnomon_proto::histogram::to_wire;
use gnomon_proto::prometheus::{Label, Sample, TimeSeries};
use tokio::runtime::Handle;

/// The whole read path under a script.
pub(crate) struct WholePath {
    threads: Handle,
    store: Store,
    /// Since the last `clear`.
    loads: usize,
    /// What it has done so far, over all scripts.
    pub(crate) done: Done,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) queries: usize,
    /// Blocks that there were before a `clear`.
    pub(crate) blocks: usize,
    /// Samples in blocks.
    pub(crate) flushed: usize,
    /// Samples in heads.
    pub(crate) kept: usize,
}

impl Done {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            queries: self.queries + other.queries,
            blocks: self.blocks + other.blocks,
            flushed: self.flushed + other.flushed,
            kept: self.kept + other.kept,
        }
    }
}

/// Whether a sample is in a block before the others are written. By series in turn: all of them, none, the older half,
/// every other one.
fn is_flushed(series: usize, sample: usize, samples: usize) -> bool {
    match series % 4 {
        0 => true,
        1 => false,
        2 => sample < samples / 2,
        _ => sample.is_multiple_of(2),
    }
}

fn message(series: &LoadedSeries, samples: &[&LoadedSample]) -> TimeSeries {
    let mut message = TimeSeries {
        labels: series
            .labels
            .iter()
            .map(|(name, value)| Label {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .collect(),
        ..TimeSeries::default()
    };
    for sample in samples {
        let timestamp = sample.timestamp_ms;
        match &sample.value {
            SampleValue::Float(value) => message.samples.push(Sample {
                value: *value,
                timestamp,
            }),
            SampleValue::Histogram(histogram) => message.histograms.push(to_wire(histogram, false, timestamp)),
        }
    }
    message
}

impl WholePath {
    pub(crate) fn new(threads: Handle) -> Self {
        Self {
            threads,
            store: Store::new(true),
            loads: 0,
            done: Done::default(),
        }
    }

    /// The part of the series that is to be flushed, or the other one, as messages.
    fn part(&mut self, series: &[LoadedSeries], flushed: bool) -> Vec<TimeSeries> {
        let mut messages = Vec::new();
        for (i, one) in series.iter().enumerate() {
            let all = one.samples.iter().enumerate();
            let is_wanted = |at: usize| is_flushed(i + self.loads, at, one.samples.len()) == flushed;
            let samples: Vec<_> = all.filter(|(at, _)| is_wanted(*at)).map(|(_, s)| s).collect();
            let count = if flushed {
                &mut self.done.flushed
            } else {
                &mut self.done.kept
            };
            *count += samples.len();
            if !samples.is_empty() {
                messages.push(message(one, &samples));
            }
        }
        messages
    }
}

impl Subject for WholePath {
    fn clear(&mut self) -> Result<(), String> {
        self.store = Store::new(true);
        self.loads = 0;
        Ok(())
    }

    fn load(&mut self, series: Vec<LoadedSeries>) -> Result<(), String> {
        if let Some(series) = series.iter().find(|s| s.samples.iter().any(|s| s.start_ms.is_some())) {
            return Err(format!(
                "{}: start times of samples (@st) are not stored",
                series.labels
            ));
        }
        let older = self.part(&series, true);
        let newer = self.part(&series, false);
        self.loads += 1;
        let threads = self.threads.clone();
        threads.block_on(async {
            self.store.write(remote::body(older)).await?;
            self.done.blocks += self.store.flush().await?;
            self.store.write(remote::body(newer)).await
        })
    }

    fn eval(&mut self, query: &str, when: When) -> Result<Answer, String> {
        let query = encode(query);
        let path = match when {
            When::At(at_ms) => format!("/api/v1/query?query={query}&time={}", seconds(at_ms)),
            When::Range {
                start_ms,
                end_ms,
                step_ms,
            } => {
                let (start, end, step) = (seconds(start_ms), seconds(end_ms), seconds(step_ms));
                format!("/api/v1/query_range?query={query}&start={start}&end={end}&step={step}")
            }
        };
        self.done.queries += 1;
        let (_, body) = self.threads.block_on(self.store.get(&path));
        let answer = answers::read(&body);
        // What the API puts before errors of the engine.
        answer.map_err(|error| match error.strip_prefix("invalid parameter \"query\": ") {
            Some(error) => error.to_owned(),
            None => error,
        })
    }
}
