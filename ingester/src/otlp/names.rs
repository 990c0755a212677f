//! From OTLP's names to those of metrics and labels.
//!
//! Source: the OpenTelemetry specification, "Prometheus and OpenMetrics Compatibility", and the behaviour of Prometheus
//! 3.x (`prometheus/otlptranslator`).

/// `translation_strategy`: whether names keep what is no letter, digit or underscore, and whether unit and type become
/// part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    pub escape: bool,
    pub suffixes: bool,
}

impl Strategy {
    /// None for a name that is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (escape, suffixes) = match name {
            "UnderscoreEscapingWithSuffixes" => (true, true),
            "UnderscoreEscapingWithoutSuffixes" => (true, false),
            "NoUTF8EscapingWithSuffixes" => (false, true),
            "NoTranslation" => (false, false),
            _ => return None,
        };
        Some(Self { escape, suffixes })
    }
}

/// What of a metric's type its name depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameKind {
    Gauge,
    Counter,
    Other,
}

/// The name of a metric; none where nothing is left of it.
pub(super) fn metric(strategy: Strategy, name: &str, unit: &str, kind: NameKind) -> Option<String> {
    let named = match (strategy.escape, strategy.suffixes) {
        (false, false) => name.to_owned(),
        (false, true) => suffixed(name, unit, kind),
        (true, true) => escaped_and_suffixed(name, unit, kind),
        (true, false) => {
            let keeps = |c: char| c.is_ascii_alphanumeric() || c == ':' || c == '_';
            let parts: Vec<_> = name.split(|c| !keeps(c)).filter(|part| !part.is_empty()).collect();
            not_a_digit_first("_", parts.join("_"))
        }
    };
    let says_something = if strategy.escape && named != name {
        named.bytes().any(|b| b != b'_')
    } else {
        !named.is_empty()
    };
    says_something.then_some(named)
}

fn not_a_digit_first(prefix: &str, name: String) -> String {
    match name.as_bytes().first() {
        Some(first) if first.is_ascii_digit() => format!("{prefix}{name}"),
        _ => name,
    }
}

/// Words of letters, digits and colons, joined by underscores; the unit's words and the type's come last.
fn escaped_and_suffixed(name: &str, unit: &str, kind: NameKind) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == ':';
    let mut words: Vec<String> = name
        .split(|c| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    let (main, per) = unit_words(unit);
    let (mut main, mut per) = (cleaned(&main), cleaned(&per));
    if words.contains(&main) {
        main.clear();
    }
    if per == "per_" {
        per.clear();
    } else {
        per.truncate(per.strip_suffix('_').map_or(per.len(), str::len));
        if words.contains(&per) {
            per.clear();
        }
    }
    if !per.is_empty() {
        main.truncate(main.strip_suffix('_').map_or(main.len(), str::len));
    }
    words.extend([main, per].into_iter().filter(|word| !word.is_empty()));
    let last = match kind {
        NameKind::Counter => Some("total"),
        // Counters of objects have this unit too, by mistake.
        NameKind::Gauge if unit == "1" => Some("ratio"),
        _ => None,
    };
    if let Some(last) = last {
        words.retain(|word| word != last);
        words.push(last.to_owned());
    }
    not_a_digit_first("_", words.join("_"))
}

/// The name as it is, with the unit and the type behind it where they are not there already.
fn suffixed(name: &str, unit: &str, kind: NameKind) -> String {
    let mut name = name;
    let mut last = String::new();
    let type_suffix = match kind {
        NameKind::Counter => Some("total"),
        NameKind::Gauge if unit == "1" => Some("ratio"),
        _ => None,
    };
    if let Some(suffix) = type_suffix {
        name = without(name, suffix);
        last = format!("_{suffix}");
    }
    let (main, per) = unit_words(unit);
    if !per.is_empty() {
        name = without(name, &per);
        last = format!("_{per}{last}");
    }
    if !main.is_empty() && !name.ends_with(&main) {
        last = format!("_{main}{last}");
    }
    format!("{name}{last}")
}

/// Without a suffix and the one character before it, where something is left then.
fn without<'a>(name: &'a str, suffix: &str) -> &'a str {
    let Some(front) = name.strip_suffix(suffix) else {
        return name;
    };
    let mut chars = front.chars();
    chars.next_back();
    match chars.as_str() {
        "" => name,
        left => left,
    }
}

/// A unit as metadata has it.
pub(super) fn unit(strategy: Strategy, unit: &str) -> String {
    let (mut main, mut per) = unit_words(unit);
    if strategy.escape {
        (main, per) = (cleaned(&main), cleaned(&per));
    }
    let both = match (main.as_str(), per.as_str()) {
        (main, "") => main.to_owned(),
        ("", per) => per.to_owned(),
        (main, per) => format!("{main}_{per}"),
    };
    let front = both.strip_prefix('_').unwrap_or(&both);
    front.strip_suffix('_').unwrap_or(front).to_owned()
}

/// Before and after the stroke; the latter begins with `per_`. Annotations in braces say nothing.
fn unit_words(unit: &str) -> (String, String) {
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    let word = |text: &str, words: &[(&str, &str)]| {
        let text = text.trim();
        if text.contains(['{', '}']) {
            return String::new();
        }
        let known = words.iter().find(|(short, _)| *short == text);
        known.map_or(text, |(_, long)| *long).to_owned()
    };
    let per = word(per, PER_UNITS);
    let per = if per.is_empty() { per } else { format!("per_{per}") };
    (word(main, UNITS), per)
}

