//! The scrapers of a cluster, as its directory knows them.

use crate::state::Scrapers;
use async_trait::async_trait;
use gnomon_cluster::clients::Directory;
use gnomon_model::NodeId;
use gnomon_proto::ServiceError;
use gnomon_proto::service::TargetsService;
use gnomon_proto::v1::{ListTargetsRequest, ListTargetsResponse, Node, TargetMetadataRequest, TargetMetadataResponse};
use std::sync::Arc;

/// Stands for a scraper that cannot be called, so that its absence is told rather than overlooked.
struct Unreachable(ServiceError);

#[async_trait]
impl TargetsService for Unreachable {
    async fn list_targets(&self, _: ListTargetsRequest) -> Result<ListTargetsResponse, ServiceError> {
        Err(self.0.clone())
    }

    async fn target_metadata(&self, _: TargetMetadataRequest) -> Result<TargetMetadataResponse, ServiceError> {
        Err(self.0.clone())
    }
}

/// Every scraper that may have targets, the one in this process included.
#[must_use]
pub fn scrapers_of(directory: Arc<Directory>) -> Scrapers {
    Arc::new(move || {
        let service = |node: &Node| {
            let name = format!("{} ({})", node.id, node.address);
            match directory.targets(NodeId(node.id)) {
                Ok(service) => (name, service),
                Err(error) => (name, Arc::new(Unreachable(error)) as Arc<dyn TargetsService>),
            }
        };
        directory.scrapers().iter().map(service).collect()
    })
}
