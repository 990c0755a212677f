//! What went wrong with a request, in the kinds of Prometheus' HTTP API.

use axum::response::{IntoResponse, Response};
use gnomon_promql::{EvalError, OverBudget};
use gnomon_proto::ServiceError;
use http::StatusCode;

/// `errorType` of an error answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    BadData,
    Execution,
    Timeout,
    Canceled,
    Internal,
    Unavailable,
    /// What is not switched on: to Prometheus unavailable, and none of the errors that have a status of their own.
    Disabled,
    NotFound,
}

impl ErrorType {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadData => "bad_data",
            Self::Execution => "execution",
            Self::Timeout => "timeout",
            Self::Canceled => "canceled",
            Self::Internal => "internal",
            Self::Unavailable | Self::Disabled => "unavailable",
            Self::NotFound => "not_found",
        }
    }

    /// As Prometheus; 499 is what it answers to those who have gone.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadData => StatusCode::BAD_REQUEST,
            Self::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Timeout | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Canceled => StatusCode::from_u16(499).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            Self::Internal | Self::Disabled => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotFound => StatusCode::NOT_FOUND,
        }
    }
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub kind: ErrorType,
    pub message: String,
}

impl ApiError {
    pub fn new(kind: ErrorType, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn bad_data(message: impl Into<String>) -> Self {
        Self::new(ErrorType::BadData, message)
    }

    /// `invalid parameter "name": why`.
    pub(crate) fn parameter(name: &str, why: impl std::fmt::Display) -> Self {
        Self::bad_data(format!("invalid parameter {name:?}: {why}"))
    }
}

impl From<EvalError> for ApiError {
    fn from(error: EvalError) -> Self {
        let kind = match error {
            EvalError::TimedOut => ErrorType::Timeout,
            EvalError::Canceled => ErrorType::Canceled,
            EvalError::Source(_) => ErrorType::Internal,
            EvalError::Execution(_) | EvalError::TooManySamples | EvalError::TooManyBytes(_) => ErrorType::Execution,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<OverBudget> for ApiError {
    fn from(error: OverBudget) -> Self {
        Self::new(ErrorType::Execution, error.to_string())
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let kind = match error {
            ServiceError::DeadlineExceeded(_) => ErrorType::Timeout,
            ServiceError::Cancelled => ErrorType::Canceled,
            ServiceError::LimitExceeded(_) => ErrorType::Execution,
            ServiceError::Invalid(_) => ErrorType::BadData,
            ServiceError::NotFound(_) => ErrorType::NotFound,
            ServiceError::Damaged(_) | ServiceError::Internal(_) => ErrorType::Internal,
            ServiceError::NotLeader { .. }
            | ServiceError::Unavailable(_)
            | ServiceError::Busy(_)
            | ServiceError::Unknown(_)
            | ServiceError::OtherCluster(_)
            | ServiceError::StaleView { .. }
            | ServiceError::StaleMap { .. } => ErrorType::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut json = crate::json::Json::buffer();
        json.raw(r#"{"status":"error","errorType":""#);
        json.raw(self.kind.name());
        json.raw(r#"","error":"#);
        json.text_for_html(&self.message);
        json.raw("}");
        crate::answer::json_response(self.kind.status(), json.into_bytes())
    }
}
