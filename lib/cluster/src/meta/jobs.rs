//! Leases of jobs. They save work done twice; nothing is safe by them alone.

use super::machine::{Effect, Refusal};
use super::nodes::lease_end;
use gnomon_proto::v1::{AcquireJob, JobLease, MetaState, ReleaseJob};

const MAX_JOBS: usize = 100_000;
const MAX_NAME_BYTES: usize = 512;

/// Gives the job to the node, or lengthens its lease. The term grows with each change of holder and after each pause.
pub(super) fn acquire(state: &mut MetaState, c: &AcquireJob, now_ms: i64) -> Result<Effect, Refusal> {
    let until_ms = lease_end(now_ms, c.lease_ms)?;
    if c.job.is_empty() || c.job.len() > MAX_NAME_BYTES {
        return Err(format!("a job's name has 1 to {MAX_NAME_BYTES} bytes").into());
    }
    if !state.nodes.iter().any(|n| n.id == c.node) {
        return Err(format!("node {} is not registered", c.node).into());
    }
    let term = match state.jobs.binary_search_by(|j| j.job.as_str().cmp(&c.job)) {
        Err(_) if state.jobs.len() >= MAX_JOBS => {
            return Err(format!("there are {MAX_JOBS} jobs, which is the limit").into());
        }
        Err(at) => {
            let lease = JobLease {
                job: c.job.clone(),
                node: c.node,
                until_ms,
                term: 1,
            };
            state.jobs.insert(at, lease);
            1
        }
        Ok(at) => {
            let lease = &mut state.jobs[at];
            let held = lease.until_ms > now_ms;
            if held && lease.node != c.node {
                return Err(format!("node {} has the job {:?} until {}", lease.node, c.job, lease.until_ms).into());
            }
            lease.term += u64::from(!held || lease.node != c.node);
            lease.node = c.node;
            lease.until_ms = lease.until_ms.max(until_ms);
            lease.term
        }
    };
    Ok(Effect {
        job_term: term,
        ..Effect::changed()
    })
}

/// Ends the lease; its record stays for its term. A lease that is not held any more is left alone.
pub(super) fn release(state: &mut MetaState, c: &ReleaseJob) -> Result<Effect, Refusal> {
    let held = |j: &&mut JobLease| j.job == c.job && j.node == c.node && j.term == c.term && j.until_ms != 0;
    let Some(lease) = state.jobs.iter_mut().find(held) else {
        return Ok(Effect::NONE);
    };
    lease.until_ms = 0;
    Ok(Effect::changed())
}
