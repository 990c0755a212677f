//! The language: errors in Prometheus' words, canonical text, and that no text whatever makes the parser panic.

#![allow(clippy::unwrap_used)]

use gnomon_model::Labels;
use gnomon_model::histogram::{FloatHistogram, Span};
use gnomon_promql::{CancelFlag, Engine, EvalParams, Limits, MemorySource, ParseOptions, Plan, parse, parse_selector};
use proptest::prelude::*;
use std::sync::Arc;

fn error(query: &str) -> String {
    parse(query, &ParseOptions::everything()).unwrap_err().to_string()
}

#[test]
fn errors_are_those_of_prometheus() {
    for (query, message) in [
        ("", "unknown position: parse error: no expression found in input"),
        ("# just a comment\n\n", "1:1: parse error: no expression found in input"),
        ("1+", "1:3: parse error: unexpected end of input"),
        (".", "1:1: parse error: unexpected character: '.'"),
        ("2.5.", "1:4: parse error: unexpected character: '.'"),
        ("0deadbeef", "1:1: parse error: bad number or duration syntax: \"0de\""),
        ("1 /", "1:4: parse error: unexpected end of input"),
        ("*1", "1:1: parse error: unexpected <op:*>"),
        ("(1))", "1:5: parse error: unexpected right parenthesis ')'"),
        ("((1)", "1:5: parse error: unclosed left parenthesis"),
        ("(", "1:2: parse error: unclosed left parenthesis"),
        (
            "1 and 1",
            "1:1: parse error: set operator \"and\" not allowed in binary scalar expression",
        ),
        (
            "1 == 1",
            "1:3: parse error: comparisons between scalars must use BOOL modifier",
        ),
        (
            "foo + bool bar",
            "1:5: parse error: bool modifier can only be used on comparison operators",
        ),
        (
            "-\"string\"",
            "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"string\"",
        ),
        (
            "foo or group_left(baz) bar",
            "1:8: parse error: unexpected <group_left>",
        ),
        (
            "foo unless on(bar) group_left(baz) bar",
            "1:1: parse error: no grouping allowed for \"unless\" operation",
        ),
        (
            "foo == on(bar) group_left(bar) 10",
            "1:5: parse error: label \"bar\" must not occur in ON and GROUP clause at once",
        ),
        (
            "http_requests{group=\"production\"} + on(instance) group_left(job,instance) cpu_count{type=\"smp\"}",
            "1:35: parse error: label \"instance\" must not occur in ON and GROUP clause at once",
        ),
        ("foo{", "1:5: parse error: unexpected end of input inside braces"),
        ("foo}", "1:4: parse error: unexpected character: '}'"),
        (
            "{}",
            "1:1: parse error: vector selector must contain at least one non-empty matcher",
        ),
        (
            "{x=\"\", y=~\".*\"}",
            "1:1: parse error: vector selector must contain at least one non-empty matcher",
        ),
        (
            "foo{__name__=\"bar\"}",
            "1:1: parse error: metric name must not be set twice: \"foo\" or \"bar\"",
        ),
        (
            "foo{gibberish}",
            "1:14: parse error: unexpected \"}\" in label matching, expected label matching operator",
        ),
        (
            "foo{a=b}",
            "1:7: parse error: unexpected identifier \"b\" in label matching, expected string",
        ),
        ("foo{a>1}", "1:6: parse error: unexpected character inside braces: '>'"),
        ("foo{1}", "1:5: parse error: unexpected character inside braces: '1'"),
        ("foo bar", "1:5: parse error: unexpected identifier \"bar\""),
        ("foo[5m", "1:7: parse error: unclosed left bracket"),
        (
            "foo[]",
            "1:5: parse error: unexpected \"]\" in subquery or range selector, expected number, duration, step(), or range()",
        ),
        (
            "foo[5m+]",
            "1:8: parse error: unexpected \"]\" in subquery or range selector, expected number, duration, step(), or range()",
        ),
        (
            "foo[5m:bar]",
            "1:8: parse error: unexpected identifier \"bar\" in subquery selector, expected number, duration, step(), range(), or \"]\"",
        ),
        (
            "foo[5m:step(]",
            "1:13: parse error: unexpected \"]\" in subquery selector, expected number, duration, step(), range(), or \"]\"",
        ),
        (
            "foo[5m 1m]",
            "1:8: parse error: unexpected duration \"1m\" in subquery or range, expected \":\" or \"]\"",
        ),
        ("foo[5m/0]", "1:7: parse error: division by zero"),
        ("foo[5m%(0s)]", "1:7: parse error: modulo by zero"),
        ("foo offset (1m / -0 * 2)", "1:16: parse error: division by zero"),
        ("foo[(-1)]", "1:6: parse error: duration must be greater than 0"),
        ("foo[0m]", "1:5: parse error: duration must be greater than 0"),
        ("foo[5m:-1m]", "1:8: parse error: duration must be greater than 0"),
        ("sum(*)", "1:5: parse error: unexpected <op:*> in aggregation"),
        (
            "foo[5m][5m]",
            "1:8: parse error: ranges only allowed for vector selectors",
        ),
        (
            "some_metric[5m] OFFSET",
            "1:23: parse error: unexpected end of input in offset, expected number, duration, step(), or range()",
        ),
        (
            "some_metric OFFSET 1m[5m]",
            "1:22: parse error: no offset modifiers allowed before range",
        ),
        (
            "some_metric @ 1234 [5m]",
            "1:20: parse error: no @ modifiers allowed before range",
        ),
        (
            "(foo + bar)[5m]",
            "1:12: parse error: ranges only allowed for vector selectors",
        ),
        (
            "foo @ bar",
            "1:7: parse error: unexpected identifier \"bar\" in @, expected timestamp",
        ),
        (
            "sum without(==)(some_metric)",
            "1:13: parse error: unexpected <op:==> in grouping opts, expected label",
        ),
        (
            "sum(some_metric) by test",
            "1:21: parse error: unexpected identifier \"test\" in grouping opts, expected \"(\"",
        ),
        (
            "topk(some_metric)",
            "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 2, got 1",
        ),
        (
            "sum()",
            "1:1: parse error: no arguments for aggregate expression provided",
        ),
        (
            "topk(some_metric, other_metric)",
            "1:6: parse error: expected type scalar in aggregation parameter, got instant vector",
        ),
        (
            "sum(5)",
            "1:5: parse error: expected type instant vector in aggregation expression, got scalar",
        ),
        (
            "floor()",
            "1:1: parse error: expected 1 argument(s) in call to \"floor\", got 0",
        ),
        (
            "hour(some_metric, some_metric, some_metric)",
            "1:1: parse error: expected at most 1 argument(s) in call to \"hour\", got 3",
        ),
        (
            "rate(some_metric)",
            "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector",
        ),
        (
            "non_existent_function_far_bar()",
            "1:1: parse error: unknown function with name \"non_existent_function_far_bar\"",
        ),
        ("sum(rate(foo[5m]", "1:17: parse error: unclosed left parenthesis"),
        (
            "sum(foo,)",
            "1:8: parse error: trailing commas not allowed in function call args",
        ),
        ("foo\n  + *", "2:5: parse error: unexpected <op:*>"),
        ("test[10m:6s:5m]", "1:12: parse error: unexpected colon ':'"),
        ("'\\q'", "1:1: parse error: unknown escape sequence U+0071 'q'"),
        (
            "foo{a=~\"(\"}",
            "1:5: parse error: error parsing regexp: missing closing ): `(`",
        ),
    ] {
        assert_eq!(error(query), message, "{query}");
    }
}

