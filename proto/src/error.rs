//! One error for every service call, and how it crosses a connection.

use tonic::{Code, Status, metadata::MetadataValue};

/// Why a service call was not answered with its result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// Ask the leader instead; its node id, where it is known.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader { leader: Option<u64> },
    /// Not now; the same call may succeed later. Nothing was done.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Whoever was asked is the one to ask, and cannot take it now: it has as much to do as it may, or waits for something.
    /// Nothing was done. A build that does not know it takes it for `Unavailable`, which has the same gRPC code.
    #[error("busy: {0}")]
    Busy(String),
    /// It may have been done or not: asking again must be harmless, and is.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The view of the catalogue that the caller named is too old: wait for this revision, plan again.
    #[error("the catalogue view is older than revision {revision}")]
    StaleView { revision: u64 },
    /// The placement map that the caller used is too old.
    #[error("the shard map is older than epoch {epoch}")]
    StaleMap { epoch: u32 },
    /// The call is not meant for this cluster, or does not say which it is for: nothing was done. Another node may have
    /// the address that was meant by now, or the caller was told of the wrong peers.
    #[error("{0}")]
    OtherCluster(String),
    /// The call itself is wrong and will be wrong again.
    #[error("{0}")]
    Invalid(String),
    /// What was named is not here.
    #[error("{0}")]
    NotFound(String),
    /// A limit was reached: which, and what would be accepted. Of a write it is one of now (a full disk): what can never be
    /// taken is `Invalid`.
    #[error("{0}")]
    LimitExceeded(String),
    #[error("deadline exceeded: {0}")]
    DeadlineExceeded(String),
    #[error("cancelled")]
    Cancelled,
    /// What is stored is damaged: what, and where in it.
    #[error("{0}")]
    Damaged(String),
    /// A defect on this side.
    #[error("internal error: {0}")]
    Internal(String),
}

fn leader_hint(leader: &Option<u64>) -> String {
    leader.map_or_else(String::new, |id| format!(" (that is node {id})"))
}

/// Metadata key that tells apart what one gRPC code stands for.
const KIND: &str = "gnomon-error";
/// Metadata key of the number that goes with a kind.
const DETAIL: &str = "gnomon-detail";

impl ServiceError {
    /// Whether the same call may succeed if it is made again (perhaps elsewhere).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NotLeader { .. }
                | Self::Unavailable(_)
                | Self::Busy(_)
                | Self::Unknown(_)
                | Self::OtherCluster(_)
                | Self::StaleView { .. }
                | Self::StaleMap { .. }
        )
    }

    /// Whether the same call may succeed later, `LimitExceeded` included: a full disk gets room again, or its node hands over
    /// what it leads.
    #[must_use]
    pub fn may_succeed_later(&self) -> bool {
        self.is_retryable()
            || matches!(
                self,
                Self::DeadlineExceeded(_) | Self::Cancelled | Self::LimitExceeded(_)
            )
    }

    fn parts(&self) -> (Code, &'static str, Option<u64>) {
        match self {
            Self::NotLeader { leader } => (Code::FailedPrecondition, "not-leader", *leader),
            Self::Unavailable(_) => (Code::Unavailable, "unavailable", None),
            Self::Busy(_) => (Code::Unavailable, "busy", None),
            Self::Unknown(_) => (Code::Aborted, "unknown", None),
            Self::StaleView { revision } => (Code::FailedPrecondition, "stale-view", Some(*revision)),
            Self::StaleMap { epoch } => (Code::FailedPrecondition, "stale-map", Some(u64::from(*epoch))),
            Self::OtherCluster(_) => (Code::FailedPrecondition, "other-cluster", None),
            Self::Invalid(_) => (Code::InvalidArgument, "invalid", None),
            Self::NotFound(_) => (Code::NotFound, "not-found", None),
            Self::LimitExceeded(_) => (Code::ResourceExhausted, "limit", None),
            Self::DeadlineExceeded(_) => (Code::DeadlineExceeded, "deadline", None),
            Self::Cancelled => (Code::Cancelled, "cancelled", None),
            Self::Damaged(_) => (Code::DataLoss, "damaged", None),
            Self::Internal(_) => (Code::Internal, "internal", None),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Unavailable(m)
            | Self::Busy(m)
            | Self::Unknown(m)
            | Self::OtherCluster(m)
            | Self::Invalid(m)
            | Self::NotFound(m)
            | Self::LimitExceeded(m)
            | Self::DeadlineExceeded(m)
            | Self::Damaged(m)
            | Self::Internal(m) => m.clone(),
            other => other.to_string(),
        }
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let (code, kind, detail) = error.parts();
        let mut status = Self::new(code, error.message());
        status.metadata_mut().insert(KIND, MetadataValue::from_static(kind));
        if let Some(detail) = detail {
            status.metadata_mut().insert(DETAIL, MetadataValue::from(detail));
        }
        status
    }
}

