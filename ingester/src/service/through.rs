//! Batches of nodes that do not reach a shard's leader, from here on.

use super::{Shard, Shards};
use gnomon_model::NodeId;
use gnomon_proto::ServiceError;
use gnomon_proto::v1::{AppendRequest, AppendResponse};
use std::time::Duration;

/// How long a leader may take for what is passed on to it, and how often it is looked whether it leads still: an election is
/// not to be waited for here, where who asks could go to the new leader.
const PASS_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Batches that are passed on at a time.
pub(super) const MAX_PASSES: usize = 64;

impl Shards {
    /// Asks the leader for somebody who does not reach it. Only it: where it leads no more, whoever asks hears of it.
    pub(super) async fn pass_on(
        &self,
        shard: &Shard,
        leader: NodeId,
        request: AppendRequest,
    ) -> Result<AppendResponse, ServiceError> {
        // What this node leads itself is not kept waiting by a leader that does not answer.
        let _permit = self
            .passes
            .try_acquire()
            .map_err(|_| ServiceError::Busy(format!("{MAX_PASSES} batches are passed on already")))?;
        let unreached = ServiceError::NotLeader { leader: None };
        let Some(client) = self.others.as_ref().and_then(|others| others.shard_write(leader).ok()) else {
            return Err(unreached);
        };
        self.metrics.appends_passed_on.inc();
        let leads_no_more = async {
            while shard.log.leader() == Some(leader) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(PASS_WITHIN, client.append(request)) => answer.ok(),
            () = leads_no_more => None,
        };
        match answer {
            // It was not done there, and the way from here is no better.
            Some(Err(ServiceError::Unavailable(_))) => Err(unreached),
            Some(answer) => answer,
            None => Err(ServiceError::Unknown(format!(
                "passed on to node {leader}, which did not answer while it led the shard"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;
    use crate::{IngesterMetrics, Shard, WriteOptions};
    use async_trait::async_trait;
    use gnomon_cluster::others::OtherNodes;
    use gnomon_proto::service::{MetaService, ShardWriteService};
    use std::sync::Arc;

    /// What node 7, which leads, says; nothing at all where there is nothing to say.
    struct Leader(Option<Result<u64, ServiceError>>);

    #[async_trait]
    impl ShardWriteService for Leader {
        async fn append(&self, _: AppendRequest) -> Result<AppendResponse, ServiceError> {
            match self.0.clone() {
                None => std::future::pending().await,
                Some(said) => said.map(|log_index| AppendResponse {
                    log_index,
                    ..AppendResponse::default()
                }),
            }
        }
    }

    struct Others(Arc<Leader>);

    impl OtherNodes for Others {
        fn shard_write(&self, node: NodeId) -> Result<Arc<dyn ShardWriteService>, ServiceError> {
            assert_eq!(node, NodeId(7));
            Ok(self.0.clone())
        }

        fn meta(&self, _: NodeId) -> Result<Arc<dyn MetaService>, ServiceError> {
            Err(ServiceError::Unavailable("not here".into()))
        }
    }

    /// What a node that does not lead answers for the leader.
    async fn passed_on(said: Option<Result<u64, ServiceError>>) -> Result<u64, ServiceError> {
        let node = Node::new(WriteOptions::default());
        node.log.leads.store(false, std::sync::atomic::Ordering::Relaxed);
        let metrics = IngesterMetrics::register(&prometheus::Registry::new()).unwrap();
        let shards = Shards::new(WriteOptions::default(), node.clock.clone(), metrics);
        let shards = shards.among(Arc::new(Others(Arc::new(Leader(said)))));
        shards.add(Arc::new(Shard::new(
            node.log.machine.clone(),
            node.log.clone(),
            node.clock.clone(),
        )));
        let refused = shards.append(AppendRequest::default()).await;
        assert_eq!(
            refused,
            Err(ServiceError::NotLeader { leader: Some(7) }),
            "unless asked to"
        );
        let answer = shards.append_through(AppendRequest::default(), 7).await;
        assert_eq!(shards.metrics.appends_passed_on.get(), 1);
        let refused = shards.append_through(AppendRequest::default(), 8).await;
        assert_eq!(
            refused,
            Err(ServiceError::NotLeader { leader: Some(7) }),
            "another leads"
        );
        answer.map(|answer| answer.log_index)
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_leader_says_comes_back() {
        assert_eq!(passed_on(Some(Ok(5))).await, Ok(5));
        let busy = || ServiceError::Busy("for a while".into());
        assert_eq!(passed_on(Some(Err(busy()))).await, Err(busy()));
        let other = || ServiceError::NotLeader { leader: Some(8) };
        assert_eq!(passed_on(Some(Err(other()))).await, Err(other()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_reach_it_is_surely_not_done_and_silence_is_unknown() {
        let away = ServiceError::Unavailable("connection refused".into());
        assert_eq!(
            passed_on(Some(Err(away))).await,
            Err(ServiceError::NotLeader { leader: None })
        );
        let silence = passed_on(None).await;
        assert!(matches!(silence, Err(ServiceError::Unknown(_))), "{silence:?}");
    }
}
