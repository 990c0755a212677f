//! What an exporter is told: in the encoding of its request.

use super::Exported;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use gnomon_proto::opentelemetry::proto::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use prost::Message;

/// Seconds after which a sender may try again.
const RETRY_AFTER: &str = "1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Protobuf,
    Json,
}

impl Encoding {
    /// None for a content type that is neither.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match content_type.split(';').next()?.trim().to_ascii_lowercase().as_str() {
            "application/x-protobuf" => Some(Self::Protobuf),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, text: impl ToString) -> Self {
        Self {
            status,
            text: text.to_string(),
        }
    }

    /// The number of the gRPC status that means the same.
    pub(crate) fn code(&self) -> tonic::Code {
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => tonic::Code::Unavailable,
            StatusCode::INTERNAL_SERVER_ERROR => tonic::Code::Internal,
            _ => tonic::Code::InvalidArgument,
        }
    }
}

/// `google.rpc.Status`, without details.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// The message that tells of a request that was taken.
pub(crate) fn response(exported: &Exported) -> ExportMetricsServiceResponse {
    let partial_success = (!exported.message.is_empty()).then(|| ExportMetricsPartialSuccess {
        rejected_data_points: i64::try_from(exported.rejected_points).unwrap_or(i64::MAX),
        error_message: exported.message.clone(),
    });
    ExportMetricsServiceResponse { partial_success }
}

pub(super) struct Answer {
    pub(super) encoding: Encoding,
    pub(super) result: Result<Exported, Failure>,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.result
            .as_ref()
            .map_or_else(|failure| failure.status, |_| StatusCode::OK)
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let status = self.status();
        let body = match (self.encoding, &self.result) {
            (Encoding::Protobuf, Ok(exported)) => response(exported).encode_to_vec(),
            (Encoding::Protobuf, Err(failure)) => RpcStatus {
                code: failure.code() as i32,
                message: failure.text.clone(),
            }
            .encode_to_vec(),
            (Encoding::Json, Ok(exported)) if exported.message.is_empty() => b"{}".to_vec(),
            (Encoding::Json, Ok(exported)) => serde_json::json!({"partialSuccess": {
                "rejectedDataPoints": exported.rejected_points.to_string(),
                "errorMessage": exported.message,
            }})
            .to_string()
            .into_bytes(),
            (Encoding::Json, Err(failure)) => {
                let status = serde_json::json!({"code": failure.code() as i32, "message": failure.text});
                status.to_string().into_bytes()
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(self.encoding.content_type());
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}
