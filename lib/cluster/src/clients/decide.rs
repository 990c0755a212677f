//! Commands of the metadata group that may be given twice.

use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{MetaCommand, MetaResponse};
use std::time::Duration;

/// Attempts of a command whose outcome is unknown or that cannot be taken now.
const ATTEMPTS: u32 = 5;
/// Before the second; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Proposes a command until it is decided; the answer may be a refusal. Only for what is without effect, or refused, the
/// second time.
///
/// # Errors
/// When the group cannot be asked, or its answers stay unknown.
pub async fn decide(meta: &dyn MetaService, command: Command) -> Result<MetaResponse, ServiceError> {
    let command = MetaCommand {
        proposed_at_ms: 0,
        command: Some(command),
    };
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        match meta.propose(command.clone()).await {
            Err(
                error @ (ServiceError::Unknown(_)
                | ServiceError::Unavailable(_)
                | ServiceError::Busy(_)
                | ServiceError::NotLeader { .. }),
            ) if attempt < ATTEMPTS => {
                tracing::debug!(%error, attempt, "asking the metadata group again");
                tokio::time::sleep(pause).await;
                pause *= 2;
                attempt += 1;
            }
            decided => return decided,
        }
    }
}
