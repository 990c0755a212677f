//! A successful answer: the envelope `{"status":"success","data":…}` around what an endpoint gives.

use crate::json::{Gone, Json, Sink};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use gnomon_promql::Reserved;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;

/// Chunks between the writer and the connection.
const CHUNKS_IN_FLIGHT: usize = 4;

/// Answers that are written at the same time: each keeps a thread, and slow readers must not take all there are.
static WRITERS: Semaphore = Semaphore::const_new(256);

/// Warnings, and infos, that are shown; as Prometheus.
const SHOWN_TEXTS: usize = 10;

/// Writes `data`.
pub(crate) type Write = Box<dyn FnOnce(&mut Json) -> Result<(), Gone> + Send>;

/// Writes bytes that are no text.
pub(crate) type WriteBytes = Box<dyn FnOnce(&Sink) -> Result<(), Gone> + Send>;

/// What an endpoint gives.
pub(crate) struct Answer {
    data: Write,
    /// Large ones are written chunk by chunk, on a thread of their own.
    large: bool,
    warnings: Vec<String>,
    infos: Vec<String>,
    /// What the data occupies, until it is written.
    held: Option<Reserved>,
}

impl Answer {
    pub(crate) fn new(large: bool, data: Write) -> Self {
        Self {
            data,
            large,
            warnings: Vec::new(),
            infos: Vec::new(),
            held: None,
        }
    }

    /// A plain structure; strings escaped as Go's `encoding/json` does.
    pub(crate) fn of(data: &impl Serialize) -> Result<Self, crate::ApiError> {
        let text = crate::gojson::to_string(data).map_err(|e| {
            crate::ApiError::new(crate::ErrorType::Internal, format!("the answer cannot be written: {e}"))
        })?;
        Ok(Self::new(
            false,
            Box::new(move |json| {
                json.raw(&text);
                Ok(())
            }),
        ))
    }

    /// Keeps a reservation until the answer is written.
    pub(crate) fn holding(mut self, held: Reserved) -> Self {
        self.held = Some(held);
        self
    }

    pub(crate) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    pub(crate) fn with_infos(mut self, infos: Vec<String>) -> Self {
        self.infos.extend(infos);
        self
    }

    fn write(self, json: &mut Json) -> Result<(), Gone> {
        json.raw(r#"{"status":"success","data":"#);
        (self.data)(json)?;
        drop(self.held);
        for (name, kind, texts) in [("warnings", "warning", &self.warnings), ("infos", "info", &self.infos)] {
            if !texts.is_empty() {
                let (shown, omitted) = texts.split_at(texts.len().min(SHOWN_TEXTS));
                let more = match omitted.len() {
                    0 => None,
                    n => Some(format!("{n} more {kind} annotations omitted")),
                };
                json.raw(",\"");
                json.raw(name);
                json.raw("\":[");
                json.list(shown.iter().chain(&more), |json, text| json.text_for_html(text))?;
                json.raw("]");
            }
        }
        json.raw("}");
        Ok(())
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        if !self.large {
            let mut json = Json::buffer();
            // A buffer has no reader that could go.
            let _ = self.write(&mut json);
            return json_response(StatusCode::OK, json.into_bytes());
        }
        json_response(StatusCode::OK, text_in_chunks(Box::new(|json| self.write(json))))
    }
}

fn text_in_chunks(write: Write) -> Body {
    in_chunks(|sink| {
        let mut out = Json::chunks(sink);
        write(&mut out).and_then(|()| out.finish())
    })
}

/// What `write` writes, chunk by chunk, on a thread of its own.
fn in_chunks(write: impl FnOnce(Sink) -> Result<(), Gone> + Send + 'static) -> Body {
    let (sink, chunks) = tokio::sync::mpsc::channel::<Bytes>(CHUNKS_IN_FLIGHT);
    let runtime = tokio::runtime::Handle::current();
    tokio::spawn(async move {
        // Closed never.
        let place = WRITERS.acquire().await;
        let writing = tokio::task::spawn_blocking(move || {
            if write(Sink::new(sink, runtime)).is_err() {
                tracing::debug!("client went away, or stopped reading, before the answer was written");
            }
        });
        if let Err(panicked) = writing.await {
            tracing::error!(%panicked, "an answer could not be written");
        }
        drop(place);
    });
    let stream = ReceiverStream::new(chunks).map(Ok::<_, std::convert::Infallible>);
    Body::from_stream(stream)
}

/// A text that is no JSON document, written chunk by chunk.
pub(crate) fn text_response(content_type: &'static str, write: Write) -> Response {
    response(content_type, text_in_chunks(write))
}

/// Bytes, written chunk by chunk.
pub(crate) fn bytes_response(content_type: &'static str, write: WriteBytes) -> Response {
    response(content_type, in_chunks(|sink| write(&sink)))
}

fn response(content_type: &'static str, body: Body) -> Response {
    let mut response = json_response(StatusCode::OK, body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
