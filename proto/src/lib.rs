#![cfg_attr(test, allow(clippy::unwrap_used))]
//! Wire formats: the generated code of every `.proto` file, the service traits that roles call each other by, their
//! error codes, and conversions between wire and model.

pub mod batch;
pub mod error;
pub mod histogram;
pub mod matchers;
pub mod service;

pub use error::ServiceError;

/// gnomon's own services and messages.
#[allow(unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("gnomon.v1");
}

/// Prometheus' remote write 1.0.
#[allow(unreachable_pub, clippy::all)]
pub mod prometheus {
    tonic::include_proto!("prometheus");
}

/// What targets expose in protobuf (`io.prometheus.client`).
#[allow(unreachable_pub, clippy::all)]
pub mod client {
    tonic::include_proto!("io.prometheus.client");
}
