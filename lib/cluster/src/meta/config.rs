//! Numbered configurations: which content is in force, and from which tick the next one is.

use super::machine::{Effect, Refusal};
use gnomon_proto::v1::{ConfigRecord, MetaState, ProposeConfig};

/// Largest configuration that is kept (an entry holds 1 MiB).
pub const MAX_CONFIG_BYTES: usize = 768 * 1024;
/// Contents remembered as superseded.
const MAX_SUPERSEDED: usize = 256;

/// Takes a content as the next revision. The newest content again is that revision; content that another has
/// superseded comes back by an explicit reload only.
pub(super) fn propose(state: &mut MetaState, c: &ProposeConfig, now_ms: i64) -> Result<Effect, Refusal> {
    if c.content_hash.is_empty() || c.content_hash.len() > 128 {
        return Err("a configuration's content hash has 1 to 128 bytes".into());
    }
    if c.redacted_yaml.len() > MAX_CONFIG_BYTES {
        return Err(format!(
            "a configuration of {} bytes: {MAX_CONFIG_BYTES} are possible",
            c.redacted_yaml.len()
        )
        .into());
    }
    let newest = state.configs.last();
    if let Some(same) = newest.filter(|n| n.content_hash == c.content_hash) {
        return Ok(Effect {
            config_revision: same.revision,
            ..Effect::NONE
        });
    }
    if !c.explicit && state.superseded_config_hashes.contains(&c.content_hash) {
        let in_force = newest.map_or(0, |n| n.revision);
        return Err(format!(
            "this configuration was superseded; revision {in_force} is in force. Reload to bring it back"
        )
        .into());
    }
    let revision = newest.map_or(0, |n| n.revision) + 1;
    supersede(state, &c.content_hash, now_ms);
    state.configs.push(ConfigRecord {
        revision,
        content_hash: c.content_hash.clone(),
        from_ms: c.from_ms.max(now_ms),
        redacted_yaml: c.redacted_yaml.clone(),
    });
    Ok(Effect {
        config_revision: revision,
        ..Effect::changed()
    })
}

/// Keeps the content in force (until the next one is), and remembers the others by their hashes.
fn supersede(state: &mut MetaState, next_hash: &str, now_ms: i64) {
    let in_force = state.configs.iter().rposition(|c| c.from_ms <= now_ms);
    let hashes = &mut state.superseded_config_hashes;
    for config in &state.configs {
        hashes.retain(|h| *h != config.content_hash);
        hashes.push(config.content_hash.clone());
    }
    hashes.retain(|h| h != next_hash);
    let too_many = hashes.len().saturating_sub(MAX_SUPERSEDED);
    hashes.drain(..too_many);
    let kept = in_force.map(|at| state.configs.swap_remove(at));
    state.configs = kept.into_iter().collect();
}
