//! A compactor that is stopped at any moment for longer than its leases last, and goes on when another has done its work
//! (`SIGSTOP` and `SIGCONT`, a virtual machine that was moved): what it commits then is refused or harmless.

use super::*;
use futures::poll;
use gnomon_model::SystemClock;
use std::task::Poll;

impl World {
    /// Another node's compactor of the same cluster.
    async fn second(&self) -> Compactor {
        let node = Node {
            address: "b:1".into(),
            incarnation: 1,
            feature_level: 2,
            ..Node::default()
        };
        let register = RegisterNode {
            node: Some(node),
            lease_ms: 60_000,
        };
        let id = propose(&self.meta, Command::RegisterNode(register)).await.node_id;
        let bucket = Bucket::from_store(self.memory.clone(), "memory");
        let (clock, budget) = (self.clock.clone(), Budget::fixed(Retention::default()));
        let registry = prometheus::Registry::new();
        let mut settings = settings();
        settings.policy.retention_ms = None;
        Compactor::new(
            self.meta.clone(),
            NodeId(id),
            bucket,
            clock,
            settings,
            budget,
            &registry,
        )
        .unwrap()
    }
}

/// Three windows to be merged, and garbage to be collected.
async fn world() -> World {
    let mut settings = settings();
    settings.policy.retention_ms = None;
    let world = World::new(1, settings).await;
    for (number, window) in [(1, 0), (2, 2), (3, 4)] {
        world.add_part(number, window * H, 0, number).await;
    }
    let orphan = block_path(&TenantId::anonymous(), ShardId(0), TimestampMs(0), BlockId(0xdead));
    world.memory.put(&orphan, b"nobody's".as_slice().into()).await.unwrap();
    // Later than the objects were written, which have the real time.
    world
        .clock
        .set_wall(SystemClock::new().now().saturating_add_ms(100 * H));
    // Each request is a moment at which it can be stopped.
    world.faults.set(Faults {
        latency: Duration::from_millis(1),
        ..Faults::default()
    });
    world
}

#[tokio::test(start_paused = true)]
async fn one_that_was_paused_beyond_its_leases_commits_nothing_stale() {
    let stop = CancellationToken::new();
    let mut moments = 0;
    for stopped_at in 1.. {
        let world = world().await;
        let before = world.data().await;
        let mut cycle = std::pin::pin!(world.compactor.cycle(&stop));
        let mut ended = false;
        for _ in 0..stopped_at {
            if let Poll::Ready(outcome) = poll!(&mut cycle) {
                outcome.unwrap();
                ended = true;
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if ended {
            break;
        }
        moments += 1;
        // Longer than leases of jobs, and than anything staged is left alone.
        world.clock.advance(Duration::from_secs(2 * 3600));
        let second = world.second().await;
        for _ in 0..3 {
            second.cycle(&stop).await.unwrap();
            world.clock.advance(Duration::from_secs(61));
        }
        assert_eq!(
            world.live().len(),
            1,
            "stopped at {stopped_at}: the other does its work"
        );
        assert_eq!(world.data().await, before, "stopped at {stopped_at}");
        // It goes on; that its work was taken from it may be an error.
        let _ = cycle.await;
        for _ in 0..4 {
            world.clock.advance(Duration::from_secs(2 * 3600));
            let _ = second.cycle(&stop).await;
        }
        assert_eq!(world.data().await, before, "stopped at {stopped_at}, then going on");
        assert_eq!(
            (world.state().blocks.len(), world.objects().await),
            (1, 1),
            "stopped at {stopped_at}"
        );
    }
    assert!(moments > 5, "it was stopped at {moments} moments");
}
