//! What is written: series with samples of several two-hour windows, by remote write, in the order of time.

use crate::harness::Http;
use crate::side_by_side::course::Course;
use crate::side_by_side::send;
use gnomon_proto::prometheus::Sample;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::ops::Range;
use std::sync::Arc;

pub(crate) const WINDOW_MS: i64 = 7_200_000;
/// Rounds and series of one request.
const ROUNDS_PER_REQUEST: usize = 40;
const SERIES_PER_REQUEST: usize = 500;

/// Where a series' samples come from.
pub(crate) enum Samples {
    /// Of each window the same: round, milliseconds since the window's begin, value.
    Recorded(Vec<(u32, u32, f64)>),
    Made {
        course: Course,
        seed: u64,
        /// Rounds of all windows together in which there is a sample.
        alive: Range<usize>,
        /// Milliseconds after each round's begin.
        offset_ms: i64,
        /// Up to so many milliseconds earlier, another time each: the samples carry their own time.
        jitter_ms: u64,
    },
}

pub(crate) struct Series {
    /// Label fields of remote write's `TimeSeries`, encoded.
    pub(crate) labels: Box<[u8]>,
    pub(crate) samples: Samples,
}

pub(crate) struct Data {
    pub(crate) name: String,
    pub(crate) series: Vec<Series>,
    pub(crate) windows: usize,
    /// Of each window.
    pub(crate) rounds: usize,
    pub(crate) step_ms: i64,
    /// The begin of the first window, which is that of three.
    pub(crate) start_ms: i64,
}

/// The label fields of pairs in any order.
pub(crate) fn encoded(pairs: &[(&str, &str)]) -> Box<[u8]> {
    let mut pairs = pairs.to_vec();
    pairs.sort_unstable();
    let series = crate::harness::remote::time_series(&pairs, &[]);
    series.encode_to_vec().into_boxed_slice()
}

impl Data {
    fn samples(&self, series: &Series, window: usize, rounds: Range<usize>, out: &mut Vec<Sample>) {
        let begin_ms = self.start_ms + window as i64 * WINDOW_MS;
        match &series.samples {
            Samples::Recorded(all) => {
                let from = all.partition_point(|(round, ..)| (*round as usize) < rounds.start);
                let of_these = all[from..]
                    .iter()
                    .take_while(|(round, ..)| (*round as usize) < rounds.end);
                out.extend(of_these.map(|(_, at, value)| Sample {
                    timestamp: begin_ms + i64::from(*at),
                    value: *value,
                }));
            }
            Samples::Made {
                course,
                seed,
                alive,
                offset_ms,
                jitter_ms,
            } => {
                let first = window * self.rounds;
                for round in rounds.filter(|round| alive.contains(&(first + round))) {
                    let all = (first + round) as u64;
                    let early = crate::side_by_side::course::mixed(offset_ms.unsigned_abs() ^ all << 20)
                        .checked_rem(*jitter_ms)
                        .unwrap_or(0);
                    out.push(Sample {
                        timestamp: begin_ms + round as i64 * self.step_ms + offset_ms - early as i64,
                        value: course.value(*seed, all),
                    });
                }
            }
        }
    }

    /// Samples of all series.
    pub(crate) fn total(&self) -> u64 {
        let of = |series: &Series| match &series.samples {
            Samples::Recorded(all) => all.len() * self.windows,
            Samples::Made { alive, .. } => alive.len(),
        };
        self.series.iter().map(|series| of(series) as u64).sum()
    }

    /// One request; none where no series has a sample in it.
    fn body(&self, series: Range<usize>, window: usize, rounds: &Range<usize>) -> Option<Vec<u8>> {
        let (mut body, mut samples, mut encoded) = (Vec::new(), Vec::new(), Vec::new());
        for series in &self.series[series] {
            samples.clear();
            self.samples(series, window, rounds.clone(), &mut samples);
            if samples.is_empty() {
                continue;
            }
            encoded.clear();
            for sample in &samples {
                encode_key(2, WireType::LengthDelimited, &mut encoded);
                encode_varint(sample.encoded_len() as u64, &mut encoded);
                sample.encode(&mut encoded).expect("a Vec has room");
            }
            let length = (series.labels.len() + encoded.len()) as u64;
            body.reserve(length as usize + 1 + encoded_len_varint(length));
            encode_key(1, WireType::LengthDelimited, &mut body);
            encode_varint(length, &mut body);
            body.extend_from_slice(&series.labels);
            body.extend_from_slice(&encoded);
        }
        (!body.is_empty()).then(|| snap::raw::Encoder::new().compress_vec(&body).expect("snappy"))
    }

    /// Writes everything to all servers, a part of the time after the other.
    pub(crate) async fn write(self: &Arc<Self>, servers: &[Http]) {
        for window in 0..self.windows {
            for first in (0..self.rounds).step_by(ROUNDS_PER_REQUEST) {
                let rounds = first..(first + ROUNDS_PER_REQUEST).min(self.rounds);
                let mut senders = tokio::task::JoinSet::new();
                for first in (0..self.series.len()).step_by(SERIES_PER_REQUEST) {
                    let series = first..(first + SERIES_PER_REQUEST).min(self.series.len());
                    let (data, rounds) = (Arc::clone(self), rounds.clone());
                    let body = tokio::task::spawn_blocking(move || data.body(series, window, &rounds));
                    let Some(body) = body.await.expect("a body") else {
                        continue;
                    };
                    for server in servers {
                        senders.spawn(send(server.clone(), body.clone()));
                    }
                    while senders.len() > 2 * servers.len() {
                        senders.join_next().await;
                    }
                }
                while let Some(sent) = senders.join_next().await {
                    sent.expect("a sender");
                }
            }
        }
    }
}
