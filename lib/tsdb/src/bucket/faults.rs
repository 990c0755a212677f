//! An object store that fails as real ones do, by a seed: for tests and simulation.

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Sound,
    Refused,
    LostResponse,
    Torn,
}

struct State {
    random: Mutex<StdRng>,
    faults: Mutex<Faults>,
    requests: AtomicU64,
    failures: AtomicU64,
}

impl State {
    async fn fate(&self) -> Fate {
        let (fate, wait) = {
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
            (fate, faults.latency.mul_f64(random.random()))
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        if fate != Fate::Sound {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        fate
    }
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

/// Wraps a store. Clones share their seed and their faults.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<State>,
}

impl FaultyStore {
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, faults: Faults) -> Self {
        let state = State {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            faults: Mutex::new(faults),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        Self {
            inner,
            state: Arc::new(state),
        }
    }

    /// From now on; to heal, give the default.
    pub fn set(&self, faults: Faults) {
        *self.state.faults.lock() = faults;
    }

    /// Requests so far, and how many of them were made to fail.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.state.requests.load(Ordering::Relaxed),
            self.state.failures.load(Ordering::Relaxed),
        )
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
async fn atomic<T>(state: &State, request: impl Future<Output = Result<T>>) -> Result<T> {
    match state.fate().await {
        Fate::Sound => request.await,
        Fate::Refused | Fate::Torn => Err(error(REFUSED)),
        Fate::LostResponse => {
            request.await?;
            Err(error(LOST))
        }
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        atomic(&self.state, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = atomic(&self.state, self.inner.put_multipart_opts(location, opts)).await?;
        let state = Arc::clone(&self.state);
        Ok(Box::new(FaultyUpload { inner, state }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.state.fate().await {
            Fate::Sound => self.inner.get_opts(location, options).await,
            Fate::Refused | Fate::LostResponse => Err(error(REFUSED)),
            Fate::Torn => {
                let result = self.inner.get_opts(location, options).await?;
                let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
                let extensions = result.extensions.clone();
                let bytes = result.bytes().await?;
                let chunks = [Ok(bytes.slice(..bytes.len() / 2)), Err(error(TORN))];
                let payload = GetResultPayload::Stream(futures::stream::iter(chunks).boxed());
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
        let (inner, state) = (Arc::clone(&self.inner), Arc::clone(&self.state));
        let one = move |location: Path| {
            let (inner, state) = (Arc::clone(&inner), Arc::clone(&state));
            async move {
                let request = async {
                    let mut deleted = inner.delete_stream(futures::stream::iter([Ok(location.clone())]).boxed());
                    deleted.try_next().await.map(|_| location)
                };
                atomic(&state, request).await
            }
        };
        locations.and_then(one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (listed, state) = (self.inner.list(prefix), Arc::clone(&self.state));
        futures::stream::once(async move {
            match state.fate().await {
                Fate::Sound => listed,
                Fate::Torn => listed.take(1).chain(futures::stream::iter([Err(error(TORN))])).boxed(),
                Fate::Refused | Fate::LostResponse => futures::stream::iter([Err(error(REFUSED))]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        atomic(&self.state, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        atomic(&self.state, self.inner.copy_opts(from, to, options)).await
    }
}

struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    state: Arc<State>,
}

impl fmt::Debug for FaultyUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyUpload")
    }
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, state) = (self.inner.put_part(data), Arc::clone(&self.state));
        Box::pin(async move {
            match state.fate().await {
                Fate::Sound => part.await,
                Fate::Refused => Err(error(REFUSED)),
                Fate::LostResponse | Fate::Torn => {
                    part.await?;
                    Err(error(TORN))
                }
            }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let state = Arc::clone(&self.state);
        atomic(&state, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let state = Arc::clone(&self.state);
        atomic(&state, self.inner.abort()).await
    }
}
