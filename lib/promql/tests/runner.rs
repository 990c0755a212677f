//! The runner of test scripts: every form of the language, and that what is wrong is found.

#![allow(clippy::unwrap_used)]

use gnomon_promql::promqltest::{Report, run};

const LOADED: &str = "
load 1m
  m{a=\"x\"} 1 2 3
  m{a=\"y\"} 30 20 10
  counter@st -30s -90s -150s
  counter 10 20 30
  h {{schema:0 sum:3 count:3 buckets:[1 2]}}x2
  mixed 1 {{schema:0 sum:3 count:3 buckets:[1 2]}} 2

load_with_nhcb 1m
  c_bucket{le=\"1\"} 1+1x2
  c_bucket{le=\"+Inf\"} 2+2x2

";

fn after_load(script: &str) -> Report {
    run(&format!("{LOADED}{script}"))
}

/// Each runs by itself after the load above.
const GOOD: &[(&str, usize)] = &[
    (
        "eval instant at 2m m\n  m{a=\"y\"} 10\n  {__name__=\"m\", a=\"x\"} 3\n",
        1,
    ),
    // Commands of any case begin a line; a number ends a command, so that the next may follow at once.
    (
        "eval instant at 0 1 + 1\n  2\neval instant at 0 0x10\n  16\nCLEAR\neval instant at 0 1e3\n  1_000\n",
        3,
    ),
    (
        "eval_ordered instant at 2m sort(m)\n  m{a=\"x\"} 3\n  m{a=\"y\"} 10\n",
        1,
    ),
    (
        "eval instant at 2m sort_desc(m)\n  expect ordered\n  m{a=\"y\"} 10\n  m{a=\"x\"} 3\n",
        1,
    ),
    ("eval_fail instant at 0 m + on () m\n", 1),
    (
        "eval_fail instant at 0 label_replace(m, \"b\", \"\", \"a\", \"(\")\n  expected_fail_message invalid regular expression in label_replace(): (\neval instant at 0 3\n  3\n",
        2,
    ),
    (
        "eval_fail instant at 0 m + on () m\n  expected_fail_regexp (found|multiple) .*\n",
        1,
    ),
    ("eval instant at 0 m + on () m\n  expect fail\n", 1),
    (
        "eval instant at 0 m + on () m\n  expect fail regex: duplicate series\n",
        1,
    ),
    ("eval range from 0 to 2m step 1m m + on () m\n  expect fail\n", 1),
    ("eval_warn instant at 2m quantile(2, m)\n  {} +Inf\n", 1),
    (
        "eval instant at 2m quantile(2, m)\n  expect warn\n  expect no_info\n  {} +Inf\n",
        1,
    ),
    (
        "eval instant at 2m quantile(2, m)\n  expect warn msg: PromQL warning: quantile value should be between 0 and 1, got 2 (1:10)\n  {} Inf\n",
        1,
    ),
    (
        "eval instant at 2m quantile(2, m)\n  expect warn regex: between 0 and 1\n  {} Inf\n",
        1,
    ),
    (
        "eval_info instant at 2m rate(m[2m])\n  {a=\"x\"} 0.016666666666666666\n  {a=\"y\"} 0.16666666666666666\n",
        1,
    ),
    ("eval instant at 0 \"a\\nb\"\n  expect string \"a\\nb\"\n", 1),
    ("eval instant at 0 'x'\n  expect string `x`\n", 1),
    (
        "eval instant at 2m m{a=\"x\"}[2m]\n  expect range vector from 1m to 2m step 1m\n  m{a=\"x\"} 2 3\n",
        1,
    ),
    // The vector's end is when the query is evaluated.
    (
        "eval instant at 0 m{a=\"x\"}[2m]\n  expect range vector from 1m to 2m step 1m\n  m{a=\"x\"} 2 3\n",
        1,
    ),
    (
        "eval range from 0 to 3m step 1m m{a=\"x\"} > 1\n  m{a=\"x\"} _ 2 3x1\n",
        1,
    ),
    (
        "eval instant at 1m h\n  h {{sum:3 count:3 buckets:[1 2] schema:0 offset:0}}\n",
        1,
    ),
    (
        "eval instant at 1m h\n  h {{sum:3 count:3 buckets:[1 2] counter_reset_hint:not_reset}}\n",
        1,
    ),
    (
        "eval instant at 1m c\n  c {{schema:-53 count:4 custom_values:[1] buckets:[2 2]}}\n",
        1,
    ),
    (
        "eval range from 0 to 2m step 1m mixed\n  mixed 1 {{sum:3 count:3 buckets:[1 2]}} 2\n",
        1,
    ),
    ("eval instant at 2m start_timestamp(counter)\n  {} -30\n", 1),
    // A series that is expected twice is as it was said last.
    ("eval instant at 2m m{a=\"x\"}\n  m{a=\"x\"} 4\n  m{a=\"x\"} 3\n", 1),
    ("eval instant at 0 absent(nothing) # and m\n  {} 1\n", 1),
    (
        "# a comment\n\n\n   \nclear\nload 10s\n  a 1+2x3 _x2 5-1x1 stale 7x1 _ -1e2 NaN -Inf\n\neval instant at 30s a\n  a 7\n\neval instant at 60s a\n  a 5\n\neval instant at 80s a\n\neval instant at 100s a\n  a 7\n\neval instant at 120s a\n  a -100\n\neval instant at 140s a\n  a -Inf\n",
        6,
    ),
];

#[test]
fn every_form_of_the_language_is_understood() {
    for (script, passed) in GOOD {
        let report = after_load(script);
        assert_eq!((&report.failures, report.passed), (&Vec::new(), *passed), "{script}");
    }
}

/// What must be found wrong, and a part of what is said about it.
const BAD: &[(&str, &str)] = &[
    ("eval instant at 2m m\n  m{a=\"x\"} 3\n", "unexpected"),
    (
        "eval instant at 2m m{a=\"x\"}\n  m{a=\"x\"} 3.0001\n",
        "expected 3.0001",
    ),
    ("eval instant at 2m m{a=\"x\"}\n  m{a=\"x\"} {{count:3}}\n", "got 3"),
    (
        "eval instant at 2m m{a=\"x\"}\n  m{a=\"x\"} 3\n  m{a=\"z\"} 3\n",
        "not found",
    ),
    (
        "eval instant at 2m sort(m)\n  expect ordered\n  m{a=\"y\"} 10\n  m{a=\"x\"} 3\n",
        "position",
    ),
    (
        "eval range from 0 to 1m step 1m m{a=\"x\"}\n  expect ordered\n  m{a=\"x\"} 1 2\n",
        "order",
    ),
    (
        "eval range from 0 to 1m step 1m m{a=\"x\"}\n  m{a=\"x\"} 1 2 3\n",
        "more than the range has",
    ),
    (
        "eval range from 0 to 1m step 1m m{a=\"x\"}\n  m{a=\"x\"} 1\n",
        "unexpected 2",
    ),
    (
        "eval range from 0 to 1m step 1m m{a=\"x\"}\n  m{a=\"x\"} 1 _\n",
        "unexpected 2",
    ),
    ("eval range from 0 to 1m step 1m nothing\n  nothing _ _\n", "not found"),
    ("eval instant at 0 1\n", "unexpected scalar"),
    ("eval instant at 0 1\n  2\n", "expected scalar 2"),
    ("eval instant at 0 vector(1)\n  1\n", "expected a scalar"),
    ("eval instant at 0 \"a\"\n  expect string \"b\"\n", "expected string"),
    ("eval instant at 2m m[1m]\n", "unexpected range vector"),
    (
        "eval instant at 2m m{a=\"x\"}\n  m{a=\"x\"} 2 3\n",
        "expect range vector",
    ),
    (
        "eval instant at 2m m{a=\"x\"}\n  expect fail\n",
        "expected the query to fail",
    ),
    ("eval instant at 0 m + on () m\n", "unexpected error"),
    (
        "eval instant at 0 m + on () m\n  expect fail msg: another\n",
        "expected error",
    ),
    (
        "eval instant at 2m quantile(2, m)\n  expect no_warn\n  {} +Inf\n",
        "unexpected warning",
    ),
    (
        "eval instant at 2m quantile(2, m)\n  expect warn msg: another\n  {} +Inf\n",
        "expected warning",
    ),
    (
        "eval instant at 2m m{a=\"x\"}\n  expect info\n  m{a=\"x\"} 3\n",
        "expected info",
    ),
    (
        "eval_warn instant at 2m m{a=\"x\"}\n  m{a=\"x\"} 3\n",
        "expected a warning",
    ),
    (
        "eval instant at 2m m{a=\"x\"}\n  expect warn\n  expect no_warn\n  m{a=\"x\"} 3\n",
        "together",
    ),
    (
        "eval instant at 2m m{a=\"x\"}\n  expect surprise\n",
        "unknown expectation",
    ),
    ("eval instant at 2m m{\n", "parse error"),
    ("eval instant 2m m\n", "expected \"at\""),
    ("eval range from 2m to 1m step 1m m\n", "before the start"),
    ("eval_ordered range from 0m to 1m step 1m m\n", "cannot evaluate"),
    ("eval_sometimes instant at 0 1\n  1\n", "unknown command"),
    (
        "eval instant at 1m h\n  h {{sum:3 count:3 buckets:[1 2] counter_reset_hint:gauge}}\n",
        "Gauge",
    ),
    (
        "eval instant at 1m h\n  h {{sum:3 count:3 buckets:[1 2 0 1]}}\n",
        "expected",
    ),
    (
        "eval instant at 1m h\n  h {{sum:3 size:3}}\n",
        "unknown histogram field",
    ),
    ("load 1m\n  m{a=\"x\" 1\n", "bad"),
    ("load now\n  n 1\n", "bad step"),
    ("load 1m\n  n@st -1m\n  o 1\n", "@st of"),
    ("load 1m\n  n@st -1m\n", "@st of"),
    ("load 1m\n  n@st -1mx3\n  n 1 2\n", "@st has 4"),
    ("load_twice 1m\n  n 1\n", "unknown command"),
    ("unload\n", "unknown command"),
];

#[test]
fn what_is_wrong_is_found() {
    for (script, part) in BAD {
        let report = after_load(script);
        let [failure] = report.failures.as_slice() else {
            panic!("{script}: {report:?}");
        };
        assert!(failure.message.contains(part), "{script}: {}", failure.message);
        assert_eq!(failure.line, LOADED.lines().count() + 1, "{script}");
    }
}

/// A difference that shows at other times, or in a range, alone.
#[test]
fn instants_are_looked_at_from_other_times_too() {
    let report = after_load("eval instant at 2m time() - 120 + m{a=\"x\"}\n  {a=\"x\"} 3\n");
    assert_eq!(report.failures, []);
    // The value is right at 2m, and the range around it has an error.
    let report = after_load("eval instant at 0 m * on () group_left () (m{a=\"x\"} == 1 or m)\n  expect fail\n");
    assert_eq!(report.passed, 1);
    let report = run("load 1m\n  a{l=\"1\"} 1\n  a{l=\"2\"} _x4 1\n  b 1x6\n\n\
         eval instant at 3m30s b + on () a\n  {} 2\n");
    let [failure] = report.failures.as_slice() else {
        panic!("{report:?}");
    };
    assert!(failure.message.contains("range query"), "{}", failure.message);
}
