//! Whether the bucket is still this node's cluster's, while the node runs.
//!
//! A bucket can be given to another cluster (`gnomon bucket check --found-anew`), or be gone on with by one of its nodes
//! (`gnomon cluster recover`). A node of before that went on merging and deleting would take the new one's data. So
//! whatever writes or deletes goes through [`Claim::bucket`], which compares the bucket's mark with what the node knows
//! itself to be:
//!
//! ```text
//! before an object is written    the mark as it was read within the last ten seconds
//! before a copy of the catalogue the mark as it is
//! after one is whole             the mark as it is: an object that is in another's bucket is not uploaded
//! before a delete                the mark as it is: what is deleted does not come back
//! read, list                     nothing
//! ```
//!
//! Invariant: where the mark is another's, or cannot be read, nothing is deleted, and nothing counts as written. Who would
//! have to undo something else then asks before ([`Claim::may_write`]).

use super::Starting;
use super::error::NodeError;
use super::identity::{ClusterMark, NodeIdentity, read_mark};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_model::{Clock, ClusterId};
use gnomon_tsdb::bucket::checkpoint_revision;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use prometheus::{IntGauge, Registry};
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, atomic};
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
    /// What the node has, or knows, is of this one.
    generation: u64,
    /// Where the mark could not be read before: the first one that can be says which.
    is_certain: bool,
    has_replicas: bool,
    /// A later one was seen: this node does not know what the mark should be.
    is_behind: bool,
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
        "cluster {cluster} was recovered (gnomon cluster recover) while this node ran, and what it knows may be of \
         before. It writes nothing to the bucket {bucket} and deletes nothing in it: start it again once no ingester \
         of before runs any more"
    )]
    ToRecovery { bucket: String, cluster: ClusterId },
    #[error(
        "the bucket {bucket} has the mark of an earlier generation of cluster {cluster} ({found}; this node is of \
         {ours}), as it was before that was recovered. This node writes nothing to it and deletes nothing in it. Stop \
         the nodes that were left behind, and put {mark} into the bucket as cluster.json"
    )]
    ToEarlier {
        bucket: String,
        cluster: ClusterId,
        ours: u64,
        found: u64,
        mark: String,
    },
    #[error(
        "the bucket {bucket} has no mark (cluster.json) any more, and this node is a member of cluster {ours}: it was \
         given up for a new cluster (gnomon cluster recover, bucket check --found-anew), or is another bucket. This node \
         writes nothing to it and deletes nothing in it. Stop the nodes of cluster {ours}; where it is the one that goes \
         on, put {mark} into the bucket as cluster.json"
    )]
    Unmarked {
        bucket: String,
        ours: ClusterId,
        mark: String,
    },
}

/// What a look at the mark came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    Ours,
    Lost(Lost),
    /// It cannot be told: why.
    Unread(String),
}

impl Look {
    fn outcome(&self) -> Result<()> {
        match self {
            Self::Ours => Ok(()),
            Self::Lost(lost) => Err(generic(Box::new(lost.clone()))),
            Self::Unread(why) => Err(generic(why.clone().into())),
        }
    }
}

/// What is known of the mark. Looks are numbered as they begin.
#[derive(Debug)]
struct Seen {
    begun: u64,
    /// Of the newest that has ended, and when it began.
    number: u64,
    at: Duration,
    look: Look,
    /// Since when it cannot be told.
    unread: Option<Duration>,
    said: Option<Duration>,
}

impl Seen {
    /// What the newest look came to, if it began after so many others, or lately and tells whose the bucket is.
    fn known(&self, after: u64, now: Duration, max_age: Duration) -> Option<Result<()>> {
        let tells = self.number > 0 && !matches!(self.look, Look::Unread(_));
        let is_fresh = tells && now.saturating_sub(self.at) < max_age;
        (self.number > after || is_fresh).then(|| self.look.outcome())
    }
}

