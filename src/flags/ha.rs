//! Flags that say how HA pairs are told.

use super::settings::Values;
use gnomon_ingester::HaOptions;
use std::time::Duration;

/// Of `--ingest.ha-failover-timeout`.
const MOST_FAILOVER: Duration = Duration::from_secs(3600);

/// How HA pairs are told, where they are looked for; what it says is checked in any case.
pub(super) fn ha_options(v: &Values<'_>) -> Result<Option<HaOptions>, String> {
    let label = |flag: &str| match v.set(flag) {
        Some(name) if name != gnomon_model::METRIC_NAME => Ok(name),
        _ => Err(format!(
            "--{flag}: it names the label, cluster say, and not the metric's name"
        )),
    };
    let options = HaOptions {
        cluster_label: label("ingest.ha-cluster-label")?,
        replica_label: label("ingest.ha-replica-label")?,
        update_timeout: v.duration("ingest.ha-update-timeout")?,
        failover_timeout: v.duration("ingest.ha-failover-timeout")?,
        max_clusters: v.number("ingest.ha-max-clusters", 1)?.unwrap_or(100),
        max_held_bytes: usize::try_from(v.size_or_none("ingest.ha-max-held")?).unwrap_or(usize::MAX),
    };
    if options.cluster_label == options.replica_label {
        return Err(format!(
            "--ingest.ha-replica-label: {:?} is --ingest.ha-cluster-label too, they are two labels",
            options.replica_label
        ));
    }
    if options.failover_timeout <= options.update_timeout || options.failover_timeout > MOST_FAILOVER {
        return Err(format!(
            "--ingest.ha-failover-timeout: it must be longer than --ingest.ha-update-timeout ({} s), and {} s at most",
            options.update_timeout.as_secs_f64(),
            MOST_FAILOVER.as_secs()
        ));
    }
    Ok(v.switch("ingest.ha-tracker").then_some(options))
}
