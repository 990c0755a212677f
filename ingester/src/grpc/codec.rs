//! Messages as bytes.

use bytes::{Buf, BufMut, Bytes};
use std::time::Duration;
use tonic::body::Body;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};

/// A call with one message may take so long, from its first byte: longer than a request may wait for its shards.
const WITHIN: Duration = Duration::from_secs(60);

/// How long before its deadline a call is given up, so that its sender has the answer in time.
const ANSWER_WITHIN: Duration = Duration::from_millis(20);

/// Takes and gives encoded messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A server's side with this module's limits. Exporters compress with gzip, many by default; what comes of it is bounded
/// too.
pub(super) fn server() -> Grpc<RawCodec> {
    Grpc::new(RawCodec)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(super::MAX_MESSAGE_BYTES)
}

/// The deadline that a call comes with, and a little less: past it tonic answers `CANCELLED`, which says to a sender that it gave
/// up itself, and is not sent again.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, `Timeout`.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    let deadline = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(deadline - (deadline / 10).min(ANSWER_WITHIN))
}

/// A call with one message.
pub(super) async fn unary<S>(service: S, request: Request<Body>) -> Response<Body>
where
    S: UnaryService<Bytes, Response = Vec<u8>>,
{
    let mut server = server();
    let within = deadline(request.headers()).filter(|deadline| *deadline < WITHIN);
    let Ok(answer) = tokio::time::timeout(within.unwrap_or(WITHIN), server.unary(service, request)).await else {
        let status = match within {
            Some(_) => Status::deadline_exceeded("the call took longer than its deadline; it may be done all the same"),
            None => Status::unavailable(format!("the call took longer than {} s", WITHIN.as_secs())),
        };
        return status.into_http();
    };
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() != Code::Ok => never_taken(status).into_http(),
        _ => answer,
    }
}

/// A message that is too large will never be taken. The codes that it is refused with stand for what passes: a sender would
/// send it again and again.
pub(super) fn never_taken(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => Status::invalid_argument(status.message()),
        _ => status,
    }
}

/// The answer to a method that there is not.
pub(super) fn no_such_method(path: &str) -> Status {
    Status::unimplemented(format!("{path} is no method of this service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_timeout(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().expect("a header"));
        headers
    }

    #[test]
    fn a_deadline_is_a_little_less_than_what_the_call_says() {
        let of = |text| deadline(&with_timeout(text));
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!((of("1S"), of("100m"), of("2M")), (ms(980), ms(90), ms(119_980)));
        assert_eq!(
            (of("100u"), of("99999999H").is_some()),
            (Some(Duration::from_micros(90)), true)
        );
        for bad in ["", "S", "1", "1s", "-1S", "100000000S", "1 S", "é"] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", bad.as_bytes().try_into().expect("a header"));
            assert_eq!(deadline(&headers), None, "{bad:?}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_too_long_is_told_by_whose_measure() {
        let never = |_: tonic::Request<Bytes>| std::future::pending::<Result<tonic::Response<Vec<u8>>, Status>>();
        for (timeout, code) in [("1S", Code::DeadlineExceeded), ("2M", Code::Unavailable)] {
            let message = http_body_util::Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]));
            let mut request = Request::new(Body::new(message));
            *request.headers_mut() = with_timeout(timeout);
            let answer = unary(tower::service_fn(never), request).await;
            let status = Status::from_header_map(answer.headers()).expect("a status");
            assert_eq!(status.code(), code, "{timeout}");
        }
    }
}
