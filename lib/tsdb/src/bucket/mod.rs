//! The bucket: opening an object store from its URL, and what is kept under which key.
//!
//! ```text
//! cluster.json                                            made once, by a conditional put: which cluster this is
//! catalogue/checkpoint-<revision, 20 digits>              the catalogue at a revision
//! <tenant>/blocks/<shard>/<window start ms>/<block id>.gnb
//! <tenant>/tombstones/<id>.gnt                            a delete
//! ```

pub mod acceptance;
mod attempts;
pub mod faults;
mod keys;

pub use attempts::Attempts;
use keys::CHECKPOINT_PREFIX;
pub use keys::{
    BLOCK_SUFFIX, BlockKey, CLUSTER_MARKER, TOMBSTONE_SUFFIX, block_path, checkpoint_path, checkpoint_revision,
    is_tombstone, tombstone_path,
};

use bytes::Bytes;
use gnomon_model::SystemClock;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("object store {url:?}: {what} (file:///folder or s3://bucket/prefix are accepted)")]
    BadUrl { url: String, what: String },
    #[error("object store {url:?}: {scheme}:// is not built in; file:// and s3:// are")]
    NotBuiltIn { url: String, scheme: String },
    #[error("object store folder {folder}: {source}")]
    Folder { folder: PathBuf, source: std::io::Error },
    #[error("object store {url:?}: {source}")]
    Store { url: String, source: object_store::Error },
}

/// An object store, and how the user named it.
#[derive(Clone, Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    url: String,
    attempts: Option<Attempts>,
}

/// How often a request to S3 is made again, and how long after its beginning at most. The pauses between are doubled.
const MAX_RETRIES: usize = 5;
const RETRY_WITHIN: Duration = Duration::from_secs(90);
/// A request that is not answered for so long, or an answer of which nothing more comes for so long, has failed; and so has
/// one that is not done after the second. A part of an upload (8 MiB) has to be through within the first.
const STALLED_AFTER: &str = "30 seconds";
const REQUEST_WITHIN: &str = "120 seconds";

/// Waits before a conditional put is made again: doubled from the first to the last.
const FIRST_CREATE_WAIT: Duration = Duration::from_millis(100);
const LAST_CREATE_WAIT: Duration = Duration::from_millis(1600);

/// In a folder that others may write to: an upload goes on at least once in so long.
const ABANDONED_AFTER_MS: i64 = 3_600_000;

/// What became of a conditional put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// This call made the object.
    New,
    /// It was there already, with this content.
    Existing(Bytes),
}

impl Bucket {
    /// Opens `url`, or `default_folder` (made if need be) where none is given. Credentials, region, and endpoint of S3
    /// come from the usual `AWS_…` variables; with `AWS_ENDPOINT_URL`, requests are path-style and plain HTTP is
    /// allowed for `http://`. No request is made.
    ///
    /// # Errors
    /// When the URL is no such thing, names a store that is not built in, or the folder cannot be made.
    pub fn open(url: Option<&str>, default_folder: &std::path::Path) -> Result<Self, BucketError> {
        let Some(text) = url.filter(|url| !url.is_empty()) else {
            return Self::folder(default_folder);
        };
        let bad = |what: String| BucketError::BadUrl {
            url: text.to_owned(),
            what,
        };
        let parsed = Url::parse(text).map_err(|e| bad(e.to_string()))?;
        match parsed.scheme() {
            "file" => {
                let folder = parsed
                    .to_file_path()
                    .map_err(|()| bad("not a path of this machine".to_owned()))?;
                Self::folder_of(&folder, ABANDONED_AFTER_MS)
            }
            "s3" => Self::s3(text, &parsed, &|name| std::env::var(name).ok()),
            scheme @ ("gs" | "gcs" | "az" | "abfs" | "abfss" | "azure") => Err(BucketError::NotBuiltIn {
                url: text.to_owned(),
                scheme: scheme.to_owned(),
            }),
            scheme => Err(bad(format!("scheme {scheme:?} is unknown"))),
        }
    }

    /// A folder of this machine, of this process alone. What is put is synced to the disk before it is acknowledged.
    /// Files of uploads that a crash broke off are removed: no record names them, and nothing else would.
    ///
    /// # Errors
    /// When the folder cannot be made or opened.
    pub fn folder(folder: &std::path::Path) -> Result<Self, BucketError> {
        Self::folder_of(folder, 0)
    }