/// A node's hold on its bucket.
pub struct Claim {
    store: Arc<dyn ObjectStore>,
    /// For messages.
    bucket: String,
    clock: Arc<dyn Clock>,
    /// None until the node knows which cluster it is of.
    held: Mutex<Option<Held>>,
    seen: Mutex<Seen>,
    /// Held while the mark is read: who comes meanwhile waits for that.
    looking: tokio::sync::Mutex<()>,
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
            "1 while the mark in the bucket is not that of this node's cluster, or could not be read for a minute: this \
             node writes and deletes nothing in it.",
        )?;
        registry.register(Box::new(foreign.clone()))?;
        Ok(Arc::new(Self {
            store,
            bucket: bucket.into(),
            clock,
            held: Mutex::default(),
            seen: Mutex::new(Seen {
                begun: 0,
                number: 0,
                at: Duration::ZERO,
                look: Look::Ours,
                unread: None,
                said: None,
            }),
            looking: tokio::sync::Mutex::default(),
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

    /// From now on the bucket has to be that of `cluster`, at the generation of which the node is, or that it found.
    pub fn hold(&self, cluster: ClusterId, generation: u64, has_replicas: bool) {
        *self.held.lock() = Some(Held {
            cluster,
            generation,
            is_certain: true,
            has_replicas,
            is_behind: false,
        });
    }

    /// As [`Self::hold`], of a node without replicas, which could not ask the bucket: at the generation that is found first,
    /// or at the one that it knew where that is later.
    pub fn hold_unasked(&self, cluster: ClusterId, known: u64) {
        *self.held.lock() = Some(Held {
            cluster,
            generation: known,
            is_certain: false,
            has_replicas: false,
            is_behind: false,
        });
    }

    /// Before work that would be for nothing where the bucket may not be written to, or that the catalogue would have to be
    /// told to forget.
    ///
    /// # Errors
    /// Where the mark is not this node's as it was read within ten seconds, or cannot be read.
    pub async fn may_write(&self) -> Result<()> {
        self.check(FRESH_FOR).await
    }

    /// Looks now and then, so that it is told before there is something to write.
    async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let looking = async {
            loop {
                // It is told as it is noted.
                let _ = self.check(Duration::ZERO).await;
                tokio::time::sleep(FRESH_FOR).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = looking => {}
        }
    }

    /// # Errors
    /// Where the mark is not this node's, or cannot be read; as it was read within `max_age`, or is read from now on.
    async fn check(&self, max_age: Duration) -> Result<()> {
        if self.held.lock().is_none() {
            return Ok(());
        }
        let after = self.seen.lock().begun;
        let known = || self.seen.lock().known(after, self.clock.monotonic(), max_age);
        if let Some(known) = known() {
            return known;
        }
        let _looking = self.looking.lock().await;
        // Somebody else may have looked meanwhile.
        if let Some(known) = known() {
            return known;
        }
        let at = self.clock.monotonic();
        let number = {
            let mut seen = self.seen.lock();
            seen.begun += 1;
            seen.begun
        };
        let found = read_mark(self.store.as_ref()).await;
        let look = self.judge(found);
        let outcome = look.outcome();
        self.note(number, at, look);
        outcome
    }

    fn judge(&self, found: std::result::Result<Option<ClusterMark>, NodeError>) -> Look {
        let mut held = self.held.lock();
        let Some(held) = held.as_mut() else {
            return Look::Ours;
        };
        let (bucket, cluster) = (self.bucket.clone(), held.cluster);
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                let (ours, mark) = (cluster, mark_of(held));
                return Look::Lost(Lost::Unmarked { bucket, ours, mark });
            }
            Err(error) => return Look::Unread(error.to_string()),
        };
        if found.cluster_id != cluster {
            let (ours, found) = (cluster, found.cluster_id);
            return Look::Lost(Lost::ToCluster { bucket, ours, found });
        }
        if !held.is_certain {
            (held.generation, held.is_certain) = (found.generation.max(held.generation), true);
        }
        let (ours, found) = (held.generation, found.generation);
        held.is_behind |= found > ours;
        match found.cmp(&ours) {
            Ordering::Equal => Look::Ours,
            Ordering::Less => Look::Lost(Lost::ToEarlier {
                bucket,
                cluster,
                ours,
                found,
                mark: mark_of(held),
            }),
            Ordering::Greater => Look::Lost(match held.has_replicas {
                true => Lost::ToGeneration {
                    bucket,
                    cluster,
                    ours,
                    found,
                },
                false => Lost::ToRecovery { bucket, cluster },
            }),
        }
    }

    fn note(&self, number: u64, at: Duration, look: Look) {
        let mut seen = self.seen.lock();
        seen.unread = match &look {
            Look::Unread(_) => seen.unread.or(Some(at)),
            Look::Ours | Look::Lost(_) => None,
        };
        let is_unread = seen.unread.is_some_and(|since| at.saturating_sub(since) >= SAY_AGAIN);
        match &look {
            Look::Ours => self.foreign.set(0),
            Look::Lost(_) => self.foreign.set(1),
            // What was told before holds until the mark is read.
            Look::Unread(_) if is_unread => self.foreign.set(1),
            Look::Unread(_) => {}
        }
        let is_due = seen.said.is_none_or(|said| at.saturating_sub(said) >= SAY_AGAIN);
        let is_new = match (&seen.look, &look) {
            // In other words, it may be.
            (Look::Unread(_), Look::Unread(_)) => false,
            (before, now) => before != now,
        };
        match &look {
            Look::Lost(error) if is_due || is_new => {
                tracing::error!(%error, "the bucket is not this cluster's");
                seen.said = Some(at);
            }
            Look::Unread(error) if is_due || is_new => {
                let bucket = &self.bucket;
                tracing::warn!(
                    bucket,
                    error,
                    "the bucket's mark cannot be read: nothing is written to it and nothing deleted until it can"
                );
                seen.said = Some(at);
            }
            Look::Ours if is_new => {
                tracing::info!(bucket = %self.bucket, "the bucket has the mark of this node's cluster again");
                seen.said = None;
            }
            _ => {}
        }
        (seen.number, seen.at, seen.look) = (number, at, look);
    }

    /// Something is written: it counts where the bucket is this node's afterwards too.
    async fn around<T>(&self, max_age: Duration, writing: impl Future<Output = Result<T>>) -> Result<T> {
        self.check(max_age).await?;
        let written = writing.await?;
        self.check(Duration::ZERO).await?;
        Ok(written)
    }
}

