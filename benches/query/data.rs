//! What is asked about: hosts with a node exporter each, and as many instances of an application with request counters
//! and latency histograms; written by remote write, in the order of time.

use crate::side_by_side::course::{Course, counter, gauge, mixed};
use gnomon_proto::prometheus::Sample;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

pub(crate) const STEP_MS: i64 = 15_000;
/// A host and an instance of the application.
const SERIES_OF_EACH_PAIR: usize = 500;
/// Upper bounds of latencies, as client libraries have them.
const BOUNDS: [(&str, f64); 13] = [
    ("0.005", 0.05),
    ("0.01", 0.13),
    ("0.025", 0.3),
    ("0.05", 0.48),
    ("0.1", 0.66),
    ("0.25", 0.81),
    ("0.5", 0.9),
    ("1", 0.95),
    ("2.5", 0.98),
    ("5", 0.992),
    ("10", 0.997),
    ("30", 0.999),
    ("+Inf", 1.0),
];
const MODES: [(&str, u64); 8] = [
    ("idle", 1100),
    ("iowait", 30),
    ("irq", 0),
    ("nice", 2),
    ("softirq", 10),
    ("steal", 1),
    ("system", 90),
    ("user", 250),
];
const MEMORY: [&str; 40] = [
    "Active",
    "Active_anon",
    "Active_file",
    "AnonHugePages",
    "AnonPages",
    "Bounce",
    "Buffers",
    "Cached",
    "CommitLimit",
    "Committed_AS",
    "DirectMap1G",
    "DirectMap2M",
    "DirectMap4k",
    "Dirty",
    "HugePages_Free",
    "HugePages_Total",
    "Hugepagesize",
    "Inactive",
    "Inactive_anon",
    "Inactive_file",
    "KReclaimable",
    "KernelStack",
    "Mapped",
    "MemAvailable",
    "MemFree",
    "MemTotal",
    "Mlocked",
    "NFS_Unstable",
    "PageTables",
    "Percpu",
    "SReclaimable",
    "SUnreclaim",
    "Shmem",
    "Slab",
    "SwapCached",
    "SwapFree",
    "SwapTotal",
    "Unevictable",
    "Writeback",
    "WritebackTmp",
];
const NETWORK: [&str; 10] = [
    "receive_bytes",
    "receive_drop",
    "receive_errs",
    "receive_multicast",
    "receive_packets",
    "transmit_bytes",
    "transmit_carrier",
    "transmit_drop",
    "transmit_errs",
    "transmit_packets",
];
const DISK: [&str; 10] = [
    "io_now",
    "io_time_seconds",
    "read_bytes",
    "read_time_seconds",
    "reads_completed",
    "reads_merged",
    "write_time_seconds",
    "writes_completed",
    "writes_merged",
    "written_bytes",
];
const HANDLERS: [&str; 10] = [
    "/",
    "/api/v1/items",
    "/api/v1/items/:id",
    "/api/v1/orders",
    "/api/v1/search",
    "/api/v1/users",
    "/healthz",
    "/login",
    "/metrics",
    "/static",
];
const CODES: [(&str, u64); 4] = [("200", 900), ("404", 60), ("500", 25), ("503", 4)];

struct Series {
    /// Label fields of remote write's `TimeSeries`, encoded.
    labels: Box<[u8]>,
    course: Course,
    /// Series with one seed count the same events.
    seed: u64,
    /// Its target is not scraped at the same moment as others, and never at one that is a whole second.
    offset_ms: i64,
}

/// The series of a data set and when their samples lie.
pub(crate) struct Data {
    series: Vec<Series>,
    pub(crate) rounds: usize,
    /// After the last sample; a multiple of 30 minutes that leaves 30 minutes of the newest two-hour window.
    pub(crate) end_ms: i64,
}

/// Collects the series of one target.
struct Target<'a> {
    all: &'a mut Vec<Series>,
    job: &'static str,
    instance: String,
    number: u64,
}

