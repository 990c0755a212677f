//! The network of the simulation: who reaches whom, after what time, and what is lost on the way.
//!
//! A call is a message there and one back. Either may be late or lost: then the caller hears of a broken connection, in the
//! second case after the effect. Where a way is cut the sender waits for as long as TCP would, and then hears the same.

use super::trace::Trace;
use gnomon_cluster::raft::RaftService;
use gnomon_model::NodeId;
use gnomon_proto::service::{MetaService, ShardReadService, ShardWriteService};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a message that cannot pass is tried again.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// Who sends: a machine in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) place: usize,
    pub(crate) life: u64,
}

/// What answers on a machine.
#[derive(Clone, Default)]
pub(crate) struct Served {
    pub(crate) node: NodeId,
    pub(crate) raft: Option<Arc<dyn RaftService>>,
    pub(crate) meta: Option<Arc<dyn MetaService>>,
    pub(crate) shard_write: Option<Arc<dyn ShardWriteService>>,
    pub(crate) shard_read: Option<Arc<dyn ShardReadService>>,
}

/// How well messages come through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Share of messages that are lost, 0 to 1.
    pub(crate) lose: f64,
    /// Share of messages that take long, 0 to 1.
    pub(crate) late: f64,
    /// Share of votes and heartbeats that come a second time, later, 0 to 1.
    pub(crate) twice: f64,
    /// How long a message takes at most, microseconds.
    pub(crate) usual_us: u64,
    /// How long a late one takes at most, milliseconds.
    pub(crate) late_ms: u64,
}

impl Weather {
    pub(crate) const FINE: Self = Self {
        lose: 0.0,
        late: 0.0,
        twice: 0.0,
        usual_us: 3000,
        late_ms: 1,
    };
}

/// Why a message did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nobody listens there: nothing was done.
    Nobody,
    /// The connection broke.
    Broken,
}

#[derive(Clone)]
pub(crate) struct SimNetwork {
    inner: Arc<Mutex<Inner>>,
    trace: Trace,
}

struct Inner {
    /// The life that a machine is in, and what is cancelled at its end.
    lives: BTreeMap<usize, (u64, CancellationToken)>,
    served: BTreeMap<usize, Served>,
    cut: BTreeSet<(usize, usize)>,
    /// Machines whose processes are paused: nothing passes to them or from them until they go on.
    held: BTreeSet<usize>,
    weather: Weather,
    random: StdRng,
}

impl Inner {
    fn is_alive(&self, who: Sender) -> bool {
        self.lives.get(&who.place).is_some_and(|(life, _)| *life == who.life)
    }
}

enum Fate {
    Passes(Duration),
    Breaks(Duration),
    Cut,
    Held,
    /// The sender is no more.
    Dead,
}

