//! The `gnomon` package: command line, configuration file, and what wires the roles together.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod check;
pub mod config;
pub mod flags;
pub mod http;
pub mod lifecycle;
pub mod logging;
pub mod run;
pub mod status;
