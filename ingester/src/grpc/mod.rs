//! What senders outside of the cluster call over gRPC: OTLP's `MetricsService`, and `gnomon.v1.Write`
//! (`proto/gnomon/v1/write.proto`).
//!
//! Messages come as the bytes they are and are read as the bodies of HTTP requests are: decoding them into the generated
//! types would take many times their size.

mod codec;
mod otlp;
#[cfg(test)]
mod tests;
mod write;

pub use otlp::OtlpService;
pub use write::WriteService;

/// Largest message, decompressed.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
