//! The `gnomon` package: command line, configuration file, and what wires the roles together.

#![cfg_attr(test, allow(clippy::unwrap_used))]
// They panic where nothing can be written: see `output`.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod block;
pub mod bucket;
mod channel;
pub mod check;
pub mod cluster;
pub mod cluster_api;
pub mod config;
pub mod flags;
pub mod http;
mod leave;
pub mod lifecycle;
pub mod logging;
pub mod memory;
pub mod output;
pub mod query;
pub mod recover;
pub mod run;
pub mod status;
mod targets;
pub mod web;

#[cfg(test)]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the tests of the whole system have it as a part of their harness"
)]
#[path = "../tests/harness/peers.rs"]
mod peers;
