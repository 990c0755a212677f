//! An object store that fails as real ones do, by a seed or at the request that is named: for tests and simulation.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often what goes wrong: probabilities from 0 to 1, for each request by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// The request fails and nothing was done.
    pub refused: f64,
    /// The request is carried out and fails nevertheless: the answer was lost.
    pub lost_response: f64,
    /// A part of an upload is kept and the upload fails, or what is read ends early with an error.
    pub torn: f64,
    /// Each request takes up to so long.
    pub latency: Duration,
}

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    Put,
    /// An upload in parts: its beginning, one part, its end, and giving it up.
    Begin,
    Part,
    Complete,
    Abort,
    Get,
    List,
    Delete,
    Copy,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Sound,
    /// It fails and nothing was done.
    Refused,
    /// It is carried out and fails nevertheless.
    LostResponse,
    /// A part of it is carried out, and it fails. What cannot be done in part is refused.
    Torn,
}

/// Who decides.
pub trait Fates: Send + Sync + 'static {
    /// Of the next request, and how long it takes.
    fn next(&self, request: Request) -> (Fate, Duration);

    /// A request whose fate is [`Fate::LostResponse`] or [`Fate::Torn`] had its effect.
    fn had_effect(&self) {}
}

/// By a seed.
struct Seeded {
    random: Mutex<StdRng>,
    faults: Mutex<Faults>,
    requests: AtomicU64,
    failures: AtomicU64,
}

impl Fates for Seeded {
    fn next(&self, _: Request) -> (Fate, Duration) {
        let faults = *self.faults.lock();
        let mut random = self.random.lock();
        let draw: f64 = random.random();
        let fate = if draw < faults.refused {
            Fate::Refused
        } else if draw < faults.refused + faults.lost_response {
            Fate::LostResponse
        } else if draw < faults.refused + faults.lost_response + faults.torn {
            Fate::Torn
        } else {
            Fate::Sound
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        if fate != Fate::Sound {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        (fate, faults.latency.mul_f64(random.random()))
    }
}

async fn fate(fates: &dyn Fates, request: Request) -> Fate {
    let (fate, wait) = fates.next(request);
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    fate
}

fn error(what: &'static str) -> Error {
    Error::Generic {
        store: "faults",
        source: what.into(),
    }
}

const REFUSED: &str = "injected: refused";
const LOST: &str = "injected: the answer was lost";
const TORN: &str = "injected: the transfer broke off";

/// Wraps a store. Clones share their fates.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    fates: Arc<dyn Fates>,
    seeded: Option<Arc<Seeded>>,
}

impl FaultyStore {
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, faults: Faults) -> Self {
        let seeded = Arc::new(Seeded {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            faults: Mutex::new(faults),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        });
        Self {
            inner,
            fates: seeded.clone(),
            seeded: Some(seeded),
        }
    }

    /// Where somebody else decides what fails.
    #[must_use]
    pub fn by(inner: Arc<dyn ObjectStore>, fates: Arc<dyn Fates>) -> Self {
        Self {
            inner,
            fates,
            seeded: None,
        }
    }

    /// From now on; to heal, give the default. Without effect where somebody else decides.
    pub fn set(&self, faults: Faults) {
        if let Some(seeded) = &self.seeded {
            *seeded.faults.lock() = faults;
        }
    }

