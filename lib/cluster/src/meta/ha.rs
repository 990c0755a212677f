//! HA pairs: of several servers that write the same data, whose samples count, by sample time.
//!
//! ```text
//! nobody has written            the first has the turn, from a little before its newest sample; what is older counts,
//!                               whoever sends it
//! who has the turn claims       its turn goes on until its newest sample, and a little
//! another claims                nothing, while who has the turn is heard of and keeps up;
//!                               else the turn is its own from where the one before ends
//! ```
//! How far the samples of the one before really reach is not known: to somewhere in the last `extend_ms` of its turn. Where
//! samples of the next one are held that are of that time (`ClaimHaTurn.fills`), they are written behind what there is of each
//! series, and the one before has nothing of that time any more.
//!
//! Invariant: turns of a pair never overlap, and where one ends never moves once the next has begun. So whoever goes by
//! an older state takes no sample that a newer state gives to somebody else, but of the time that is filled: for as long as it has
//! not heard of the new turn, late ones of whoever had the one before.

use super::machine::{Effect, Refusal};
use gnomon_model::TenantId;
use gnomon_model::ids::{CLUSTER_FEATURE_LEVEL, HA_FILLS_FEATURE_LEVEL};
use gnomon_proto::v1::{ClaimHaTurn, HaPair, HaTurn, MetaState};

/// Pairs of all tenants.
pub const MAX_HA_PAIRS: usize = 10_000;
/// Of a cluster's and a replica's name.
pub const MAX_HA_NAME_BYTES: usize = 1024;
/// Turns that are remembered: what a replica resends of an earlier turn of its own is taken. Of a time before them,
/// samples of all replicas are.
const MAX_TURNS: usize = 16;
/// Longest time that a claim may name.
const MAX_SPAN_MS: i64 = 3_600_000;
/// A pair that was silent for so long makes room for another.
const FORGET_AFTER_MS: i64 = 24 * 3_600_000;

pub(super) fn claim(state: &mut MetaState, c: &ClaimHaTurn, now_ms: i64) -> Result<Effect, Refusal> {
    check(state, c)?;
    // A sample that is dated ahead says nothing of how long its sender lives.
    let newest_ms = c.newest_ms.min(now_ms);
    let until_ms = newest_ms.saturating_add(c.extend_ms);
    let key = (c.tenant.as_str(), c.cluster.as_str());
    let found = state
        .ha_pairs
        .binary_search_by(|p| (p.tenant.as_str(), p.cluster.as_str()).cmp(&key));
    let turn = |from_ms| HaTurn {
        replica: c.replica.clone(),
        from_ms,
        ..HaTurn::default()
    };
    let Ok(at) = found else {
        make_room(state, c, now_ms)?;
        let pair = HaPair {
            tenant: c.tenant.clone(),
            cluster: c.cluster.clone(),
            turns: vec![turn(newest_ms.saturating_sub(c.extend_ms))],
            until_ms,
            seen_ms: now_ms,
        };
        // Others may have gone.
        let at = state
            .ha_pairs
            .partition_point(|p| (p.tenant.as_str(), p.cluster.as_str()) < key);
        state.ha_pairs.insert(at, pair);
        return Ok(Effect::changed());
    };
    let pair = &mut state.ha_pairs[at];
    if pair.turns.last().is_none_or(|last| last.replica != c.replica) {
        let silent = now_ms.saturating_sub(pair.seen_ms) >= c.failover_ms;
        let lags = newest_ms.saturating_sub(pair.until_ms) >= c.failover_ms;
        if !silent && !lags {
            return Ok(Effect::NONE);
        }
        let mut next = turn(pair.until_ms);
        if c.fills {
            let least_ms = pair.turns.last().map_or(i64::MIN, |last| last.from_ms);
            next.fills_from_ms = Some(fills_from_ms(pair.until_ms, c.extend_ms).max(least_ms));
            next.claimed_ms = now_ms;
        }
        pair.turns.push(next);
        let too_many = pair.turns.len().saturating_sub(MAX_TURNS);
        pair.turns.drain(..too_many);
    }
    pair.until_ms = pair.until_ms.max(until_ms);
    // Proposal times of two leaders may be out of order.
    pair.seen_ms = pair.seen_ms.max(now_ms);
    Ok(Effect::changed())
}

/// The longest interval of scrapes of which a fill misses none: Prometheus' default of a minute, and some lateness.
const LONG_INTERVAL_MS: i64 = 65_000;

/// From when on samples of a replica that waits for its turn may be wanted, as the turn before ends at `until_ms`: it was
/// lengthened to that when its newest sample was `extend_ms` before, and a target's sample before that may be an interval older.
#[must_use]
pub const fn fills_from_ms(until_ms: i64, extend_ms: i64) -> i64 {
    let interval_ms = match extend_ms > LONG_INTERVAL_MS {
        true => extend_ms,
        false => LONG_INTERVAL_MS,
    };
    until_ms.saturating_sub(extend_ms).saturating_sub(interval_ms)
}

fn check(state: &MetaState, c: &ClaimHaTurn) -> Result<(), Refusal> {
    if state.feature_level < CLUSTER_FEATURE_LEVEL.0 {
        return Err(format!(
            "the cluster is at feature level {}, HA pairs need {CLUSTER_FEATURE_LEVEL}",
            state.feature_level
        )
        .into());
    }
    if c.fills && state.feature_level < HA_FILLS_FEATURE_LEVEL.0 {
        let level = state.feature_level;
        return Err(format!("the cluster is at feature level {level}, filling needs {HA_FILLS_FEATURE_LEVEL}").into());
    }
    c.tenant.parse::<TenantId>().map_err(|e| Refusal(e.to_string()))?;
    for (what, name) in [("cluster", &c.cluster), ("replica", &c.replica)] {
        if name.is_empty() || name.len() > MAX_HA_NAME_BYTES {
            return Err(format!("the name of an HA pair's {what} has not 1 to {MAX_HA_NAME_BYTES} bytes").into());
        }
    }
    for (what, span_ms) in [("extension", c.extend_ms), ("fail-over time", c.failover_ms)] {
        if !(1..=MAX_SPAN_MS).contains(&span_ms) {
            return Err(format!("an HA pair's {what} of {span_ms} ms: 1 to {MAX_SPAN_MS} are possible").into());
        }
    }
    Ok(())
}

/// Forgets what has been silent for a day, where a tenant has as many pairs as it may have.
fn make_room(state: &mut MetaState, c: &ClaimHaTurn, now_ms: i64) -> Result<(), Refusal> {
    let most = usize::try_from(c.max_pairs).unwrap_or(usize::MAX);
    let is_old = |p: &HaPair| now_ms.saturating_sub(p.seen_ms) >= FORGET_AFTER_MS;
    let is_full = |pairs: &mut dyn Iterator<Item = &HaPair>| {
        let (mut own, mut all) = (0, 0);
        for pair in pairs {
            own += usize::from(pair.tenant == c.tenant);
            all += 1;
        }
        own >= most || all >= MAX_HA_PAIRS
    };
    if !is_full(&mut state.ha_pairs.iter()) {
        return Ok(());
    }
    // Every rule checks before it changes.
    if is_full(&mut state.ha_pairs.iter().filter(|p| !is_old(p))) {
        return Err(too_many(c));
    }
    state.ha_pairs.retain(|p| !is_old(p));
    Ok(())
}

fn too_many(c: &ClaimHaTurn) -> Refusal {
    Refusal(format!(
        "{} HA clusters of tenant {} are known ({MAX_HA_PAIRS} of all are possible): the limit is reached",
        c.max_pairs, c.tenant
    ))
}
