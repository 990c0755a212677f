//! The servers that object stores are tested against.
#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries")]
#![allow(clippy::unwrap_used)]

#[path = "../weed/mod.rs"]
pub mod weed;

#[path = "azurite.rs"]
pub mod azurite;
#[path = "dates.rs"]
mod dates;
#[path = "gcs.rs"]
pub mod gcs;
#[path = "gcs_account.rs"]
pub mod gcs_account;
#[path = "gcs_objects.rs"]
mod gcs_objects;

use std::path::PathBuf;

/// One of them, with a bucket; it can be stopped and started again with its data.
pub trait Server {
    /// Of its bucket, without a prefix.
    fn url(&self) -> String;
    fn endpoint(&self) -> String;
    /// How a program is told of the server that is reached at `endpoint`.
    fn environment_at(&self, endpoint: &str) -> Vec<(&'static str, String)>;
    /// After which a request that stalls is made again; the name of the variable.
    fn read_timeout(&self) -> &'static str;
    /// From now on nobody answers.
    fn stop(&mut self);
    fn start_again(&mut self);
    /// Keys below a prefix of the bucket.
    fn keys(&self, prefix: &str) -> Vec<String>;

    fn environment(&self) -> Vec<(&'static str, String)> {
        self.environment_at(&self.endpoint())
    }
}

impl Server for weed::Server {
    fn url(&self) -> String {
        format!("s3://{}", weed::BUCKET)
    }

    fn endpoint(&self) -> String {
        self.endpoint()
    }

    fn environment_at(&self, endpoint: &str) -> Vec<(&'static str, String)> {
        let own = self.environment().into_iter();
        let others = own.filter(|(name, _)| *name != "AWS_ENDPOINT_URL");
        others.chain([("AWS_ENDPOINT_URL", endpoint.to_owned())]).collect()
    }

    fn read_timeout(&self) -> &'static str {
        "AWS_READ_TIMEOUT"
    }

    fn stop(&mut self) {
        self.stop();
    }

    fn start_again(&mut self) {
        self.start_again();
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        self.keys(prefix)
    }
}

/// What `make peers` has fetched.
fn fetched(path: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let path = cache.or(home)?.join("gnomon/peers").join(path);
    path.is_file().then_some(path)
}
