//! `/federate`: the newest sample of every series that is asked for, as an exposition in the text format.

use crate::answer::text_response;
use crate::error::ApiError;
use crate::fanout::{Scope, Selection, decode};
use crate::form::Form;
use crate::json::{Gone, Json};
use crate::router::{Api, plain};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use gnomon_model::gofloat::General;
use gnomon_model::labels::{is_legacy_label_name, is_legacy_metric_name};
use gnomon_model::{Labels, METRIC_NAME, Matcher, is_stale_nan};
use gnomon_promql::Reserved;
use http::{HeaderMap, StatusCode, header};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an entry takes beside its labels.
const ENTRY_BYTES: u64 = 96;

/// A sample that has been found: milliseconds and value.
type Newest = (i64, f64);

/// How names that the text format of old has no way to write are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// In quotes, which the reader has said it understands.
    Quoted,
    /// With underscores for what is not allowed.
    Underscores,
}

impl Names {
    fn accepted_by(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let quoted = accept
            .split([',', ';'])
            .any(|part| part.trim() == "escaping=allow-utf-8");
        if quoted { Self::Quoted } else { Self::Underscores }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Quoted => "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
            Self::Underscores => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(crate) async fn federate(State(api): State<Arc<Api>>, headers: HeaderMap, form: Form) -> Response {
    if let Err(error) = form.require_whole() {
        return plain(StatusCode::BAD_REQUEST, format!("{}\n", error.message));
    }
    let sets = match api.selectors(&form).await {
        Ok(Ok(sets)) => sets,
        Ok(Err(why)) => return plain(StatusCode::BAD_REQUEST, format!("{why}\n")),
        Err(error) => return plain(error.kind.status(), format!("{}\n", error.message)),
    };
    let names = Names::accepted_by(&headers);
    match api.gather(gather(&api, &form, sets)).await {
        Ok((found, held)) => {
            let external = api.state.node.config().external_labels;
            let write = move |out: &mut Json| write(out, found, held, &external, names);
            text_response(names.content_type(), Box::new(write)).into_response()
        }
        Err(error) => plain(error.kind.status(), format!("{}\n", error.message)),
    }
}

type Found = Vec<(Labels, Newest)>;

async fn gather(api: &Api, form: &Form, sets: Vec<Vec<Matcher>>) -> Result<(Found, Reserved), ApiError> {
    let scope: Arc<Scope> = api.scope(form);
    let now_ms = api.state.clock.now().0;
    let mut held = scope.memory().reserve(0)?;
    let mut found: BTreeMap<Labels, Newest> = BTreeMap::new();
    for matchers in sets {
        let selection = Selection {
            matchers,
            start_ms: now_ms.saturating_sub(api.state.query.lookback_ms),
            end_ms: now_ms,
            labels_only: false,
        };
        let mut merge = api.state.fanout.select(&scope, &selection).await?;
        while let Some(series) = merge.next().await? {
            let samples = decode(&series.runs, selection.start_ms, selection.end_ms)
                .map_err(|e| ApiError::new(crate::ErrorType::Internal, format!("series {}: {e}", series.labels)))?;
            let Some(last) = samples.len().checked_sub(1) else {
                continue;
            };
            // The text format has neither native histograms nor stale markers.
            if samples.histogram(last).is_some() || is_stale_nan(samples.values[last]) {
                continue;
            }
            held.grow(series.labels.as_bytes().len() as u64 + ENTRY_BYTES)?;
            found.insert(series.labels, (samples.timestamps[last], samples.values[last]));
        }
    }
    api.said(&scope);
    let mut found: Found = found.into_iter().collect();
    found.sort_by(|(a, _), (b, _)| a.metric_name().cmp(b.metric_name()));
    Ok((found, held))
}

fn write(out: &mut Json, found: Found, held: Reserved, external: &Labels, names: Names) -> Result<(), Gone> {
    let mut family = String::new();
    let mut begun = false;
    for (labels, (time_ms, value)) in found {
        let name = labels.metric_name();
        if name.is_empty() {
            tracing::warn!(%labels, "a series without a name is not federated");
            continue;
        }
        if !begun || family != name {
            begun = true;
            family = name.to_owned();
            out.raw("# TYPE ");
            write_name(out, name, names, is_legacy_metric_name(name));
            out.raw(" untyped\n");
        }
        write_sample(out, &labels, external, names);
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
fn write_sample(out: &mut Json, labels: &Labels, external: &Labels, names: Names) {
    let name = labels.metric_name();
    let legacy = is_legacy_metric_name(name);
    let mut first = true;
    if legacy || names == Names::Underscores {
        write_name(out, name, names, legacy);
    } else {
        out.raw("{");
        write_name(out, name, names, legacy);
        first = false;
    }
    let opened = !first;
    let own = labels.iter().filter(|(label, _)| *label != METRIC_NAME);
    // A federating server would otherwise take its own name for the target's.
    let instance = external.get("instance").is_none().then_some(("instance", ""));
    let mut more: Vec<_> = external.iter().chain(instance).collect();
    more.sort_unstable();
    more.retain(|(label, _)| labels.get(label).is_none());
    for (label, value) in own.chain(more) {
        out.raw(if first { "{" } else { "," });
        first = false;
        write_name(out, label, names, is_legacy_label_name(label));
        out.raw("=\"");
        write_escaped(out, value);
        out.raw("\"");
    }
    if opened || !first {
        out.raw("}");
    }
}

fn write_name(out: &mut Json, name: &str, names: Names, legacy: bool) {
    if legacy {
        out.raw(name);
    } else if names == Names::Quoted {
        out.raw("\"");
        write_escaped(out, name);
        out.raw("\"");
    } else {
        let kept = |(at, c): (usize, char)| {
            let fits = c == '_' || c == ':' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
            if fits { c } else { '_' }
        };
        let text: String = name.char_indices().map(kept).collect();
        out.raw(&text);
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
    use super::*;
    use gnomon_promql::MemoryBudget;

    fn written(found: Found, external: &Labels, names: Names) -> String {
        let mut out = Json::buffer();
        let held = MemoryBudget::default().reserve(0).unwrap();
        write(&mut out, found, held, external, names).unwrap();
        String::from_utf8(out.into_bytes().to_vec()).unwrap()
    }

    #[test]
    fn samples_are_written_as_an_exposition() {
        let found = vec![
            (Labels::from_pairs([(METRIC_NAME, "a"), ("l", "x\"\\\n")]), (1000, 1e6)),
            (
                Labels::from_pairs([(METRIC_NAME, "a"), ("instance", "i"), ("region", "us")]),
                (1500, f64::NEG_INFINITY),
            ),
            (Labels::from_pairs([(METRIC_NAME, "b.c"), ("ü", "1")]), (-1, 0.5)),
            (Labels::from_pairs([("no", "name")]), (0, 1.0)),
        ];
        let external = Labels::from_pairs([("region", "eu")]);
        assert_eq!(
            written(found.clone(), &external, Names::Underscores),
            "# TYPE a untyped\na{l=\"x\\\"\\\\\\n\",instance=\"\",region=\"eu\"} 1e+06 1000\n\
             a{instance=\"i\",region=\"us\"} -Inf 1500\n\
             # TYPE b_c untyped\nb_c{_=\"1\",instance=\"\",region=\"eu\"} 0.5 -1\n"
        );
        let quoted = written(found, &external, Names::Quoted);
        assert!(
            quoted.ends_with("# TYPE \"b.c\" untyped\n{\"b.c\",\"ü\"=\"1\",instance=\"\",region=\"eu\"} 0.5 -1\n"),
            "{quoted}"
        );
    }
}
