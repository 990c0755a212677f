//! The querier role: the HTTP API, query planning over shards and blocks, merging.
//!
//! ```text
//! request -> form/params -> parse, plan -> run (gate) -> fanout: shard heads | blocks -> merge -> engine -> JSON
//! ```
//!
//! [`api_router`] makes the HTTP interface out of an [`ApiState`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod api;
mod buckets;
mod cors;
mod error;
mod fanout;
mod federate;
mod form;
mod gojson;
mod gonumber;
mod instant;
mod json;
mod metrics;
mod notifications;
mod page;
mod params;
mod remote_read;
mod results;
mod router;
mod run;
mod scrapers;
mod snapshot;
mod state;
mod target_counts;
mod writers;

pub use cors::with_cors;
pub use error::{ApiError, ErrorType};
pub use fanout::{
    BlockAnswer, BlockReads, ExemplarStream, Fanout, FanoutPlan, FetchLimits, Queriers, Scope, Selection, SeriesStream,
    ServedBlocks, Skipped, SpreadBlocks, StoredBlocks,
};
pub use instant::Rfc3339;
pub use notifications::{CONFIG_DIFFERS, Notifications, RELOAD_FAILED, STARTING, STOPPING};
pub use params::time as parse_time;
pub use results::ResultCache;
pub use router::{ApiSetupError, api_router};
pub use scrapers::scrapers_of;
pub use state::{
    AdminOptions, ApiState, BuildInfo, ConfigInfo, MemoryLimits, NodeInfo, PROMETHEUS_API_VERSION, QueryOptions,
    RemoteReadLimits, RuntimeInfo, Scrapers, SearchOptions, WebOptions,
};
pub use target_counts::TargetCounts;
