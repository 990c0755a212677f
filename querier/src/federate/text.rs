//! The text format: untyped samples. Native histograms have no form in it.

use super::format::Escaping;
use super::{Found, Newest, Sample, attached};
use crate::json::{Gone, Json};
use gnomon_model::gofloat::General;
use gnomon_model::labels::{is_legacy_label_name, is_legacy_metric_name};
use gnomon_model::{Labels, METRIC_NAME};
use gnomon_promql::Reserved;

pub(super) fn write(
    out: &mut Json,
    found: Found,
    held: Reserved,
    external: &Labels,
    escaping: Escaping,
) -> Result<(), Gone> {
    let mut family = None;
    for (labels, Newest { time_ms, sample }) in found {
        let Sample::Float(value) = sample else {
            continue;
        };
        let name = labels.metric_name();
        if family.as_deref() != Some(name) {
            family = Some(name.to_owned());
            out.raw("# TYPE ");
            write_name(out, name, escaping, is_legacy_metric_name);
            out.raw(" untyped\n");
        }
        write_sample(out, &labels, external, escaping);
        out.raw(" ");
        out.number(General(value));
        out.raw(" ");
        out.number(time_ms);
        out.raw("\n");
        out.breathe()?;
    }
    drop(held);
    Ok(())
}

/// `name{label="value",…}`, or `{"name",label="value",…}` where the name needs quotes.
fn write_sample(out: &mut Json, labels: &Labels, external: &Labels, escaping: Escaping) {
    let name = labels.metric_name();
    let is_quoted = escaping == Escaping::Nothing && !is_legacy_metric_name(name);
    if is_quoted {
        out.raw("{");
    }
    write_name(out, name, escaping, is_legacy_metric_name);
    let mut first = !is_quoted;
    let own = labels.iter().filter(|(label, _)| *label != METRIC_NAME);
    for (label, value) in own.chain(attached(labels, external)) {
        out.raw(if first { "{" } else { "," });
        first = false;
        write_name(out, label, escaping, is_legacy_label_name);
        out.raw("=\"");
        write_escaped(out, value);
        out.raw("\"");
    }
    if !first {
        out.raw("}");
    }
}

/// In quotes where it would not be `legal` without, and may be written so.
fn write_name(out: &mut Json, name: &str, escaping: Escaping, legal: fn(&str) -> bool) {
    let name = escaping.escape(name);
    if legal(&name) {
        out.raw(&name);
    } else if escaping == Escaping::Nothing {
        out.raw("\"");
        write_escaped(out, &name);
        out.raw("\"");
    } else {
        // A colon, in the name of a label.
        out.raw(&name.replace(':', "_"));
    }
}

fn write_escaped(out: &mut Json, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '\n', '"']) {
        out.raw(&rest[..at]);
        out.raw(match rest.as_bytes()[at] {
            b'\n' => "\\n",
            b'"' => "\\\"",
            _ => "\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.raw(rest);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{float, gauge_histogram};
    use super::*;
    use gnomon_promql::MemoryBudget;

    fn written(found: Found, external: &Labels, escaping: Escaping) -> String {
        let mut out = Json::buffer();
        let held = MemoryBudget::default().reserve(0).unwrap();
        write(&mut out, found, held, external, escaping).unwrap();
        String::from_utf8(out.into_bytes().to_vec()).unwrap()
    }

    #[test]
    fn samples_are_written_as_an_exposition() {
        let found = vec![
            float(&[(METRIC_NAME, "a"), ("l", "x\"\\\n")], 1000, 1e6),
            float(
                &[(METRIC_NAME, "a"), ("instance", "i"), ("region", "us")],
                1500,
                f64::NEG_INFINITY,
            ),
            gauge_histogram(&[(METRIC_NAME, "b")], 7),
            float(&[(METRIC_NAME, "b.c"), ("x:y", "2"), ("ü", "1")], -1, 0.5),
        ];
        let external = Labels::from_pairs([("region", "eu")]);
        assert_eq!(
            written(found.clone(), &external, Escaping::Underscores),
            "# TYPE a untyped\na{l=\"x\\\"\\\\\\n\",instance=\"\",region=\"eu\"} 1e+06 1000\n\
             a{instance=\"i\",region=\"us\"} -Inf 1500\n\
             # TYPE b_c untyped\nb_c{x_y=\"2\",_=\"1\",instance=\"\",region=\"eu\"} 0.5 -1\n"
        );
        for (escaping, last) in [
            (
                Escaping::Nothing,
                "# TYPE \"b.c\" untyped\n{\"b.c\",\"x:y\"=\"2\",\"ü\"=\"1\",instance=\"\",region=\"eu\"} 0.5 -1\n",
            ),
            (
                Escaping::Values,
                "# TYPE U__b_2e_c untyped\nU__b_2e_c{x_y=\"2\",U___fc_=\"1\",instance=\"\",region=\"eu\"} 0.5 -1\n",
            ),
        ] {
            let text = written(found.clone(), &external, escaping);
            assert!(text.ends_with(last), "{text}");
        }
    }
}
