//! The object store: a real S3 server behind a proxy that can fail, or a folder where there is no server.

#[path = "../../lib/tsdb/tests/weed/mod.rs"]
pub(crate) mod weed;

use std::path::Path;
use weed::proxy::Proxy;

pub(crate) struct Store {
    pub(crate) url: String,
    pub(crate) environment: Vec<(String, String)>,
    /// Nothing can be made to fail without it.
    pub(crate) proxy: Option<Proxy>,
    _server: Option<weed::Server>,
}

impl Store {
    /// `host` is where the cluster's hosts reach the store.
    pub(crate) fn start(folder: &Path, host: &str, seed: u64) -> Self {
        let Some(program) = weed::find() else {
            return Self {
                url: format!("file://{}", folder.join("bucket").display()),
                environment: Vec::new(),
                proxy: None,
                _server: None,
            };
        };
        let server = weed::Server::start(program);
        let proxy = Proxy::start_at(host, &server.endpoint(), seed, 0, false);
        let own = server.environment().into_iter().skip(1);
        let mut environment: Vec<_> = own.map(|(name, value)| (name.to_owned(), value)).collect();
        environment.push(("AWS_ENDPOINT_URL".into(), proxy.endpoint()));
        environment.push(("AWS_READ_TIMEOUT".into(), "5 seconds".into()));
        Self {
            url: format!("s3://{}/cluster", weed::BUCKET),
            environment,
            proxy: Some(proxy),
            _server: Some(server),
        }
    }

    pub(crate) fn heal(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.heal();
        }
    }

    /// What became of requests, for the report.
    pub(crate) fn told(&self) -> String {
        let Some(proxy) = &self.proxy else {
            return "a folder".into();
        };
        format!(
            "{} requests, of which went wrong: {:?}",
            proxy.requests(),
            proxy.counts()
        )
    }
}
