//! Each server scrapes the same exporters: the whole way of a sample from HTTP to the head.

use super::exporters::{INTERVAL, Played};
use super::harness::{Process, eventually};
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

/// Lets the server scrape for a time; none where its program is missing. Where another process scrapes for it (`apart`),
/// what that takes is not counted: it is the way of what is pushed to an ingester.
pub(crate) async fn run(name: &str, load: &Arc<Load>, seconds: u64, apart: bool) -> Option<Scraped> {
    let folder = tempfile::tempdir().expect("temp folder");
    let folder = folder.path();
    let mut server = Server::new(name, folder, false)?;
    let played = Played::start(load).await;
    let config = folder.join(if apart {
        "scraper.yml".to_owned()
    } else {
        format!("{name}.yml")
    });
    std::fs::write(&config, played.scrape_config()).expect("configuration");
    let mut scraper = None;
    if apart {
        let (without, command) = server.apart(folder, &config);
        (server, scraper) = (without, Some(command));
    }
    let (process, _) = server.start(folder).await;
    let _scraper = scraper.map(|mut command| Process::start("scraper", &mut command, folder.join("scraper.log")));
    eventually("every exporter to be known", async || {
        (played.samples() >= FIRST * load.series as u64).then_some(())
    })
    .await;
    played.until_known(&server.http).await;
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
