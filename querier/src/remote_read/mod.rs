//! Prometheus' remote read: `POST /api/v1/read`, a snappy block of protobuf; answered with samples or, where the reader
//! asks for it, with a stream of chunks.

mod chunks;

use crate::answer::json_response;
use crate::error::{ApiError, ErrorType};
use crate::fanout::{Merge, MergedSeries, Scope, Selection, decode, whole_numbers};
use crate::json::READER_PATIENCE;
use crate::params::Patterns;
use crate::router::{Api, plain};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use gnomon_cluster::layers::TraceContext;
use gnomon_model::re2::is_costly;
use gnomon_model::{Labels, LabelsRef, MatchOp, Matcher};
use gnomon_promql::Samples;
use gnomon_proto::prometheus::label_matcher::Type;
use gnomon_proto::prometheus::read_request::ResponseType;
use gnomon_proto::prometheus::{
    ChunkedReadResponse, ChunkedSeries, Label, Query, QueryResult, ReadHints, ReadRequest, ReadResponse, Sample,
    TimeSeries,
};
use http::{HeaderValue, StatusCode, header};
use prost::Message;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Of a request, as it is sent and decompressed.
const MAX_REQUEST_BYTES: usize = 32 << 20;
/// How long a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Frames between the writer and the connection.
const FRAMES_IN_FLIGHT: usize = 4;
/// What a sample takes in an answer, at least.
const SAMPLE_BYTES: u64 = 24;

/// A refusal as Prometheus words it here: plain text.
struct Refusal(StatusCode, String);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        // Prometheus has no other code for what fails while it reads.
        let status = match error.kind {
            ErrorType::BadData => StatusCode::BAD_REQUEST,
            ErrorType::Unavailable | ErrorType::Timeout => StatusCode::SERVICE_UNAVAILABLE,
            ErrorType::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.message)
    }
}

impl Refusal {
    fn bad(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }
}

/// `/read`.
pub(crate) async fn read(State(api): State<Arc<Api>>, body: Body) -> Response {
    let answered = match arrived(body, BODY_TIMEOUT).await {
        Ok(packed) => admitted(&api, &packed).await,
        Err(refusal) => Err(refusal),
    };
    answered.unwrap_or_else(|Refusal(status, why)| plain(status, format!("{why}\n")))
}

/// Waits for a place; not before the request is there, so that one which comes slowly keeps none, but before it is unpacked,
/// which may make much of little.
async fn admitted(api: &Arc<Api>, packed: &[u8]) -> Result<Response, Refusal> {
    let place = match api.read_gate.clone() {
        None => None,
        // The gate never closes.
        Some(gate) => Some(gate.acquire_owned().await.map_err(|_| {
            let why = "remote read is closed".to_owned();
            Refusal(StatusCode::SERVICE_UNAVAILABLE, why)
        })?),
    };
    answer(api, decoded(packed)?, place).await
}

/// How many reads run at the same time; a stream keeps its place until it ends.
type Place = Option<tokio::sync::OwnedSemaphorePermit>;

async fn answer(api: &Arc<Api>, request: ReadRequest, place: Place) -> Result<Response, Refusal> {
    let external = api.state.node.config().external_labels;
    let matchers = || request.queries.iter().flat_map(|query| &query.matchers);
    let costly = matchers().count() > FEW_MATCHERS || matchers().any(|matcher| is_costly(&matcher.value));
    let (queries, known) = (request.queries, external.clone());
    let selections = api
        .reading(costly, api.state.query.timeout, move || {
            selections(&queries, known.as_ref())
        })
        .await??;
    // There is no place for warnings in the answer: a reader must not take a part for the whole.
    let scope = Scope::new(true, api.state.query.fetch).with_memory(api.memory.budget());
    let scope = Arc::new(scope);
    match negotiated(&request.accepted_response_types)? {
        ResponseType::Samples => samples(api, &scope, &selections, &external).await,
        ResponseType::StreamedXorChunks => streamed(api, scope, selections, external, place).await,
    }
}

