//! The page at `/`: one HTML file that asks the API, without anything from elsewhere.

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderValue, header};

const PAGE: &str = include_str!("../ui/index.html");

/// The page runs only what is in itself, and asks only where it came from.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) async fn page() -> Response {
    let mut response = Html(PAGE).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}
