//! The scraper role: discovery, scraping, parsing, relabelling, pushing.
//!
//! [`Scraper::start`] runs it. A job of the configuration becomes a `pool`; its targets come from `discovery` through
//! `target`, and the `ring` says which of them are this process'; each has a loop (`scrape`) that asks it (`client`),
//! reads the answer (`parse`) and pushes one tick to the [`TickSink`]; what is not taken in time waits in the `buffer`.
//!
//! Invariant: whether a series or target is gone is decided by the shards, from complete ticks; nothing here writes
//! staleness markers.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod buffer;
mod check;
mod client;
pub mod config;
mod discovery;
mod hand_over;
mod matching;
mod members;
mod metrics;
pub mod parse;
mod pool;
mod rfc3339;
pub mod ring;
mod scrape;
mod scraper;
mod status;
mod target;
#[cfg(test)]
mod testing;

pub use buffer::BufferOptions;
pub use check::{CheckedFiles, check_files};
pub use client::{Carrier, ClientError, FetchError, Http};
pub use discovery::{BadGroups, parse_groups};
pub use members::{Followed, follow, leave};
pub use ring::{Members, Ring, Terms};
pub use scrape::TickSink;
pub use scrape::body::{DEFAULT_BODY_LIMIT_BYTES, TOTAL_BODY_BYTES};
pub use scrape::limits::DEFAULT_SAMPLE_LIMIT;
pub use scraper::{ApplyError, PreparedConfig, ScrapeConfigs, Scraper, ScraperOptions};
pub use status::{ExternalUrl, Status};
