use super::*;
use crate::testing::config;
use gnomon_model::relabel::{Action, RelabelConfig};

fn group(targets: &[&str], labels: &[(&str, &str)]) -> TargetGroup {
    TargetGroup {
        targets: targets.iter().map(|t| (*t).to_owned()).collect(),
        labels: Labels::from_pairs(labels.iter().copied()),
        source: "0".to_owned(),
    }
}

fn one(config: &ScrapeConfig, labels: &[(&str, &str)]) -> Result<Found, BadTarget> {
    targets_of(config, &group(&["host:9100"], labels)).remove(0)
}

fn active(found: Result<Found, BadTarget>) -> Target {
    match found {
        Ok(Found::Active(target)) => *target,
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_are_filled_in_and_reserved_labels_go() {
    let mut config = config("node");
    config
        .params
        .insert("collect[]".to_owned(), vec!["cpu".to_owned(), "a b".to_owned()]);
    let target = active(one(
        &config,
        &[("env", "prod"), ("__meta_x", "1"), ("__param_module", "m")],
    ));
    assert_eq!(
        target.labels.to_string(),
        r#"{env="prod", instance="host:9100", job="node"}"#
    );
    assert_eq!(
        target.url.as_str(),
        "http://host:9100/metrics?collect%5B%5D=cpu&collect%5B%5D=a+b&module=m"
    );
    assert_eq!(target.shown_url, target.url.as_str());
    assert_eq!(target.discovered.get("__scrape_interval__"), Some("15s"));
    assert_eq!(target.discovered.get("__meta_x"), Some("1"));
}

#[test]
fn labels_override_interval_timeout_path_and_scheme() {
    let target = active(one(
        &config("node"),
        &[
            ("__scrape_interval__", "1m"),
            ("__scrape_timeout__", "30s"),
            ("__metrics_path__", "/probe?x#y"),
            ("__scheme__", "https"),
            ("job", "other"),
            ("instance", "me"),
        ],
    ));
    assert_eq!((target.interval.as_secs(), target.timeout.as_secs()), (60, 30));
    assert_eq!(target.url.as_str(), "https://host:9100/probe%3Fx%23y");
    assert_eq!(target.labels.to_string(), r#"{instance="me", job="other"}"#);
}

#[test]
fn a_port_that_was_given_is_shown() {
    let found = targets_of(&config("node"), &group(&["host:80", "[::1]:9100"], &[]));
    let shown: Vec<_> = found.into_iter().map(|f| active(f).shown_url).collect();
    assert_eq!(shown, ["http://host:80/metrics", "http://[::1]:9100/metrics"]);
}

#[test]
fn bad_targets_say_why() {
    let config = config("node");
    for (labels, reason) in [
        (&[("__scrape_interval__", "x")][..], "error parsing scrape interval"),
        (&[("__scrape_interval__", "0s")], "scrape interval cannot be 0"),
        (&[("__scrape_timeout__", "0s")], "scrape timeout cannot be 0"),
        (
            &[("__scrape_timeout__", "20s")],
            r#"scrape timeout cannot be greater than scrape interval ("20s" > "15s")"#,
        ),
    ] {
        let error = one(&config, labels).unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
    }
    let bad = targets_of(&config, &group(&["http://host"], &[]))
        .remove(0)
        .unwrap_err();
    assert_eq!(
        bad.to_string(),
        r#"instance 0 in group 0: "http://host" is not a valid hostname"#
    );
}

#[test]
fn an_address_that_cannot_be_asked_is_a_target_that_is_down() {
    let config = config("node");
    let addresses = [
        "a b", "a:99999", "a:x", ":80", "[::1", "::1:80", "a:80#f", "a:80?q", "u:p@a:80", "a\\b",
    ];
    let mut ids = std::collections::HashSet::new();
    for address in addresses {
        let target = active(targets_of(&config, &group(&[address], &[])).remove(0));
        let error = target.error.expect("an error");
        assert!(
            error.starts_with("Get \"http://") && error.contains("is not a valid address"),
            "{error}"
        );
        assert_eq!(target.labels.get("instance"), Some(address));
        assert!(target.shown_url.contains(address), "{}", target.shown_url);
        ids.insert(target.id);
    }
    assert_eq!(ids.len(), addresses.len());
    let probe = |of| active(targets_of(&config, &group(&["a:x"], &[("__param_target", of)])).remove(0)).id;
    assert_ne!(probe("one"), probe("other"));
    let error = active(one(&config, &[("__scheme__", "ftp")])).error.expect("an error");
    assert!(error.contains("unsupported protocol scheme \"ftp\""), "{error}");
    assert_eq!(active(one(&config, &[])).error, None);
}

#[test]
fn relabelling_drops_and_rewrites() {
    let mut config = config("node");
    config.relabel_configs = vec![RelabelConfig {
        source_labels: vec!["drop".to_owned()],
        regex: gnomon_model::re2::Regex::anchored("yes").unwrap(),
        action: Action::Drop,
        ..RelabelConfig::default()
    }]
    .into();
    assert!(matches!(one(&config, &[("drop", "yes")]), Ok(Found::Dropped(l)) if l.get("drop") == Some("yes")));
    active(one(&config, &[("drop", "no")]));
}

#[test]
fn identity_follows_job_labels_and_url() {
    let first = active(one(&config("a"), &[]));
    assert_eq!(first.id, active(one(&config("a"), &[("__meta_y", "1")])).id);
    assert_ne!(first.id, active(one(&config("b"), &[])).id);
    assert_ne!(first.id, active(one(&config("a"), &[("x", "1")])).id);
    assert_ne!(
        first.id,
        active(one(&config("a"), &[("__metrics_path__", "/other")])).id
    );
    assert!(first.offset() < first.interval);
}
