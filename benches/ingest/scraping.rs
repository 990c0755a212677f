//! Each server scrapes the same exporters: the whole way of a sample from HTTP to the head.

use super::exporters::{INTERVAL, Played};
use super::harness::eventually;
use super::load::Load;
use crate::side_by_side::measure::{cpu_seconds, status_kib};
use crate::side_by_side::servers::Server;
use std::sync::Arc;
use std::time::Duration;

/// Scrapes of each exporter before it counts: series are made once.
const FIRST: u64 = 2;

pub(crate) struct Scraped {
    pub(crate) cpu_per_million: f64,
    pub(crate) millions: f64,
    pub(crate) resident_mib: f64,
}

/// Lets the server scrape for a time; none where its program is missing.
pub(crate) async fn run(name: &str, load: &Arc<Load>, seconds: u64) -> Option<Scraped> {
    let folder = tempfile::tempdir().expect("temp folder");
    let folder = folder.path();
    let server = Server::new(name, folder, false)?;
    let played = Played::start(load).await;
    std::fs::write(folder.join(format!("{name}.yml")), played.scrape_config()).expect("configuration");
    let (process, _) = server.start(folder).await;
    eventually("every exporter to be known", async || {
        (played.samples() >= FIRST * load.series as u64).then_some(())
    })
    .await;
    let (cpu, samples) = (cpu_seconds(process.id()), played.samples());
    tokio::time::sleep(Duration::from_secs(seconds).max(INTERVAL)).await;
    let (cpu, samples) = (cpu_seconds(process.id()) - cpu, played.samples() - samples);
    let millions = samples as f64 / 1e6;
    Some(Scraped {
        cpu_per_million: cpu / millions,
        millions,
        resident_mib: status_kib(process.id(), "VmRSS") as f64 / 1024.0,
    })
}