impl Target<'_> {
    fn add(&mut self, name: &str, labels: &[(&str, &str)], course: Course) {
        let seed = mixed(self.all.len() as u64 + 1);
        self.add_seeded(name, labels, course, seed);
    }

    fn add_seeded(&mut self, name: &str, labels: &[(&str, &str)], course: Course, seed: u64) {
        let mut pairs = vec![
            ("__name__", name),
            ("job", self.job),
            ("instance", self.instance.as_str()),
        ];
        pairs.extend_from_slice(labels);
        pairs.sort_unstable();
        let labels = crate::harness::remote::time_series(&pairs, &[]).encode_to_vec();
        self.all.push(Series {
            labels: labels.into_boxed_slice(),
            course,
            seed,
            offset_ms: 1 + (mixed(self.number) % 14_998) as i64,
        });
    }

    fn process(&mut self) {
        let number = self.number;
        // One in sixteen is down.
        self.add("up", &[], Course::Constant(f64::from(u8::from(number % 16 != 7))));
        self.add("process_cpu_seconds_total", &[], counter(40, 0.01));
        self.add("process_resident_memory_bytes", &[], gauge(2e8, 4e7, 4096.0));
        self.add("process_virtual_memory_bytes", &[], gauge(2e9, 1e7, 4096.0));
        self.add("process_open_fds", &[], gauge(120.0, 40.0, 1.0));
        self.add("process_max_fds", &[], Course::Constant(1_048_576.0));
        self.add(
            "process_start_time_seconds",
            &[],
            Course::Constant(1.7e9 + number as f64),
        );
    }

    fn node(&mut self) {
        self.process();
        for cpu in 0..8 {
            for (mode, per_step) in MODES {
                let cpu = cpu.to_string();
                self.add(
                    "node_cpu_seconds_total",
                    &[("cpu", &cpu), ("mode", mode)],
                    counter(per_step, 0.01),
                );
            }
        }
        for load in ["node_load1", "node_load5", "node_load15"] {
            self.add(load, &[], gauge(2.5, 1.5, 0.01));
        }
        for name in MEMORY {
            let course = if name.ends_with("Total") || name.starts_with("DirectMap") {
                Course::Constant(1.6e10)
            } else {
                gauge(4e9, 8e8, 4096.0)
            };
            self.add(&format!("node_memory_{name}_bytes"), &[], course);
        }
        for (i, mount) in ["/", "/boot", "/home", "/srv", "/tmp", "/var"].iter().enumerate() {
            let device = format!("/dev/sda{i}");
            let labels = [("device", device.as_str()), ("fstype", "ext4"), ("mountpoint", mount)];
            self.add("node_filesystem_avail_bytes", &labels, gauge(3e10, 2e10, 4096.0));
            self.add("node_filesystem_free_bytes", &labels, gauge(3.5e10, 2e10, 4096.0));
            self.add("node_filesystem_size_bytes", &labels, Course::Constant(1e11));
            self.add("node_filesystem_files_free", &labels, gauge(6e6, 1e4, 1.0));
        }
        for (i, device) in ["eth0", "eth1", "lo", "docker0"].iter().enumerate() {
            for (n, name) in NETWORK.iter().enumerate() {
                let per_step = if n % 5 == 0 { 2_000_000 } else { 40 * (4 - i as u64) };
                self.add(
                    &format!("node_network_{name}_total"),
                    &[("device", device)],
                    counter(per_step, 1.0),
                );
            }
        }
        for device in ["sda", "sdb", "nvme0n1"] {
            for name in DISK {
                self.add(
                    &format!("node_disk_{name}_total"),
                    &[("device", device)],
                    counter(300, 1.0),
                );
            }
        }
        let release = [
            ("nodename", format!("host-{:04}", self.number)),
            ("release", "6.1.0-18-amd64".to_owned()),
        ];
        let release = release.each_ref().map(|(n, v)| (*n, v.as_str()));
        self.add("node_uname_info", &release, Course::Constant(1.0));
        self.add("node_boot_time_seconds", &[], Course::Constant(1.69e9));
        for n in 0..40 {
            let course = if n % 4 == 0 {
                Course::Constant(0.0)
            } else {
                counter(7 * n, 1.0)
            };
            self.add(&format!("node_vmstat_event_{n:02}"), &[], course);
        }
    }

    fn application(&mut self) {
        self.process();
        for n in 0..12 {
            self.add(&format!("go_memstats_{n:02}_bytes"), &[], gauge(5e7, 2e7, 8.0));
        }
        for (h, handler) in HANDLERS.iter().enumerate() {
            let busy = 3 + 11 * h as u64;
            for (code, share) in CODES {
                let course = Course::Counter {
                    per_step: busy,
                    share: share as f64 / 989.0,
                    unit: 1.0,
                };
                self.add(
                    "http_requests_total",
                    &[("code", code), ("handler", handler), ("method", "GET")],
                    course,
                );
            }
            let seed = mixed(self.number << 8 | h as u64);
            let name = "http_request_duration_seconds";
            for (le, share) in BOUNDS {
                let course = Course::Counter {
                    per_step: busy,
                    share,
                    unit: 1.0,
                };
                self.add_seeded(
                    &format!("{name}_bucket"),
                    &[("handler", handler), ("le", le)],
                    course,
                    seed,
                );
            }
            self.add_seeded(
                &format!("{name}_sum"),
                &[("handler", handler)],
                counter(busy, 0.037),
                seed,
            );
            self.add_seeded(
                &format!("{name}_count"),
                &[("handler", handler)],
                counter(busy, 1.0),
                seed,
            );
        }
        for queue in 0..40 {
            self.add(
                "queue_length",
                &[("queue", &format!("q{queue:02}"))],
                gauge(30.0, 30.0, 1.0),
            );
        }
    }
}

