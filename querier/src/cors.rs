//! What browsers are told about requests from pages of other origins.

use crate::router::ApiSetupError;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use gnomon_model::re2::Regex;
use http::{HeaderMap, HeaderValue, header};
use std::sync::Arc;

/// Origins that may call the API.
pub(crate) struct Cors {
    /// Every one.
    is_any: bool,
    origin: Regex,
}

impl Cors {
    /// Of `--web.cors.origin`.
    pub(crate) fn new(origin: &str) -> Result<Arc<Self>, ApiSetupError> {
        Ok(Arc::new(Self {
            is_any: origin == ".*",
            origin: Regex::anchored(origin)?,
        }))
    }

    fn allow(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        for (name, value) in [
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "Accept, Authorization, Content-Type, Origin",
            ),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self.is_any {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else if origin.to_str().is_ok_and(|text| self.origin.is_match(text)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
    }
}

/// The headers that Prometheus gives to requests from other origins; caches are told that these make a difference.
pub(crate) async fn cors(State(cors): State<Arc<Cors>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin.filter(|origin| !origin.is_empty()) {
        cors.allow(&origin, response.headers_mut());
    }
    response
}

/// The same for endpoints of `/api/v1` that are served beside the querier's. `origin` is `--web.cors.origin`.
///
/// # Errors
/// When that is no regular expression.
pub fn with_cors(routes: Router, origin: &str) -> Result<Router, ApiSetupError> {
    Ok(routes.route_layer(from_fn_with_state(Cors::new(origin)?, cors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::post;
    use http::StatusCode;
    use tower::ServiceExt as _;

    #[tokio::test]
    async fn other_endpoints_have_the_same_headers() {
        let write = post(|| async { StatusCode::BAD_REQUEST }).options(|| async { StatusCode::NO_CONTENT });
        let ask = async |origins: &str, method: &str, origin: &str| {
            let routes = with_cors(Router::new().route("/write", write.clone()), origins).unwrap();
            let request = Request::builder().method(method).uri("/write");
            let request = request.header("Origin", origin).body(Body::empty()).unwrap();
            let answer = routes.oneshot(request).await.unwrap();
            let headers = answer.headers().clone();
            let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
            let own = ["headers", "methods", "origin"].map(|what| text(&format!("access-control-allow-{what}")));
            (answer.status().as_u16(), own, text("access-control-expose-headers"))
        };
        let some = |text: &str| Some(text.to_owned());
        let given = |origin: Option<String>| {
            let methods = some("GET, POST, OPTIONS");
            [some("Accept, Authorization, Content-Type, Origin"), methods, origin]
        };
        let date = some("Date");
        for (method, status) in [("OPTIONS", 204), ("POST", 400), ("GET", 405)] {
            let answer = ask(".*", method, "https://a.test").await;
            assert_eq!(answer, (status, given(some("*")), date.clone()), "{method}");
        }
        let own = ask("https://a.*", "POST", "https://a.test").await;
        assert_eq!(own, (400, given(some("https://a.test")), date.clone()));
        let other = ask("https://a.*", "POST", "https://b.test").await;
        assert_eq!(other, (400, given(None), date));
        assert_eq!(ask(".*", "POST", "").await, (400, [None, None, None], None));
        assert!(with_cors(Router::new(), "(").is_err());
    }
}
