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

/// OTLP's messages for metrics (`opentelemetry.proto`). Requests are never decoded into them here: a body of a few bytes
/// for each point would take a hundred times as many. They are for tests, senders and reflection.
#[allow(unreachable_pub, clippy::all)]
pub mod opentelemetry {
    pub mod proto {
        pub mod common {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.common.v1");
            }
        }
        pub mod resource {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.resource.v1");
            }
        }
        pub mod metrics {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.metrics.v1");
            }
        }
        pub mod collector {
            pub mod metrics {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.collector.metrics.v1");
                }
            }
        }
    }
}

/// The descriptors of the services that others than nodes may call, for gRPC reflection.
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
