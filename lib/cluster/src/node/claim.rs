//! Whether the bucket is still this node's cluster's, while the node runs.
//!
//! A bucket can be given to another cluster (`gnomon cluster recover`), which founds itself on what is in it. A node of
//! before that went on merging and deleting would take the new one's data. So whatever writes or deletes goes through
//! [`Claim::bucket`], which compares the bucket's mark with what the node knows itself to be:
//!
//! ```text
//! before an object is written    the mark as it was read within the last ten seconds
//! after one is whole             the mark as it is: an object that is in another's bucket is not uploaded
//! before a delete                the mark as it is: what is deleted does not come back
//! read, list                     nothing
//! ```
//!
//! Invariant: where the mark is another's, or cannot be read, nothing is deleted, and nothing counts as written.

use super::Starting;
use super::identity::{ClusterMark, NodeIdentity, read_mark};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_model::{Clock, ClusterId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use prometheus::{IntGauge, Registry};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How old what is known of the mark may be where an upload begins, and how often a node looks that has nothing to write.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// A node that may not write says so this often.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What the mark has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    cluster: ClusterId,
    /// The highest that it may be: the node has something of an earlier one otherwise. None for a node without
    /// replicas, until it has seen one.
    generation: Option<u64>,
}

/// Why the bucket is not this node's any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Lost {
    #[error(
        "the bucket {bucket} is that of cluster {found}, and this node is a member of cluster {ours}: another cluster \
         was founded on it. This node writes nothing to it and deletes nothing in it. Stop the nodes of the cluster \
         that is not to go on; two cannot share a bucket"
    )]
    ToCluster {
        bucket: String,
        ours: ClusterId,
        found: ClusterId,
    },
    #[error(
        "cluster {cluster} was recovered without this node (gnomon cluster recover): the bucket {bucket} is of \
         generation {found} of it, this node is of generation {ours}. This node writes nothing to the bucket and \
         deletes nothing in it. Stop it; an ingester starts again with an empty data folder"
    )]
    ToGeneration {
        bucket: String,
        cluster: ClusterId,
        ours: u64,
        found: u64,
    },
    #[error(
        "the bucket {bucket} has no mark (cluster.json) any more, and this node is a member of cluster {ours}: it was \
         given up for a new cluster (gnomon cluster recover), or is another bucket. This node writes nothing to it and \
         deletes nothing in it. Stop the nodes of cluster {ours}; where it is the one that goes on, put this into the \
         bucket as cluster.json: {mark}"
    )]
    Unmarked {
        bucket: String,
        ours: ClusterId,
        mark: String,
    },
}

/// What is known of the mark.
#[derive(Debug, Default)]
struct Seen {
    /// When it was read.
    at: Option<Duration>,
    lost: Option<Lost>,
    said: Option<Duration>,
}

/// A node's hold on its bucket.
pub struct Claim {
    store: Arc<dyn ObjectStore>,
    /// For messages.
    bucket: String,
    clock: Arc<dyn Clock>,
    /// None until the node knows which cluster it is of.
    held: Mutex<Option<Held>>,
    /// Held while the mark is read: who comes meanwhile waits for that.
    seen: tokio::sync::Mutex<Seen>,
    foreign: IntGauge,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

impl Claim {
    /// Nothing is looked at until [`Self::hold`].
    ///
    /// # Errors
    /// When `registry` has its metric already.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        bucket: impl Into<String>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> std::result::Result<Arc<Self>, prometheus::Error> {
        let foreign = IntGauge::new(
            "gnomon_bucket_foreign",
            "1 while the mark in the bucket is not that of this node's cluster: this node writes and deletes nothing in it.",
        )?;
        registry.register(Box::new(foreign.clone()))?;
        Ok(Arc::new(Self {
            store,
            bucket: bucket.into(),
            clock,
            held: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
            foreign,
        }))
    }

    /// The bucket for whoever writes to it, or deletes in it.
    #[must_use]
    pub fn bucket(self: &Arc<Self>) -> Arc<dyn ObjectStore> {
        Arc::new(Claimed {
            store: Arc::clone(&self.store),
            claim: Arc::clone(self),
        })
    }

    /// From now on the bucket has to be that of `cluster`, at a generation of at most this; none: at that which is
    /// found first.
    pub fn hold(&self, cluster: ClusterId, generation: Option<u64>) {
        *self.held.lock() = Some(Held { cluster, generation });
    }

    /// Looks now and then, so that it is told before there is something to write.
    async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let looking = async {
            loop {
                tokio::time::sleep(FRESH_FOR).await;
                // A bucket that does not answer is told by those who need it.
                let _ = self.check(FRESH_FOR).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = looking => {}
        }
    }

