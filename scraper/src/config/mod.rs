//! The scrape part of the configuration file: what was written, checked, with defaults and `global` filled in.

mod defaults;
pub mod discovery;
pub mod http;
pub mod print;
mod read_http;
mod read_relabel;
mod read_scrape;
pub mod scrape;
pub mod secret;
pub mod shape;
pub mod targets;

pub use defaults::ScrapeDefaults;
pub use discovery::UnsupportedDiscovery;
pub use http::HttpClientConfig;
pub use read_http::join_dir;
pub use read_relabel::read_relabel_configs;
pub use read_scrape::Discovered;
pub use scrape::{NameEscaping, NameValidation, Scheme, ScrapeConfig, ScrapeLimits, ScrapeProtocol};
pub use secret::{Secret, SecretSource, TextSource};
pub use targets::{FileSdConfig, TargetGroup};

#[cfg(test)]
mod tests;