impl SimNetwork {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                lives: BTreeMap::new(),
                served: BTreeMap::new(),
                cut: BTreeSet::new(),
                held: BTreeSet::new(),
                weather: Weather::FINE,
                random: StdRng::seed_from_u64(seed ^ 0x6e65_7477),
            })),
            trace,
        }
    }

    /// A machine begins a life: what came of earlier ones reaches nobody any more.
    pub(crate) fn begin(&self, place: usize) -> Sender {
        let mut inner = self.inner.lock();
        inner.served.remove(&place);
        let (life, ended) = inner.lives.entry(place).or_default();
        *life += 1;
        std::mem::take(ended).cancel();
        Sender { place, life: *life }
    }

    /// What answers from now on, unless another life has begun.
    pub(crate) fn serve(&self, who: Sender, served: Served) {
        let mut inner = self.inner.lock();
        if inner.is_alive(who) {
            inner.served.insert(who.place, served);
        }
    }

    pub(crate) fn served(&self, place: usize) -> Option<Served> {
        self.inner.lock().served.get(&place).cloned()
    }

    /// The machine that a node is on.
    pub(crate) fn place_of(&self, node: NodeId) -> Option<usize> {
        let inner = self.inner.lock();
        let mut all = inner.served.iter();
        all.find(|(_, served)| served.node == node).map(|(place, _)| *place)
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.inner.lock().weather = weather;
    }

    /// Cuts one direction.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.inner.lock().cut.insert((from, to));
    }

    pub(crate) fn heal(&self) {
        self.inner.lock().cut.clear();
    }

    pub(crate) fn hold(&self, place: usize, is_held: bool) {
        let mut inner = self.inner.lock();
        match is_held {
            true => inner.held.insert(place),
            false => inner.held.remove(&place),
        };
    }

    fn fate(&self, from: Sender, to: usize) -> Fate {
        let mut inner = self.inner.lock();
        if !inner.is_alive(from) {
            return Fate::Dead;
        }
        // A machine reaches itself.
        if from.place == to {
            return Fate::Passes(Duration::ZERO);
        }
        if inner.held.contains(&from.place) || inner.held.contains(&to) {
            return Fate::Held;
        }
        if inner.cut.contains(&(from.place, to)) {
            return Fate::Cut;
        }
        let weather = inner.weather;
        let mut takes = Duration::from_micros(inner.random.random_range(50..=weather.usual_us.max(50)));
        if inner.random.random_bool(weather.late) {
            takes = Duration::from_millis(inner.random.random_range(1..=weather.late_ms.max(1)));
        }
        match inner.random.random_bool(weather.lose) {
            true => Fate::Breaks(takes),
            false => Fate::Passes(takes),
        }
    }

    /// Whether a vote or a heartbeat comes a second time, and after what. Not what a machine would send that is gone.
    pub(crate) fn comes_twice(&self, from: Sender) -> Option<Duration> {
        let mut inner = self.inner.lock();
        if !inner.is_alive(from) {
            return None;
        }
        let twice = inner.weather.twice;
        let again = inner.random.random_bool(twice);
        again.then(|| Duration::from_millis(inner.random.random_range(1..2000)))
    }

    /// One message one way. `kind` is for the trace.
    pub(crate) async fn pass(&self, kind: u8, from: Sender, to: usize) -> Result<(), Lost> {
        let mut patience = {
            let mut inner = self.inner.lock();
            inner.random.random_range(4..20)
        };
        while patience > 0 {
            match self.fate(from, to) {
                Fate::Passes(takes) => {
                    self.trace.message(kind, from.place, to, takes);
                    tokio::time::sleep(takes).await;
                    return match self.inner.lock().is_alive(from) {
                        true => Ok(()),
                        false => Err(Lost::Broken),
                    };
                }
                Fate::Breaks(takes) => {
                    self.trace.message(kind | 0x80, from.place, to, takes);
                    tokio::time::sleep(takes).await;
                    return Err(Lost::Broken);
                }
                Fate::Cut => {
                    patience -= 1;
                    tokio::time::sleep(TRY_EVERY).await;
                }
                Fate::Held => tokio::time::sleep(TRY_EVERY).await,
                Fate::Dead => break,
            }
        }
        // Whoever goes on for ever on a machine that is gone does not do so at once.
        tokio::time::sleep(TRY_EVERY).await;
        Err(Lost::Broken)
    }

    /// A call there and back. What is called is dropped where its machine ends meanwhile.
    pub(crate) async fn call<T, Calling>(
        &self,
        kind: u8,
        from: Sender,
        to: usize,
        call: impl FnOnce(Served) -> Calling,
    ) -> Result<T, Lost>
    where
        Calling: Future<Output = T>,
    {
        self.pass(kind, from, to).await?;
        let Some((called, served, ended)) = self.listening(to) else {
            return Err(Lost::Nobody);
        };
        let answer = tokio::select! {
            biased;
            () = ended.cancelled() => return Err(Lost::Broken),
            answer = call(served) => answer,
        };
        self.pass(kind | 0x40, called, from.place).await?;
        Ok(answer)
    }

    /// What answers on a machine, in which life, and what is cancelled at the end of that.
    pub(crate) fn listening(&self, place: usize) -> Option<(Sender, Served, CancellationToken)> {
        let inner = self.inner.lock();
        let served = inner.served.get(&place)?.clone();
        let (life, ended) = inner.lives.get(&place)?;
        Some((Sender { place, life: *life }, served, ended.clone()))
    }
}
