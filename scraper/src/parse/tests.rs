use super::*;
use gnomon_model::{Labels, LabelsRef};
use std::path::PathBuf;

/// The folder of this package, as cargo says it now: what comes from a cache was built elsewhere, it may be.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The folder of shared cases, if it is there.
fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("GNOMON_SHARED").map_or_else(|| package().join("../../shared"), PathBuf::from);
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is not there", folder.display());
    None
}

#[derive(Debug, Default, PartialEq)]
struct Read {
    samples: Vec<(String, f64, Option<i64>)>,
    metadata: Vec<String>,
    comments: usize,
    exemplars: Vec<(String, Exemplar)>,
    histograms: Vec<(String, NativeHistogram)>,
    created: Vec<Option<i64>>,
}

fn drain(parser: &mut dyn Parser) -> Result<Read, ParseError> {
    let mut read = Read::default();
    while let Some(kind) = parser.next_entry()? {
        match kind {
            EntryKind::Type => read
                .metadata
                .push(format!("type {} {}", parser.family(), parser.kind().as_str())),
            EntryKind::Help => read
                .metadata
                .push(format!("help {} {}", parser.family(), parser.text())),
            EntryKind::Unit => read
                .metadata
                .push(format!("unit {} {}", parser.family(), parser.text())),
            EntryKind::Comment => read.comments += 1,
            EntryKind::Sample | EntryKind::Histogram => {
                let mut labels = Vec::new();
                parser.write_labels(&mut labels)?;
                let checked = LabelsRef::checked(&labels).expect("labels are canonical").to_string();
                match parser.histogram()? {
                    Some(histogram) if kind == EntryKind::Histogram => {
                        read.histograms.push((checked.clone(), histogram));
                    }
                    _ => read
                        .samples
                        .push((checked.clone(), parser.value(), parser.timestamp_ms())),
                }
                read.created.push(parser.created_ms());
                let mut labels = Vec::new();
                while let Some(exemplar) = parser.exemplar(&mut labels)? {
                    let text = LabelsRef::checked(&labels).expect("labels are canonical").to_string();
                    read.exemplars.push((text, exemplar));
                    labels.clear();
                }
            }
        }
    }
    Ok(read)
}

fn text(input: &str) -> Result<Read, ParseError> {
    drain(&mut TextParser::new(input.as_bytes()))
}

fn open_metrics(input: &str) -> Result<Read, ParseError> {
    drain(&mut OpenMetricsParser::new(input.as_bytes()))
}

#[test]
fn text_is_taken_as_prometheus_takes_it() {
    let read = text(concat!(
        "# HELP a Some \\\\ help\\n\n# TYPE a counter\n",
        "a 1\n",
        "a{x=\"1\"} 2 123\n",
        "  a { x = \"2\" , y=\"\\\"q\\\\\\n\" , } +Inf\n",
        "a{x=\"3\" y=\"4\"}NaN\n",
        "#comment\n# also\n\n",
        "{\"my.metric\", \"l.x\"=\"y\",z=\"1\"} 1e3\n",
        "# HELP nothing \n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"1e6\"} 2\nother{le=\"1\"} 1\n",
        "last{empty=\"\"} 5"
    ))
    .unwrap();
    let series: Vec<_> = read.samples.iter().map(|s| s.0.as_str()).collect();
    assert_eq!(
        series,
        [
            r#"{__name__="a"}"#,
            r#"{__name__="a", x="1"}"#,
            "{__name__=\"a\", x=\"2\", y=\"\\\"q\\\\\\n\"}",
            r#"{__name__="a", x="3", y="4"}"#,
            r#"{__name__="my.metric", "l.x"="y", z="1"}"#,
            r#"{__name__="h_bucket", le="1.0"}"#,
            r#"{__name__="h_bucket", le="1e+06"}"#,
            r#"{__name__="other", le="1"}"#,
            r#"{__name__="last"}"#,
        ]
    );
    assert_eq!(read.samples[1].2, Some(123));
    assert_eq!(read.samples[3].1.to_bits(), gnomon_model::NORMAL_NAN.to_bits());
    assert_eq!(read.comments, 2);
    assert_eq!(
        read.metadata,
        [
            "help a Some \\ help\n",
            "type a counter",
            "help nothing ",
            "type h histogram"
        ]
    );
}

