//! A bucket that is, and is not, the node's.

use super::super::identity::replace_mark;
use super::*;
use gnomon_model::{ManualClock, TimestampMs};
use gnomon_tsdb::bucket::checkpoint_path;
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
    async fn new(has_replicas: bool) -> Self {
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
        rig.claim.hold(ClusterId(7), 1, has_replicas);
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
    let rig = Rig::new(true).await;
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
    let rig = Rig::new(true).await;
    rig.put("a").await.unwrap();
    rig.mark(8, 0).await;
    // It was known a moment before, and is there now: but it does not count.
    assert!(rig.put("b").await.is_err());
    assert!(rig.has("b").await);
    rig.mark(7, 1).await;
    assert!(rig.put("c").await.is_err(), "as it was read within ten seconds");
    rig.clock.advance(FRESH_FOR);
    rig.put("c").await.unwrap();
    rig.mark(8, 0).await;
    let checkpoint = checkpoint_path(9);
    let put = rig.bucket.put(&checkpoint, "x".into()).await;
    assert!(put.is_err() && rig.plain.head(&checkpoint).await.is_err());
}

#[tokio::test]
async fn a_bucket_without_a_mark_or_of_a_later_generation_is_not_this_nodes() {
    let rig = Rig::new(true).await;
    rig.mark(7, 2).await;
    let error = rig.delete("a").await.unwrap_err().to_string();
    assert!(error.contains("recovered without this node"), "{error}");
    let path = Path::from("cluster.json");
    rig.plain.delete(&path).await.unwrap();
    let error = rig.delete("a").await.unwrap_err().to_string();
    assert!(error.contains("has no mark"), "{error}");
    assert!(error.contains("put what the logs of its ingesters say into"), "{error}");
    let rig = Rig::new(true).await;
    rig.plain.delete(&path).await.unwrap();
    let error = rig.delete("a").await.unwrap_err().to_string();
    let mark = error
        .split_once(", put ")
        .and_then(|(_, then)| then.split_once(" into the bucket"));
    rig.plain.put(&path, mark.unwrap().0.to_owned().into()).await.unwrap();
    rig.delete("a").await.unwrap();
    rig.mark(7, 0).await;
    let error = rig.delete("a").await.unwrap_err().to_string();
    assert!(error.contains("earlier generation"), "{error}");
    assert_eq!(rig.claim.foreign.get(), 1);
    rig.mark(7, 1).await;
    rig.delete("a").await.unwrap();
    rig.plain.put(&path, "{".into()).await.unwrap();
    assert!(rig.delete("a").await.is_err(), "it cannot be told");
    assert_eq!(rig.claim.foreign.get(), 0, "not yet");
    rig.clock.advance(SAY_AGAIN);
    assert!(rig.delete("a").await.is_err());
    assert_eq!(rig.claim.foreign.get(), 1);
    rig.mark(8, 1).await;
    assert!(rig.delete("a").await.is_err());
    rig.plain.put(&path, "{".into()).await.unwrap();
    assert!(rig.delete("a").await.is_err());
    assert_eq!(rig.claim.foreign.get(), 1, "as it was told before");
    rig.mark(7, 1).await;
    rig.claim
        .may_write()
        .await
        .expect("what could not be told is looked at again");
    assert_eq!(rig.claim.foreign.get(), 0);
}

#[tokio::test]
async fn a_node_that_could_not_ask_goes_by_the_first_mark_that_it_sees() {
    let rig = Rig::new(false).await;
    rig.mark(7, 3).await;
    assert!(rig.put("a").await.is_err());
    rig.claim.hold_unasked(ClusterId(7), 2);
    rig.clock.advance(FRESH_FOR);
    rig.put("a").await.unwrap();
    rig.mark(7, 4).await;
    assert!(rig.delete("a").await.is_err());
    rig.claim.hold_unasked(ClusterId(7), 5);
    assert!(
        rig.delete("a").await.is_err(),
        "it is known to have been of a later one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_without_replicas_is_told_to_start_again() {
    let rig = Rig::new(false).await;
    rig.put("a").await.unwrap();
    rig.mark(7, 2).await;
    let stop = CancellationToken::new();
    let watching = tokio::spawn(Arc::clone(&rig.claim).watch(stop.clone()));
    for _ in 0..10 {
        tokio::time::sleep(FRESH_FOR).await;
    }
    assert_eq!(rig.claim.foreign.get(), 1);
    let error = rig.delete("a").await.unwrap_err().to_string();
    assert!(error.contains("start it again once"), "{error}");
    assert!(rig.has("a").await);
    stop.cancel();
    watching.await.unwrap();
}

/// Reads wait until they are let go.
#[derive(Debug)]
struct Slow {
    inner: Arc<dyn ObjectStore>,
    reads: std::sync::atomic::AtomicUsize,
    goes: tokio::sync::Semaphore,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("slow")
    }
}

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }
    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.goes.acquire().await.unwrap().forget();
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn who_waits_for_a_look_at_the_mark_shares_the_next_one() {
    let rig = Rig::new(true).await;
    let slow = Arc::new(Slow {
        inner: rig.plain.clone(),
        reads: 0.into(),
        goes: tokio::sync::Semaphore::new(0),
    });
    let store: Arc<dyn ObjectStore> = slow.clone();
    let claim = Claim::new(store, "s3://b", rig.clock.clone(), &Registry::new()).unwrap();
    claim.hold(ClusterId(7), 1, true);
    let mut checks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let claim = Arc::clone(&claim);
        checks.spawn(async move { claim.check(Duration::ZERO).await });
    }
    // All of them have begun once the first one reads, and each gave way.
    while slow.reads.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    slow.goes.add_permits(20);
    while let Some(checked) = checks.join_next().await {
        checked.unwrap().unwrap();
    }
    assert!(slow.reads.load(std::sync::atomic::Ordering::Relaxed) <= 2);
}