/// Letters, digits and colons, and one underscore for whatever else stands together; not at the beginning.
fn cleaned(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == ':' {
            out.push(c);
        } else if !out.ends_with('_') {
            out.push('_');
        }
    }
    out.strip_prefix('_').map(str::to_owned).unwrap_or(out)
}

/// UCUM's abbreviations, and Prometheus' words for them.
const UNITS: &[(&str, &str)] = &[
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    // As Prometheus spells it.
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
];

const PER_UNITS: &[(&str, &str)] = &[
    ("s", "second"),
    ("m", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

/// How attributes' names become labels'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LabelNames {
    pub(super) escape: bool,
    /// `key` goes before a name that begins with one underscore.
    pub(super) mark_underscore: bool,
    /// Underscores that stand together stay.
    pub(super) keep_underscores: bool,
}

impl LabelNames {
    /// None where nothing is left of it.
    pub(super) fn label(self, name: &str) -> Option<String> {
        if !self.escape {
            return (!name.is_empty()).then(|| name.to_owned());
        }
        let reserved = name.len() > 4 && name.starts_with("__") && name.ends_with("__");
        let mut out = String::with_capacity(name.len() + 4);
        for c in name.chars() {
            let c = if c.is_ascii_alphanumeric() { c } else { '_' };
            if c != '_' || self.keep_underscores || reserved || !out.ends_with('_') {
                out.push(c);
            }
        }
        let out = if out.starts_with(|c: char| c.is_ascii_digit()) {
            format!("key_{out}")
        } else if self.mark_underscore && out.starts_with('_') && !out.starts_with("__") {
            format!("key{out}")
        } else {
            out
        };
        let says_something = out == name || out.bytes().any(|b| b != b'_');
        (says_something && !out.is_empty()).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(strategy: &str, name: &str, unit: &str, kind: NameKind) -> String {
        metric(Strategy::named(strategy).unwrap(), name, unit, kind).unwrap_or_default()
    }

    #[test]
    fn metrics_are_named_as_prometheus_names_them() {
        use NameKind::{Counter, Gauge, Other};
        let with = "UnderscoreEscapingWithSuffixes";
        for (otlp, unit, kind, expected) in [
            (
                "http.server.request.duration",
                "s",
                Other,
                "http_server_request_duration_seconds",
            ),
            (
                "http.server.duration.seconds",
                "s",
                Other,
                "http_server_duration_seconds",
            ),
            ("system.io", "By", Counter, "system_io_bytes_total"),
            ("total.things", "1", Counter, "things_total"),
            ("system.cpu.utilization", "1", Gauge, "system_cpu_utilization_ratio"),
            ("used", "%", Gauge, "used_percent"),
            ("rate", "By/s", Gauge, "rate_bytes_per_second"),
            ("rate", "m/s", Gauge, "rate_meters_per_second"),
            ("requests", "{request}", Counter, "requests_total"),
            ("requests", "{request}/s", Gauge, "requests_per_second"),
            ("a__b..c", "", Other, "a_b_c"),
            ("3d.points", "", Other, "_3d_points"),
            ("a:b", "", Other, "a:b"),
            ("", "s", Gauge, "seconds"),
            ("§§", "", Gauge, ""),
            ("odd", "foo_bar__baz/x_", Gauge, "odd_foo_bar_baz_per_x"),
        ] {
            assert_eq!(name(with, otlp, unit, kind), expected, "{otlp} {unit}");
        }
        let without = "UnderscoreEscapingWithoutSuffixes";
        assert_eq!(name(without, "a.b__c", "s", Counter), "a_b__c");
        assert_eq!(name(without, "3.c", "s", Counter), "_3_c");
        let utf8 = "NoUTF8EscapingWithSuffixes";
        for (otlp, unit, kind, expected) in [
            ("http.server.duration", "s", Other, "http.server.duration_seconds"),
            ("a.total", "1", Counter, "a_total"),
            ("a.b", "By/s", Counter, "a.b_bytes_per_second_total"),
            ("total", "", Counter, "total_total"),
            ("µs.ratio", "1", Gauge, "µs_ratio"),
        ] {
            assert_eq!(name(utf8, otlp, unit, kind), expected, "{otlp} {unit}");
        }
        assert_eq!(name("NoTranslation", "a.b", "s", Counter), "a.b");
        assert_eq!(Strategy::named("Some"), None);
    }

    #[test]
    fn labels_and_units_are_named_as_prometheus_names_them() {
        let names = LabelNames {
            escape: true,
            mark_underscore: true,
            keep_underscores: true,
        };
        for (otlp, expected) in [
            ("http.method", Some("http_method")),
            ("1st", Some("key_1st")),
            ("_private", Some("key_private")),
            ("__reserved__", Some("__reserved__")),
            ("a..b", Some("a__b")),
            ("", None),
            ("ö", Some("key_")),
            ("_", Some("key_")),
        ] {
            assert_eq!(names.label(otlp).as_deref(), expected, "{otlp}");
        }
        let other = LabelNames {
            mark_underscore: false,
            keep_underscores: false,
            ..names
        };
        assert_eq!(other.label("_a..b").as_deref(), Some("_a_b"));
        assert_eq!(other.label("__a__").as_deref(), Some("__a__"));
        let kept = LabelNames { escape: false, ..names };
        assert_eq!(kept.label("http.method").as_deref(), Some("http.method"));
        let strategy = Strategy::named("UnderscoreEscapingWithSuffixes").unwrap();
        for (ucum, expected) in [("s", "seconds"), ("By/s", "bytes_per_second"), ("1", ""), ("{x}", "")] {
            assert_eq!(unit(strategy, ucum), expected);
        }
    }
}
