//! `series`, `labels`, `label/<name>/values`.

use super::{TRUNCATED, strict};
use crate::answer::Answer;
use crate::error::{ApiError, ErrorType};
use crate::fanout::{Merge, Scope, Selection};
use crate::form::Form;
use crate::params::{self, Window};
use crate::router::Api;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use gnomon_model::{Labels, Matcher};
use gnomon_promql::Reserved;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

/// Series or strings beyond which an answer is written chunk by chunk.
const LARGE_ITEMS: usize = 2_000;
/// What an entry of a set takes beside its text.
pub(super) const ENTRY_BYTES: u64 = 64;

impl Api {
    /// Gathers something within `--query.timeout`.
    pub(crate) async fn gather<T>(&self, gathering: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        let done = tokio::time::timeout(self.state.query.timeout, gathering).await;
        done.unwrap_or_else(|_| Err(ApiError::new(ErrorType::Timeout, "request timed out")))
    }

    /// # Errors
    /// When the form does not say properly whether the answer may be partial.
    pub(crate) fn scope(&self, form: &Form) -> Result<Arc<Scope>, ApiError> {
        let strict = strict(form, self.state.query.partial_response)?;
        let scope = Scope::new(strict, self.state.query.fetch).with_memory(self.memory.budget());
        Ok(Arc::new(scope))
    }
}

/// `/series`.
pub(super) async fn series(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    form.require_whole()?;
    if form.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let limit = params::limit(&form)?;
    let window = params::window(&form)?;
    let sets = api
        .matcher_sets(&form)
        .await?
        .map_err(|e| ApiError::parameter("match[]", e))?;
    let scope = api.scope(&form)?;
    let mut found = BTreeSet::new();
    let mut held = scope.memory().reserve(0)?;
    api.gather(async {
        for matchers in sets {
            let selection = selection(matchers, window);
            let merge = api.state.fanout.select(&scope, &selection).await?;
            collect(merge, &mut found, &mut held, limit).await?;
        }
        Ok(())
    })
    .await?;
    let truncated = limit > 0 && found.len() > limit;
    let mut series: Vec<_> = found.into_iter().collect();
    if truncated {
        series.truncate(limit);
    }
    let write = move |json: &mut crate::json::Json| {
        json.raw("[");
        json.list(&series, |json, labels: &Labels| json.labels(labels.as_ref()))?;
        json.raw("]");
        Ok(())
    };
    let large = true;
    let answer = Answer::new(large, Box::new(write)).holding(held);
    Ok(finish(answer, api.said(&scope), truncated))
}

fn selection(matchers: Vec<Matcher>, window: Window) -> Selection {
    Selection {
        matchers,
        start_ms: window.start_ms,
        end_ms: window.end_ms,
        labels_only: true,
    }
}

/// Adds the first `limit` + 1 series of a stream (all if it is 0): one more than wanted shows that there are more.
async fn collect(
    mut merge: Merge,
    found: &mut BTreeSet<Labels>,
    held: &mut Reserved,
    limit: usize,
) -> Result<(), ApiError> {
    let mut taken = 0;
    while let Some(series) = merge.next().await? {
        let bytes = series.labels.as_bytes().len() as u64 + ENTRY_BYTES;
        if found.insert(series.labels) {
            held.grow(bytes)?;
        }
        taken += 1;
        if limit > 0 && taken > limit {
            break;
        }
    }
    Ok(())
}

fn finish(answer: Answer, mut warnings: Vec<String>, truncated: bool) -> Answer {
    if truncated {
        warnings.push(TRUNCATED.to_owned());
    }
    answer.with_warnings(warnings)
}

/// `/labels`.
pub(super) async fn names(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    strings(&api, &form, None).await
}

/// `/label/<name>/values`.
pub(super) async fn values(
    State(api): State<Arc<Api>>,
    name: Result<Path<String>, PathRejection>,
    form: Form,
) -> Result<Answer, ApiError> {
    let Ok(Path(name)) = name else {
        return Err(ApiError::bad_data("invalid label name: it is no valid UTF-8"));
    };
    let name = unescaped(&name);
    if name.is_empty() {
        return Err(ApiError::bad_data(format!("invalid label name: {name:?}")));
    }
    strings(&api, &form, Some(&name)).await
}

async fn strings(api: &Api, form: &Form, name: Option<&str>) -> Result<Answer, ApiError> {
    let limit = params::limit(form)?;
    let window = params::window(form)?;
    let sets = api.matcher_sets(form).await?.map_err(ApiError::bad_data)?;
    let scope = api.scope(form)?;
    let found = api
        .state
        .fanout
        .labels(&scope, name, &sets, window.start_ms, window.end_ms);
    let found = api.gather(found).await?;
    let bytes = found.iter().map(|text| text.len() as u64 + ENTRY_BYTES).sum();
    let held = scope.memory().reserve(bytes)?;
    let truncated = limit > 0 && found.len() > limit;
    let mut texts: Vec<_> = found.into_iter().collect();
    if truncated {
        texts.truncate(limit);
    }
    let large = texts.len() > LARGE_ITEMS;
    let write = move |json: &mut crate::json::Json| {
        json.raw("[");
        json.list(&texts, |json, text| json.text_for_html(text))?;
        json.raw("]");
        Ok(())
    };
    let answer = Answer::new(large, Box::new(write)).holding(held);
    Ok(finish(answer, api.said(&scope), truncated))
}

/// Undoes the `U__` escaping of names that a URL or an old client cannot carry: `__` is `_`, `_1F600_` a code point.
/// A name that is not validly escaped stays as it is.
fn unescaped(name: &str) -> String {
    let decode = |escaped: &str| -> Option<String> {
        let mut out = String::new();
        let mut rest = escaped;
        while let Some(at) = rest.find('_') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('_') {
                out.push('_');
                rest = after;
                continue;
            }
            let (digits, after) = rest.split_once('_')?;
            if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
            rest = after;
        }
        out.push_str(rest);
        Some(out)
    };
    name.strip_prefix("U__")
        .and_then(decode)
        .unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_understood() {
        for (escaped, name) in [
            ("job", "job"),
            ("U__http_2e_status", "http.status"),
            ("U__with__underscore", "with_underscore"),
            ("U___1F600_", "😀"),
            ("U__broken_zz_", "U__broken_zz_"),
            ("U__broken_", "U__broken_"),
            ("U__sign_+2e_", "U__sign_+2e_"),
            ("U__surrogate_d800_", "U__surrogate_d800_"),
            ("U__", ""),
        ] {
            assert_eq!(unescaped(escaped), name);
        }
    }
}