impl Data {
    /// About `series` series with a sample every 15 s for `hours` before `end_ms`.
    pub(crate) fn new(series: usize, hours: f64, end_ms: i64) -> Self {
        let mut all = Vec::new();
        for number in 0..series.div_ceil(SERIES_OF_EACH_PAIR) as u64 {
            let (high, low) = (number / 250, number % 250);
            let mut target = Target {
                all: &mut all,
                job: "node",
                instance: format!("10.0.{high}.{low}:9100"),
                number,
            };
            target.node();
            (target.job, target.instance) = (
                ["shop", "search", "mail"][number as usize % 3],
                format!("10.1.{high}.{low}:8080"),
            );
            target.application();
        }
        all.truncate(series);
        Self {
            series: all,
            rounds: (hours * 3_600_000.0) as usize / STEP_MS as usize,
            end_ms,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    pub(crate) fn start_ms(&self) -> i64 {
        self.end_ms - self.rounds as i64 * STEP_MS
    }

    /// One request: `count` series from `first` on, with their samples of `rounds`.
    pub(crate) fn body(&self, first: usize, count: usize, rounds: std::ops::Range<usize>) -> Vec<u8> {
        let mut body = Vec::new();
        let mut samples = Vec::new();
        for series in self.series.iter().skip(first).take(count) {
            samples.clear();
            for round in rounds.clone() {
                let sample = Sample {
                    timestamp: self.start_ms() + round as i64 * STEP_MS + series.offset_ms,
                    value: series.course.value(series.seed, round as u64),
                };
                encode_key(2, WireType::LengthDelimited, &mut samples);
                encode_varint(sample.encoded_len() as u64, &mut samples);
                sample.encode(&mut samples).expect("a Vec has room");
            }
            let length = (series.labels.len() + samples.len()) as u64;
            body.reserve(length as usize + 1 + encoded_len_varint(length));
            encode_key(1, WireType::LengthDelimited, &mut body);
            encode_varint(length, &mut body);
            body.extend_from_slice(&series.labels);
            body.extend_from_slice(&samples);
        }
        snap::raw::Encoder::new().compress_vec(&body).expect("snappy")
    }
}
