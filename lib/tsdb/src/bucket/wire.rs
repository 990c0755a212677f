//! What all stores beyond a wire have in common: how long a request may take, how often it is made again, and that every
//! attempt is counted.

use super::{Attempts, Bucket, BucketError, Environment};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How often a request is made again, and how long after its beginning at most. The pauses between are doubled.
const MAX_RETRIES: usize = 5;
const RETRY_WITHIN: Duration = Duration::from_secs(90);
/// A request that is not answered for so long, or an answer of which nothing more comes for so long, has failed; and so has
/// one that is not done after the second. A part of an upload (8 MiB) has to be through within the first.
const STALLED_AFTER: &str = "30 seconds";
const REQUEST_WITHIN: &str = "120 seconds";

/// One store that is being opened.
pub(super) struct Wire<'a> {
    /// As the user wrote it.
    text: &'a str,
    url: &'a Url,
    /// What the variables of this kind of store begin with.
    prefix: &'static str,
    environment: &'a Environment,
    attempts: Attempts,
}

impl<'a> Wire<'a> {
    pub(super) fn new(
        text: &'a str,
        url: &'a Url,
        prefix: &'static str,
        environment: &'a Environment,
    ) -> Result<Self, BucketError> {
        let attempts = Attempts::new().map_err(|error| BucketError::Setting {
            url: text.to_owned(),
            what: error.to_string(),
        })?;
        Ok(Self {
            text,
            url,
            prefix,
            environment,
            attempts,
        })
    }

    pub(super) fn retries() -> RetryConfig {
        RetryConfig {
            max_retries: MAX_RETRIES,
            retry_timeout: RETRY_WITHIN,
            ..RetryConfig::default()
        }
    }

    /// Time limits that the environment does not set.
    pub(super) fn limits(&self) -> impl Iterator<Item = (ClientConfigKey, &'static str)> {
        let all = [
            (ClientConfigKey::ReadTimeout, "READ_TIMEOUT", STALLED_AFTER),
            (ClientConfigKey::Timeout, "TIMEOUT", REQUEST_WITHIN),
        ];
        let is_unset = |name: &str| self.environment.first(&[&format!("{}{name}", self.prefix)]).is_none();
        all.into_iter()
            .filter_map(move |(key, name, default)| is_unset(name).then_some((key, default)))
    }

    /// To be given to the store's client.
    pub(super) fn connector(&self) -> Attempts {
        self.attempts.clone()
    }

    pub(super) fn bad_url(&self, what: impl Into<String>) -> BucketError {
        BucketError::BadUrl {
            url: self.text.to_owned(),
            what: what.into(),
        }
    }

    pub(super) fn setting(&self, what: impl Into<String>) -> BucketError {
        BucketError::Setting {
            url: self.text.to_owned(),
            what: what.into(),
        }
    }

    /// The bucket's name, where it is the URL's host.
    pub(super) fn host(&self, what: &str) -> Result<&'a str, BucketError> {
        let name = self.url.host_str().filter(|name| !name.is_empty());
        name.ok_or_else(|| self.bad_url(format!("{what} name is missing")))
    }

    /// What a client made of its settings, below the URL's path.
    pub(super) fn bucket<S: ObjectStore>(self, store: Result<S, object_store::Error>) -> Result<Bucket, BucketError> {
        let error = |source| BucketError::Store {
            url: self.text.to_owned(),
            source,
        };
        let store = store.map_err(error)?;
        let prefix = Path::from_url_path(self.url.path()).map_err(|e| error(e.into()))?;
        let store: Arc<dyn ObjectStore> = if prefix.as_ref().is_empty() {
            Arc::new(store)
        } else {
            Arc::new(PrefixStore::new(store, prefix))
        };
        Ok(Bucket {
            store,
            url: self.text.to_owned(),
            attempts: Some(self.attempts),
        })
    }
}
