//! Regular expressions beside a real Prometheus 2.42: every expression of `lib/model/src/re2/table.json` and some more,
//! against every text, as a matcher and in `label_replace`.
//!
//! 3.x compiles `^(?s:expression)$`, 2.42 `^(?:expression)$`: it is asked for `(?s:expression)`.

use crate::answers::{self, seconds};
use crate::harness::client::encode;
use crate::harness::reference::Prometheus;
use crate::harness::{Http, peers, remote};
use crate::store::Store;
use gnomon_promql::promqltest::Answered;
use gnomon_proto::prometheus::TimeSeries;
use std::collections::BTreeSet;
use std::fmt::Write as _;

const AT_MS: i64 = 1_704_067_200_000;

/// What dashboards have, and what matchers of either server have shortcuts for.
const MORE: &[&str] = &[
    "foo.*",
    "foo.+",
    ".*foo",
    ".+foo",
    ".*foo.*",
    ".+foo.+",
    "foo.*bar",
    "foo.+bar.*",
    ".*a.*b.*",
    "(foo|bar)",
    "(foo|bar).*",
    ".*(foo|bar)",
    "foo(|bar)",
    "fo(o|obar)",
    "(?:foo|)",
    "(?i:foo|BAR)",
    "(?i)foo.*",
    "(?i).*BAR",
    "foo|foobar|foobarbaz",
    "fo[ob]|ba[rz]",
    "a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t|u|v|w|x|y|z",
    "(a|b)(c|d)",
    "((a)|(b))+",
    "(a+)(a*)",
    "(a*?)(a*)",
    "(a|ab)(c|bcd)?",
    "(.*)-(.*)",
    "(.*?)-(.*)",
    "([a-z]+)([0-9]*)",
    "([^:]+):([0-9]+)",
    "(?P<first>.)(?P<second>.)?.*",
    "(\\d+)\\.(\\d+)",
    "[[:alpha:]]([[:digit:]])?",
    "x{0,2}y?",
    "(ab){2,}",
    "[^a]*",
    "[^\\n]+",
    "\\S+ \\S+",
    "(?m)^b$",
    "^$",
    "$^",
    "a?b?c?",
];

/// Texts beside those of the table.
const MORE_TEXTS: &[&str] = &[
    "foobar",
    "foobarbaz",
    "xfoox",
    "FOO",
    "Bar",
    "baz",
    "ac",
    "bd",
    "abcd",
    "a-b-c",
    "node1",
    "host:9100",
    "10.25",
    "ababab",
    "xxy",
    "$1",
    "\u{212a}",
    "\u{17f}",
    "a\u{300}",
    "-",
];

/// Makes a query of a quoted expression.
type MakeQuery = fn(&str) -> String;

type Rows = Vec<(String, Option<String>, serde_json::Value)>;

/// Expressions and texts.
fn table() -> (BTreeSet<String>, BTreeSet<String>) {
    let rows: Rows = serde_json::from_str(include_str!("../../lib/model/src/re2/table.json")).expect("the table");
    let mut texts: BTreeSet<String> = MORE_TEXTS.iter().map(|text| (*text).to_owned()).collect();
    texts.extend(rows.iter().filter_map(|(_, text, _)| text.clone()));
    let mut expressions: BTreeSet<String> = MORE.iter().map(|expression| (*expression).to_owned()).collect();
    expressions.extend(rows.into_iter().map(|(expression, ..)| expression));
    (expressions, texts)
}

/// A string of PromQL.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn series(texts: &BTreeSet<String>) -> Vec<TimeSeries> {
    texts
        .iter()
        .map(|text| {
            let labels = [("__name__", "probe"), ("text", text.as_str())];
            // A label without a value is no label.
            let labels = if text.is_empty() { &labels[..1] } else { &labels[..] };
            remote::time_series(labels, &[(AT_MS, 1.0)])
        })
        .collect()
}

/// The label sets of the answer, or why there is none.
type Told = Result<BTreeSet<String>, String>;

fn told(body: &str) -> Told {
    match answers::read(body)?.value {
        Answered::Vector(vector) => Ok(vector.iter().map(|(labels, _)| labels.to_string()).collect()),
        other => Err(format!("an odd answer: {other:?}")),
    }
}

async fn ask(store: &Store, reference: &Http, query: impl Fn(&str) -> String, expression: &str) -> Option<String> {
    let path = |expression: &str| {
        let query = query(&quoted(expression));
        format!("/api/v1/query?time={}&query={}", seconds(AT_MS + 1), encode(&query))
    };
    let (ours, theirs) = (path(expression), path(&format!("(?s:{expression})")));
    let ((_, ours), (_, theirs)) = tokio::join!(store.get(&ours), reference.get(&theirs));
    // Of a matcher's expression 3.x quotes what was written, 2.42 the anchors and the group around it, too; the words are
    // those of the table.
    let why = |error: String| match error.contains("error parsing regexp: ") {
        true => "error parsing regexp".to_owned(),
        false => error.replace(&format!("(): (?s:{expression})"), &format!("(): {expression}")),
    };
    let (ours, theirs) = (told(&ours).map_err(why), told(&theirs).map_err(why));
    match (&ours, &theirs) {
        _ if ours == theirs => None,
        (Ok(ours), Ok(theirs)) => {
            let here: Vec<_> = ours.difference(theirs).collect();
            let there: Vec<_> = theirs.difference(ours).collect();
            Some(format!("only gnomon {here:?}, only Prometheus {there:?}"))
        }
        _ => Some(format!("gnomon {ours:?}, Prometheus {theirs:?}")),
    }
}

/// Not to be compared.
const EXCEPTED: &[&str] = &[
    // Groups named so are known since Go 1.22: a row of `docs/compat.md`.
    "(?<n>a)b", "(?<=a)b", "(?<!a)b",
    // Another expression within the group that it is asked in here: one closes it, the other one quotes its end.
    "a)(b", "\\Qa.b",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regular_expressions_mean_what_they_mean_to_prometheus() {
    let Some(program) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let reference = Prometheus::for_remote_write(&program, folder.path()).await;
    let (mut expressions, texts) = table();
    expressions.retain(|expression| !EXCEPTED.contains(&expression.as_str()));
    assert!(expressions.len() >= 200, "{} expressions", expressions.len());
    let store = Store::new(false);
    let body = remote::body(series(&texts));
    store.write(body.clone()).await.expect("gnomon takes it");
    let (code, text) = remote::send(&reference.http, body).await.expect("Prometheus is there");
    assert!((200..300).contains(&code), "Prometheus: {code}: {text}");
    let mut differences = Vec::new();
    for expression in &expressions {
        let queries: [(&str, MakeQuery); 3] = [
            ("=~", |e| format!("probe{{text=~{e}}}")),
            ("!~", |e| format!("probe{{text!~{e}}}")),
            ("label_replace", |e| {
                format!("label_replace(probe, \"out\", \"<$0|$1|${{2}}|$first>\", \"text\", {e})")
            }),
        ];
        for (way, query) in queries {
            if let Some(difference) = ask(&store, &reference.http, query, expression).await {
                differences.push(format!("{way} {expression:?}: {difference}"));
            }
        }
    }
    println!(
        "regular expressions: {} with {} texts each, three ways, {} differences",
        expressions.len(),
        texts.len(),
        differences.len()
    );
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
