//! From memory to disk, and what else there is to do with files. Only one task does so.

use super::queues::{Held, Limits, Work};
use super::segment::{self, EMPTY_BYTES};
use super::{Buffer, Why};
use gnomon_cluster::blocking::blocking;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Of a segment.
const MOST_BYTES: u64 = 4 << 20;
/// After a disk that did not take something.
const WAIT_FOR_DISK: Duration = Duration::from_secs(5);
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// A scrape that has waited for so long is brought to disk, however little there is: kill -9 costs what is younger. Longer
/// than it takes until a lease is renewed, which says that nobody else made it.
const WRITE_AFTER_MS: i64 = 10_000;
/// Between two such writes.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// What one segment takes: some of them have to fit the disk's budget.
pub(super) fn segment_bytes(limits: Limits) -> u64 {
    MOST_BYTES
        .min(limits.disk_bytes / 8)
        .min(limits.memory_bytes / 4)
        .max(1)
}

/// What a scrape takes in a segment, at most about.
fn cost(work: &Work) -> u64 {
    let bytes = match &work.held.place {
        super::Place::Memory(bytes) => bytes.len() as u64,
        super::Place::Disk(spot) => u64::from(spot.bytes),
    };
    bytes + work.name.len() as u64 + 64
}

impl Buffer {
    /// Takes over what an earlier process left.
    pub(super) async fn load(self: &Arc<Self>) {
        let Some(folder) = self.folder.clone() else { return };
        let loaded = blocking(move || folder.load()).await;
        match loaded.flatten() {
            Ok(found) => {
                for (file, why) in &found.damaged {
                    self.metrics.damaged_files.inc();
                    warn!(file = %file.display(), why, "a file of held scrapes is damaged: what is behind that is lost");
                }
                for file in &found.newer {
                    warn!(file = %file.display(), "a newer build wrote this file of held scrapes: it is left for one");
                }
                let ticks = found.held.len();
                let shed = self.queues.lock().adopt(&found.segments, found.newest, found.held);
                self.count_shed(&shed);
                tracing::info!(ticks, "scrapes of an earlier process wait for their shards");
            }
            Err(error) => {
                self.metrics.disk_errors.inc();
                warn!(%error, "scrapes that an earlier process left cannot be read");
            }
        }
        self.is_loading.store(false, Ordering::Release);
        self.chores.notify_one();
    }

