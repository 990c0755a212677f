//! What changes of configuration, ring and files do to targets.

use super::*;
use crate::config::FileSdConfig;
use gnomon_model::re2::Regex;
use gnomon_model::relabel::{Action, RelabelConfig};
use std::collections::BTreeSet;

#[tokio::test]
async fn a_reload_leaves_unchanged_targets_alone() {
    let (kept, gone) = (
        Server::exposing_text("a 1\n").await,
        Server::exposing_text("b 1\n").await,
    );
    let rig = Rig::scraping(named("job", &[&kept.address, &gone.address])).await;
    rig.sink.wait_for("a", |t| t.value("a").is_some()).await;
    rig.sink.wait_for("b", |t| t.value("b").is_some()).await;
    rig.apply([named("job", &[&kept.address]), named("other", &[&gone.address])])
        .await;
    rig.sink
        .wait_for("b of the other job", |t| {
            t.samples.iter().any(|s| s.0.contains(r#"job="other""#))
        })
        .await;
    let before = rig.sink.ticks.lock().len();
    rig.sink.wait_for_count(before + 6).await;
    let ticks = rig.sink.ticks.lock().clone();
    let of_kept: Vec<_> = ticks.iter().filter(|t| t.value("a").is_some()).collect();
    let added: f64 = of_kept.iter().filter_map(|t| t.value("scrape_series_added")).sum();
    assert_eq!(added, 1.0, "what was known of the target stays known");
    let gaps: BTreeSet<i64> = of_kept.windows(2).map(|w| w[1].tick_ms - w[0].tick_ms).collect();
    assert!(gaps.iter().all(|g| *g < 2 * 150), "no tick was left out: {gaps:?}");
    let listed: Vec<_> = rig.list().active.iter().map(|t| t.scrape_pool.clone()).collect();
    assert_eq!(listed, ["job", "other"]);
}

#[tokio::test]
async fn changed_metric_relabelling_applies_from_the_next_scrape() {
    let server = Server::exposing_text("a 1\nb 1\n").await;
    let mut config = job(&server.address);
    let rig = Rig::scraping(config.clone()).await;
    rig.good().await;
    config.metric_relabel_configs = vec![RelabelConfig {
        source_labels: vec!["__name__".to_owned()],
        regex: Regex::anchored("a").unwrap(),
        action: Action::Drop,
        ..RelabelConfig::default()
    }]
    .into();
    rig.apply([config]).await;
    let tick = rig
        .sink
        .wait_for("b alone", |t| t.value("b").is_some() && t.value("a").is_none())
        .await;
    assert_eq!(tick.value("scrape_samples_scraped"), Some(2.0));
    assert_eq!(tick.value("scrape_samples_post_metric_relabeling"), Some(1.0));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_applied_changes_nothing() {
    let server = Server::exposing_text("a 1\n").await;
    let rig = Rig::scraping(job(&server.address)).await;
    let mut bad = named("bad", &[&server.address]);
    bad.http.tls.ca = Some(crate::config::TextSource::File("/does/not/exist.pem".into()));
    let error = rig.scraper.apply_config(vec![Arc::new(bad)]).await.unwrap_err();
    assert!(error.to_string().contains("/does/not/exist.pem"), "{error}");
    assert_eq!(rig.scraper.status().pools(), ["job"]);
    rig.good().await;
}

#[tokio::test]
async fn targets_follow_the_ring() {
    let server = Server::exposing_text("a 1\n").await;
    let addresses: Vec<String> = (0..40).map(|_| server.address.clone()).collect();
    let mut config = named("job", &[]);
    config.static_configs = addresses
        .iter()
        .enumerate()
        .map(|(i, address)| TargetGroup {
            targets: vec![address.clone()],
            labels: Labels::from_pairs([("n", i.to_string())]),
            source: i.to_string(),
        })
        .collect();
    let rig = Rig::scraping(config).await;
    assert_eq!(rig.list().active.len(), 40);
    let shared = Members {
        term: 2,
        nodes: vec![NodeId(1), NodeId(2)],
        since_ms: Vec::new(),
    };
    rig.members.send_replace(shared);
    rig.sink.wait_for("the new term", |t| t.term == 2).await;
    let share = rig.list().active.len();
    assert!((5..36).contains(&share), "{share} of 40 targets stay");
    rig.members.send_replace(Members {
        term: 3,
        nodes: vec![NodeId(2)],
        since_ms: Vec::new(),
    });
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !rig.list().active.is_empty() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "targets of another scraper stay"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn targets_of_files_come_and_go_and_dropped_ones_are_shown() {
    let server = Server::exposing_text("a 1\n").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("targets.yml");
    std::fs::write(&path, format!("- targets: ['{}', 'dropped:1']\n", server.address)).unwrap();
    let mut config = named("job", &[]);
    config.file_sd_configs = vec![FileSdConfig {
        files: vec![folder.path().join("*.yml")],
        refresh_interval: Duration::from_secs(60),
    }];
    config.relabel_configs = vec![RelabelConfig {
        source_labels: vec!["__address__".to_owned()],
        regex: Regex::anchored("dropped:.*").unwrap(),
        action: Action::Drop,
        ..RelabelConfig::default()
    }]
    .into();
    let rig = Rig::scraping(config).await;
    rig.good().await;
    let listed = rig.list();
    assert_eq!((listed.active.len(), listed.dropped.len()), (1, 1));
    assert_eq!(listed.dropped_counts["job"], 1);
    std::fs::write(&path, "- targets: ['dropped:2', 'dropped:3']\n").unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while rig.list().dropped.len() != 2 || !rig.list().active.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the file's change was not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_pipe_for_a_file_keeps_nobody_waiting_and_a_file_in_its_place_is_read() {
    let server = Server::exposing_text("a 1\n").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("targets.yml");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let mut piped = named("piped", &[]);
    piped.file_sd_configs = vec![FileSdConfig {
        files: vec![path.clone()],
        refresh_interval: Duration::from_secs(60),
    }];
    let rig = Rig::new();
    let apply = rig.apply([piped.clone(), job(&server.address)]);
    tokio::time::timeout(Duration::from_secs(3), apply).await.unwrap();
    rig.good().await;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, format!("- targets: ['{}']\n", server.address)).unwrap();
    let of_pipe = |tick: &OwnedTick| tick.samples.iter().any(|s| s.0.contains(r#"job="piped""#));
    rig.sink.wait_for("a target of the file", of_pipe).await;
    tokio::time::timeout(Duration::from_secs(5), rig.scraper.stop())
        .await
        .unwrap();
}

#[tokio::test]
async fn stopping_ends_every_loop() {
    let server = Server::exposing_text("a 1\n").await;
    let rig = Rig::scraping(job(&server.address)).await;
    rig.good().await;
    tokio::time::timeout(Duration::from_secs(5), rig.scraper.stop())
        .await
        .unwrap();
    let ticks = rig.sink_len();
    tokio::time::sleep(3 * INTERVAL).await;
    assert_eq!(rig.sink_len(), ticks);
    assert_eq!(rig.scraper.apply_config(Vec::new()).await, Err(ApplyError::Stopped));
}

#[tokio::test]
async fn metadata_of_targets_is_served() {
    use gnomon_proto::service::TargetsService;
    use gnomon_proto::v1::TargetMetadataRequest;
    let server = Server::exposing_text("# HELP a Help.\n# TYPE a gauge\na 1\n").await;
    let rig = Rig::scraping(job(&server.address)).await;
    rig.good().await;
    let ask = |matcher: &str, metric: &str| TargetMetadataRequest {
        match_target: matcher.to_owned(),
        metric: metric.to_owned(),
        limit: 0,
    };
    let status = rig.scraper.status();
    let found = status
        .target_metadata(ask(r#"{job="job"}"#, "a"))
        .await
        .unwrap()
        .metadata;
    assert_eq!((found[0].r#type.as_str(), found[0].help.as_str()), ("gauge", "Help."));
    assert!(
        status
            .target_metadata(ask(r#"{job="x"}"#, ""))
            .await
            .unwrap()
            .metadata
            .is_empty()
    );
    assert!(status.target_metadata(ask("job", "")).await.is_err());
}

impl Rig {
    fn sink_len(&self) -> usize {
        self.sink.ticks.lock().len()
    }
}
