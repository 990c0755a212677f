//! Scraping one target, again and again.

pub(crate) mod body;
mod cache;
mod collect;
mod failure_log;
mod fetch;
mod labels;
pub(crate) mod limits;
mod metadata;
mod refusals;
mod report;
mod run;
mod sink;
mod timing;
mod worker;

pub(crate) use fetch::AGENT;
pub(crate) use metadata::Metadata;
pub(crate) use run::{LoopSpec, PoolOptions, ScrapeEnv, ScrapeLoop};
pub use sink::TickSink;
