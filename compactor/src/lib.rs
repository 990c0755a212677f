//! The compactor role: merging blocks, retention, garbage.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod plan;
