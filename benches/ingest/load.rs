//! What is written: like many node exporters, each series' labels encoded once so that the sender costs little.

use gnomon_proto::prometheus::{Sample, TimeSeries};
use prost::Message;
use prost::encoding::{encode_key, encode_varint, encoded_len_varint};

pub(crate) const STEP_MS: i64 = 15_000;
/// Series of one exporter.
pub(crate) const SERIES_OF_EACH: usize = 1_000;
/// Metrics of one exporter.
pub(crate) const METRICS: usize = 100;

const MODES: [&str; 6] = ["idle", "iowait", "irq", "nice", "softirq", "user"];

/// How requests are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) per_request: usize,
    pub(crate) senders: usize,
}

pub(crate) struct Load {
    pub(crate) series: usize,
    pub(crate) rounds: usize,
    pub(crate) end_ms: i64,
    /// Label fields of remote write's `TimeSeries`, encoded.
    labels: Vec<Box<[u8]>>,
}

impl Load {
    pub(crate) fn new(series: usize, rounds: usize, end_ms: i64) -> Self {
        let labels = (0..series).map(|i| {
            let (name, cpu, device, mode) = Self::own_labels(i);
            let instance = Self::instance(i / SERIES_OF_EACH);
            let labels = [
                ("__name__", name.as_str()),
                ("cpu", &cpu),
                ("device", &device),
                ("instance", &instance),
                ("job", "node"),
                ("mode", mode),
            ];
            super::harness::remote::time_series(&labels, &[])
                .encode_to_vec()
                .into_boxed_slice()
        });
        Self {
            series,
            rounds,
            end_ms,
            labels: labels.collect(),
        }
    }

    /// Name, cpu, device and mode of a series.
    fn own_labels(i: usize) -> (String, String, String, &'static str) {
        let n = i % SERIES_OF_EACH;
        let name = format!("node_metric_{}_total", n / 10);
        (
            name,
            (i % 8).to_string(),
            format!("dev{}", n % 10),
            MODES[i % MODES.len()],
        )
    }

    pub(crate) fn instance(exporter: usize) -> String {
        format!("10.0.{}.{}:9100", exporter / 250, exporter % 250)
    }

    /// The series as its exporter has it.
    pub(crate) fn exposition_name(i: usize) -> String {
        let (name, cpu, device, mode) = Self::own_labels(i);
        format!("{name}{{cpu=\"{cpu}\",device=\"{device}\",mode=\"{mode}\"}}")
    }

    pub(crate) fn start_ms(&self) -> i64 {
        self.end_ms - self.rounds as i64 * STEP_MS
    }

    /// A third of the series is constant, a third counts, a third moves.
    pub(crate) fn value(&self, i: usize, round: usize) -> f64 {
        match i % 3 {
            0 => i as f64,
            1 => (round * (i % 97 + 1)) as f64,
            _ => ((i * 31 + round * 17) % 1009) as f64 / 8.0,
        }
    }

    /// Exporters are not scraped at the same moment.
    fn timestamp(&self, i: usize, round: usize) -> i64 {
        let offset = (i / SERIES_OF_EACH * 7_919) as i64 % STEP_MS;
        self.start_ms() + round as i64 * STEP_MS + offset
    }

    /// One request: `count` series from `first` on, one sample each.
    pub(crate) fn body(&self, first: usize, count: usize, round: usize) -> Vec<u8> {
        let end = (first + count).min(self.series);
        let mut body = Vec::with_capacity((end - first) * 160);
        for i in first..end {
            let sample = Sample {
                timestamp: self.timestamp(i, round),
                value: self.value(i, round),
            };
            let sample_len = sample.encoded_len();
            let length = self.labels[i].len() + 1 + encoded_len_varint(sample_len as u64) + sample_len;
            encode_key(1, prost::encoding::WireType::LengthDelimited, &mut body);
            encode_varint(length as u64, &mut body);
            body.extend_from_slice(&self.labels[i]);
            encode_key(2, prost::encoding::WireType::LengthDelimited, &mut body);
            encode_varint(sample_len as u64, &mut body);
            sample.encode(&mut body).expect("a Vec has room");
        }
        debug_assert!(TimeSeries::decode(&*self.labels[first]).is_ok());
        snap::raw::Encoder::new().compress_vec(&body).expect("snappy")
    }
}

/// The number of a series, from its labels in an answer.
pub(crate) fn number_of(metric: &serde_json::Value) -> Option<usize> {
    let text = |name: &str| metric[name].as_str();
    let name = text("__name__")?.strip_prefix("node_metric_")?.strip_suffix("_total")?;
    let host = text("instance")?.strip_prefix("10.0.")?.strip_suffix(":9100")?;
    let (high, low) = host.split_once('.')?;
    let number = |text: &str| text.parse::<usize>().ok();
    let exporter = number(high)? * 250 + number(low)?;
    let device = number(text("device")?.strip_prefix("dev")?)?;
    Some(exporter * SERIES_OF_EACH + number(name)? * 10 + device)
}
