//! A leader that has too much to do is asked again, ever later, and stays the leader.

use super::*;

fn busy() -> Fault {
    Fault::Before(ServiceError::Busy("256 appends are in flight already".into()))
}

impl Fixture {
    /// The times between the requests that a shard was sent.
    fn waits(&self) -> Vec<Duration> {
        let asked_at = &self.shard(0).asked_at;
        asked_at.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn denied(&self) -> usize {
        self.cluster.denied.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_leader_is_asked_again_ever_later_and_nobody_else_is() {
    let f = fixture(1);
    f.shard(0).faults.extend((0..5).map(|_| busy()));
    let outcome = f.write(&many(1, 1), 5).await;
    assert_eq!((outcome.taken, outcome.retryable), (2, None));
    assert_eq!((f.shard(0).requests, f.denied()), (6, 0));
    let waits = f.waits();
    assert!(waits.is_sorted(), "{waits:?}");
    assert!(waits[4] >= Duration::from_millis(40), "{waits:?}");
    let retries = &f.router.metrics.retries;
    assert_eq!(retries.with_label_values(&["busy"]).get(), 5);
    assert_eq!(retries.with_label_values(&["unavailable"]).get(), 0);
}

/// Others believe what they like.
#[tokio::test(start_paused = true)]
async fn a_redirect_does_not_make_a_busy_leader_be_asked_sooner() {
    let f = fixture(1);
    let redirect = Fault::Before(ServiceError::NotLeader { leader: Some(1) });
    f.shard(0)
        .faults
        .extend([busy(), busy(), busy(), busy(), redirect, busy()]);
    let outcome = f.write(&many(1, 1), 5).await;
    assert_eq!((outcome.taken, outcome.retryable), (2, None));
    let waits = f.waits();
    assert_eq!(waits[4], Duration::ZERO, "a redirect is followed at once");
    assert!(waits[5] >= waits[3], "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn who_stays_busy_until_the_deadline_has_the_write_made_again() {
    let f = fixture(1);
    f.shard(0).faults.extend((0..1000).map(|_| busy()));
    let outcome = f.write(&many(1, 1), 5).await;
    assert!(
        matches!(outcome.retryable, Some(ServiceError::Busy(_))),
        "{:?}",
        outcome.retryable
    );
    // 5 ms, doubled up to a second: some 8 in the first second, one or two in each of the others.
    let requests = f.shard(0).requests;
    assert!((30..80).contains(&requests), "{requests} requests in {DEADLINE:?}");
    assert_eq!(f.denied(), 0);
}