    /// Where others may be uploading, only what has not been written to for a while was broken off.
    fn folder_of(folder: &std::path::Path, abandoned_after_ms: i64) -> Result<Self, BucketError> {
        let error = |source| BucketError::Folder {
            folder: folder.to_owned(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(error)?;
        let folder = folder.canonicalize().map_err(error)?;
        remove_broken_uploads(&folder, abandoned_after_ms).map_err(error)?;
        let url = format!("file://{}", folder.display());
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|source| BucketError::Store {
                url: url.clone(),
                source,
            })?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        Ok(Self {
            store: Arc::new(store),
            url,
            attempts: None,
        })
    }

    fn s3(text: &str, url: &Url, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, BucketError> {
        let name = url.host_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| BucketError::BadUrl {
            url: text.to_owned(),
            what: "bucket name is missing".to_owned(),
        })?;
        let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"));
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(name)
            .with_region(region.unwrap_or_else(|| "us-east-1".to_owned()))
            .with_retry(RetryConfig {
                max_retries: MAX_RETRIES,
                retry_timeout: RETRY_WITHIN,
                ..RetryConfig::default()
            });
        for (key, name, default) in [
            (ClientConfigKey::ReadTimeout, "AWS_READ_TIMEOUT", STALLED_AFTER),
            (ClientConfigKey::Timeout, "AWS_TIMEOUT", REQUEST_WITHIN),
        ] {
            if variable(name).is_none() {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), default);
            }
        }
        if let Some(endpoint) = endpoint {
            let is_plain = endpoint.starts_with("http://");
            builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
            if is_plain {
                builder = builder.with_allow_http(true);
            }
        }
        let store_error = |source| BucketError::Store {
            url: text.to_owned(),
            source,
        };
        let attempts = Attempts::new().map_err(|error| BucketError::BadUrl {
            url: text.to_owned(),
            what: error.to_string(),
        })?;
        let builder = builder.with_http_connector(attempts.clone());
        let s3 = builder.build().map_err(store_error)?;
        let prefix = Path::from_url_path(url.path()).map_err(|e| store_error(e.into()))?;
        let store: Arc<dyn ObjectStore> = if prefix.as_ref().is_empty() {
            Arc::new(s3)
        } else {
            Arc::new(PrefixStore::new(s3, prefix))
        };
        Ok(Self {
            store,
            url: text.to_owned(),
            attempts: Some(attempts),
        })
    }

    /// What is counted of requests over the wire; none where there is no wire.
    #[must_use]
    pub fn attempts(&self) -> Option<&Attempts> {
        self.attempts.as_ref()
    }

    /// A store that was made otherwise: in memory, with faults, behind a cache.
    #[must_use]
    pub fn from_store(store: Arc<dyn ObjectStore>, name: impl Into<String>) -> Self {
        Self {
            store,
            url: name.into(),
            attempts: None,
        }
    }

    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// For messages; has no credentials in it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// [`create`] in this bucket.
    ///
    /// # Errors
    /// As there.
    pub async fn create(&self, path: &Path, content: Bytes) -> Result<Created, object_store::Error> {
        create(self.store.as_ref(), path, content).await
    }
}

/// Makes an object unless it exists. Where the answer is lost it is asked again, for some three seconds besides what the
/// attempts take (the store's client does not do it: to it such a request is not one to repeat), and may then find its own
/// content: compare it.
///
/// # Errors
/// When the store fails all the same; the object may have been made.
pub async fn create(store: &dyn ObjectStore, path: &Path, content: Bytes) -> Result<Created, object_store::Error> {
    let mut wait = FIRST_CREATE_WAIT;
    loop {
        let options = PutOptions::from(PutMode::Create);
        match store.put_opts(path, PutPayload::from(content.clone()), options).await {
            Ok(_) => return Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                return Ok(Created::Existing(store.get(path).await?.bytes().await?));
            }
            Err(error @ object_store::Error::Generic { .. }) if wait <= LAST_CREATE_WAIT => {
                tracing::warn!(%path, %error, "a conditional put is made again");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
}

/// An upload is written beside its object, as `<object>#<number>`, and linked or renamed when it is whole. One that is
/// removed while it is written is worse than one that fails: another may take its name, and be published in its place.
fn remove_broken_uploads(folder: &std::path::Path, abandoned_after_ms: i64) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder {
            remove_broken_uploads(&entry.path(), abandoned_after_ms)?;
            continue;
        }
        let name = entry.file_name();
        let parts = name.to_str().and_then(|name| name.rsplit_once('#'));
        let is_broken =
            parts.is_some_and(|(object, number)| is_ours(object) && number.bytes().all(|b| b.is_ascii_digit()));
        if is_broken && age_ms(&entry)? >= abandoned_after_ms {
            tracing::info!(file = %entry.path().display(), "removing what a broken-off upload left");
            match std::fs::remove_file(entry.path()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Since it was last written to; a file that is gone meanwhile is new.
fn age_ms(entry: &std::fs::DirEntry) -> std::io::Result<i64> {
    let changed = match entry.metadata() {
        Ok(metadata) => metadata.modified()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let since_epoch = changed.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let changed_ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    Ok(SystemClock::shared().now().0.saturating_sub(changed_ms))
}

/// Whether a file's name is that of an object that gnomon writes.
fn is_ours(name: &str) -> bool {
    [BLOCK_SUFFIX, TOMBSTONE_SUFFIX].iter().any(|end| name.ends_with(end))
        || name.starts_with(CHECKPOINT_PREFIX)
        || name == CLUSTER_MARKER
}

/// Deletes an object; one that is gone already is no error.
///
/// # Errors
/// When the store fails; the object may be there or not.
pub async fn delete_object(store: &dyn ObjectStore, path: &Path) -> Result<(), object_store::Error> {
    match store.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
