//! The compactor role: merging blocks, retention, garbage.
//!
//! Invariant: an object is named (staged) before it is uploaded, and unnamed only after it is deleted or where it never
//! became live; leases save work, they give no safety.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod catalogue;
mod error;
mod garbage;
mod merge;
mod metrics;
pub mod plan;
mod role;
#[cfg(test)]
mod tests;

pub use catalogue::{Catalogue, Lease};
pub use error::CompactorError;
pub use garbage::Grace;
pub use role::{Compactor, Settings};
