//! A bucket in a folder, which can go: its disk is unmounted, and the mount point is a folder as well.
//!
//! The mark of the cluster, once it was there, has to be there. Else nothing is written, and nothing that is not found is taken
//! for deleted: an upload waits until the folder is back, and does not go to the disk below it.

use super::CLUSTER_MARKER;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// As many objects at a time, as the store itself does.
const DELETED_AT_ONCE: usize = 10;

/// The mark that was there is not there any more.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is not there any more: the folder is not the bucket that it was. Is its disk mounted? Nothing is written to it until \
     the mark is back",
    mark.display()
)]
struct Gone {
    mark: PathBuf,
}

#[derive(Debug)]
struct Mark {
    path: PathBuf,
    was_there: AtomicBool,
}

impl Mark {
    /// # Errors
    /// Where the mark was there and is not, or nothing can be said of it.
    async fn check(&self) -> Result<()> {
        let generic = |source| Error::Generic {
            store: "LocalFileSystem",
            source,
        };
        match tokio::fs::try_exists(&self.path).await {
            Ok(true) => {
                self.was_there.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(false) if self.was_there.load(Ordering::Relaxed) => {
                let mark = self.path.clone();
                Err(generic(Box::new(Gone { mark })))
            }
            Ok(false) => Ok(()),
            Err(error) => Err(generic(Box::new(error))),
        }
    }

    /// What is done meanwhile has happened in the bucket, or is an error.
    async fn around<T>(&self, doing: impl Future<Output = Result<T>>) -> Result<T> {
        self.check().await?;
        let done = doing.await;
        self.check().await?;
        done
    }
}

#[derive(Clone, Debug)]
pub(super) struct Folder {
    store: Arc<LocalFileSystem>,
    mark: Arc<Mark>,
}

impl Folder {
    /// # Errors
    /// When there is no such folder.
    pub(super) fn open(folder: &std::path::Path) -> Result<Self> {
        let store = LocalFileSystem::new_with_prefix(folder)?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        let path = folder.join(CLUSTER_MARKER);
        let was_there = AtomicBool::new(path.exists());
        Ok(Self {
            store: Arc::new(store),
            mark: Arc::new(Mark { path, was_there }),
        })
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.mark.around(self.store.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.mark.around(self.store.put_multipart_opts(location, opts)).await?;
        let mark = Arc::clone(&self.mark);
        Ok(Box::new(FolderUpload { inner, mark }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let got = self.store.get_opts(location, options).await;
        if matches!(got, Err(Error::NotFound { .. })) {
            self.mark.check().await?;
        }
        got
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let got = self.store.get_ranges(location, ranges).await;
        if matches!(got, Err(Error::NotFound { .. })) {
            self.mark.check().await?;
        }
        got
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (store, mark) = (Arc::clone(&self.store), Arc::clone(&self.mark));
        let one = move |location: Result<Path>| {
            let (store, mark) = (Arc::clone(&store), Arc::clone(&mark));
            async move {
                let location = location?;
                let is_mark = location.as_ref() == CLUSTER_MARKER;
                let delete = async {
                    let mut deleted = store.delete_stream(futures::stream::iter([Ok(location.clone())]).boxed());
                    deleted.try_next().await.map(|_| location)
                };
                if is_mark {
                    // Nobody's from then on.
                    mark.check().await?;
                    let deleted = delete.await?;
                    mark.was_there.store(false, Ordering::Relaxed);
                    return Ok(deleted);
                }
                mark.around(delete).await
            }
        };
        locations.map(one).buffered(DELETED_AT_ONCE).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (listed, mark) = (self.store.list(prefix), Arc::clone(&self.mark));
        let at_the_end = Arc::clone(&mark);
        let check = |mark: Arc<Mark>| {
            futures::stream::once(async move { mark.check().await }).filter_map(async |checked| checked.err().map(Err))
        };
        check(mark).chain(listed).chain(check(at_the_end)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.mark.around(self.store.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.mark.around(self.store.copy_opts(from, to, options)).await
    }
}

/// Its parts are a file that is open: only where that is published counts.
#[derive(Debug)]
struct FolderUpload {
    inner: Box<dyn MultipartUpload>,
    mark: Arc<Mark>,
}

#[async_trait]
impl MultipartUpload for FolderUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.mark.around(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
