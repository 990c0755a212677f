//! Taking a request's body.

use super::memory::{Memory, NoMemory, SetAside};
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, header};
use futures::StreamExt;
use std::time::Duration;

/// Of a body that is refused for its length, this much is read.
const MOST_DRAINED: usize = 256 << 20;

/// Set aside at a time; room for a body, before anything of it has come.
const AT_A_TIME: usize = 16 << 10;

/// The body as it was sent, for which as much memory is set aside as comes.
///
/// # Errors
/// The status and the words for a body that is too long, too slow or cut short, or that there is no memory for now.
pub(crate) async fn read(
    request: Request<Body>,
    most: usize,
    limit: Duration,
    memory: &Memory,
) -> Result<(Bytes, SetAside), (StatusCode, String)> {
    let too_slow = |_| {
        let text = format!("the body did not arrive within {} s", limit.as_secs_f64());
        (StatusCode::SERVICE_UNAVAILABLE, text)
    };
    let read = tokio::time::timeout(limit, read_all(request, most, memory));
    read.await.map_err(too_slow)?.map_err(|bad| match bad {
        Bad::Body(text) => (StatusCode::BAD_REQUEST, text),
        Bad::Memory(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })
}

enum Bad {
    Body(String),
    Memory(NoMemory),
}

async fn read_all(request: Request<Body>, most: usize, memory: &Memory) -> Result<(Bytes, SetAside), Bad> {
    let too_long = || format!("the body has more than {most} bytes");
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > most) {
        drain(request.into_body()).await;
        return Err(Bad::Body(too_long()));
    }
    let mut set_aside = memory.set_aside(0).map_err(Bad::Memory)?;
    let mut held = 0;
    let mut chunks = request.into_body().into_data_stream();
    let mut body = Vec::with_capacity(declared.unwrap_or(0).min(AT_A_TIME));
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Bad::Body(error.to_string()))?;
        if body.len() + chunk.len() > most {
            return Err(Bad::Body(too_long()));
        }
        if body.len() + chunk.len() > held {
            let more = chunk.len().max(AT_A_TIME);
            set_aside.merge(memory.set_aside(more).map_err(Bad::Memory)?);
            held += more;
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body.into(), set_aside))
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
