//! Taking a request's body.

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, header};
use futures::StreamExt;
use std::time::Duration;

/// Of a body that is refused for its length, this much is read.
const MOST_DRAINED: usize = 256 << 20;

/// The body as it was sent.
///
/// # Errors
/// The status and the words for a body that is too long, too slow or cut short.
pub(crate) async fn read(request: Request<Body>, most: usize, limit: Duration) -> Result<Bytes, (StatusCode, String)> {
    let too_slow = |_| {
        let text = format!("the body did not arrive within {} s", limit.as_secs_f64());
        (StatusCode::SERVICE_UNAVAILABLE, text)
    };
    tokio::time::timeout(limit, read_all(request, most))
        .await
        .map_err(too_slow)?
        .map_err(|text| (StatusCode::BAD_REQUEST, text))
}

async fn read_all(request: Request<Body>, most: usize) -> Result<Bytes, String> {
    let too_long = || format!("the body has more than {most} bytes");
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > most) {
        drain(request.into_body()).await;
        return Err(too_long());
    }
    axum::body::to_bytes(request.into_body(), most).await.map_err(|error| {
        let is_too_long = std::error::Error::source(&error).is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
        if is_too_long { too_long() } else { error.to_string() }
    })
}

/// Reads what is sent and drops it, so that a sender which writes its whole request before it reads gets the answer;
/// not for ever.
async fn drain(body: Body) {
    let mut chunks = body.into_data_stream();
    let mut left = MOST_DRAINED;
    while let Some(Ok(chunk)) = chunks.next().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
