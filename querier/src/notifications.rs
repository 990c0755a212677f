//! What users should know of now: a few texts that come and go, and those who watch them.

use crate::instant::Rfc3339;
use gnomon_model::Clock;
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{IntCounter, IntGauge};
use serde::Serialize;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Of Prometheus' words those that fit.
pub const RELOAD_FAILED: &str = "Configuration reload has failed.";
pub const CONFIG_DIFFERS: &str =
    "This node goes by another configuration than the cluster: update its file, or make it the cluster's, by a reload.";
pub const STARTING: &str = "gnomon is starting.";
pub const STOPPING: &str = "gnomon is shutting down and gracefully stopping all operations.";

/// What a watcher who does not read may be behind; what is more is dropped.
const WAITING: usize = 10;

/// That something has begun to be so, or ends to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Notification {
    text: &'static str,
    /// RFC 3339.
    date: String,
    active: bool,
}

#[derive(Default)]
struct State {
    active: Vec<Notification>,
    watchers: Vec<(u64, mpsc::Sender<Notification>)>,
    next_watcher: u64,
    is_closed: bool,
}

/// The notifications of a process.
pub struct Notifications {
    clock: Arc<dyn Clock>,
    max_watchers: usize,
    state: Mutex<State>,
    watching: IntGauge,
    sent: IntCounter,
    dropped: IntCounter,
}

impl Notifications {
    /// `max_watchers`: `--web.max-notifications-subscribers`.
    ///
    /// # Errors
    /// When the name of a metric is not legal, which the test of this module rules out.
    pub fn new(clock: Arc<dyn Clock>, max_watchers: usize) -> prometheus::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            clock,
            max_watchers,
            state: Mutex::default(),
            watching: IntGauge::new(
                "prometheus_api_notification_active_subscribers",
                "The current number of active notification subscribers.",
            )?,
            sent: IntCounter::new(
                "prometheus_api_notification_updates_sent_total",
                "Total number of notification updates sent.",
            )?,
            dropped: IntCounter::new(
                "prometheus_api_notification_updates_dropped_total",
                "Total number of notification updates dropped.",
            )?,
        }))
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.watching.clone()),
            Box::new(self.sent.clone()),
            Box::new(self.dropped.clone()),
        ]
    }

    /// Something is so, from now on or still.
    pub fn add(&self, text: &'static str) {
        let notification = Notification {
            text,
            date: Rfc3339(self.clock.now().0).to_string(),
            active: true,
        };
        let mut state = self.state.lock();
        state.active.retain(|other| other.text != text);
        state.active.push(notification.clone());
        self.tell(&state, &notification);
    }

    /// It is so no longer.
    pub fn remove(&self, text: &str) {
        let mut state = self.state.lock();
        let Some(at) = state.active.iter().position(|other| other.text == text) else {
            return;
        };
        let mut notification = state.active.remove(at);
        notification.active = false;
        self.tell(&state, &notification);
    }

    /// Ends all watching, for good.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.watchers.clear();
        self.watching.set(0);
    }

    fn tell(&self, state: &State, notification: &Notification) {
        for (_, watcher) in &state.watchers {
            self.sent.inc();
            if watcher.try_send(notification.clone()).is_err() {
                self.dropped.inc();
            }
        }
    }

    pub(crate) fn active(&self) -> Vec<Notification> {
        self.state.lock().active.clone()
    }

    /// What is so now, then every change; none where too many watch already.
    pub(crate) fn watch(self: &Arc<Self>) -> Option<Watcher> {
        let mut state = self.state.lock();
        if state.watchers.len() >= self.max_watchers {
            return None;
        }
        let (sender, changes) = mpsc::channel(WAITING + state.active.len());
        for notification in &state.active {
            // There is room for these.
            let _ = sender.try_send(notification.clone());
        }
        let id = state.next_watcher;
        state.next_watcher += 1;
        if !state.is_closed {
            state.watchers.push((id, sender));
        }
        self.watching.set(state.watchers.len() as i64);
        Some(Watcher {
            id,
            of: Arc::clone(self),
            changes,
        })
    }
}

/// Gives up its place when it is dropped.
pub(crate) struct Watcher {
    id: u64,
    of: Arc<Notifications>,
    changes: mpsc::Receiver<Notification>,
}

impl Watcher {
    /// None once nothing comes any more.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Notification>> {
        self.changes.poll_recv(context)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut state = self.of.state.lock();
        state.watchers.retain(|(id, _)| *id != self.id);
        self.of.watching.set(state.watchers.len() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{ManualClock, TimestampMs};

    fn notifications(max_watchers: usize) -> Arc<Notifications> {
        let clock = Arc::new(ManualClock::at(TimestampMs(1_000)));
        Notifications::new(clock, max_watchers).unwrap()
    }

    async fn next(watcher: &mut Watcher) -> Option<(&'static str, bool)> {
        let next = std::future::poll_fn(|context| watcher.poll_next(context)).await;
        next.map(|notification| (notification.text, notification.active))
    }

    #[tokio::test]
    async fn watchers_hear_of_what_is_and_of_what_changes() {
        let all = notifications(2);
        all.add(STARTING);
        let mut watcher = all.watch().unwrap();
        all.add(RELOAD_FAILED);
        all.remove(STARTING);
        all.remove("never was");
        assert_eq!(next(&mut watcher).await, Some((STARTING, true)));
        assert_eq!(next(&mut watcher).await, Some((RELOAD_FAILED, true)));
        assert_eq!(next(&mut watcher).await, Some((STARTING, false)));
        let active = all.active();
        assert_eq!(active.len(), 1);
        assert_eq!(
            crate::gojson::to_string(&active).unwrap(),
            r#"[{"text":"Configuration reload has failed.","date":"1970-01-01T00:00:01Z","active":true}]"#
        );
        all.close();
        assert_eq!(next(&mut watcher).await, None);
        assert!(all.watch().is_some(), "it ends at once");
    }

    #[tokio::test]
    async fn watchers_are_bounded_and_slow_ones_miss_something() {
        let all = notifications(2);
        let (first, mut second) = (all.watch().unwrap(), all.watch().unwrap());
        assert!(all.watch().is_none());
        assert_eq!(all.watching.get(), 2);
        drop(first);
        assert!(all.watch().is_some());
        for _ in 0..WAITING + 5 {
            all.add(RELOAD_FAILED);
        }
        assert_eq!((all.sent.get(), all.dropped.get()), (15, 5));
        for _ in 0..WAITING {
            assert_eq!(next(&mut second).await, Some((RELOAD_FAILED, true)));
        }
        all.add(STOPPING);
        assert_eq!(next(&mut second).await, Some((STOPPING, true)));
        assert!(notifications(0).watch().is_none());
    }
}