    pub(super) async fn do_chores(self: Arc<Self>, stop: CancellationToken) {
        let mut write_at = self.clock.monotonic();
        loop {
            let now_ms = self.clock.now().0;
            let (totals, mut is_busy) = {
                let queues = self.queues.lock();
                (queues.totals(), queues.wants_to_spill() || queues.has_dead())
            };
            self.metrics.show(&totals, now_ms);
            // Seen soon after each renewal, the leader's time is known to within a second.
            self.leaders_now_ms();
            while is_busy {
                self.remove_dead().await;
                let wants = self.queues.lock().wants_to_spill();
                if wants && !self.spill_some().await {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(WAIT_FOR_DISK) => {}
                    }
                }
                is_busy = wants && !stop.is_cancelled();
            }
            if self.clock.monotonic() >= write_at {
                // It looks at all scrapes in memory.
                let wrote = self.write_through(now_ms).await;
                write_at = self.clock.monotonic() + if wrote { WRITE_EVERY } else { SHOW_EVERY };
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.chores.notified() => {}
                () = tokio::time::sleep(SHOW_EVERY) => {}
            }
        }
    }

    async fn remove_dead(self: &Arc<Self>) {
        let dead = self.queues.lock().take_dead();
        let Some(folder) = self.folder.clone().filter(|_| !dead.is_empty()) else {
            return;
        };
        let removed = blocking(move || {
            let failed = |id: &u64| folder.remove(*id).err().map(|e| (*id, e));
            dead.iter().filter_map(failed).collect::<Vec<_>>()
        });
        for (segment, error) in removed.await.unwrap_or_default() {
            self.metrics.disk_errors.inc();
            warn!(segment, %error, "a file of scrapes that were sent cannot be removed");
        }
    }

    /// Brings scrapes to disk that have waited for a while and that nobody else made, where there is room for all of them:
    /// nothing is given up for it. Whether there were any.
    async fn write_through(self: &Arc<Self>, now_ms: i64) -> bool {
        let mut wrote = false;
        loop {
            let old = {
                let is_wanted = |held: &Held| held.tick_ms <= now_ms - WRITE_AFTER_MS && self.is_sole(held);
                let queues = self.queues.lock();
                if queues.live_share() == 0 {
                    return wrote;
                }
                let old = queues.oldest_in_memory(self.spill_bytes, is_wanted);
                let bytes = EMPTY_BYTES + old.iter().map(cost).sum::<u64>();
                if old.is_empty() || !queues.has_disk_room(bytes, old.len() as u64) {
                    return wrote;
                }
                old
            };
            if !self.spill(old).await {
                return true;
            }
            wrote = true;
        }
    }

    /// Brings the oldest scrapes in memory to disk. Whether the disk took them.
    async fn spill_some(self: &Arc<Self>) -> bool {
        let oldest = self.queues.lock().oldest_in_memory(self.spill_bytes, |_| true);
        self.spill(oldest).await
    }

    async fn spill(self: &Arc<Self>, oldest: Vec<Work>) -> bool {
        let works = self.fitting(oldest);
        if works.is_empty() {
            return true;
        }
        let bytes = EMPTY_BYTES + works.iter().map(cost).sum::<u64>();
        let shed = self.queues.lock().make_disk_room(bytes);
        self.count_shed(&shed);
        // Each of these frees what was dead in a segment.
        loop {
            self.remove_dead().await;
            let again = self.queues.lock().to_rewrite(bytes);
            if again.is_empty() {
                break;
            }
            if !self.put(again).await {
                return false;
            }
        }
        self.join_small().await;
        self.put(works).await
    }

    /// Makes one segment of several, where there are many: that can wait if it does not succeed.
    async fn join_small(self: &Arc<Self>) {
        loop {
            let again = self.queues.lock().to_join();
            if again.is_empty() || !self.put(again).await {
                return;
            }
            self.remove_dead().await;
        }
    }

    /// The first of these, as many as the disk takes together. One that it does not take by itself is given up before
    /// everything else there would be for it.
    fn fitting(&self, works: Vec<Work>) -> Vec<Work> {
        let most = self.queues.lock().live_share().saturating_sub(EMPTY_BYTES);
        let (mut fitting, too_large): (Vec<_>, Vec<_>) = works.into_iter().partition(|work| cost(work) <= most);
        for work in too_large {
            let was_there = self.queues.lock().drop_one(work.target, work.held.seq);
            if was_there {
                self.give_up(work.target, &work.name, work.held.samples, Why::Budget);
            }
        }
        let mut bytes = 0;
        fitting.retain(|work| {
            bytes += cost(work);
            bytes <= most
        });
        fitting
    }

    /// Writes scrapes into a segment of their own. Whether that was done.
    async fn put(self: &Arc<Self>, works: Vec<Work>) -> bool {
        let Some(folder) = self.folder.clone() else {
            return false;
        };
        let mut ready = Vec::with_capacity(works.len());
        for mut work in works {
            work.held.sole = self.is_sole(&work.held);
            match self.bytes_of(&work.held.place).await {
                Ok(bytes) => ready.push((work, bytes)),
                // The file may be whole: this is tried again.
                Err(error) if !segment::is_damage(&error) => {
                    self.metrics.disk_errors.inc();
                    warn!(%error, "scrapes that wait on disk cannot be read now");
                    return false;
                }
                Err(error) => {
                    let target = gnomon_model::LabelsRef::from_canonical(&work.name).to_string();
                    warn!(target, %error, "a held scrape does not read back");
                    let was_there = self.queues.lock().drop_one(work.target, work.held.seq);
                    if was_there {
                        self.give_up(work.target, &work.name, work.held.samples, Why::Damaged);
                    }
                }
            }
        }
        if ready.is_empty() {
            return true;
        }
        let segment = self.queues.lock().next_segment();
        let written = blocking(move || folder.write(segment, &ready)).await;
        match written.flatten() {
            Ok((file_bytes, spots)) => {
                self.queues.lock().moved(segment, file_bytes, &spots);
                true
            }
            Err(error) => {
                self.metrics.disk_errors.inc();
                warn!(%error, "scrapes that wait for their shards cannot be written to disk");
                false
            }
        }
    }

    /// Brings all that is in memory to disk.
    pub(super) async fn save_all(self: &Arc<Self>) {
        while self.folder.is_some() && self.queues.lock().has_memory() {
            if !self.spill_some().await {
                return;
            }
        }
        self.remove_dead().await;
    }
}
