//! A successful answer: the envelope `{"status":"success","data":…}` around what an endpoint gives.

use crate::json::{Gone, Json, Sink};
use crate::writers::{WRITERS, Writers};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use gnomon_promql::Reserved;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Chunks between the writer and the connection.
const CHUNKS_IN_FLIGHT: usize = 4;

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
    in_chunks(&WRITERS, |sink| {
        let mut out = Json::chunks(sink);
        write(&mut out).and_then(|()| out.finish())
    })
}

/// What `write` writes, chunk by chunk, on a thread of its own. A body that is not written to its end breaks off.
fn in_chunks(writers: &'static Writers, write: impl FnOnce(Sink) -> Result<(), Gone> + Send + 'static) -> Body {
    let (sink, chunks) = tokio::sync::mpsc::channel::<Bytes>(CHUNKS_IN_FLIGHT);
    let chunks = Arc::new(Mutex::new(chunks));
    let (whole, is_whole) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Handle::current();
    // The body alone keeps the receiver: once it is gone, so is the reader.
    let untaken = Arc::downgrade(&chunks);
    tokio::spawn(async move {
        let place = tokio::select! {
            place = writers.place() => place,
            // The reader has gone: nobody gives way to it.
            () = sink.closed() => return,
        };
        let writing = tokio::task::spawn_blocking(move || write(Sink::new(sink, runtime, writers))).await;
        match writing {
            Ok(Ok(())) => {
                // An error is that the reader has gone.
                let _ = whole.send(());
            }
            Ok(Err(Gone)) => {
                tracing::debug!("client went away, or stopped reading, before the answer was written");
                // Its place may be another's: what it was given must not pile up behind those that stand still.
                if let Some(untaken) = untaken.upgrade() {
                    while untaken.lock().try_recv().is_ok() {}
                }
            }
            Err(panicked) => tracing::error!(%panicked, "an answer could not be written"),
        }
        drop(place);
    });
    let written = futures::stream::poll_fn(move |context| chunks.lock().poll_recv(context)).map(Ok::<_, Gone>);
    let end = futures::stream::once(is_whole).filter_map(|end| std::future::ready(end.err().map(|_| Err(Gone))));
    Body::from_stream(written.chain(end))
}

/// A text that is no JSON document, written chunk by chunk.
pub(crate) fn text_response(content_type: &'static str, write: Write) -> Response {
    response(content_type, text_in_chunks(write))
}

/// Bytes, written chunk by chunk.
pub(crate) fn bytes_response(content_type: &'static str, write: WriteBytes) -> Response {
    response(content_type, in_chunks(&WRITERS, |sink| write(&sink)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use std::time::Duration;

    const CHUNKS: usize = 100;
    const CHUNK: &[u8] = &[b'x'; 1024];
    /// Within the patience with readers that nobody waits behind.
    const SOON: Duration = Duration::from_secs(20);

    fn answer(writers: &'static Writers) -> Body {
        in_chunks(writers, |sink| {
            (0..CHUNKS).try_for_each(|_| sink.send(Bytes::from_static(CHUNK)))
        })
    }

    /// Of a body that is read now: its length, or that it broke off.
    async fn read(body: Body) -> Result<usize, axum::Error> {
        let read = tokio::time::timeout(SOON, to_bytes(body, usize::MAX)).await.unwrap();
        read.map(|bytes| bytes.len())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn readers_that_stand_still_give_way_to_those_that_wait() {
        static FEW: Writers = Writers::new(2);
        let still = [answer(&FEW), answer(&FEW)];
        assert_eq!(read(answer(&FEW)).await.unwrap(), CHUNKS * CHUNK.len());
        let mut broken_off = 0;
        for body in still {
            match read(body).await {
                Ok(length) => assert_eq!(length, CHUNKS * CHUNK.len(), "all of it, or an error"),
                Err(_) => broken_off += 1,
            }
        }
        assert!(broken_off > 0, "one had to give way");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_stands_still_keeps_a_place_that_nobody_wants() {
        static FEW: Writers = Writers::new(2);
        let still = answer(&FEW);
        tokio::time::sleep(crate::writers::MAY_STAND_STILL * 2).await;
        assert_eq!(read(answer(&FEW)).await.unwrap(), CHUNKS * CHUNK.len());
        assert_eq!(read(still).await.unwrap(), CHUNKS * CHUNK.len());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_gives_way_to_those_who_have_gone() {
        static ONE: Writers = Writers::new(1);
        let still = answer(&ONE);
        for _ in 0..20 {
            drop(answer(&ONE));
        }
        tokio::time::sleep(crate::writers::MAY_STAND_STILL * 2).await;
        assert_eq!(read(still).await.unwrap(), CHUNKS * CHUNK.len());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_written_for_those_who_have_gone() {
        static ONE: Writers = Writers::new(1);
        let (done, is_done) = oneshot::channel();
        let body = in_chunks(&ONE, |sink| {
            let written = (0..CHUNKS).try_for_each(|_| sink.send(Bytes::from_static(CHUNK)));
            done.send(written).unwrap();
            written
        });
        drop(body);
        let written = tokio::time::timeout(SOON, is_done).await.unwrap();
        assert!(
            matches!(written, Err(_) | Ok(Err(Gone))),
            "it is not begun, or breaks off"
        );
    }

    /// What is cut short must not look like all there is.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_that_is_not_written_to_its_end_breaks_off() {
        static ONE: Writers = Writers::new(1);
        let body = in_chunks(&ONE, |sink| {
            sink.send(Bytes::from_static(CHUNK))?;
            Err(Gone)
        });
        assert!(read(body).await.is_err());
    }
}