async fn arrived(body: Body, timeout: Duration) -> Result<Bytes, Refusal> {
    let arriving = axum::body::to_bytes(body, MAX_REQUEST_BYTES);
    let packed = tokio::time::timeout(timeout, arriving).await.map_err(|_| {
        let why = format!("the body did not arrive within {} s", timeout.as_secs_f64());
        Refusal(StatusCode::SERVICE_UNAVAILABLE, why)
    })?;
    packed.map_err(|e| Refusal::bad(e.to_string()))
}

fn decoded(packed: &[u8]) -> Result<ReadRequest, Refusal> {
    let length = snap::raw::decompress_len(packed).map_err(|_| Refusal::bad("snappy: corrupt input"))?;
    if length > MAX_REQUEST_BYTES {
        return Err(Refusal::bad("snappy: decoded block is too large"));
    }
    let bytes = snap::raw::Decoder::new()
        .decompress_vec(packed)
        .map_err(|_| Refusal::bad("snappy: corrupt input"))?;
    ReadRequest::decode(&bytes[..]).map_err(|e| Refusal::bad(e.to_string()))
}

/// The first kind of answer that is accepted and known; samples where nothing is asked for.
fn negotiated(accepted: &[i32]) -> Result<ResponseType, Refusal> {
    if accepted.is_empty() {
        return Ok(ResponseType::Samples);
    }
    let known = accepted.iter().find_map(|kind| ResponseType::try_from(*kind).ok());
    known.ok_or_else(|| {
        let asked: Vec<_> = accepted.iter().map(i32::to_string).collect();
        Refusal::bad(format!(
            "server does not support any of the requested response types: [{}]; supported: map[SAMPLES:{{}} STREAMED_XOR_CHUNKS:{{}}]",
            asked.join(" ")
        ))
    })
}

/// Whether anything is asked for: without matchers it is nothing, as in Prometheus.
fn selects(selection: &Selection) -> bool {
    !selection.matchers.is_empty() && selection.start_ms <= selection.end_ms
}

/// The function around what is asked for that wants series only, without their samples.
const ONLY_SERIES: &str = "series";

/// First and last time that are of use to the reader: hints may narrow what a query asks for.
fn hinted(query: &Query) -> (i64, i64) {
    let (start_ms, end_ms) = (query.start_timestamp_ms, query.end_timestamp_ms);
    let hints = query.hints.as_ref();
    let hint = |of: fn(&ReadHints) -> i64| hints.map(of).filter(|ms| *ms > 0);
    (
        hint(|hints| hints.start_ms).map_or(start_ms, |ms| ms.max(start_ms)),
        hint(|hints| hints.end_ms).map_or(end_ms, |ms| ms.min(end_ms)),
    )
}

/// So many are compiled at once, none of them costly.
const FEW_MATCHERS: usize = 64;

fn selections(queries: &[Query], external: LabelsRef<'_>) -> Result<Vec<Selection>, Refusal> {
    let mut patterns = Patterns::default();
    let each = queries.iter().map(|query| selection(query, external, &mut patterns));
    each.collect()
}

/// External labels are not stored: a matcher for one of them, with its value, is taken to be met.
/// `patterns` are the expressions of all selections so far.
fn selection(query: &Query, external: LabelsRef<'_>, patterns: &mut Patterns) -> Result<Selection, Refusal> {
    let mut matchers = Vec::with_capacity(query.matchers.len());
    for wire in &query.matchers {
        // As in Prometheus, which finds out what is wrong with a matcher while it reads.
        let broken = |why: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, why);
        let op = match Type::try_from(wire.r#type).map_err(|_| broken("invalid matcher type".to_owned()))? {
            Type::Eq => MatchOp::Equal,
            Type::Neq => MatchOp::NotEqual,
            Type::Re => MatchOp::Regex,
            Type::Nre => MatchOp::NotRegex,
        };
        let met = op == MatchOp::Equal && external.get(&wire.name).unwrap_or("") == wire.value;
        let value = if met { "" } else { wire.value.as_str() };
        let matcher = Matcher::new(wire.name.as_str(), op, value).map_err(|e| broken(e.to_string()))?;
        let added = patterns.add(&matcher);
        added.map_err(|too_large| Refusal::bad(format!("regular expressions {too_large}")))?;
        matchers.push(matcher);
    }
    let (start_ms, end_ms) = hinted(query);
    Ok(Selection {
        matchers,
        start_ms,
        end_ms,
        labels_only: query.hints.as_ref().is_some_and(|hints| hints.func == ONLY_SERIES),
    })
}

