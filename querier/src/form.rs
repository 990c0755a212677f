//! The parameters of a request: of its query string and, for a POSTed form, of its body, which come first.

use crate::error::{ApiError, ErrorType};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use http::{Method, header};

/// As Go's `http.Request.ParseForm`.
const MAX_BODY_BYTES: usize = 10 << 20;

/// Decoded parameters in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn of_query(query: &str) -> Self {
        Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The first value; empty where there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or("")
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

fn has_form_body(request: &Request) -> bool {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    let media_type = content_type.unwrap_or("").split(';').next().unwrap_or("").trim();
    matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        && media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, _: &S) -> Result<Self, ApiError> {
        let query = request.uri().query().unwrap_or("").to_owned();
        let mut form = Self::default();
        if has_form_body(&request) {
            let body = std::mem::replace(request.body_mut(), Body::empty());
            let bytes = axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|e| {
                ApiError::new(
                    ErrorType::BadData,
                    format!("error parsing form values: {e}; at most {MAX_BODY_BYTES} bytes are read"),
                )
            })?;
            form.0.extend(url::form_urlencoded::parse(&bytes).into_owned());
        }
        form.0.extend(Self::of_query(&query).0);
        Ok(form)
    }
}
