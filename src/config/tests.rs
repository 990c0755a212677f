use super::*;
use std::path::{Path, PathBuf};

fn none(_: &str) -> Option<String> {
    None
}

fn parsed(text: &str) -> Result<Config, ConfigError> {
    parse(text, Path::new("/etc/p/prometheus.yml"), &none)
}

fn refusal(text: &str) -> String {
    parsed(text).expect_err(text).to_string()
}

/// The folder of this package, as cargo says it now: what comes from a cache was built elsewhere, it may be.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn shared() -> Option<PathBuf> {
    let own = || package().join("../shared");
    let dir = std::env::var_os("GNOMON_SHARED")
        .map_or_else(own, PathBuf::from)
        .join("configtest");
    if !dir.is_dir() {
        println!("skipped: {} is absent", dir.display());
        return None;
    }
    Some(dir)
}

/// Files that Prometheus refuses and this does not, and why.
const NOT_REFUSED: &[(&str, &str)] = &[(
    "scrape_config_files_global.bad.yml",
    "the file it includes is not in the set, which is no mistake",
)];

/// What the message about a bad file must hold where the file's name does not say it.
const NAMED: &[(&str, &str)] = &[
    ("scrape_interval.bad.yml", "scrape_timeout"),
    ("kubernetes_role.bad.yml", "kubernetes_sd_configs[0].role"),
    ("regex.bad.yml", "relabel_configs[0].regex"),
    ("unknown_attr.bad.yml", "consult_sd_configs"),
    ("unknown_global_attr.bad.yml", "nonexistent_field"),
    ("jobname_dup.bad.yml", "job_name"),
    ("labelname.bad.yml", "external_labels"),
    ("labelvalue.bad.yml", "external_labels.name"),
    ("static_config.bad.yml", "targets"),
    ("url_in_targetgroup.bad.yml", "static_configs[0].targets[0]"),
    ("target_label_missing.bad.yml", "'target_label'"),
    ("scrape_config_utf8_conflicting.bad.yml", "metric_name_escaping_scheme"),
    ("scrape_config_files_duplicate.bad.yml", "job_name"),
    ("scrape_config_files_double_import.bad.yml", "job_name"),
    ("scrape_config_files_glob.bad.yml", "scrape_config_files[0]"),
    ("scrape_config_files_scrape_protocols.bad.yml", "scrape_protocols[0]"),
    ("scrape_config_files_scrape_protocols2.bad.yml", "scrape_protocols[2]"),
    (
        "scrape_config_files_fallback_scrape_protocol2.bad.yml",
        "fallback_scrape_protocol",
    ),
    ("tsdb_retention_percentage.bad.yml", "storage.tsdb.retention.percentage"),
    ("tsdb_retention_size.bad.yml", "storage.tsdb.retention.size"),
    (
        "kubernetes_selectors_node.bad.yml",
        "kubernetes_sd_configs[0].selectors",
    ),
    ("azure_client_id_missing.bad.yml", "azure_sd_configs[0].client_id"),
    ("hetzner_role.bad.yml", "hetzner_sd_configs[0].role"),
    (
        "remote_write_queue_capacity_zero.bad.yml",
        "remote_write[0].queue_config.capacity",
    ),
    ("tracing_missing_endpoint.bad.yml", "tracing: endpoint"),
    ("otlp_allow_utf8.incompatible.yml", "otlp.translation_strategy"),
];