impl From<Status> for ServiceError {
    fn from(status: Status) -> Self {
        let text = |key| status.metadata().get(key).and_then(|v| v.to_str().ok());
        let detail = text(DETAIL).and_then(|v| v.parse::<u64>().ok());
        let message = status.message().to_owned();
        match (text(KIND), status.code()) {
            (Some("not-leader"), _) => Self::NotLeader { leader: detail },
            (Some("stale-view"), _) => Self::StaleView {
                revision: detail.unwrap_or(0),
            },
            (Some("stale-map"), _) => Self::StaleMap {
                epoch: detail.and_then(|e| u32::try_from(e).ok()).unwrap_or(0),
            },
            (Some("other-cluster"), _) => Self::OtherCluster(message),
            (Some("busy"), Code::Unavailable) => Self::Busy(message),
            (_, Code::Unavailable) => Self::Unavailable(message),
            (_, Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented) => Self::Invalid(message),
            (_, Code::NotFound) => Self::NotFound(message),
            (_, Code::ResourceExhausted) => Self::LimitExceeded(message),
            (_, Code::DeadlineExceeded) => Self::DeadlineExceeded(message),
            (_, Code::Cancelled) => Self::Cancelled,
            (_, Code::DataLoss) => Self::Damaged(message),
            (_, Code::Internal) => Self::Internal(message),
            (_, _) => Self::Unknown(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_a_connection() {
        for error in [
            ServiceError::NotLeader { leader: Some(3) },
            ServiceError::NotLeader { leader: None },
            ServiceError::Unavailable("disk full".into()),
            ServiceError::Busy("256 appends".into()),
            ServiceError::Unknown("connection reset".into()),
            ServiceError::StaleView { revision: 9 },
            ServiceError::StaleMap { epoch: 2 },
            ServiceError::OtherCluster("b".into()),
            ServiceError::Invalid("no".into()),
            ServiceError::NotFound("shard 7".into()),
            ServiceError::LimitExceeded("too much".into()),
            ServiceError::DeadlineExceeded("10s".into()),
            ServiceError::Cancelled,
            ServiceError::Damaged("block 7 at 12".into()),
            ServiceError::Internal("x".into()),
        ] {
            assert_eq!(ServiceError::from(Status::from(error.clone())), error);
        }
    }

    /// Nodes of two builds speak to each other while a cluster is upgraded.
    #[test]
    fn a_kind_that_is_not_known_goes_by_its_code() {
        let busy = Status::from(ServiceError::Busy("256 appends".into()));
        assert_eq!(busy.code(), Code::Unavailable, "what an older build goes by");
        let mut newer = Status::unavailable("later");
        newer
            .metadata_mut()
            .insert(KIND, MetadataValue::from_static("of-a-later-build"));
        assert_eq!(ServiceError::from(newer), ServiceError::Unavailable("later".into()));
        let plain = Status::unavailable("a proxy says so");
        assert!(matches!(ServiceError::from(plain), ServiceError::Unavailable(_)));
    }
}
