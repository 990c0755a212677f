//! The scrape part of the configuration file: what was written, checked, with defaults and `global` filled in.

pub mod http;
pub mod scrape;
pub mod secret;
pub mod targets;

pub use http::HttpClientConfig;
pub use scrape::{NameEscaping, NameValidation, Scheme, ScrapeConfig, ScrapeLimits, ScrapeProtocol};
pub use secret::{Secret, SecretSource, TextSource};
pub use targets::{FileSdConfig, TargetGroup};