#[test]
fn what_is_experimental_is_refused_by_default() {
    let error = |query| parse(query, &ParseOptions::default()).unwrap_err().to_string();
    assert_eq!(
        error("mad_over_time(x[5m])"),
        "1:1: parse error: function \"mad_over_time\" is not enabled"
    );
    assert_eq!(
        error("limitk(1, x)"),
        "1:1: parse error: limitk() is experimental and must be enabled with --enable-feature=promql-experimental-functions"
    );
    assert_eq!(
        error("x smoothed"),
        "1:1: parse error: smoothed modifier is experimental and not enabled"
    );
    assert_eq!(
        error("x + fill(0) y"),
        "1:1: parse error: binop fill modifiers are experimental and not enabled"
    );
    // Stable since 3.14.
    for stable in ["x[5m+1m]", "first_over_time(x[5m])"] {
        assert!(parse(stable, &ParseOptions::default()).is_ok(), "{stable}");
    }
}

#[test]
fn canonical_text() {
    for (query, text) in [
        ("sum(a)by(b)", "sum by (b) (a)"),
        ("sum without()(a)", "sum without () (a)"),
        (
            "topk(5, sum by(job)(rate(x{a='b',c!~`d`}[5m])))",
            r#"topk(5, sum by (job) (rate(x{a="b",c!~"d"}[5m])))"#,
        ),
        ("a+on(x)group_left(y)b", "a + on (x) group_left (y) b"),
        ("a>bool 1", "a > bool 1"),
        ("x offset -5m", "x offset -5m"),
        ("x[90s:] @ 1.5 offset 1h30m", "x[1m30s:] @ 1.500 offset 1h30m"),
        ("x @ start()", "x @ start()"),
        ("-2^-3 + +1", "-2 ^ -3 + 1"),
        (r#"{"my.metric", "a b"="c"}"#, r#"{"a b"="c",__name__="my.metric"}"#),
        (r#"m{z="1",a="2",m=~"x"}"#, r#"m{a="2",m=~"x",z="1"}"#),
        ("topk(1e6, m) + 1e-7", "topk(1000000, m) + 0.0000001"),
        ("\"\u{a0}x\u{301}\u{200b}\"", "\"\\u00a0x\u{301}\\u200b\""),
        ("0x10 + 1e3 + Inf", "16 + 1000 + Inf"),
        ("a atan2 b and c", "a atan2 b and c"),
        ("1h", "1h"),
        ("x[2m*(1+2)]", "x[2m * (1 + 2)]"),
        ("foo[5m*2]", "foo[5m * 2]"),
        ("foo[300]", "foo[5m]"),
        ("foo[(300)]", "foo[5m]"),
        ("foo[1.5*((300))+(2m)]", "foo[1.5 * 300 + 2m]"),
        ("foo[1h+(-2)^2:60] offset -60", "foo[1h + (-2) ^ 2:1m] offset -1m"),
        (
            "foo offset (min_of(60, step()) + 1)",
            "foo offset (min_of(60, step()) + 1)",
        ),
        ("foo offset 0s", "foo"),
        ("rate(x[5m] anchored)", "rate(x[5m] anchored)"),
        ("a + fill_left(1) fill_right(2) b", "a + fill_left (1) fill_right (2) b"),
        ("a + fill_right(1) fill_left(1) b", "a + fill_left (1) fill_right (1) b"),
        (
            "a + fill_left(NaN) fill_right(NaN) b",
            "a + fill_left (NaN) fill_right (NaN) b",
        ),
        ("a + fill(NaN) b", "a + fill (NaN) b"),
        (r#""a\nb" "#, r#""a\nb""#),
        ("h </ 0.5", "h </ 0.5"),
    ] {
        let expr = parse(query, &ParseOptions::everything()).unwrap();
        assert_eq!(expr.to_string(), text);
        let again = parse(text, &ParseOptions::everything()).unwrap();
        assert_eq!(again.to_string(), text);
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = "(".repeat(100_000) + "1" + &")".repeat(100_000);
    assert!(error(&deep).contains("nested more than"), "{}", error(&deep));
    assert!(error(&"-".repeat(100_000)).contains("nested more than"));
    // What is taken must run on a small stack.
    for query in [
        "x + ".repeat(490) + "x",
        "(".repeat(190) + &"x or ".repeat(300) + "x" + &")".repeat(190),
        "abs(".repeat(190) + "x" + &")".repeat(190),
        "max_over_time(".repeat(90) + "x" + &"[1m:1m])".repeat(90),
        "last_over_time(x[1m".to_owned() + &" + 1".repeat(490) + "])",
        "x offset (1m".to_owned() + &" ^ 1".repeat(190) + ")",
    ] {
        let expr = parse(&query, &ParseOptions::default()).unwrap();
        assert!(!expr.to_string().is_empty());
        let plan = Plan::new(&query, &expr, EvalParams::range(0, 60_000, 60_000)).unwrap();
        assert!(!plan.explain().is_empty());
        let mut source = MemorySource::new();
        source.add_float(&Labels::from_pairs([("__name__", "x")]), 0, 1.0);
        assert!(Engine::execute(&plan, &source, &Limits::default(), &CancelFlag::new()).is_ok());
    }
    assert!(error(&("x + ".repeat(100_000) + "x")).contains("operators in a row"));
    assert!(error(&("x".to_owned() + &"[5m:]".repeat(100_000))).contains("nested more than"));
    assert!(error(&("x[".to_owned() + &"(".repeat(100_000) + "1")).contains("nested more than"));
    for many in [
        "x[1".to_owned() + &"+1".repeat(100_000) + "]",
        "x offset (1".to_owned() + &"+1".repeat(100_000) + ")",
        "x[".to_owned() + &("(1".to_owned() + &"+1".repeat(400) + "+").repeat(100) + "1" + &")".repeat(100) + "]",
    ] {
        assert!(error(&many).contains("more than 500 operators"), "{}", error(&many));
    }
}

#[test]
fn selectors_alone() {
    let matchers = parse_selector(r#"up{job=~"a|b"}"#).unwrap();
    assert_eq!(matchers.len(), 2);
    assert!(parse_selector("sum(up)").is_err());
    assert!(parse_selector("up offset 5m").is_err());
}

#[test]
fn what_is_quoted_in_a_matcher_needs_no_end() {
    let matchers = parse_selector(r#"up{a=~"\\Qx.y"}"#).unwrap();
    let quoted = matchers.iter().find(|matcher| matcher.name() == "a").unwrap();
    assert!(quoted.matches("x.y") && !quoted.matches("xzy") && !quoted.matches("x.y)"));
}

/// Where in the query the duration is, in bytes.
#[test]
fn durations_without_a_usable_value_are_told_with_their_place() {
    for (query, message) in [
        ("foo[5m/(step()-step())]", "4:21: division by zero"),
        ("foo[1h+5m%(range()*0)]", "7:20: modulo by zero"),
        ("foo[-(step())]", "4:12: duration must be greater than 0"),
        ("foo offset (2 ^ 2h)", "12:18: duration is out of range"),
        ("foo[min_of(1m, -step())]", "11:22: duration must be greater than 0"),
    ] {
        let expr = parse(query, &ParseOptions::default()).unwrap();
        let error = Plan::new(query, &expr, EvalParams::instant(0)).unwrap_err();
        assert_eq!(error.to_string(), message, "{query}");
    }
}

#[test]
fn plans_say_what_they_need_and_do() {
    let query = "sum by (job) (rate(x{a=\"b\"}[5m] offset 1m)) / scalar(y @ 100) + max_over_time(z[10m:1m]) * (2 * 3)";
    let expr = parse(query, &ParseOptions::default()).unwrap();
    let plan = Plan::new(query, &expr, EvalParams::range(600_000, 900_000, 60_000)).unwrap();
    insta::assert_snapshot!(plan.explain(), @r#"
    binary +
      binary /
        fragment f0
          aggregate sum by (job)
            call Rate
              range 300000ms offset 60000ms of #0 {a="b", __name__="x"} 240001..=840000ms labels [job, __name__]
        once for 6 steps
          call Scalar
            fragment f1
              select at 100000ms of #1 {__name__="y"} -199999..=100000ms labels []
      binary *
        call MaxOverTime
          subquery 600000ms, 15 steps of 60000ms from 60000ms
            select of #2 {__name__="z"} -239999..=900000ms
        number 6
    "#);
    let times: Vec<(i64, i64)> = plan.selectors().iter().map(|s| (s.start_ms, s.end_ms)).collect();
    assert_eq!(times, [(240_001, 840_000), (-199_999, 100_000), (-239_999, 900_000)]);
}

/// Texts that look like queries more than random ones do.
fn query_like() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "foo",
        "sum",
        "by",
        "rate",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "5m",
        "1",
        ",",
        "+",
        "-",
        "*",
        "^",
        "==",
        "bool",
        "on",
        "ignoring",
        "group_left",
        "offset",
        "@",
        "start",
        "end",
        "()",
        "\"x\"",
        "=",
        "=~",
        "!~",
        "!=",
        "and",
        "or",
        "topk",
        "count_values",
        ":",
        "step",
        "min_of",
        "fill",
        "smoothed",
        "0x1f",
        "Inf",
        "NaN",
        "1e3",
        "#c\n",
        "'a'",
        "histogram_quantile",
        "info",
        "a:b",
        "</",
        ">/",
        "unless",
        "label_replace",
        "1_000",
    ]);
    prop::collection::vec(word, 0..24).prop_map(|words| words.join(" "))
}

/// Expressions that are right by construction.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("foo".to_owned()),
        Just(r#"foo{a="b",c=~"d.*"}"#.to_owned()),
        Just("foo offset 5m".to_owned()),
        Just("foo @ 12.5".to_owned()),
        Just("rate(foo[5m])".to_owned()),
        Just("foo smoothed".to_owned()),
        Just("increase(foo[5m] anchored)".to_owned()),
        Just("delta(foo[5m] smoothed)".to_owned()),
        Just("last_over_time(foo[2m])".to_owned()),
        Just("vector(-1.5)".to_owned()),
        Just("foo @ end() offset -1h".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let operator = prop::sample::select(vec![
            "+",
            "-",
            "*",
            "/",
            "%",
            "^",
            "atan2",
            "==",
            ">= bool",
            "and",
            "or",
            "unless on (a)",
            "* on (a) group_left (b)",
            "> ignoring (c)",
        ]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("-{a}")),
            inner.clone().prop_map(|a| format!("sum by (a) ({a})")),
            inner.clone().prop_map(|a| format!("topk without (a) (3, {a})")),
            inner.clone().prop_map(|a| format!("avg({a})")),
            inner.clone().prop_map(|a| format!("count_values(\"v\", {a})")),
            inner.clone().prop_map(|a| format!("quantile(0.5, {a})")),
            inner.clone().prop_map(|a| format!("histogram_quantile(0.9, {a})")),
            inner.clone().prop_map(|a| format!("histogram_fraction(0, 2, {a})")),
            inner.clone().prop_map(|a| format!("absent({a})")),
            inner.clone().prop_map(|a| format!("info({a})")),
            inner.clone().prop_map(|a| format!("sort_desc({a})")),
            inner.clone().prop_map(|a| format!("vector(scalar({a}))")),
            inner
                .clone()
                .prop_map(|a| format!("label_replace({a}, \"kind\", \"x\", \"kind\", \".*\")")),
            inner.clone().prop_map(|a| format!("avg_over_time(({a})[10m:1m])")),
            inner.clone().prop_map(|a| format!("rate(({a})[10m:1m])")),
            inner
                .clone()
                .prop_map(|a| format!("max_over_time(({a})[1h:5m] offset 1m)")),
            inner.prop_map(|a| format!("clamp({a}, 0, 1e9)")),
        ]
    })
}

/// Floats, histograms of both kinds and a series that changes between them.
fn mixed_source() -> MemorySource {
    let mut source = MemorySource::new();
    let histogram = |schema: i32, n: i64| {
        let custom_values = if schema < -4 { vec![1.0, 5.0] } else { Vec::new() };
        Arc::new(FloatHistogram {
            schema,
            count: 3.0 * n as f64,
            sum: 4.5 * n as f64,
            positive_spans: vec![Span { offset: 0, length: 3 }],
            positive_buckets: vec![n as f64; 3],
            custom_values,
            ..FloatHistogram::default()
        })
    };
    for n in 0..40 {
        for (kind, a) in [("float", "b"), ("exponential", "b"), ("custom", "c"), ("both", "b")] {
            let labels = Labels::from_pairs([("__name__", "foo"), ("a", a), ("c", "d1"), ("kind", kind)]);
            match kind {
                "exponential" => source.add_histogram(&labels, n * 25_000, histogram((n % 3) as i32, n)),
                "custom" => source.add_histogram(&labels, n * 25_000, histogram(-53, n % 7)),
                "both" if n % 4 == 0 => source.add_histogram(&labels, n * 25_000, histogram(0, n)),
                _ => source.add_float(&labels, n * 25_000, (n % 11) as f64),
            }
        }
    }
    source
}

/// Cases as `PROPTEST_CASES` says: more of them for a longer run.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2000);
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
        let _ = parse(&text, &ParseOptions::everything());
        let _ = parse_selector(&text);
    }

    #[test]
    fn no_query_like_text_makes_parser_or_planner_panic(text in query_like()) {
        if let Ok(expr) = parse(&text, &ParseOptions::everything()) {
            let _ = Plan::new(&text, &expr, EvalParams::instant(i64::MAX));
            let _ = Plan::new(&text, &expr, EvalParams::range(i64::MIN, i64::MAX, 1)).map(|plan| plan.explain());
            let text = expr.to_string();
            let again = parse(&text, &ParseOptions::everything()).unwrap();
            prop_assert_eq!(again.to_string(), text);
        }
    }

    #[test]
    fn no_expression_makes_the_engine_panic(text in expression(), delayed_name_removal: bool) {
        let source = mixed_source();
        let expr = parse(&text, &ParseOptions::everything()).unwrap();
        for params in [EvalParams::instant(600_000), EvalParams::range(300_000, 900_000, 45_000)] {
            let params = EvalParams { delayed_name_removal, ..params };
            let plan = Plan::new(&text, &expr, params).unwrap();
            let _ = Engine::execute(&plan, &source, &Limits { max_samples: 100_000, ..Limits::default() }, &CancelFlag::new());
        }
    }

    #[test]
    fn printing_and_parsing_again_changes_nothing(text in expression()) {
        let expr = parse(&text, &ParseOptions::everything()).unwrap();
        let printed = expr.to_string();
        let again = parse(&printed, &ParseOptions::everything()).unwrap();
        prop_assert_eq!(again.to_string(), printed);
    }
}

#[test]
fn the_expressions_of_a_query_are_bounded_together() {
    let pair = |n: usize| format!(r#"a="(?i)\\pL{{{n}}}",b=~"(?i)\\pL{{{n}}}""#);
    let pairs = |count: usize| (0..count).map(|i| pair(290 + i)).collect::<Vec<_>>().join(",");
    let options = gnomon_promql::ParseOptions::default();
    let parse = |matchers: String| gnomon_promql::parse(&format!("m{{{matchers}}}"), &options);
    assert!(parse(pairs(2)).is_ok());
    let refused = parse(pairs(4)).expect_err("too large").to_string();
    assert!(refused.contains("together they take more than 32MiB"), "{refused}");
    // The same one is there once.
    assert!(parse([pair(290), pair(290), pair(290), pair(290)].join(",")).is_ok());
}