    /// # Errors
    /// Where the mark is not this node's, or cannot be read; as it was read within `max_age`, or is read now.
    async fn check(&self, max_age: Duration) -> Result<()> {
        let held = *self.held.lock();
        let Some(held) = held else {
            return Ok(());
        };
        let mut seen = self.seen.lock().await;
        let now = self.clock.monotonic();
        if seen.at.is_none_or(|at| now.saturating_sub(at) >= max_age) {
            let found = read_mark(self.store.as_ref()).await;
            let found = found.map_err(|error| generic(Box::new(error)))?;
            seen.at = Some(now);
            let lost = self.judge(held, found);
            self.note(&mut seen, lost, now);
        }
        match &seen.lost {
            Some(lost) => Err(generic(Box::new(lost.clone()))),
            None => Ok(()),
        }
    }

    fn judge(&self, held: Held, found: Option<ClusterMark>) -> Option<Lost> {
        let (bucket, ours) = (self.bucket.clone(), held.cluster);
        let Some(found) = found else {
            let mark = ClusterMark {
                format: 1,
                cluster_id: ours,
                created_ms: self.clock.now().0,
                generation: held.generation.unwrap_or_default(),
            };
            let mark = serde_json::to_string(&mark).unwrap_or_default();
            return Some(Lost::Unmarked { bucket, ours, mark });
        };
        if found.cluster_id != ours {
            let found = found.cluster_id;
            return Some(Lost::ToCluster { bucket, ours, found });
        }
        match held.generation {
            Some(generation) if found.generation > generation => Some(Lost::ToGeneration {
                bucket,
                cluster: ours,
                ours: generation,
                found: found.generation,
            }),
            Some(_) => None,
            None => {
                self.hold(ours, Some(found.generation));
                None
            }
        }
    }

    fn note(&self, seen: &mut Seen, lost: Option<Lost>, now: Duration) {
        self.foreign.set(i64::from(lost.is_some()));
        match &lost {
            Some(error) => {
                let is_due = seen.said.is_none_or(|said| now.saturating_sub(said) >= SAY_AGAIN);
                if is_due || seen.lost != lost {
                    tracing::error!(%error, "the bucket is not this cluster's");
                    seen.said = Some(now);
                }
            }
            None if seen.lost.is_some() => {
                tracing::info!(bucket = %self.bucket, "the bucket has the mark of this node's cluster again");
                seen.said = None;
            }
            None => {}
        }
        seen.lost = lost;
    }

    /// Something is written: it counts where the bucket is this node's afterwards too.
    async fn around<T>(&self, writing: impl Future<Output = Result<T>>) -> Result<T> {
        self.check(FRESH_FOR).await?;
        let written = writing.await?;
        self.check(Duration::ZERO).await?;
        Ok(written)
    }
}

