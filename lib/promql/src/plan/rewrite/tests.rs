//! Each rewrite before and after, as text.

use super::{meaning, named};
use crate::parser::{ParseOptions, parse};
use crate::plan::{EvalParams, Node, NodeKind, Plan};

/// The plan after the rewrites of these names.
fn after(query: &str, rewrites: &[&str]) -> String {
    let expr = parse(query, &ParseOptions::everything()).unwrap();
    let plan = Plan::built(query, &expr, EvalParams::range(600_000, 900_000, 60_000)).unwrap();
    let one = |plan, name: &&str| {
        if *name == "invariants" {
            meaning(plan)
        } else {
            named(plan, name)
        }
    };
    rewrites.iter().fold(plan, one).explain()
}

#[test]
fn constants_become_their_value() {
    let query = "x * -(2 ^ 3) + max_of(1, pi()) + scalar(vector(7))";
    insta::assert_snapshot!(after(query, &[]), @r#"
    binary +
      binary +
        binary *
          select of #0 {__name__="x"} 300001..=900000ms
          negate
            binary ^
              number 2
              number 3
        call MaxOf
          number 1
          number 3.141592653589793
      call Scalar
        call Vector
          number 7
    "#);
    insta::assert_snapshot!(after(query, &["constants"]), @r#"
    binary +
      binary +
        binary *
          select of #0 {__name__="x"} 300001..=900000ms
          number -8
        number 3.141592653589793
      number 7
    "#);
}

#[test]
fn what_at_pins_is_evaluated_once() {
    let query = "sum(x @ 60) + max_over_time(y[5m:1m] @ 100) + time()";
    insta::assert_snapshot!(after(query, &[]), @r#"
    binary +
      binary +
        aggregate sum by ()
          select at 60000ms of #0 {__name__="x"} -239999..=60000ms
        call MaxOverTime
          subquery 300000ms at 100000ms, 5 steps of 60000ms from -180000ms
            select of #1 {__name__="y"} -479999..=60000ms
      call Time
    "#);
    insta::assert_snapshot!(after(query, &["invariants"]), @r#"
    binary +
      once for 6 steps
        binary +
          aggregate sum by ()
            select at 60000ms of #0 {__name__="x"} -239999..=60000ms
          call MaxOverTime
            subquery 300000ms at 100000ms, 5 steps of 60000ms from -180000ms
              select of #1 {__name__="y"} -479999..=60000ms
      call Time
    "#);
}

#[test]
fn matchers_reach_the_other_operand() {
    for query in [
        // One name, all labels looked at: no two can match one.
        r#"a{x="1", y="2"} / b"#,
        // By groups that are unique.
        r#"count by (x) (a) * on (x) count by (x) (b{x=~"1|2", y="3"})"#,
        r#"a and on (x) b{x="1", y="2"}"#,
        r#"a{x="1"} unless b"#,
    ] {
        let before = after(query, &[]);
        let after = after(query, &["matchers"]);
        assert_ne!(before, after, "{query}");
    }
    insta::assert_snapshot!(after(r#"a{x="1", y="2"} / b"#, &["matchers"]), @r#"
    binary /
      select of #0 {x="1", y="2", __name__="a"} 300001..=900000ms
      select of #1 {__name__="b", x="1", y="2"} 300001..=900000ms
    "#);
    insta::assert_snapshot!(
        after(r#"count by (x) (a) * on (x) count by (x) (b{x=~"1|2", y="3"})"#, &["matchers"]), @r#"
    binary *
      aggregate count by (x)
        select of #0 {__name__="a", x=~"1|2"} 300001..=900000ms
      aggregate count by (x)
        select of #1 {x=~"1|2", y="3", __name__="b"} 300001..=900000ms
    "#);
}

#[test]
fn matchers_stay_where_something_could_be_missed() {
    for query in [
        // Two of b may have the same x, which is an error.
        r#"a{x="1"} / on (x) b"#,
        r#"a{x="1"} / ignoring (x) b"#,
        r#"a{x="1"} / on (y) b"#,
        r#"a{x="1"} or b"#,
        r#"a unless b{x="1"}"#,
        r#"a{x="1"} + fill (0) b"#,
        // What rate and sum say of b.
        r#"a{x="1"} / rate(b[5m])"#,
        r#"a{x="1"} / on (x) sum by (x) (b)"#,
        r#"a{x="1"} / {x=~".+"}"#,
        r#"a{x!="1"} / b"#,
        r#"label_replace(a{x="1"}, "x", "2", "", "") / b"#,
    ] {
        assert_eq!(after(query, &[]), after(query, &["matchers"]), "{query}");
    }
}

#[test]
fn selectors_say_what_is_looked_at() {
    let query = r#"count by (job) (a) + sum by (job) (rate(b[5m])) + topk(1, c) + absent(d) + sum(e)"#;
    insta::assert_snapshot!(after(query, &["projection"]), @r#"
    binary +
      binary +
        binary +
          binary +
            aggregate count by (job)
              select of #0 {__name__="a"} 300001..=900000ms labels [job] presence
            aggregate sum by (job)
              call Rate
                range 300000ms of #1 {__name__="b"} 300001..=900000ms labels [job, __name__]
          aggregate topk by ()
            number 1
            select of #2 {__name__="c"} 300001..=900000ms
        call Absent
          select of #3 {__name__="d"} 300001..=900000ms labels [] presence
      aggregate sum by ()
        select of #4 {__name__="e"} 300001..=900000ms labels []
    "#);
}

#[test]
fn what_stands_twice_is_evaluated_once() {
    let query = "rate(a[5m]) / (rate(a[5m]) + sum(rate(a[5m] offset 1m)))";
    insta::assert_snapshot!(after(query, &["common", "requests"]), @r#"
    binary /
      shared $0
        call Rate
          range 300000ms of #0 {__name__="a"} 240001..=900000ms
      binary +
        shared $0
          call Rate
            range 300000ms of #0 {__name__="a"} 240001..=900000ms
        aggregate sum by ()
          call Rate
            range 300000ms offset 60000ms of #0 {__name__="a"} 240001..=900000ms
    "#);
    // `timestamp` looks at samples.
    let query = "timestamp(a) - timestamp(a offset 1m) + a";
    assert!(!after(query, &["common"]).contains("shared"));
}

/// A selector within one is no other's; else it could not go to others, or would get the answer to another.
#[test]
fn fragments_are_shared_as_a_whole_or_not() {
    for (query, pushed) in [
        ("sum by (job) (a) or (a / on (job) group_left () b)", 3),
        ("sum by (job) (a) or a", 2),
        ("sum(a) / (sum(a) + sum(b))", 2),
        ("max(rate(a[5m])) + sum(rate(a[5m]))", 2),
    ] {
        let expr = parse(query, &ParseOptions::everything()).unwrap();
        let plan = Plan::new(query, &expr, EvalParams::instant(900_000)).unwrap();
        assert_eq!(plan.pushed().count(), pushed, "{}", plan.explain());
        let mut numbers = Vec::new();
        numbers_of(&plan.root, &mut numbers);
        assert!(numbers.iter().all(|id| *id < pushed), "{query}: {numbers:?}");
    }
}

fn numbers_of(node: &Node, numbers: &mut Vec<usize>) {
    if let NodeKind::Fragment { id, .. } = &node.kind {
        numbers.push(*id);
    }
    node.children().into_iter().for_each(|child| numbers_of(child, numbers));
}

#[test]
fn overlapping_selectors_are_read_once() {
    insta::assert_snapshot!(after("rate(a[5m]) / rate(a[1h]) + b offset 1d + b", &["requests"]), @r#"
    binary +
      binary +
        binary /
          call Rate
            range 300000ms of #0 {__name__="a"} -2999999..=900000ms
          call Rate
            range 3600000ms of #0 {__name__="a"} -2999999..=900000ms
        select offset 86400000ms of #1 {__name__="b"} -86099999..=-85500000ms
      select of #2 {__name__="b"} 300001..=900000ms
    "#);
}
