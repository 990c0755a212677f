//! Queries of dashboards and alerts.

/// How far back from the end of the data a query looks, and in which steps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Range {
    Instant,
    /// A share of all hours; seconds.
    Steps {
        share: f64,
        step_s: u64,
    },
}

/// Whether VictoriaMetrics means the same by it. Its `rate`, `increase` and ranges take the sample before the range in and do not
/// extrapolate; then only the series are compared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Same,
    OwnRanges,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    pub(crate) text: &'static str,
    /// Over many hours, and over few.
    pub(crate) long: Range,
    pub(crate) short: Range,
    pub(crate) meaning: Meaning,
}

const fn instant(text: &'static str, meaning: Meaning) -> Query {
    Query {
        text,
        long: Range::Instant,
        short: Range::Instant,
        meaning,
    }
}

/// (share of the hours, step in seconds) over many hours and over few.
const fn range(text: &'static str, long: (f64, u64), short: (f64, u64), meaning: Meaning) -> Query {
    Query {
        text,
        long: Range::Steps {
            share: long.0,
            step_s: long.1,
        },
        short: Range::Steps {
            share: short.0,
            step_s: short.1,
        },
        meaning,
    }
}

use Meaning::{OwnRanges, Same};

pub(crate) const QUERIES: [Query; 15] = [
    instant("up == 0", Same),
    instant("absent(up{job=\"nowhere\"})", Same),
    instant("count by (__name__) ({__name__=~\"node_.+\"})", Same),
    instant("topk(10, increase(http_requests_total[1h]))", OwnRanges),
    instant(
        "predict_linear(node_filesystem_avail_bytes[1h], 4 * 3600) < 0",
        OwnRanges,
    ),
    instant(
        "histogram_quantile(0.9, sum by (le, job) (rate(http_request_duration_seconds_bucket[5m]))) > 0.25",
        OwnRanges,
    ),
    range(
        "sum by (job) (rate(http_requests_total[5m]))",
        (1.0, 120),
        (0.5, 15),
        OwnRanges,
    ),
    range(
        "histogram_quantile(0.99, sum by (le, handler) (rate(http_request_duration_seconds_bucket[5m])))",
        (0.25, 60),
        (0.5, 60),
        OwnRanges,
    ),
    range(
        "sum by (instance) (rate(http_requests_total{code=~\"5..\"}[5m])) / sum by (instance) (rate(http_requests_total[5m]))",
        (0.25, 60),
        (0.5, 60),
        OwnRanges,
    ),
    range(
        "topk(5, sum by (instance) (rate(node_cpu_seconds_total{mode!=\"idle\"}[5m])))",
        (0.25, 60),
        (0.5, 60),
        OwnRanges,
    ),
    range("avg_over_time(node_load1[1h])", (0.9, 300), (0.25, 60), OwnRanges),
    range(
        "max by (job) (process_resident_memory_bytes)",
        (0.99, 60),
        (0.9, 15),
        Same,
    ),
    range(
        "label_replace(rate(node_network_receive_bytes_total{device=\"eth0\"}[5m]), \"host\", \"$1\", \"instance\", \"([^:]+):.*\")",
        (0.25, 60),
        (0.5, 60),
        OwnRanges,
    ),
    range(
        "node_filesystem_avail_bytes / node_filesystem_size_bytes * on (instance) group_left (nodename) node_uname_info",
        (0.25, 120),
        (0.5, 60),
        Same,
    ),
    range(
        "quantile by (job) (0.9, rate(process_cpu_seconds_total[5m]))",
        (0.5, 60),
        (0.5, 15),
        OwnRanges,
    ),
];
