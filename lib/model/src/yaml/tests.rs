use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn message<T: fmt::Debug>(result: Result<T, YamlError>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn values_are_read_where_they_stand() {
    let document =
        "a: 1h30m\nb: [x, 2, true]\nc:\n  d: 0x10\n  e: 1_000\n  f: 5e7\n  g: '1'\nh: null\ni: ~\nj: 15MiB\n";
    let root = parse(document).unwrap();
    let mut fields = At::root(&root).fields().unwrap();
    assert_eq!(fields.read("a", At::duration), Ok(Some(Duration::from_secs(5400))));
    assert_eq!(fields.texts("b").unwrap(), ["x", "2", "true"]);
    let mut inner = fields.get("c").unwrap().fields().unwrap();
    assert_eq!(inner.read("d", At::integer), Ok(Some(16)));
    assert_eq!(inner.read("e", At::count), Ok(Some(1000)));
    assert_eq!(inner.read("f", At::integer), Ok(Some(50_000_000)));
    assert_eq!(
        message(inner.read("g", At::duration)),
        "7:6: c.g: not a valid duration string: \"1\""
    );
    assert_eq!(
        message(inner.read("d", At::flag)),
        "4:6: c.d: \"0x10\" is neither true nor false"
    );
    inner.finish().unwrap();
    assert!(fields.get("h").is_none() && fields.present("i").is_some());
    assert_eq!(
        message(fields.finish()),
        "10:1: j: unknown field \"j\"; is \"a\" meant?"
    );
}

#[test]
fn unknown_fields_suggest_a_near_name() {
    let root = parse("consult_sd_configs: []").unwrap();
    let mut fields = At::root(&root).fields().unwrap();
    assert!(fields.get("consul_sd_configs").is_none() && fields.get("job_name").is_none());
    assert_eq!(
        message(fields.finish()),
        "1:1: consult_sd_configs: unknown field \"consult_sd_configs\"; is \"consul_sd_configs\" meant?"
    );
}

#[test]
fn aliases_and_merge_keys_are_resolved() {
    let root =
        parse("base: &b {x: 1, y: 2}\nall:\n  <<: *b\n  y: 3\nlist: [*b, *b]\nmany: {<<: [*b, {z: 4}]}").unwrap();
    let mut fields = At::root(&root).fields().unwrap();
    let texts = |at: At<'_>| {
        at.text_map()
            .unwrap()
            .into_iter()
            .map(|(n, v)| n + &v)
            .collect::<String>()
    };
    assert_eq!(texts(fields.get("all").unwrap()), "x1y3");
    assert_eq!(texts(fields.get("list").unwrap().items().unwrap().remove(1)), "x1y2");
    assert_eq!(texts(fields.get("many").unwrap()), "x1y2z4");
}

#[test]
fn documents_that_are_wrong_say_where() {
    assert_eq!(message(parse("a: 1\nb: 2\na: 3")), "3:1: key \"a\" already set in map");
    assert!(message(parse("a: [1, 2")).starts_with("1:") || message(parse("a: [1, 2")).starts_with("2:"));
    assert_eq!(message(parse("{[1]: 2}")), "1:2: the name of a field is not a text");
    assert_eq!(
        message(parse("a: &a [*a]")),
        "1:8: an alias stands within what it names"
    );
    assert_eq!(
        message(parse("<<: 1")),
        "1:5: map merge (<<) requires a map or a list of maps as the value"
    );
    let root = parse("x: !!binary /w==").unwrap();
    let mut fields = At::root(&root).fields().unwrap();
    assert_eq!(
        message(fields.text("x")),
        "1:13: x: a !!binary value, which is not text"
    );
    assert_eq!(parse("").unwrap().value, Value::Null);
}

#[test]
fn what_aliases_may_cost_is_bounded() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let ten = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{ten}]\n"));
    }
    assert!(message(parse(&bomb)).contains("too large"));
    let deep = format!("{}x{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&deep).is_err());
    let mut tower = "a0: &a0 x\n".to_owned();
    for i in 1..2000 {
        tower.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
    }
    assert!(message(parse(&tower)).contains("nested more than 256 levels"));
}

#[test]
fn texts_are_written_so_that_they_read_back() {
    let out = Out::Map(vec![
        ("plain".into(), Out::text("http://x:1/a?b#c")),
        ("number".into(), Out::text("123")),
        ("address".into(), Out::text("1.2.3.4:9093")),
        ("time".into(), Out::text("12:30:45")),
        ("flow".into(), Out::Flow(vec!["a".into(), "b,c".into(), "1".into()])),
        (
            "list".into(),
            Out::List(vec![Out::Map(vec![
                ("a".into(), Out::Int(1)),
                ("b".into(), Out::texts(["x"])),
            ])]),
        ),
        ("empty".into(), Out::List(Vec::new())),
        ("star".into(), Out::text("*.json")),
        ("lines".into(), Out::text("a\nb")),
        ("map".into(), Out::Map(vec![("yes".into(), Out::Bool(true))])),
    ]);
    let text = "plain: http://x:1/a?b#c\nnumber: \"123\"\naddress: 1.2.3.4:9093\ntime: \"12:30:45\"\n\
                flow: [a, \"b,c\", \"1\"]\nlist:\n- a: 1\n  b:\n  - x\nempty: []\nstar: '*.json'\n\
                lines: \"a\\nb\"\nmap:\n  \"yes\": true\n";
    assert_eq!(out.to_yaml(), text);
}

#[test]
fn a_quoted_merge_key_is_a_name() {
    let root = parse("\"<<\": [x]\nb: {<<: {c: d}}").unwrap();
    let names: Vec<_> = At::root(&root)
        .entries()
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["<<", "b"]);
    assert!(parse("<<: [x]").is_err());
}

proptest! {
    #[test]
    fn any_text_survives_being_written_and_read(text in "(?s).{0,12}|[-a-z0-9:#'\"{}\\[\\]!&*?|>%@`~. \n\t=<,_]{0,10}") {
        let written = Out::Map(vec![(text.clone(), Out::List(vec![Out::text(text.clone())]))]).to_yaml();
        let root = parse(&written).map_err(|e| TestCaseError::fail(format!("{e}: {written:?}")))?;
        let read = At::root(&root).entries().unwrap().into_iter().map(|(n, at)| (n.to_owned(), at.texts())).next();
        let texts = if text.is_empty() { None } else { Some((text.clone(), Ok(vec![text.clone()]))) };
        if texts.is_some() {
            prop_assert_eq!(read, texts, "{}", written);
        }
    }

    #[test]
    fn no_text_panics(text in "[-a-c:&*!<\\[\\]{} \n#'\"|>?,]{0,40}") {
        if let Ok(root) = parse(&text) {
            let _ = At::root(&root).entries();
        }
    }
}

#[test]
fn long_texts_are_shown_by_their_ends() {
    let error = YamlError {
        mark: Mark { line: 1, column: 2 },
        path: "ü".repeat(5000),
        message: format!("begin {} end", "x".repeat(1 << 20)),
    };
    let shown = error.to_string();
    assert!(
        shown.len() < 1600 && shown.starts_with("1:2: üü") && shown.ends_with("x end"),
        "{shown}"
    );
    assert!(shown.contains("…üü") && shown.contains(": begin xx"), "{shown}");
}