#[test]
fn bad_text_is_refused_with_prometheus_words() {
    for (input, message) in [
        (
            "a",
            r#"expected value after metric, got "" ("INVALID") while parsing: "a""#,
        ),
        (
            "a{b='c'} 1\n",
            r#"expected label value, got "'" ("INVALID") while parsing: "a{b='""#,
        ),
        ("a{b=\n", "expected label value"),
        ("a{\u{ff}=\"foo\"} 1\n", "expected label name"),
        (
            "a{b=\"c\"} x\n",
            r#"strconv.ParseFloat: parsing "x": invalid syntax while parsing: "a{b=\"c\"} x""#,
        ),
        ("something_weird 7 8 9\n", "expected next entry after timestamp"),
        ("foo 1_2\n", "unsupported character in float"),
        ("foo 0x1p-3\n", "unsupported character in float"),
        ("# TYPE a meh\n", r#"invalid metric type "meh""#),
        ("# TYPE  \n", "expected metric name after TYPE"),
        ("{\"a\",\"b\"} 1\n", "metric name already set"),
        ("{a=\"b\"} 1\n", "metric name not set"),
        ("a{b=\"1\",b=\"2\"} 1\n", "label name \"b\" is not unique"),
        ("a 1 99999999999999999999\n", "value out of range"),
        ("0a 1\n", "expected a valid start token"),
    ] {
        let error = text(input).unwrap_err();
        assert!(error.message.contains(message), "{input:?} gave {error}");
    }
    let invalid = drain(&mut TextParser::new(b"a{b=\"\xff\"} 1\n")).unwrap_err();
    assert_eq!(invalid.message, r#"invalid UTF-8 label value: "\xff""#);
    assert_eq!(text("a 1\nb\n").unwrap_err().line(b"a 1\nb\n"), 2);
}

#[test]
fn open_metrics_has_exemplars_units_and_seconds() {
    let read = open_metrics(concat!(
        "# TYPE x_seconds counter\n# UNIT x_seconds seconds\n# HELP x_seconds He\\\"lp\n",
        "x_seconds_total{a=\"b\"} 5 1.5 # {trace_id=\"t\"} 0.5 12.25\n",
        "x_seconds_created{a=\"b\"} 100\n",
        "{\"utf.8\",b=\"c\"} 1 # {} 2\n",
        "# EOF\n"
    ))
    .unwrap();
    assert_eq!(read.samples[0].2, Some(1500));
    assert_eq!(read.samples[2].0, r#"{__name__="utf.8", b="c"}"#);
    assert_eq!(
        read.metadata,
        [
            "type x_seconds counter",
            "unit x_seconds seconds",
            "help x_seconds He\"lp"
        ]
    );
    let at = |value, timestamp_ms| Exemplar { value, timestamp_ms };
    assert_eq!(
        read.exemplars,
        [
            (r#"{trace_id="t"}"#.to_owned(), at(0.5, Some(12_250))),
            ("{}".to_owned(), at(2.0, None)),
        ]
    );
}

#[test]
fn an_exemplar_with_a_label_name_twice_is_left_out_and_its_sample_is_not() {
    let body = "# TYPE a counter\na_total 1 # {x=\"1\",x=\"2\"} 0.5\nb 2 # {y=\"1\"} 0.5\n# EOF\n";
    let read = open_metrics(body).unwrap();
    let values: Vec<f64> = read.samples.iter().map(|s| s.1).collect();
    assert_eq!(values, [1.0, 2.0]);
    let labels: Vec<&str> = read.exemplars.iter().map(|e| e.0.as_str()).collect();
    assert_eq!(labels, [r#"{y="1"}"#]);
    let strict = strict::check(body.as_bytes()).unwrap_err();
    assert!(strict.message.contains("label name twice"), "{strict}");
    assert!(
        open_metrics("a{x=\"1\",x=\"2\"} 1\n# EOF\n").is_err(),
        "a series' names are told apart"
    );
}

#[test]
fn bad_open_metrics_is_refused_with_prometheus_words() {
    for (input, message) in [
        ("", "data does not end with # EOF"),
        ("a 1\n", "data does not end with # EOF"),
        ("# EOF\nx", "unexpected data after # EOF"),
        ("\n# EOF\n", "expected a valid start token"),
        ("# UNIT a b\n# EOF\n", r#"unit "b" not a suffix of metric "a""#),
        ("a 1 NaN\n# EOF\n", "invalid timestamp NaN"),
        ("a{b=\"c\"d=\"e\"} 1\n# EOF\n", "expected comma or brace close"),
        ("a 1 # {\"x\"} 1\n# EOF\n", "expected equal"),
    ] {
        let error = open_metrics(input).unwrap_err();
        assert!(error.message.contains(message), "{input:?} gave {error}");
    }
}

#[test]
fn strict_open_metrics_agrees_with_every_shared_case() {
    let Some(folder) = shared("openmetrics") else { return };
    let (mut good, mut bad) = (0, 0);
    for case in std::fs::read_dir(folder).unwrap() {
        let case = case.unwrap().path();
        let verdict: serde_json::Value =
            serde_json::from_slice(&std::fs::read(case.join("test.json")).unwrap()).unwrap();
        let wanted = verdict["shouldParse"].as_bool().unwrap();
        let problems = check_metrics(&std::fs::read(case.join("metrics")).unwrap(), true);
        assert_eq!(problems.is_empty(), wanted, "{}: {problems:?}", case.display());
        if wanted { good += 1 } else { bad += 1 }
    }
    assert!(
        good > 20 && bad > 100,
        "only {good} good and {bad} bad cases were found"
    );
}

#[test]
fn real_expositions_give_as_many_samples_as_they_have_lines() {
    let Some(folder) = shared("textparse") else { return };
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let lines = input
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty() && l[0] != b'#')
            .count();
        let format = if name.contains(".om.") {
            Format::OpenMetrics
        } else {
            Format::Text
        };
        let read = drain(&mut *parser_for(format, &input, true, false)).unwrap();
        assert_eq!(read.samples.len(), lines, "{name}");
        let distinct: std::collections::HashSet<_> = read.samples.iter().map(|s| &s.0).collect();
        assert_eq!(distinct.len(), lines, "{name}");
    }
}

#[test]
fn damaged_real_expositions_are_survived() {
    let Some(folder) = shared("textparse") else { return };
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    for file in std::fs::read_dir(folder).unwrap() {
        let input = std::fs::read(file.unwrap().path()).unwrap();
        for _ in 0..150 {
            let from = random() % input.len();
            let mut piece = input[from..(from + 2000).min(input.len())].to_vec();
            for _ in 0..1 + random() % 4 {
                let at = random() % piece.len();
                piece[at] = [b'"', b'{', b'}', b'\n', b'\\', b'#', b' ', 0, 0xff, b'1'][random() % 10];
            }
            for format in [Format::Text, Format::OpenMetrics, Format::Protobuf] {
                let _ = drain(&mut *parser_for(format, &piece, true, true));
            }
            let _ = check_metrics(&piece, true);
        }
    }
}

/// A generator of expositions: label sets and values come back as they were written.
mod round_trip {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    fn series() -> impl Strategy<Value = (Vec<(String, String)>, f64, Option<i64>)> {
        let label = ("[a-zA-Z_][a-zA-Z0-9_]{0,5}|\\PC{1,6}", "(?s).{1,10}");
        let value = prop_oneof![any::<f64>(), any::<i32>().prop_map(f64::from)];
        let time = proptest::option::of(0..2_000_000_000_000i64);
        (proptest::collection::vec(label, 0..6), value, time)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_is_written_is_read((pairs, value, time) in series(), name in "[a-z:][a-z0-9_:]{0,9}|\\PC{1,9}") {
            let mut labels = Labels::from_pairs(pairs);
            labels = Labels::from_pairs(labels.iter().filter(|(n, _)| *n != "__name__").chain([("__name__", name.as_str())]));
            let quoted = |t: &str| gnomon_model::labels::Quoted(t).to_string();
            let mut line = format!("{{{}", quoted(labels.metric_name()));
            for (n, v) in labels.iter().filter(|(n, _)| *n != "__name__") {
                write!(line, ",{}={}", quoted(n), quoted(v)).unwrap();
            }
            write!(line, "}} {value:?}").unwrap();
            let mut with_time = line.clone();
            if let Some(ms) = time {
                write!(with_time, " {ms}").unwrap();
            }
            let check = |read: Read, time: Option<i64>| {
                assert_eq!(read.samples[0].0, labels.to_string());
                assert!(read.samples[0].1 == value || (value.is_nan() && read.samples[0].1.is_nan()));
                assert_eq!(read.samples[0].2, time);
            };
            check(text(&with_time).unwrap(), time);
            check(open_metrics(&format!("{line}\n# EOF\n")).unwrap(), None);
        }

        #[test]
        fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            all_parsers(&bytes);
        }

        #[test]
        fn no_text_like_an_exposition_makes_a_parser_panic(
            words in proptest::collection::vec(
                prop_oneof![
                    Just("# "), Just("HELP "), Just("TYPE "), Just("UNIT "), Just("EOF"), Just("\n"), Just("a"), Just("{"),
                    Just("}"), Just("\""), Just("="), Just(","), Just(" "), Just("1"), Just("\\"), Just("\u{0}"),
                    Just("histogram"), Just("le"), Just("# {"), Just("é"), Just("a_bucket{le=\"1\"} 1\n"),
                ], 0..40)
        ) {
            all_parsers(words.concat().as_bytes());
        }
    }

    fn all_parsers(bytes: &[u8]) {
        let _ = check_metrics(bytes, true);
        let _ = check_metrics(bytes, false);
        for format in [Format::Text, Format::OpenMetrics, Format::Protobuf] {
            let _ = drain(&mut *parser_for(format, bytes, true, true));
        }
    }
}

mod protobuf;

/// What an entry tells when its labels are not asked for.
type Told = (EntryKind, String, FloatLabel, u64, Option<i64>, TextKey);

/// All entries, told which series are likely next; whether the labels of one may be asked for is left out.
fn told(body: &[u8], mut likely: impl FnMut(usize) -> Option<TextKey>) -> Result<Vec<Told>, ParseError> {
    let mut parser = TextParser::new(body);
    let mut all: Vec<Told> = Vec::new();
    let mut samples = 0;
    while let Some(kind) = parser.next_entry_after(likely(samples))? {
        let is_sample = kind == EntryKind::Sample;
        samples += usize::from(is_sample);
        let what = match kind {
            EntryKind::Sample => String::from_utf8_lossy(parser.series()).into_owned(),
            _ => format!("{} {}", parser.family(), parser.text()),
        };
        let value = if is_sample { parser.value().to_bits() } else { 0 };
        all.push((
            kind,
            what,
            parser.float_label(),
            value,
            parser.timestamp_ms(),
            parser.key(),
        ));
    }
    Ok(all)
}

#[test]
fn what_is_likely_changes_nothing() {
    let mut bodies: Vec<Vec<u8>> = [
        "a 1\na{} 2\na{b=\"c\"} 3 17\na {b=\"c\"} 4\na\t{b=\"c\"}\t5\n  a 6\n\n\na{b=\"c}\\\" 7\",} 8\n",
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket {le=\"2\"} 2\nh_sum 3\n# TYPE h_bucket counter\nh_bucket{le=\"1\"} 1\n",
        "# TYPE s summary\ns{quantile=\"1\"} NaN\ns 1\n# a comment\n# HELP s text\n{\"u v\",a=\"b\"} 1\n{\"u v\"} 2",
        "a {b=\"c\"} 1\na 1\na{b=\"c\"}1\na{b=\"c\"} \n",
        "a 1\na b\n",
        "a 1\na 1 2 3\n",
        "a 1\na",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    // The same texts in another family.
    for kind in [
        "# TYPE a histogram\n",
        "# TYPE \"u v\" histogram\n",
        "# TYPE s summary\n",
    ] {
        let body = "a_bucket{le=\"1\"} 1\na_bucket {le=\"1\"} 1\n{\"u v_bucket\",le=\"1\"} 1\ns{quantile=\"1\"} 1\n";
        bodies.push(body.into());
        bodies.push([kind, body].concat().into());
    }
    if let Some(folder) = shared("realdata") {
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(|f| f.path()).collect();
        files.sort();
        let texts = files.into_iter().filter(|path| path.is_file()).take(20);
        bodies.extend(texts.filter_map(|path| std::fs::read(path).ok()));
    }
    let everything: Vec<TextKey> = bodies
        .iter()
        .flat_map(|body| told(body, |_| None).unwrap_or_default())
        .filter(|entry| entry.0 == EntryKind::Sample)
        .map(|entry| entry.5)
        .collect();
    assert!(everything.len() > 10);
    for body in &bodies {
        let plain = told(body, |_| None);
        let keys: Vec<_> = plain
            .iter()
            .flatten()
            .filter(|entry| entry.0 == EntryKind::Sample)
            .collect();
        assert_eq!(
            told(body, |at| keys.get(at).map(|entry| entry.5)),
            plain,
            "all as before"
        );
        assert_eq!(
            told(body, |at| keys.get(at / 2).map(|entry| entry.5)),
            plain,
            "twice as many"
        );
        for likely in everything.iter().take(50) {
            assert_eq!(told(body, |_| Some(*likely)), plain, "one of all, each time");
        }
    }
}
