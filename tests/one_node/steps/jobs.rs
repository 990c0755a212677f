//! What is exposed, step by step, and how each job is configured.

/// Status and body of one scrape.
pub(super) type Step = (u16, &'static str);

pub(super) struct Job {
    pub(super) name: &'static str,
    /// Fields of the scrape configuration, as a YAML flow map's inside.
    pub(super) config: &'static str,
    pub(super) content_type: &'static str,
    /// `{T}` is a fixed time in the near past, `{U}` one second later; milliseconds.
    pub(super) steps: &'static [Step],
}

const TEXT: &str = "text/plain; version=0.0.4";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const OWN_TIMES: &[Step] = &[
    (200, "a 1 {T}\nb 2\n"),
    (200, "b 3\n"),
    (200, "a 1 {T}\nb 3\n"),
    (500, "down"),
    (200, "a 5 {U}\n"),
    (200, "a 4 {T}\nb 1\n"),
    (200, "a 9\n"),
    (200, "b 1\n"),
];

const LIMITED: &[Step] = &[
    (200, "a 1\nb 2\n"),
    (200, "a 1\nb 2\nc 3\n"),
    (200, "a 1\nb 2\n"),
    (200, "b 2\n"),
    (200, "c 1\nd 2\n"),
    (200, "a 1\nb 2\nc 3\nd 4\ne 5\n"),
    (200, "c 1\n"),
];

pub(super) const JOBS: &[Job] = &[
    Job {
        name: "churn",
        config: "",
        content_type: TEXT,
        steps: &[
            (200, "a 1\nb{x=\"1\"} 2\n"),
            (200, "a 2\n"),
            (200, "a 3\nb{x=\"1\"} 5\nc 1\n"),
            (500, "down"),
            (200, "a 1\nb{x=\"2\"} NaN\n"),
            (200, "a 1\nb{{\n"),
            (200, "a 2\nc 7\n"),
            (200, "a 2\na 3\nd 1\nd 1\n"),
            (200, ""),
            (200, "a 1\nd 2\n"),
        ],
    },
    Job {
        name: "own",
        config: "",
        content_type: TEXT,
        steps: OWN_TIMES,
    },
    Job {
        name: "ignored",
        config: "honor_timestamps: false",
        content_type: TEXT,
        steps: OWN_TIMES,
    },
    Job {
        name: "limited",
        config: "sample_limit: 2",
        content_type: TEXT,
        steps: LIMITED,
    },
    Job {
        name: "free",
        config: "",
        content_type: TEXT,
        steps: LIMITED,
    },
    Job {
        name: "relabelled_limit",
        config: "sample_limit: 2, metric_relabel_configs: [{source_labels: [__name__], regex: b, action: drop}]",
        content_type: TEXT,
        steps: LIMITED,
    },
    Job {
        name: "label_count",
        // The name, `case`, `instance`, `job` and one of its own.
        config: "label_limit: 5",
        content_type: TEXT,
        steps: &[
            (200, "a{x=\"1\"} 1\n"),
            (200, "a{x=\"1\"} 1\nb{x=\"1\",y=\"2\"} 1\n"),
            (200, "a{x=\"1\"} 1\n"),
        ],
    },
    Job {
        name: "label_length",
        config: "label_name_length_limit: 10, label_value_length_limit: 24",
        content_type: TEXT,
        steps: &[
            (200, "a{x=\"1\"} 1\n"),
            (200, "a{a_long_name=\"1\"} 1\n"),
            (200, "a{x=\"a value of some twenty-five bytes\"} 1\n"),
            (200, "a{x=\"1\"} 1\n"),
        ],
    },
    Job {
        name: "body",
        config: "body_size_limit: 20B",
        content_type: TEXT,
        steps: &[(200, "a 1\n"), (200, "a 1\nb 1\nc 1\nd 1\ne 1\n"), (200, "a 1\nb 1\n")],
    },
    Job {
        name: "relabelled",
        config: "metric_relabel_configs: [{source_labels: [__name__], regex: b, action: drop}, {regex: z, action: labeldrop}]",
        content_type: TEXT,
        steps: &[
            (200, "a{z=\"1\"} 1\nb 1\nc 1\n"),
            (200, "a{z=\"2\"} 5\nc 2\n"),
            (200, "b 1\n"),
            (200, "a{z=\"1\"} 1\na{z=\"2\"} 2\n"),
        ],
    },
    Job {
        name: "honored",
        config: "honor_labels: true",
        content_type: TEXT,
        steps: &[
            (200, "a{job=\"far\",instance=\"there\"} 1\nb{instance=\"\"} 2\n"),
            (200, "b{instance=\"\"} 3\n"),
            (200, "a{job=\"far\",instance=\"there\"} 4\n"),
        ],
    },
    Job {
        name: "exported",
        config: "",
        content_type: TEXT,
        steps: &[
            (200, "a{job=\"far\",exported_job=\"farther\",case=\"x\"} 1\n"),
            (200, "a{job=\"far\"} 1\n"),
        ],
    },
    Job {
        name: "open_metrics",
        config: "",
        content_type: OPEN_METRICS,
        steps: &[
            (
                200,
                "# TYPE h histogram\n# UNIT h \nh_bucket{le=\"1\"} 1 # {trace_id=\"x\"} 0.5\nh_bucket{le=\"+Inf\"} 2\nh_count 2\nh_sum 3\n# TYPE c counter\nc_total 1\nc_created 5\n# TYPE i info\ni_info{v=\"1\"} 1\n# TYPE s stateset\ns{s=\"on\"} 1\n# EOF\n",
            ),
            (200, "# TYPE c counter\nc_total 2\n"),
            (200, "# TYPE c counter\nc_total 3 123.5\n# EOF\n"),
            (
                200,
                "# TYPE q summary\nq{quantile=\"1\"} 2\nq_count 1\nq_sum 2\n# EOF\n",
            ),
            (200, "# TYPE q summary\nq_count 1\n# EOF\nq_sum 2\n"),
        ],
    },
    Job {
        name: "values",
        config: "",
        content_type: TEXT,
        steps: &[
            (
                200,
                "a NaN\nb +Inf\nc -0\nd 1e-320\ne 0x1p3\nf{x=\"\",y=\"\u{1f600}\"} 1\n",
            ),
            (200, "a 1\nb 1\nc 1\nd 1\ne{} 1\nf{y=\"\u{1f600}\"} 1\n"),
            (200, "f{x=\"}\\\\\\\"\\n,\"} 1\n"),
        ],
    },
];