#[test]
fn the_shared_files_are_taken_and_refused_as_by_prometheus() {
    let Some(dir) = shared() else { return };
    let mut wrong = Vec::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".yml") {
            continue;
        }
        seen += 1;
        let bad = name.ends_with(".bad.yml") || name.ends_with(".incompatible.yml");
        let loaded = load(&path, &none);
        match (&loaded, bad) {
            (Ok(_), true) if NOT_REFUSED.iter().any(|(file, _)| *file == name) => {}
            (Ok(_), true) => wrong.push(format!("{name}: taken")),
            (Err(e), false) => wrong.push(format!("{name}: {e}")),
            (Err(e), true) => {
                let text = e.to_string();
                let place = matches!(e, ConfigError::Invalid { error, .. } if !error.path.is_empty());
                let named = NAMED
                    .iter()
                    .find(|(file, _)| *file == name)
                    .is_none_or(|(_, word)| text.contains(word));
                if !place || !named {
                    wrong.push(format!("{name}: does not name the field: {text}"));
                }
            }
            (Ok(config), false) => {
                // What is shown must be readable, and show the same when read again; but external labels are shown
                // with the environment in them, and a dollar from there would be read as a reference.
                match parse(config.redacted_yaml(), &path, &none) {
                    Ok(again) if again.redacted_yaml() == config.redacted_yaml() => {}
                    Ok(_) if name == "external_labels.good.yml" => {}
                    Ok(again) => wrong.push(format!("{name}: shown differently:\n{}", again.redacted_yaml())),
                    Err(e) => wrong.push(format!(
                        "{name}: what is shown cannot be read: {e}\n{}",
                        config.redacted_yaml()
                    )),
                }
            }
        }
    }
    assert!(seen > 140, "{seen} files");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_file_of_the_debian_package_loads() {
    let Some(program) = crate::peers::find("prometheus", "prometheus") else {
        return;
    };
    let root = program.ancestors().nth(3).unwrap();
    let config = load(&root.join("etc/prometheus/prometheus.yml"), &none).unwrap();
    assert_eq!(
        config
            .scrape_configs
            .iter()
            .map(|c| c.job_name.as_str())
            .collect::<Vec<_>>(),
        ["prometheus", "node"]
    );
    assert_eq!(config.scrape_configs[0].scrape_interval, Duration::from_secs(5));
    assert_eq!(config.global.external_labels.get("monitor"), Some("example"));
    let sections: Vec<&str> = config.unsupported.iter().map(|u| u.section.as_str()).collect();
    assert_eq!(sections, ["alerting"]);
}

#[test]
fn mistakes_are_named_with_file_line_and_column() {
    for (text, message) in [
        (
            "scrape_configs:\n- job_name: x\n  scrape_interval: 1q",
            "prometheus.yml:3:20: scrape_configs[0].scrape_interval: unknown unit \"q\" in duration \"1q\"",
        ),
        (
            "scrape_configs: [{job_name: a}, {job_name: a}]",
            "prometheus.yml:1:34: scrape_configs[1].job_name: found multiple scrape configs with job name \"a\", first found in /etc/p/prometheus.yml",
        ),
        (
            "globl: {}",
            "prometheus.yml:1:1: globl: unknown field \"globl\"; is \"global\" meant?",
        ),
        (
            "rule_files: ['a/*/b']",
            "prometheus.yml:1:14: rule_files[0]: invalid rule file path \"a/*/b\": only its last part may hold *",
        ),
        (
            "global: {scrape_timeout: 2m}",
            "prometheus.yml:1:10: global.scrape_timeout: global scrape timeout greater than scrape interval",
        ),
        ("a: [", "prometheus.yml:"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.starts_with(&format!("/etc/p/{message}")), "{refusal}");
    }
}

#[test]
fn external_labels_take_the_environment() {
    let environment = |name: &str| (name == "ZONE").then(|| "eu-1".to_owned());
    let text = "global: {external_labels: {a: 'x-${ZONE}', b: $$ZONE, c: $NONE, d: ''}}";
    let config = parse(text, Path::new("p.yml"), &environment).unwrap();
    assert_eq!(config.global.external_labels.to_string(), r#"{a="x-eu-1", b="$ZONE"}"#);
    assert_eq!(
        config.warnings,
        ["p.yml:1:58: global.external_labels.c: the environment variable NONE is empty"]
    );
    assert!(config.redacted_yaml().contains("a: x-eu-1"));
}

#[test]
fn scrape_files_are_found_and_their_paths_are_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::create_dir(dir.path().join("jobs")).unwrap();
    write(
        "jobs/b.yml",
        "scrape_configs: [{job_name: b, bearer_token_file: token}]",
    );
    write("jobs/a.yml", "scrape_configs: [{job_name: a}]");
    write("jobs/c.txt", "not: [a config");
    write(
        "p.yml",
        "global: {scrape_interval: 7s}\nscrape_config_files: ['jobs/*.yml', none.yml]\nscrape_configs: [{job_name: z}]",
    );
    let path = dir.path().join("p.yml");
    let config = load(&path, &none).unwrap();
    let names: Vec<&str> = config.scrape_configs.iter().map(|c| c.job_name.as_str()).collect();
    assert_eq!(names, ["z", "a", "b"]);
    assert_eq!(config.scrape_configs[1].scrape_interval, Duration::from_secs(7));
    assert!(format!("{:?}", config.scrape_configs[2].http.auth).contains("jobs/token"));
    let identity = config.identity();
    assert!(
        !config.redacted_yaml().contains("job_name: b") && identity.contains("job_name: b"),
        "{identity}"
    );
    write("jobs/a.yml", "scrape_configs: [{job_name: z}]");
    let refusal = load(&path, &none).expect_err("a duplicate").to_string();
    assert!(
        refusal.contains("jobs/a.yml:1:19: scrape_configs[0].job_name: found multiple"),
        "{refusal}"
    );
    write("jobs/a.yml", "global: {}");
    let refusal = load(&path, &none).expect_err("a section too many").to_string();
    assert!(refusal.contains("jobs/a.yml:1:1: global: unknown field"), "{refusal}");
}

