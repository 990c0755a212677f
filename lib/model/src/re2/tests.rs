use super::*;
use proptest::prelude::*;

fn regex(expression: &str) -> Regex {
    Regex::anchored(expression).expect("an expression")
}

/// Rows of expression, text and whether it matches; or expression, null and why it is refused.
#[test]
fn expressions_mean_what_they_mean_in_go() {
    let rows: Vec<(String, Option<String>, serde_json::Value)> =
        serde_json::from_str(include_str!("table.json")).expect("the table");
    assert!(rows.len() >= 200, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for (expression, text, expected) in rows {
        let got = match (Regex::anchored(&expression), &text) {
            (Ok(regex), Some(text)) => {
                let matched = regex.is_match(text);
                assert_eq!(
                    matched,
                    regex.captures(text).is_some(),
                    "{expression:?} on {text:?}: two answers"
                );
                serde_json::Value::from(matched)
            }
            (Ok(_), None) => "accepted".into(),
            (Err(error), _) => error.to_string().into(),
        };
        let expected = match expected.as_str() {
            Some(message) => format!("error parsing regexp: {message}").into(),
            None => expected,
        };
        if got != expected {
            wrong.push(format!("{expression:?} on {text:?}: {got}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nesting_and_size_are_limited() {
    let nested = |depth: usize, inner: &str| format!("{}{inner}{}", "(".repeat(depth), ")".repeat(depth));
    assert!(regex(&nested(900, "a")).is_match("a"));
    assert!(regex(&nested(999, "")).is_match(""));
    for depth in [1000, 100_000] {
        let error = Regex::anchored(&nested(depth, "a")).expect_err("too deep");
        assert_eq!(error.message, "expression nests too deeply");
    }
    assert!(regex(&format!("{}a{}", "(?:".repeat(50_000), ")".repeat(50_000))).is_match("a"));
    for long in [r"(?i)\pL".repeat(20_000), format!(r"(?i)[{}]", r"\pL".repeat(20_000))] {
        assert_eq!(
            Regex::anchored(&long).expect_err("too large").message,
            "expression too large"
        );
    }
    // Neither may take time in the square of its length.
    assert!(Regex::anchored(&format!("[{}", "[:".repeat(200_000))).is_err());
    let many: String = ('\u{4e00}'..'\u{9fff}').step_by(2).collect();
    assert!(regex(&format!("[{}]", many.repeat(20))).is_match("\u{4e02}"));
    let error = Regex::anchored(&r"\pL{999}".repeat(20)).expect_err("too large");
    assert_eq!(error.message, "expression too large");
}

#[test]
fn what_is_quoted_to_the_end_is_an_expression_of_its_own_only() {
    let alone = Regex::alone(r"\Qx.y").expect("an expression");
    assert!(alone.is_match("x.y") && !alone.is_match("xzy"));
    let error = Regex::anchored(r"\Qx.y").expect_err("it takes the anchors with it");
    assert_eq!(
        error.to_string(),
        r"error parsing regexp: missing closing ): `^(?s:\Qx.y)$`"
    );
}

#[test]
fn groups_expand_as_in_go() {
    let host = regex("(?P<host>[^:]+):(?P<port>[0-9]+)(/x)?");
    let captures = host.captures("example:9090").expect("a match");
    for (template, expanded) in [
        ("", ""),
        ("plain", "plain"),
        ("$1", "example"),
        ("$1-$2", "example-9090"),
        ("$1_$2", "9090"),
        ("${1}_$2", "example_9090"),
        ("$0", "example:9090"),
        ("$host", "example"),
        ("${port}0", "90900"),
        ("$port0", ""),
        ("$3", ""),
        ("$4", ""),
        ("$99999999999999999999", ""),
        ("$01", ""),
        ("${01}", ""),
        ("$$1", "$1"),
        ("$$$1", "$example"),
        ("a$", "a$"),
        ("$-x", "$-x"),
        ("${", "${"),
        ("${1", "${1"),
        ("${}", "${}"),
        ("${1-2}", "${1-2}"),
        ("$é", ""),
        ("é$1é", "é"),
    ] {
        assert_eq!(captures.expand(template), expanded, "{template}");
    }
    assert_eq!(captures.name("port"), Some("9090"));
    assert_eq!(captures.get(3), None);
    assert_eq!(
        regex("(?P<n>a)|(?P<n>b)").captures("b").and_then(|c| c.name("n")),
        Some("b")
    );
    assert_eq!(
        regex("(.*)").captures("whole").map(|c| c.expand("<$1>")).as_deref(),
        Some("<whole>")
    );
    assert_eq!(
        regex("((a|b))").captures("b").map(|c| c.expand("$2$1")).as_deref(),
        Some("bb")
    );
    assert_eq!(
        regex("(a){0}(b)").captures("b").map(|c| c.expand("[$1$2]")).as_deref(),
        Some("[b]")
    );
}

#[test]
fn choices_of_literals_are_seen() {
    for (expression, texts) in [
        ("a|b|c", Some(vec!["a", "b", "c"])),
        ("foo", Some(vec!["foo"])),
        ("(foo|bar)", Some(vec!["bar", "foo"])),
        ("foo|foobar|foo", Some(vec!["foo", "foobar"])),
        ("x-(?:1|2)", Some(vec!["x-1", "x-2"])),
        ("node[1-3]", Some(vec!["node1", "node2", "node3"])),
        ("", Some(vec![""])),
        ("a?", None),
        ("a|b.*", None),
        (".*", None),
        ("[^a]", None),
    ] {
        let texts = texts.map(|texts| texts.into_iter().map(str::to_owned).collect());
        assert_eq!(regex(expression).literal_alternatives(), texts, "{expression}");
    }
    let many: Vec<String> = (0..20_000).map(|i| format!("instance-{i}:9100")).collect();
    let all = regex(&many.join("|"));
    assert!(all.is_match("instance-19999:9100") && !all.is_match("instance-20000:9100"));
    assert_eq!(all.literal_alternatives().map(|texts| texts.len()), Some(20_000));
    assert!(
        regex("(?:(?:[ab]{1}[cd][ef]){1}[a-z]{1}[a-z])[a-z][a-z]")
            .literal_alternatives()
            .is_none()
    );
}

#[test]
fn prefixes_and_shapes_are_seen() {
    for (expression, prefix) in [
        ("foo.*", "foo"),
        ("(foo)+x", "foo"),
        ("foo|bar.*", ""),
        ("(?i)foo.*", ""),
        ("foobar", "foobar"),
        ("^a.b", ""),
    ] {
        assert_eq!(regex(expression).literal_prefix(), prefix, "{expression}");
    }
    assert!(regex("(?:.*)").matches_everything() && regex("((.*))").matches_everything());
    assert!(!regex("(?-s).*").matches_everything() && !regex(".*a?").matches_all_but_empty());
    assert!(regex("(.+)").matches_all_but_empty() && !regex(".+").matches_everything());
    assert_eq!(Regex::match_all(), regex("(.*)"));
}

proptest! {
    #[test]
    fn no_expression_panics(expression in r"[-a-c(){}|*+?\[\]^$.\\0-9:<>=!,PQEpLdwsbBzAiUé]{0,24}", text in "[a-c0-9é\n]{0,8}") {
        if let Ok(regex) = Regex::anchored(&expression) {
            prop_assert_eq!(regex.is_match(&text), regex.captures(&text).is_some());
            if let Some(texts) = regex.literal_alternatives() {
                prop_assert!(texts.iter().all(|text| regex.is_match(text)));
            }
        }
    }
}
#[test]
fn an_expression_in_use_is_compiled_once() {
    let expression = r"(shared|\pL{100}).*x";
    let (first, again) = (
        Regex::anchored(expression).unwrap(),
        Regex::anchored(expression).unwrap(),
    );
    assert!(std::sync::Arc::ptr_eq(&first.0, &again.0));
    assert!(super::shared::is_known(expression));
    drop((first, again));
    assert!(!super::shared::is_known(expression));
}

#[test]
fn long_expressions_are_not_even_read() {
    let alternatives = |bytes: usize| "abcdefghi|".repeat(bytes / 10 + 1)[..bytes].to_owned();
    assert!(Regex::anchored(&alternatives(1 << 20)).is_ok());
    let error = Regex::anchored(&alternatives((1 << 20) + 1)).unwrap_err();
    assert_eq!(error.message, "expression too large");
    assert!(error.expression.len() < 100 && error.expression.starts_with("abcdefghi|"));
}

#[test]
fn what_may_be_costly_is_known_before() {
    for text in [
        r"\pL",
        r"a{2}",
        r#"up{a=~"\\PL"}"#,
        r#"{a=~"x\x7b300}"}"#,
        &"a".repeat(2000),
    ] {
        assert!(super::is_costly(text), "{text}");
    }
    for text in [
        "a|b.*",
        r#"sum by (job) (rate(x_total{code=~"5..|\\d+"}[5m]))"#,
        "(?i)abc[^x]",
    ] {
        assert!(!super::is_costly(text), "{text}");
    }
    // The dearest of those that are not.
    let most = format!("(?i){}", "[^k]|.".repeat(170));
    assert!(!super::is_costly(&most));
    assert!(Regex::anchored(&most).unwrap().memory_bytes() < 1 << 20);
}

fn expression() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ab]{1,3}",
        2 => Just(".*".to_owned()),
        2 => Just(".+".to_owned()),
        1 => Just(".{2,}".to_owned()),
        1 => Just("[0-9]+".to_owned()),
        1 => Just("(?:a|bb|)".to_owned()),
        1 => Just("(b|é)?".to_owned()),
        1 => Just("(?i:a)".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just("b$".to_owned()),
        1 => Just("\\b".to_owned()),
    ];
    let concat = || prop::collection::vec(piece.clone(), 0..5).prop_map(|pieces| pieces.concat());
    prop_oneof![
        4 => concat(),
        1 => concat().prop_map(|inner| format!("({inner})")),
        1 => prop::collection::vec(concat(), 1..4).prop_map(|choices| choices.join("|")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Many texts, so that the automaton walks.
    #[test]
    fn a_scan_finds_what_the_engine_finds(
        expression in expression(),
        texts in prop::collection::btree_set("[ab0é\n]{0,7}", 0..30),
        more in 0..2_usize,
    ) {
        let regex = regex(&expression);
        let mut texts: Vec<String> = texts.into_iter().collect();
        if more > 0 {
            texts.extend((0..600).map(|n| format!("{}{n:03}b", if n % 3 == 0 { "a" } else { "ba" })));
            texts.sort();
        }
        let parsed = parse::parse(&expression).expect("an expression");
        let engine = build_engine(parsed.hir, &expression).expect("an engine");
        let naive: Vec<usize> = (0..texts.len()).filter(|at| engine.is_match(anchored(&texts[*at]))).collect();
        let mut found = Vec::new();
        regex.scan().places(texts.len(), |at| &texts[at], |at| found.push(at));
        prop_assert_eq!(&found, &naive, "{}", expression);
        // In no order, and from the end.
        let mut scan = regex.scan();
        let mut found: Vec<usize> = (0..texts.len()).rev().filter(|at| scan.is_match(&texts[*at])).collect();
        found.reverse();
        prop_assert_eq!(&found, &naive, "{}", expression);
        for text in &texts {
            prop_assert_eq!(regex.is_match(text), engine.is_match(anchored(text)), "{} on {:?}", expression, text);
        }
    }
}

#[test]
fn texts_with_anything_between_them_need_no_automaton() {
    for (expression, text, expected) in [
        ("a.*", "a", true),
        ("a.+", "a", false),
        ("a.+", "aé", true),
        (".*a", "ba", true),
        (".+a", "a", false),
        (".*a.*b.*", "xaxbx", true),
        (".*a.*b.*", "xbxa", false),
        ("aa.*aa", "aaa", false),
        ("aa.*aa", "aaaa", true),
        ("a.*b.+b", "abb", false),
        ("a.*b.+b", "abbb", true),
        ("é.*é", "é", false),
        (".*\n.*", "a\nb", true),
        ("(a.*)", "abc", true),
    ] {
        let regex = regex(expression);
        assert!(matches!(regex.0.shape, Shape::Glob { .. }), "{expression}");
        assert_eq!(regex.is_match(text), expected, "{expression} on {text:?}");
    }
    let captures = regex("(a.*c)");
    let captures = captures.captures("abc").expect("a match");
    assert_eq!(captures.get(1), Some("abc"));
}

#[test]
fn what_cannot_match_is_passed_over_at_once() {
    let texts: Vec<String> = (0..100_000).map(|n| format!("node-{n:06}")).collect();
    let looked_at = std::cell::Cell::new(0);
    let count = |expression: &str| {
        looked_at.set(0);
        let (regex, mut found) = (regex(expression), 0);
        let text_at = |at: usize| {
            looked_at.set(looked_at.get() + 1);
            texts[at].as_str()
        };
        regex.scan().places(texts.len(), text_at, |_| found += 1);
        (found, looked_at.get())
    };
    for (expression, found, most) in [
        ("node-0123.*", 100, 100),
        ("pod-.*", 0, 100),
        ("[0-9]+", 0, 600),
        ("node-(0|1)00000", 1, 6_000),
    ] {
        let (matched, looked_at) = count(expression);
        assert_eq!(matched, found, "{expression}");
        assert!(looked_at <= most, "{expression}: {looked_at}");
    }
}

#[test]
fn nothing_more_is_compiled_once_nobody_waits() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let given_up = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&given_up);
    let compiled = super::while_wanted(given_up, || {
        let first = Regex::anchored(r"wanted_(\d{2})+");
        flag.store(true, Ordering::Relaxed);
        // What is there needs not be compiled.
        (
            first,
            Regex::anchored(r"wanted_(\d{2})+"),
            Regex::anchored(r"not_(\d{2})+"),
        )
    });
    assert!(compiled.0.is_ok() && compiled.1.is_ok());
    let refused = compiled.2.expect_err("it is not compiled").to_string();
    assert!(refused.contains("nobody waits for it"), "{refused}");
    assert!(Regex::anchored(r"not_(\d{2})+").is_ok(), "the next one is wanted");
}