/// A series' labels, and the external ones that it has not.
fn with_external(labels: &Labels, external: &Labels) -> Vec<Label> {
    let own = labels.iter();
    let more = external.iter().filter(|(name, _)| labels.get(name).is_none());
    let mut all: Vec<_> = own
        .chain(more)
        .map(|(name, value)| Label {
            name: name.to_owned(),
            value: value.to_owned(),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn damaged(labels: &Labels, error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorType::Internal, format!("series {labels}: {error}"))
}

struct Decoded {
    samples: Samples,
    /// Times of histograms whose counts were whole numbers.
    whole: std::collections::HashSet<i64>,
}

fn decode_series(series: &MergedSeries, selection: &Selection) -> Result<Decoded, ApiError> {
    let (start_ms, end_ms) = (selection.start_ms, selection.end_ms);
    let samples = decode(&series.runs, start_ms, end_ms).map_err(|e| damaged(&series.labels, e))?;
    let whole = whole_numbers(&series.runs, start_ms, end_ms).map_err(|e| damaged(&series.labels, e))?;
    Ok(Decoded { samples, whole })
}

async fn samples(
    api: &Api,
    scope: &Arc<Scope>,
    selections: &[Selection],
    external: &Labels,
) -> Result<Response, Refusal> {
    let limit = api.state.query.remote_read.samples;
    let mut held = scope.memory().reserve(0).map_err(ApiError::from)?;
    let mut results = Vec::with_capacity(selections.len());
    for selection in selections {
        let mut result = QueryResult::default();
        if !selects(selection) {
            results.push(result);
            continue;
        }
        let mut count = 0u64;
        let mut merge = api.state.fanout.select(scope, selection).await?;
        while let Some(series) = merge.next().await? {
            let decoded = decode_series(&series, selection)?;
            if decoded.samples.is_empty() && !selection.labels_only {
                continue;
            }
            count += decoded.samples.len() as u64;
            if limit > 0 && count > limit {
                return Err(Refusal::bad(format!("exceeded sample limit ({limit})")));
            }
            let row = time_series(&series.labels, &decoded, external);
            held.grow(SAMPLE_BYTES * decoded.samples.len() as u64 + 2 * row.encoded_len() as u64)
                .map_err(ApiError::from)?;
            result.timeseries.push(row);
        }
        results.push(result);
    }
    api.said(scope);
    let bytes = ReadResponse { results }.encode_to_vec();
    let packed = snap::raw::Encoder::new().compress_vec(&bytes);
    let packed = packed.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let mut response = json_response(StatusCode::OK, packed);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("snappy"));
    Ok(response)
}

fn time_series(labels: &Labels, decoded: &Decoded, external: &Labels) -> TimeSeries {
    let mut row = TimeSeries {
        labels: with_external(labels, external),
        ..TimeSeries::default()
    };
    for (at, timestamp) in decoded.samples.timestamps.iter().copied().enumerate() {
        match decoded.samples.histogram(at) {
            None => row.samples.push(Sample {
                value: decoded.samples.values[at],
                timestamp,
            }),
            Some(histogram) => {
                let whole = decoded.whole.contains(&timestamp);
                row.histograms
                    .push(gnomon_proto::histogram::to_wire(histogram, whole, timestamp));
            }
        }
    }
    row
}

async fn streamed(
    api: &Arc<Api>,
    scope: Arc<Scope>,
    selections: Vec<Selection>,
    external: Labels,
    place: Place,
) -> Result<Response, Refusal> {
    // What cannot be read at all is refused; later failures can only break the stream off.
    let mut selections = selections.into_iter().enumerate().filter(|(_, s)| selects(s));
    let mut open = None;
    if let Some((index, selection)) = selections.next() {
        let merge = api.state.fanout.select(&scope, &selection).await?;
        open = Some((index, selection, merge));
    }
    let (frames, receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
    let whole = Arc::new(AtomicBool::new(false));
    let body = Body::from_stream(until_broken_off(receiver, Arc::clone(&whole)));
    let api = Arc::clone(api);
    let most_bytes = api.state.query.remote_read.frame_bytes;
    tokio::spawn(TraceContext::carried(async move {
        let work = async {
            while let Some((index, selection, merge)) = open.take() {
                stream_query(&frames, index, &selection, merge, &external, most_bytes).await?;
                if let Some((index, selection)) = selections.next() {
                    let merge = api.state.fanout.select(&scope, &selection).await?;
                    open = Some((index, selection, merge));
                }
            }
            whole.store(true, Ordering::Release);
            Ok::<(), ApiError>(())
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = frames.closed() => Ok(()),
        };
        if let Err(error) = outcome
            && !frames.is_closed()
        {
            tracing::warn!(%error, "a streamed remote read was broken off");
        }
        api.said(&scope);
        scope.token.cancel();
        drop((frames, place));
    }));
    let mut response = json_response(StatusCode::OK, body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"),
    );
    Ok(response)
}

/// The frames, and an error behind them unless they are `whole` then: the reader must not take a part for it.
fn until_broken_off(frames: mpsc::Receiver<Bytes>, whole: Arc<AtomicBool>) -> impl Stream<Item = io::Result<Bytes>> {
    let end = stream::once(async move { whole.load(Ordering::Acquire) })
        .filter_map(|whole| async move { (!whole).then(|| Err(io::Error::other("the read was broken off"))) });
    ReceiverStream::new(frames).map(Ok).chain(end)
}

async fn stream_query(
    frames: &mpsc::Sender<Bytes>,
    index: usize,
    selection: &Selection,
    mut merge: Merge,
    external: &Labels,
    most_bytes: usize,
) -> Result<(), ApiError> {
    while let Some(series) = merge.next().await? {
        let decoded = decode_series(&series, selection)?;
        let labels = with_external(&series.labels, external);
        if selection.labels_only {
            let message = ChunkedReadResponse {
                chunked_series: vec![ChunkedSeries {
                    labels,
                    chunks: Vec::new(),
                }],
                query_index: index as i64,
            };
            send(frames, frame(&message)).await?;
            continue;
        }
        let of_labels: usize = labels.iter().map(Message::encoded_len).sum();
        let chunks = chunks::chunks(&decoded.samples, |time| decoded.whole.contains(&time));
        let chunks = chunks.map_err(|what| {
            let text = format!("series {}: {what}", series.labels);
            ApiError::new(ErrorType::Internal, text)
        })?;
        let mut chunks = chunks.into_iter().peekable();
        let mut waiting = Vec::new();
        let mut left = most_bytes.saturating_sub(of_labels);
        while let Some(chunk) = chunks.next() {
            left = left.saturating_sub(chunk.encoded_len());
            waiting.push(chunk);
            if left > 0 && chunks.peek().is_some() {
                continue;
            }
            let message = ChunkedReadResponse {
                chunked_series: vec![ChunkedSeries {
                    labels: labels.clone(),
                    chunks: std::mem::take(&mut waiting),
                }],
                query_index: index as i64,
            };
            send(frames, frame(&message)).await?;
            left = most_bytes.saturating_sub(of_labels);
        }
    }
    Ok(())
}

/// Not to one who takes nothing: as with other answers, a reader must not keep what it was given for ever.
async fn send(frames: &mpsc::Sender<Bytes>, frame: Bytes) -> Result<(), ApiError> {
    let sent = frames.send_timeout(frame, READER_PATIENCE).await;
    sent.map_err(|_| ApiError::new(ErrorType::Timeout, "the reader takes nothing, or has gone".to_owned()))
}

/// `uvarint(length) crc32c(bytes, big endian) bytes`
fn frame(message: &ChunkedReadResponse) -> Bytes {
    let bytes = message.encode_to_vec();
    let mut framed = Vec::with_capacity(bytes.len() + 9);
    gnomon_model::labels::put_uvarint(&mut framed, bytes.len() as u64);
    framed.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    framed.extend_from_slice(&bytes);
    framed.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::prometheus::LabelMatcher;

    #[test]
    fn the_first_known_kind_of_answer_is_given() {
        let kind = |accepted: &[i32]| negotiated(accepted).ok();
        assert_eq!(kind(&[]), Some(ResponseType::Samples));
        assert_eq!(kind(&[7, 1, 0]), Some(ResponseType::StreamedXorChunks));
        assert_eq!(kind(&[0, 1]), Some(ResponseType::Samples));
        assert_eq!(kind(&[9]), None);
    }

    #[test]
    fn matchers_of_external_labels_are_met() {
        let external = Labels::from_pairs([("region", "eu")]);
        let matcher = |r#type: Type, name: &str, value: &str| LabelMatcher {
            r#type: r#type as i32,
            name: name.into(),
            value: value.into(),
        };
        let query = Query {
            matchers: vec![
                matcher(Type::Eq, "region", "eu"),
                matcher(Type::Eq, "job", "a"),
                matcher(Type::Re, "region", "eu"),
                matcher(Type::Eq, "region", "us"),
            ],
            ..Query::default()
        };
        let Ok(selection) = super::selection(&query, external.as_ref(), &mut Patterns::default()) else {
            panic!("refused")
        };
        let values: Vec<_> = selection.matchers.iter().map(Matcher::value).collect();
        assert_eq!(values, ["", "a", "eu", "us"]);
        let mut unknown = query;
        unknown.matchers[1].r#type = 9;
        let refused = super::selection(&unknown, external.as_ref(), &mut Patterns::default());
        assert!(refused.is_err_and(|Refusal(status, why)| status == 500 && why == "invalid matcher type"));
        let own = Labels::from_pairs([("job", "a"), ("region", "us"), ("z", "1")]);
        let merged = with_external(&own, &Labels::from_pairs([("region", "eu"), ("m", "2")]));
        let names: Vec<_> = merged.iter().map(|l| format!("{}={}", l.name, l.value)).collect();
        assert_eq!(names, ["job=a", "m=2", "region=us", "z=1"]);
    }

    #[test]
    fn hints_narrow_what_is_read() {
        let read = |start_ms: i64, end_ms: i64, func: &str| {
            let query = Query {
                start_timestamp_ms: 100,
                end_timestamp_ms: 200,
                matchers: vec![LabelMatcher::default()],
                hints: Some(ReadHints {
                    start_ms,
                    end_ms,
                    func: func.into(),
                    ..ReadHints::default()
                }),
            };
            let Ok(selection) = super::selection(&query, Labels::default().as_ref(), &mut Patterns::default()) else {
                panic!("refused")
            };
            let is_asked_for = selects(&selection);
            (
                selection.start_ms,
                selection.end_ms,
                selection.labels_only,
                is_asked_for,
            )
        };
        assert_eq!(read(0, 0, ""), (100, 200, false, true));
        assert_eq!(read(120, 180, "rate"), (120, 180, false, true));
        assert_eq!(read(50, 250, "series"), (100, 200, true, true));
        assert_eq!(read(-5, 150, ""), (100, 150, false, true));
        assert!(!read(300, 400, "").3);
    }

    #[tokio::test]
    async fn a_request_that_does_not_arrive_is_given_up() {
        let silent = Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let refused = arrived(silent, Duration::from_millis(10)).await;
        assert!(
            refused.is_err_and(|Refusal(status, why)| status == 503 && why == "the body did not arrive within 0.01 s")
        );
    }

    #[tokio::test]
    async fn a_part_is_not_taken_for_the_whole() {
        for is_whole in [true, false] {
            let (frames, receiver) = mpsc::channel(1);
            let whole = Arc::new(AtomicBool::new(false));
            let read = tokio::spawn(until_broken_off(receiver, Arc::clone(&whole)).collect::<Vec<_>>());
            send(&frames, Bytes::from_static(b"a")).await.unwrap();
            whole.store(is_whole, Ordering::Release);
            drop(frames);
            let read: Vec<_> = read.await.unwrap().into_iter().map(|frame| frame.is_ok()).collect();
            assert_eq!(read, if is_whole { vec![true] } else { vec![true, false] });
        }
    }
}