#[test]
fn what_has_no_effect_is_reported_once_a_kind() {
    let text = "remote_write: [{url: 'http://a'}]\nrule_files: []\nstorage: {tsdb: {retention: {time: 3d, size: 2GB}, out_of_order_time_window: 1h}}\n\
                scrape_configs:\n- job_name: a\n  dns_sd_configs: [{names: [x]}]\n- job_name: b\n  dns_sd_configs: [{names: [x]}]\n";
    let config = parsed(text).unwrap();
    let notes: Vec<(&str, u32)> = config
        .unsupported
        .iter()
        .map(|u| (u.section.as_str(), u.line))
        .collect();
    assert_eq!(notes, [("dns_sd_configs", 6), ("remote_write", 1)]);
    let text = "scrape_configs:\n- job_name: a\n- job_name: b\n  convert_classic_histograms_to_nhcb: true\n";
    let noted = parsed(text).unwrap().unsupported;
    assert_eq!(
        (noted.len(), noted[0].section.as_str(), noted[0].line),
        (1, "convert_classic_histograms_to_nhcb", 3)
    );
    let error = config.require_supported().expect_err("strict").to_string();
    assert!(
        error.starts_with("/etc/p/prometheus.yml:6: dns_sd_configs is not supported yet"),
        "{error}"
    );
    let expected = StorageConfig {
        out_of_order_time_window: Some(Duration::from_secs(3600)),
        retention_time: Some(Duration::from_secs(3 * 86_400)),
        retention_size_bytes: Some(2 << 30),
    };
    assert_eq!(config.storage, expected);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.yml");
    assert!(
        load(&path, &none)
            .expect_err("absent")
            .to_string()
            .contains("p.yml: cannot be read")
    );
    std::fs::write(&path, b"a: \xff").unwrap();
    assert!(
        load(&path, &none)
            .expect_err("not text")
            .to_string()
            .contains("not UTF-8 text (from byte 3 on)")
    );
    std::fs::write(&path, b"").unwrap();
    assert_eq!(load(&path, &none).unwrap().scrape_configs.len(), 0);
}

#[test]
fn what_is_shown_is_laid_out_as_by_prometheus() {
    let text = "global: {scrape_interval: 15s, external_labels: {b: '1', a: x}}\nscrape_configs:\n- job_name: node\n  \
                basic_auth: {username: u, password: s3cr3t}\n  static_configs: [{targets: ['localhost:9100']}]\n";
    let expected = "global:
  scrape_interval: 15s
  scrape_timeout: 10s
  evaluation_interval: 1m
  external_labels:
    a: x
    b: \"1\"
  metric_name_validation_scheme: utf8
  scrape_native_histograms: false
scrape_configs:
- job_name: node
  honor_timestamps: true
  track_timestamps_staleness: false
  scrape_interval: 15s
  scrape_timeout: 10s
  scrape_protocols:
  - OpenMetricsText1.0.0
  - OpenMetricsText0.0.1
  - PrometheusText1.0.0
  - PrometheusText0.0.4
  scrape_native_histograms: false
  always_scrape_classic_histograms: false
  convert_classic_histograms_to_nhcb: false
  metrics_path: /metrics
  scheme: http
  enable_compression: true
  metric_name_validation_scheme: utf8
  metric_name_escaping_scheme: allow-utf-8
  extra_scrape_metrics: false
  basic_auth:
    username: u
    password: <secret>
  follow_redirects: true
  enable_http2: true
  static_configs:
  - targets:
    - localhost:9100
";
    assert_eq!(parsed(text).unwrap().redacted_yaml(), expected);
}
