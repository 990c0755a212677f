//! `openapi.yaml`: the description of the API, for the version of OpenAPI that is asked for.

use crate::form::Form;
use crate::gojson;
use crate::router::{Api, prefix};
use crate::state::WebOptions;
use axum::extract::State;
use axum::response::IntoResponse;
use http::header;
use std::sync::Arc;

const DOCUMENT: &str = include_str!("openapi.yaml");

/// Behind lines that OpenAPI 3.1 does not know.
const NEW: &str = " # 3.2";

/// `/openapi.yaml`.
pub(super) async fn document(State(api): State<Arc<Api>>, form: Form) -> impl IntoResponse {
    let is_new = matches!(form.get("openapi_version"), "3.2" | "3.2.0");
    let text = written(is_new, &server(&api.state.web), &api.state.build.version);
    let headers = [
        (header::CONTENT_TYPE, "application/yaml; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
    ];
    (headers, text)
}

/// Where users reach the API, as far as that is known.
fn server(web: &WebOptions) -> String {
    if web.external_url.is_empty() {
        format!("{}/api/v1", prefix(&web.route_prefix))
    } else {
        format!("{}/api/v1", web.external_url.trim_end_matches('/'))
    }
}

fn written(is_new: bool, server: &str, version: &str) -> String {
    // A text of JSON is one of YAML.
    let quoted = |text: &str| gojson::to_string(&text).unwrap_or_default();
    let mut out = String::with_capacity(DOCUMENT.len());
    for line in DOCUMENT.lines().filter(|line| !line.starts_with('#')) {
        let line = match line.strip_suffix(NEW) {
            Some(_) if !is_new => continue,
            Some(line) => line,
            None => line,
        };
        let (before, value) = match line.split_once(": ") {
            Some((before, "VERSION")) => (before, if is_new { "3.2.0" } else { "3.1.0" }.to_owned()),
            Some((before, "SERVER")) => (before, quoted(server)),
            Some((before, "GNOMON")) => (before, quoted(version)),
            _ => {
                out.push_str(line);
                out.push('\n');
                continue;
            }
        };
        out.push_str(before);
        out.push_str(": ");
        out.push_str(&value);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_where_users_reach_them() {
        for (external_url, route_prefix, expected) in [
            ("", "/", "/api/v1"),
            ("", "/a/", "/a/api/v1"),
            ("https://x.example/b/", "/a", "https://x.example/b/api/v1"),
        ] {
            let web = WebOptions {
                external_url: external_url.into(),
                route_prefix: route_prefix.into(),
                ..WebOptions::default()
            };
            assert_eq!(server(&web), expected);
        }
    }

    /// `/write` and `/cluster` are served by other parts of a process.
    #[test]
    fn all_paths_are_written_and_no_others() {
        use crate::api::{cluster_routes, early_routes, own_routes, routes};
        let text = written(true, "/", "1");
        let paths = text
            .split_once("\npaths:\n")
            .unwrap()
            .1
            .split_once("\ncomponents:\n")
            .unwrap()
            .0;
        let lines = paths
            .lines()
            .filter_map(|line| line.strip_prefix("  /")?.strip_suffix(':'));
        let own = lines.filter(|path| !path.starts_with("cluster/"));
        let mut written: Vec<_> = own.map(|path| format!("/{path}")).collect();
        let served = [own_routes(), cluster_routes(), early_routes(), routes()]
            .into_iter()
            .flatten();
        let mut served: Vec<_> = served
            .map(|(path, _)| path.to_owned())
            .chain(["/write".to_owned()])
            .collect();
        written.sort();
        served.sort();
        assert_eq!(written, served);
    }

    #[test]
    fn what_only_the_newer_version_knows_is_left_out_of_the_older() {
        let (old, new) = (written(false, "/api/v1", "1"), written(true, "/a\"b", "1"));
        assert!(old.starts_with("openapi: 3.1.0\n") && new.starts_with("openapi: 3.2.0\n"));
        assert!(old.contains("\n  - url: \"/api/v1\"\n") && new.contains("\n  - url: \"/a\\\"b\"\n"));
        assert!(!old.contains("/notifications/live") && new.contains("\n  /notifications/live:\n"));
        assert!(
            !old.contains("itemSchema") && !old.contains("summary: Query\n") && new.contains("    summary: Query\n")
        );
        for text in [old, new] {
            assert!(!text.contains('#') || !text.contains(NEW));
        }
    }
}
