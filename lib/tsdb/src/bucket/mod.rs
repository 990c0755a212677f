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
mod azure;
mod environment;
pub mod faults;
mod folder;
mod gcs;
mod keys;
mod profile;
mod s3;
mod suffix;
mod wire;

pub use attempts::Attempts;
use keys::CHECKPOINT_PREFIX;
pub use keys::{
    BLOCK_SUFFIX, BlockKey, CLUSTER_MARKER, TOMBSTONE_SUFFIX, block_path, checkpoint_path, checkpoint_revision,
    is_tombstone, tombstone_path,
};

use bytes::Bytes;
use environment::Environment;
use folder::Folder;
use gnomon_model::SystemClock;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error(
        "object store {url:?}: {what} (file:///folder, s3://bucket/prefix, gs://bucket/prefix and az://container/prefix \
         are accepted)"
    )]
    BadUrl { url: String, what: String },
    /// What the environment says, or does not.
    #[error("object store {url:?}: {what}")]
    Setting { url: String, what: String },
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
    /// Opens `url`, or `default_folder` (made if need be) where none is given. Credentials, endpoints and the like come
    /// from the environment, by the names that each store's own tools have for them. No request is made.
    ///
    /// # Errors
    /// When the URL is no such thing or names an unknown store, the environment lacks what the store needs, or the folder
    /// cannot be made.
    pub fn open(url: Option<&str>, default_folder: &std::path::Path) -> Result<Self, BucketError> {
        match url.filter(|url| !url.is_empty()) {
            Some(url) => Self::of_url(url, &Environment::of_process()),
            None => Self::folder(default_folder),
        }
    }

    fn of_url(text: &str, environment: &Environment) -> Result<Self, BucketError> {
        let bad = |what: String| BucketError::BadUrl {
            url: without_password(text),
            what,
        };
        let url = Url::parse(text).map_err(|e| bad(e.to_string()))?;
        if url.password().is_some() {
            return Err(bad("a password in it: credentials come from the environment".to_owned()));
        }
        match url.scheme() {
            "file" => {
                let path = text.get("file:".len()..).unwrap_or_default();
                if !path.starts_with('/') {
                    return Err(bad(format!("not a whole path: file:///folder/{path}, say")));
                }
                let folder = url
                    .to_file_path()
                    .map_err(|()| bad("not a path of this machine".to_owned()))?;
                Self::folder_of(&folder, ABANDONED_AFTER_MS)
            }
            "s3" => s3::open(text, &url, environment),
            "gs" | "gcs" => gcs::open(text, &url, environment),
            "az" | "azure" | "abfs" | "abfss" => azure::open(text, &url, environment),
            scheme => Err(bad(format!("scheme {scheme:?} is unknown"))),
        }
    }

    /// A folder of this machine, of this process alone. What is put is synced to the disk before it is acknowledged. Once it
    /// was marked by a cluster it fails for as long as the mark is not there.
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
        let store = Folder::open(&folder).map_err(|source| BucketError::Store {
            url: url.clone(),
            source,
        })?;
        Ok(Self {
            store: Arc::new(store),
            url,
            attempts: None,
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

    /// The same bucket by way of `store`, which passes requests on to it.
    #[must_use]
    pub fn behind(self, store: Arc<dyn ObjectStore>) -> Self {
        Self { store, ..self }
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

/// For messages: a text that is refused because of its password, without it.
fn without_password(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        return text.to_owned();
    };
    if url.password().is_some() && url.set_password(None).is_ok() {
        url.to_string()
    } else {
        text.to_owned()
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
        let put = store.put_opts(path, PutPayload::from(content.clone()), options).await;
        let created = match put {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                read(store, path).await.map(Created::Existing)
            }
            Err(error) => Err(error),
        };
        match created {
            Ok(created) => return Ok(created),
            Err(error @ object_store::Error::Generic { .. }) if wait <= LAST_CREATE_WAIT => {
                tracing::warn!(%path, %error, "a conditional put is made again");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
}

async fn read(store: &dyn ObjectStore, path: &Path) -> Result<Bytes, object_store::Error> {
    store.get(path).await?.bytes().await
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
