use super::*;
use crate::labels::Labels;

fn rule(change: impl FnOnce(&mut RelabelConfig)) -> RelabelConfig {
    let mut rule = RelabelConfig::default();
    change(&mut rule);
    rule.validate().expect("a rule that Prometheus takes");
    rule
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn regex(text: &str) -> Regex {
    Regex::anchored(text).expect("an expression")
}

fn run(before: &[(&str, &str)], rules: &[RelabelConfig]) -> Option<String> {
    let mut labels = LabelsBuilder::from_labels(Labels::from_pairs(before.iter().copied()).as_ref());
    process(&mut labels, rules).then(|| labels.build().to_string())
}

#[test]
fn replace_takes_groups_into_value_and_name() {
    let labels = [("a", "foo"), ("b", "bar"), ("c", "baz")];
    let rules = [
        rule(|r| {
            r.source_labels = strings(&["a", "b"]);
            r.regex = regex("f(.*);(.*)r");
            r.target_label = "d".into();
            r.replacement = "ch${1}-ch${1}".into();
        }),
        rule(|r| {
            r.source_labels = strings(&["b"]);
            r.regex = regex("b(?P<rest>.*)");
            r.target_label = "x_${rest}".into();
            r.replacement = "$0$missing$$".into();
        }),
        // Does not match: nothing changes.
        rule(|r| {
            r.source_labels = strings(&["a"]);
            r.regex = regex("nope");
            r.target_label = "a".into();
        }),
        // An empty result removes.
        rule(|r| {
            r.target_label = "c".into();
            r.replacement = String::new();
        }),
    ];
    assert_eq!(
        run(&labels, &rules).as_deref(),
        Some(r#"{a="foo", b="bar", d="choo-choo", x_ar="bar$"}"#)
    );
}

#[test]
fn actions_keep_drop_map_and_hash() {
    let labels = [("a", "foo"), ("b", "bar"), ("__meta_x", "X")];
    let by = |action, expression: &str, source: &[&str]| {
        rule(|r| {
            r.action = action;
            r.regex = regex(expression);
            r.source_labels = strings(source);
            if action == Action::LabelMap {
                r.replacement = "${1}".into();
            }
        })
    };
    assert_eq!(
        run(&labels, &[by(Action::Keep, "foo", &["a"])]).as_deref(),
        run(&labels, &[]).as_deref()
    );
    assert_eq!(run(&labels, &[by(Action::Keep, "fo", &["a"])]), None);
    assert_eq!(run(&labels, &[by(Action::Drop, "foo;bar", &["a", "b"])]), None);
    assert_eq!(
        run(&labels, &[by(Action::LabelDrop, "__.*", &[])]).as_deref(),
        Some(r#"{a="foo", b="bar"}"#)
    );
    assert_eq!(
        run(&labels, &[by(Action::LabelKeep, "a|z", &[])]).as_deref(),
        Some(r#"{a="foo"}"#)
    );
    assert_eq!(
        run(&labels, &[by(Action::LabelMap, "__meta_(.*)", &[])]).as_deref(),
        Some(r#"{__meta_x="X", a="foo", b="bar", x="X"}"#)
    );
    let hash = rule(|r| {
        r.action = Action::HashMod;
        r.source_labels = strings(&["c"]);
        r.target_label = "d".into();
        r.modulus = 1000;
    });
    // The values are those of Prometheus' own test.
    assert_eq!(run(&[("c", "baz")], &[hash]).as_deref(), Some(r#"{c="baz", d="976"}"#));
    assert_eq!(
        run(
            &[("a", "foo\nbar")],
            &[rule(|r| {
                r.action = Action::HashMod;
                r.source_labels = strings(&["a"]);
                r.target_label = "b".into();
                r.modulus = 1000;
            })]
        )
        .as_deref(),
        Some(r#"{a="foo\nbar", b="734"}"#)
    );
}

#[test]
fn equal_and_case() {
    let labels = [("tmp", "9100"), ("port", "9100"), ("name", "İstanbul ß ᾳ Σ")];
    let equal = |action, source: &str| {
        rule(|r| {
            r.action = action;
            r.source_labels = strings(&[source]);
            r.target_label = "port".into();
        })
    };
    assert!(run(&labels, &[equal(Action::KeepEqual, "tmp")]).is_some());
    assert!(run(&labels, &[equal(Action::KeepEqual, "name")]).is_none());
    assert!(run(&labels, &[equal(Action::DropEqual, "tmp")]).is_none());
    let case = |action| {
        rule(|r| {
            r.action = action;
            r.source_labels = strings(&["name"]);
            r.target_label = "name".into();
        })
    };
    assert_eq!(
        run(&labels[2..], &[case(Action::Lowercase)]).as_deref(),
        Some(r#"{name="istanbul ß ᾳ σ"}"#)
    );
    assert_eq!(
        run(&labels[2..], &[case(Action::Uppercase)]).as_deref(),
        Some(r#"{name="İSTANBUL ß ᾼ Σ"}"#)
    );
}

#[test]
fn rules_that_cannot_be_are_refused_in_prometheus_words() {
    type Change = fn(&mut RelabelConfig);
    let cases: [(Change, &str); 9] = [
        (
            |_| {},
            "relabel configuration for replace action requires 'target_label' value",
        ),
        (
            |r| r.action = Action::HashMod,
            "relabel configuration for hashmod requires non-zero modulus",
        ),
        (
            |r| (r.action, r.modulus) = (Action::HashMod, 1),
            "relabel configuration for hashmod action requires 'target_label' value",
        ),
        (
            |r| (r.names, r.target_label) = (NameRules::Legacy, "0${3}".into()),
            r#""0${3}" is invalid 'target_label' for replace action"#,
        ),
        (
            |r| (r.action, r.target_label, r.replacement) = (Action::Lowercase, "a".into(), "x".into()),
            "'replacement' can not be set for lowercase action",
        ),
        (
            |r| (r.action, r.target_label, r.separator) = (Action::DropEqual, "a".into(), ",".into()),
            "dropequal action requires only 'source_labels' and `target_label`, and no other fields",
        ),
        (
            |r| (r.action, r.source_labels) = (Action::LabelDrop, vec!["a".into()]),
            "labeldrop action requires only 'regex', and no other fields",
        ),
        (
            |r| (r.action, r.names, r.replacement) = (Action::LabelMap, NameRules::Legacy, "a-b".into()),
            r#""a-b" is invalid 'replacement' for labelmap action"#,
        ),
        (
            |r| (r.action, r.names, r.target_label) = (Action::Uppercase, NameRules::Legacy, "${1}".into()),
            r#""${1}" is invalid 'target_label' for uppercase action"#,
        ),
    ];
    for (change, message) in cases {
        let mut rule = RelabelConfig::default();
        change(&mut rule);
        assert_eq!(rule.validate().map_err(|e| e.to_string()), Err(message.to_owned()));
    }
    assert_eq!(
        "keepX".parse::<Action>().map_err(|e| e.to_string()),
        Err(r#"unknown relabel action "keepX""#.into())
    );
    assert_eq!("HashMod".parse(), Ok(Action::HashMod));
}

#[test]
fn classic_templates_are_names_with_references() {
    for good in ["a", "$1", "${1}", "a_${b}_$c1", "${1}x", "$a$b", "_"] {
        assert!(NameRules::Legacy.allow_template(good), "{good}");
    }
    for bad in ["", "1a", "a-b", "$", "${", "${}", "${a", "a$-", "é", "a b"] {
        assert!(!NameRules::Legacy.allow_template(bad), "{bad}");
    }
}
