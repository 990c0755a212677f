//! The metadata group as the compactor uses it: a refusal is an error, and an unknown outcome is asked again where that
//! is harmless.

use crate::CompactorError;
use gnomon_cluster::clients::decide;
use gnomon_model::NodeId;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{
    AcquireJob, BlockRecord, CondemnBlocks, ForgetBlocks, ForgetTombstones, MetaResponse, MetaState, PublishBlock,
    ReleaseJob, StageBlock,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Ids in one command: well below the largest log entry.
const IDS_PER_COMMAND: usize = 5_000;

/// The catalogue, by this node.
#[derive(Clone)]
pub struct Catalogue {
    meta: Arc<dyn MetaService>,
    node: NodeId,
}

/// A lease of a job. Saves double work; nothing is safe by it alone.
#[derive(Debug)]
pub struct Lease {
    pub job: String,
    /// Grows with each change of holder, and each time that the lease ran out.
    term: AtomicU64,
}

impl Catalogue {
    #[must_use]
    pub fn new(meta: Arc<dyn MetaService>, node: NodeId) -> Self {
        Self { meta, node }
    }

    /// The state, not older than any command that was answered before.
    ///
    /// # Errors
    /// When the group cannot be asked.
    pub async fn read(&self) -> Result<Arc<MetaState>, CompactorError> {
        Ok(self.meta.read().await?)
    }

    /// All commands used here may be given twice: the second is without effect or refused.
    async fn propose(&self, command: Command) -> Result<MetaResponse, CompactorError> {
        let answer = decide(self.meta.as_ref(), command).await?;
        if answer.refused.is_empty() {
            return Ok(answer);
        }
        Err(CompactorError::Refused(answer.refused))
    }

    /// Names an object before it is uploaded, and reserves its bytes below `cap_bytes`, if there is a cap.
    ///
    /// # Errors
    /// When an input is not live, there is no room, or the group cannot be asked.
    pub async fn stage(&self, block: BlockRecord, cap_bytes: Option<u64>) -> Result<(), CompactorError> {
        let command = StageBlock {
            block: Some(block),
            cap_bytes: cap_bytes.unwrap_or(0),
        };
        self.propose(Command::StageBlock(command)).await.map(drop)
    }

    /// Makes a staged block live and condemns its inputs, in one step.
    ///
    /// # Errors
    /// When it is not staged any more or an input is not live, or the group cannot be asked.
    pub async fn publish(&self, block: BlockRecord) -> Result<(), CompactorError> {
        self.propose(Command::PublishBlock(PublishBlock { block: Some(block) }))
            .await
            .map(drop)
    }

    /// # Errors
    /// When the group cannot be asked.
    pub async fn condemn(&self, ids: &[String]) -> Result<(), CompactorError> {
        self.condemn_some(ids, false).await
    }

    /// Condemns staged blocks whose upload failed or was given up: their objects may be there all the same, and count
    /// until they are deleted. One that has been published after all stays live.
    ///
    /// # Errors
    /// When the group cannot be asked.
    pub async fn give_up(&self, ids: &[String]) -> Result<(), CompactorError> {
        self.condemn_some(ids, true).await
    }

    async fn condemn_some(&self, ids: &[String], only_staged: bool) -> Result<(), CompactorError> {
        for ids in ids.chunks(IDS_PER_COMMAND) {
            let ids = ids.to_vec();
            self.propose(Command::CondemnBlocks(CondemnBlocks { ids, only_staged }))
                .await?;
        }
        Ok(())
    }

    /// Drops records of condemned blocks whose objects are deleted.
    ///
    /// # Errors
    /// When one is not condemned, or the group cannot be asked.
    pub async fn forget(&self, ids: &[String]) -> Result<(), CompactorError> {
        for ids in ids.chunks(IDS_PER_COMMAND) {
            self.propose(Command::ForgetBlocks(ForgetBlocks { ids: ids.to_vec() }))
                .await?;
        }
        Ok(())
    }

    /// Drops records of deletes that mask nothing any more.
    ///
    /// # Errors
    /// When one does, or the group cannot be asked.
    pub async fn forget_deletes(&self, revisions: Vec<u64>) -> Result<(), CompactorError> {
        self.propose(Command::ForgetTombstones(ForgetTombstones { revisions }))
            .await
            .map(drop)
    }

    /// The lease, or none where another node has it. Lengthens a lease that this node has.
    ///
    /// # Errors
    /// When the group cannot be asked.
    pub async fn acquire(&self, job: &str, lease: Duration) -> Result<Option<Lease>, CompactorError> {
        let command = AcquireJob {
            job: job.to_owned(),
            node: self.node.0,
            lease_ms: i64::try_from(lease.as_millis()).unwrap_or(i64::MAX),
        };
        match self.propose(Command::AcquireJob(command)).await {
            Ok(response) => Ok(Some(Lease {
                job: job.to_owned(),
                term: AtomicU64::new(response.job_term),
            })),
            Err(CompactorError::Refused(why)) => {
                tracing::debug!(job, why, "job is not ours");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Lengthens a lease that no other node had since it was acquired. It may have run out meanwhile: then others may have
    /// given up what was staged, which its commit would show.
    ///
    /// # Errors
    /// `Lost` where another node has or had the job; or when the group cannot be asked.
    pub async fn renew(&self, lease: &Lease, lasts: Duration) -> Result<(), CompactorError> {
        let lost = || Err(CompactorError::Lost(lease.job.clone()));
        let before = lease.term.load(Ordering::Relaxed);
        match self.acquire(&lease.job, lasts).await? {
            None => lost(),
            Some(again) => {
                let term = again.term.load(Ordering::Relaxed);
                lease.term.store(term, Ordering::Relaxed);
                if term <= before + 1 { Ok(()) } else { lost() }
            }
        }
    }

    /// # Errors
    /// When the group cannot be asked; the lease runs out by itself then.
    pub async fn release(&self, lease: &Lease) -> Result<(), CompactorError> {
        let command = ReleaseJob {
            job: lease.job.clone(),
            node: self.node.0,
            term: lease.term.load(Ordering::Relaxed),
        };
        self.propose(Command::ReleaseJob(command)).await.map(drop)
    }
}