impl Starting {
    /// From now on nothing is written to the bucket, or deleted in it, unless it is that of the node's cluster.
    pub(super) fn claim_bucket(&self, identity: &NodeIdentity) {
        let options = &self.options;
        if let Some(claim) = options.claim.as_ref().filter(|_| options.uses_bucket()) {
            let generation = options.is_ingester().then_some(identity.generation);
            claim.hold(identity.cluster_id, generation);
            self.tasks.spawn(Arc::clone(claim).watch(self.stop.child_token()));
        }
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic {
        store: "bucket's mark",
        source,
    }
}

/// See [`Claim::bucket`].
#[derive(Debug)]
struct Claimed {
    store: Arc<dyn ObjectStore>,
    claim: Arc<Claim>,
}

impl fmt::Display for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Claimed {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.claim.around(self.store.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.claim.check(FRESH_FOR).await?;
        let inner = self.store.put_multipart_opts(location, opts).await?;
        let claim = Arc::clone(&self.claim);
        Ok(Box::new(ClaimedUpload { inner, claim }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.store.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (store, claim) = (Arc::clone(&self.store), Arc::clone(&self.claim));
        let deleting = async move {
            match claim.check(Duration::ZERO).await {
                Ok(()) => store.delete_stream(locations),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        };
        futures::stream::once(deleting).flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.claim.around(self.store.copy_opts(from, to, options)).await
    }
}

/// Its parts are nothing yet: only the whole counts.
#[derive(Debug)]
struct ClaimedUpload {
    inner: Box<dyn MultipartUpload>,
    claim: Arc<Claim>,
}

#[async_trait]
impl MultipartUpload for ClaimedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.claim.around(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::replace_mark;
    use super::*;
    use gnomon_model::{ManualClock, TimestampMs};
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    struct Rig {
        plain: Arc<InMemory>,
        claim: Arc<Claim>,
        bucket: Arc<dyn ObjectStore>,
        clock: Arc<ManualClock>,
    }

    impl Rig {
        /// A node of cluster 7.
        async fn new(generation: Option<u64>) -> Self {
            let plain = Arc::new(InMemory::new());
            let clock = Arc::new(ManualClock::at(TimestampMs(0)));
            let store: Arc<dyn ObjectStore> = plain.clone();
            let claim = Claim::new(store, "s3://b", clock.clone(), &Registry::new()).unwrap();
            let rig = Self {
                bucket: claim.bucket(),
                plain,
                claim,
                clock,
            };
            rig.mark(7, 1).await;
            rig.claim.hold(ClusterId(7), generation);
            rig
        }

        async fn mark(&self, cluster: u128, generation: u64) {
            let mark = ClusterMark {
                format: 1,
                cluster_id: ClusterId(cluster),
                created_ms: 0,
                generation,
            };
            replace_mark(self.plain.as_ref(), &mark).await.unwrap();
        }

        async fn put(&self, name: &str) -> Result<()> {
            self.bucket.put(&Path::from(name), "x".into()).await.map(drop)
        }

        async fn delete(&self, name: &str) -> Result<()> {
            self.bucket.delete(&Path::from(name)).await
        }

        async fn has(&self, name: &str) -> bool {
            self.plain.head(&Path::from(name)).await.is_ok()
        }
    }

    #[tokio::test]
    async fn another_clusters_bucket_is_neither_written_to_nor_deleted_from() {
        let rig = Rig::new(Some(1)).await;
        rig.put("a").await.unwrap();
        rig.put("b").await.unwrap();
        rig.delete("b").await.unwrap();
        assert!(rig.has("a").await && !rig.has("b").await);
        let mut begun = rig.bucket.put_multipart(&Path::from("c")).await.unwrap();
        begun.put_part("c".into()).await.unwrap();
        rig.mark(8, 0).await;
        // At once, whatever was known before.
        let error = rig.delete("a").await.unwrap_err().to_string();
        for part in [ClusterId(7).to_string(), ClusterId(8).to_string(), "s3://b".to_owned()] {
            assert!(error.contains(&part), "{error}");
        }
        assert!(rig.has("a").await);
        assert!(rig.put("d").await.is_err() && !rig.has("d").await);
        assert!(begun.complete().await.is_err() && !rig.has("c").await);
        assert!(rig.bucket.put_multipart(&Path::from("e")).await.is_err());
        let copy = rig.bucket.copy(&Path::from("a"), &Path::from("f")).await;
        assert!(copy.is_err() && !rig.has("f").await);
        assert_eq!(rig.claim.foreign.get(), 1);
        // What is there is read all the same.
        rig.bucket.get(&Path::from("a")).await.unwrap();
        rig.mark(7, 1).await;
        rig.delete("a").await.unwrap();
        assert_eq!(rig.claim.foreign.get(), 0);
        rig.put("a").await.unwrap();
    }

    #[tokio::test]
    async fn the_mark_is_read_once_in_a_while_and_after_each_object() {
        let rig = Rig::new(Some(1)).await;
        rig.put("a").await.unwrap();
        rig.mark(8, 0).await;
        // It was known a moment before, and is there now: but it does not count.
        assert!(rig.put("b").await.is_err());
        assert!(rig.has("b").await);
        rig.mark(7, 1).await;
        assert!(rig.put("c").await.is_err(), "as it was read within ten seconds");
        rig.clock.advance(FRESH_FOR);
        rig.put("c").await.unwrap();
    }

    #[tokio::test]
    async fn a_bucket_without_a_mark_or_of_a_later_generation_is_not_this_nodes() {
        let rig = Rig::new(Some(1)).await;
        rig.mark(7, 2).await;
        let error = rig.delete("a").await.unwrap_err().to_string();
        assert!(error.contains("recovered without this node"), "{error}");
        let path = Path::from("cluster.json");
        rig.plain.delete(&path).await.unwrap();
        let error = rig.delete("a").await.unwrap_err().to_string();
        assert!(error.contains("has no mark"), "{error}");
        let (_, mark) = error.split_once("as cluster.json: ").unwrap();
        rig.plain.put(&path, mark.to_owned().into()).await.unwrap();
        rig.delete("a").await.unwrap();
        rig.plain.put(&path, "{".into()).await.unwrap();
        assert!(rig.delete("a").await.is_err(), "it cannot be told");
        // One without replicas goes by the first that it sees.
        let rig = Rig::new(None).await;
        rig.put("a").await.unwrap();
        rig.mark(7, 2).await;
        assert!(rig.delete("a").await.is_err());
    }
}
