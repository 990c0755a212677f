//! Messages as bytes.

use bytes::{Buf, BufMut, Bytes};
use std::time::Duration;
use tonic::body::Body;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::{Request, Response};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};

/// A call with one message may take so long, from its first byte: longer than a request may wait for its shards.
const WITHIN: Duration = Duration::from_secs(60);

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

/// A call with one message.
pub(super) async fn unary<S>(service: S, request: Request<Body>) -> Response<Body>
where
    S: UnaryService<Bytes, Response = Vec<u8>>,
{
    let mut server = server();
    let Ok(answer) = tokio::time::timeout(WITHIN, server.unary(service, request)).await else {
        return Status::unavailable(format!("the call took longer than {} s", WITHIN.as_secs())).into_http();
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
