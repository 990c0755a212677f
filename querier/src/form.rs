//! The parameters of a request: of its query string and of a POSTed form. As in Go, those of an URL-encoded form come
//! before, those of a multipart form behind those of the query string.

mod multipart;

use crate::error::{ApiError, ErrorType};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use http::{Method, header};
use std::time::Duration;

/// As Go's `http.Request.ParseForm` (which reads more of a multipart form).
const MAX_BODY_BYTES: usize = 10 << 20;

/// Decoded parameters in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form {
    pairs: Vec<(String, String)>,
    /// The first pair that was left out, and why.
    complaint: Option<String>,
}

impl Form {
    #[cfg(test)]
    pub(crate) fn of_query(query: &str) -> Self {
        let mut form = Self::default();
        form.read(query.as_bytes());
        form
    }

    /// The first value; empty where there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or("")
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// For the endpoints that refuse a request of which a part cannot be read; the others go without that part.
    ///
    /// # Errors
    /// In Go's words.
    pub(crate) fn require_whole(&self) -> Result<(), ApiError> {
        match &self.complaint {
            None => Ok(()),
            Some(why) => Err(unreadable(why)),
        }
    }

    /// Adds what `text` has, as Go's `url.ParseQuery`: a pair with a semicolon or a bad escape is left out.
    fn read(&mut self, text: &[u8]) {
        for pair in text.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            match read_pair(pair) {
                Ok(pair) => self.pairs.push(pair),
                Err(why) => {
                    self.complaint.get_or_insert(why);
                }
            }
        }
    }
}

fn read_pair(pair: &[u8]) -> Result<(String, String), String> {
    if pair.contains(&b';') {
        return Err("invalid semicolon separator in query".to_owned());
    }
    let (name, value) = match pair.iter().position(|b| *b == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, &b""[..]),
    };
    Ok((unescape(name)?, unescape(value)?))
}

/// Undoes `+` and `%41`; bytes that are no UTF-8 become U+FFFD, as they do in Go's answers.
fn unescape(text: &[u8]) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digit = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    let shown = String::from_utf8_lossy(&after[..after.len().min(2)]);
                    return Err(format!("invalid URL escape {:?}", format!("%{shown}")));
                };
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            other => bytes.push(other),
        }
    }
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// How the parameters of a body are written.
enum Encoding {
    Urlencoded,
    /// With this boundary.
    Multipart(String),
}

fn unreadable(why: impl std::fmt::Display) -> ApiError {
    ApiError::bad_data(format!("error parsing form values: {why}"))
}

/// None where the body has no parameters.
fn encoding(request: &Request) -> Result<Option<Encoding>, ApiError> {
    if !matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
        return Ok(None);
    }
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|v| v.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Ok(Some(Encoding::Urlencoded));
    }
    let boundary = multipart::boundary(content_type).map_err(unreadable)?;
    Ok(boundary.map(Encoding::Multipart))
}

/// A client that takes longer to send what it asks is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = ApiError;

    async fn from_request(mut request: Request, _: &S) -> Result<Self, ApiError> {
        let encoding = encoding(&request)?;
        let query = request.uri().query().unwrap_or("").to_owned();
        let mut form = Self::default();
        let Some(encoding) = encoding else {
            form.read(query.as_bytes());
            return Ok(form);
        };
        let body = std::mem::replace(request.body_mut(), Body::empty());
        let arriving = axum::body::to_bytes(body, MAX_BODY_BYTES);
        let body = tokio::time::timeout(BODY_TIMEOUT, arriving).await.map_err(|_| {
            let why = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            ApiError::new(ErrorType::Unavailable, why)
        })?;
        let body = body.map_err(|e| unreadable(format_args!("{e}; at most {MAX_BODY_BYTES} bytes are read")))?;
        match encoding {
            Encoding::Urlencoded => {
                form.read(&body);
                form.read(query.as_bytes());
            }
            Encoding::Multipart(boundary) => {
                form.read(query.as_bytes());
                form.pairs
                    .extend(multipart::fields(&body, &boundary).map_err(unreadable)?);
            }
        }
        Ok(form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_go_reads_them() {
        let form = Form::of_query("a=1&&a=%32+x&b&=c&%6d[]=%C3%BC&bad=%zz&semi=1;x=2&last==");
        assert_eq!(form.all("a").collect::<Vec<_>>(), ["1", "2 x"]);
        assert_eq!((form.get("b"), form.get(""), form.get("m[]")), ("", "c", "ü"));
        assert_eq!((form.get("bad"), form.get("semi"), form.get("last")), ("", "", "="));
        let refusal = form.require_whole().unwrap_err().to_string();
        assert_eq!(refusal, "error parsing form values: invalid URL escape \"%zz\"");
        let semicolon = Form::of_query("a;b").require_whole().unwrap_err().to_string();
        assert_eq!(
            semicolon,
            "error parsing form values: invalid semicolon separator in query"
        );
        assert_eq!(
            Form::of_query("a=%f").require_whole().unwrap_err().message,
            "error parsing form values: invalid URL escape \"%f\""
        );
        assert!(Form::of_query("a=%ff").require_whole().is_ok());
        assert_eq!(Form::of_query("a=%ff").get("a"), "\u{fffd}");
    }
}
