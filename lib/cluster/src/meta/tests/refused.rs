//! A request that is refused leaves the feature level as it is: it is never taken back.

use super::forget::cluster;
use super::*;
use crate::meta::{CannotForget, CannotReshard, call_off, forget_node};
use async_trait::async_trait;
use futures::stream::BoxStream;
use gnomon_model::ids::OPERATIONS_FEATURE_LEVEL;
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;

const LEVEL: u32 = OPERATIONS_FEATURE_LEVEL.0;
/// When the leases of all nodes are over.
const NOW: i64 = 5000;

/// The machine as a service, with the leader's clock.
struct Asked(MetaMachine, i64);

#[async_trait]
impl MetaService for Asked {
    async fn propose(&self, command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        let proposed_at_ms = self.1;
        Ok(self.0.apply_command(&MetaCommand {
            proposed_at_ms,
            ..command
        }))
    }
    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        Ok(self.0.state())
    }
    async fn watch(&self, _: u64) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        Err(ServiceError::Unavailable("nobody watches".into()))
    }
}

impl Asked {
    fn level(&self) -> u32 {
        self.0.state().feature_level
    }
}

#[tokio::test]
async fn forgetting_a_node_raises_the_level_only_where_it_may_be_forgotten() {
    let mut meta = Asked(cluster(LEVEL - 1), NOW);
    for (node, leader_ms, words) in [
        (9, NOW, "no node 9"),
        (1, NOW, "replica of shard 0"),
        (3, 500, "is alive"),
    ] {
        meta.1 = leader_ms;
        let refused = forget_node(&meta, node).await.unwrap_err();
        assert!(
            matches!(&refused, CannotForget::Refused(why) if why.contains(words)),
            "{refused}"
        );
        assert_eq!(meta.level(), LEVEL - 1, "{words}");
    }
    meta.1 = NOW;
    forget_node(&meta, 3).await.unwrap();
    assert_eq!((meta.level(), meta.0.state().nodes.len()), (LEVEL, 2));
}

#[tokio::test]
async fn calling_an_epoch_off_raises_the_level_only_where_it_may_be_called_off() {
    let meta = Asked(cluster(LEVEL - 1), NOW);
    let nothing = call_off(&meta).await.unwrap_err();
    assert_eq!(nothing, CannotReshard::NothingToCancel);
    let change = |state: &mut MetaState| {
        state.epoch_change = Some(EpochChange {
            epoch: Some(PlacementEpoch {
                epoch: 2,
                from_ms: 7_200_000,
                shards: vec![2],
                ..PlacementEpoch::default()
            }),
            ..EpochChange::default()
        });
        let of_it = BlockRecord {
            shard: 2,
            ..block(1, &[1], &[])
        };
        state.blocks = vec![of_it];
    };
    change(Arc::make_mut(&mut meta.0.inner.lock().state));
    let refused = call_off(&meta).await.unwrap_err();
    assert!(
        matches!(&refused, CannotReshard::Refused(why) if why.contains("is of shard 2 of that epoch")),
        "{refused}"
    );
    assert_eq!(meta.level(), LEVEL - 1);
    Arc::make_mut(&mut meta.0.inner.lock().state).blocks.clear();
    assert_eq!(call_off(&meta).await.unwrap(), 2);
    assert_eq!(meta.level(), LEVEL);
}