/// What to put into a bucket that lost it.
fn mark_of(held: &Held) -> String {
    let mark = ClusterMark {
        format: 1,
        cluster_id: held.cluster,
        created_ms: 0,
        generation: held.generation,
    };
    match serde_json::to_string(&mark) {
        Ok(mark) if held.is_certain && !held.is_behind => mark,
        _ => "what the logs of its ingesters say".to_owned(),
    }
}

impl Starting {
    /// From now on nothing is written to the bucket, or deleted in it, unless it is that of the node's cluster.
    pub(super) fn claim_bucket(&self, identity: &NodeIdentity) {
        let options = &self.options;
        if let Some(claim) = options.claim.as_ref().filter(|_| options.uses_bucket()) {
            if options.is_ingester() || self.has_read_mark.load(atomic::Ordering::Relaxed) {
                claim.hold(identity.cluster_id, identity.generation, options.is_ingester());
            } else {
                claim.hold_unasked(identity.cluster_id, identity.generation);
            }
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
        // Who founds on the bucket takes the newest one for the catalogue.
        let is_catalogue = checkpoint_revision(location).is_some();
        let max_age = if is_catalogue { Duration::ZERO } else { FRESH_FOR };
        let putting = self.store.put_opts(location, payload, opts);
        self.claim.around(max_age, putting).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.claim.check(FRESH_FOR).await?;
        let inner = self.store.put_multipart_opts(location, opts).await?;
        let claim = Arc::clone(&self.claim);
        Ok(Box::new(ClaimedUpload {
            inner,
            claim,
            is_whole: false,
        }))
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
        self.claim
            .around(FRESH_FOR, self.store.copy_opts(from, to, options))
            .await
    }
}

/// Its parts are nothing yet: only the whole counts.
#[derive(Debug)]
struct ClaimedUpload {
    inner: Box<dyn MultipartUpload>,
    claim: Arc<Claim>,
    /// There is nothing to abort any more, whether or not it counts.
    is_whole: bool,
}

#[async_trait]
impl MultipartUpload for ClaimedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Self { inner, claim, is_whole } = self;
        let completing = async {
            let completed = inner.complete().await;
            *is_whole = completed.is_ok();
            completed
        };
        claim.around(FRESH_FOR, completing).await
    }

    async fn abort(&mut self) -> Result<()> {
        if self.is_whole {
            return Ok(());
        }
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests;