    /// Requests so far, and how many of them were made to fail; nothing where somebody else decides.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let count = |of: fn(&Seeded) -> &AtomicU64| self.seeded.as_ref().map_or(0, |s| of(s).load(Ordering::Relaxed));
        (count(|s| &s.requests), count(|s| &s.failures))
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

/// Runs a request that is carried out wholly or not at all.
async fn atomic<T>(fates: &dyn Fates, what: Request, request: impl Future<Output = Result<T>>) -> Result<T> {
    match fate(fates, what).await {
        Fate::Sound => request.await,
        Fate::Refused | Fate::Torn => Err(error(REFUSED)),
        Fate::LostResponse => {
            let done = request.await;
            fates.had_effect();
            done.and(Err(error(LOST)))
        }
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match fate(self.fates.as_ref(), Request::Put).await {
            Fate::Sound => self.inner.put_opts(location, payload, opts).await,
            Fate::Refused => Err(error(REFUSED)),
            Fate::LostResponse => {
                let done = self.inner.put_opts(location, payload, opts).await;
                self.fates.had_effect();
                done.and(Err(error(LOST)))
            }
            Fate::Torn => {
                // What a process leaves that ends in the middle: half of it, and nobody who clears it away.
                let mut upload = self.inner.put_multipart(location).await?;
                let bytes = Bytes::from(payload);
                let half = bytes.slice(..bytes.len() / 2);
                let put = upload.put_part(PutPayload::from(half)).await;
                std::mem::forget(upload);
                self.fates.had_effect();
                put.and(Err(error(TORN)))
            }
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let begin = self.inner.put_multipart_opts(location, opts);
        let inner = atomic(self.fates.as_ref(), Request::Begin, begin).await?;
        let fates = Arc::clone(&self.fates);
        Ok(Box::new(FaultyUpload { inner, fates }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match fate(self.fates.as_ref(), Request::Get).await {
            Fate::Sound => self.inner.get_opts(location, options).await,
            Fate::Refused | Fate::LostResponse => Err(error(REFUSED)),
            Fate::Torn => {
                let result = self.inner.get_opts(location, options).await?;
                let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
                let extensions = result.extensions.clone();
                let bytes = result.bytes().await?;
                let chunks = [Ok(bytes.slice(..bytes.len() / 2)), Err(error(TORN))];
                let payload = GetResultPayload::Stream(futures::stream::iter(chunks).boxed());
                self.fates.had_effect();
                Ok(GetResult {
                    payload,
                    meta,
                    range,
                    attributes,
                    extensions,
                })
            }
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, fates) = (Arc::clone(&self.inner), Arc::clone(&self.fates));
        let one = move |location: Path| {
            let (inner, fates) = (Arc::clone(&inner), Arc::clone(&fates));
            async move {
                let request = async {
                    let mut deleted = inner.delete_stream(futures::stream::iter([Ok(location.clone())]).boxed());
                    deleted.try_next().await.map(|_| location)
                };
                atomic(fates.as_ref(), Request::Delete, request).await
            }
        };
        locations.and_then(one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (listed, fates) = (self.inner.list(prefix), Arc::clone(&self.fates));
        futures::stream::once(async move {
            match fate(fates.as_ref(), Request::List).await {
                Fate::Sound => listed,
                Fate::Torn => {
                    fates.had_effect();
                    listed.take(1).chain(futures::stream::iter([Err(error(TORN))])).boxed()
                }
                Fate::Refused | Fate::LostResponse => futures::stream::iter([Err(error(REFUSED))]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let list = self.inner.list_with_delimiter(prefix);
        atomic(self.fates.as_ref(), Request::List, list).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copy = self.inner.copy_opts(from, to, options);
        atomic(self.fates.as_ref(), Request::Copy, copy).await
    }
}

struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    fates: Arc<dyn Fates>,
}

impl fmt::Debug for FaultyUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyUpload")
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, fates) = (self.inner.put_part(data), Arc::clone(&self.fates));
        Box::pin(async move {
            match fate(fates.as_ref(), Request::Part).await {
                Fate::Sound => part.await,
                Fate::Refused => Err(error(REFUSED)),
                Fate::LostResponse | Fate::Torn => {
                    let put = part.await;
                    fates.had_effect();
                    put.and(Err(error(TORN)))
                }
            }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fates = Arc::clone(&self.fates);
        atomic(fates.as_ref(), Request::Complete, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let fates = Arc::clone(&self.fates);
        atomic(fates.as_ref(), Request::Abort, self.inner.abort()).await
    }
}
