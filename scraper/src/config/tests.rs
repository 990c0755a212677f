use super::http::{Auth, TlsVersion};
use super::*;
use gnomon_model::yaml::{At, YamlError, parse};
use std::path::Path;
use std::time::Duration;

fn read_with(global: &ScrapeDefaults, text: &str) -> Result<ScrapeConfig, YamlError> {
    let root = parse(text).unwrap();
    ScrapeConfig::read(&At::root(&root), global, Path::new("/etc/p"))
}

fn read(text: &str) -> Result<ScrapeConfig, YamlError> {
    read_with(&ScrapeDefaults::default(), text)
}

fn refusal(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[test]
fn what_is_not_said_is_as_in_prometheus() {
    let config = read("job_name: x").unwrap();
    assert_eq!(
        (config.scrape_interval, config.scrape_timeout),
        (Duration::from_secs(60), Duration::from_secs(10))
    );
    assert_eq!(
        (config.metrics_path.as_str(), config.scheme),
        ("/metrics", Scheme::Http)
    );
    assert_eq!(config.scrape_protocols, ScrapeProtocol::DEFAULT);
    assert!(config.honor_timestamps && config.enable_compression && !config.honor_labels);
    assert_eq!(
        (config.name_validation, config.name_escaping),
        (NameValidation::Utf8, NameEscaping::AllowUtf8)
    );
    assert_eq!(config.http, HttpClientConfig::default());
    assert_eq!(config.limits, ScrapeLimits::default());
}

#[test]
fn a_job_inherits_and_overrides() {
    let text = "{scrape_interval: 30s, sample_limit: 10, label_limit: 5, scrape_native_histograms: true, \
                metric_name_validation_scheme: legacy, body_size_limit: 1MB}";
    let root = parse(text).unwrap();
    let mut fields = At::root(&root).fields().unwrap();
    let global = ScrapeDefaults::read(&mut fields, Path::new("/etc/p")).unwrap();
    fields.finish().unwrap();
    let config = read_with(&global, "{job_name: x, scrape_interval: 5s, sample_limit: 7}").unwrap();
    assert_eq!(
        (config.scrape_interval, config.scrape_timeout),
        (Duration::from_secs(5), Duration::from_secs(5))
    );
    let limits = &config.limits;
    assert_eq!(
        (limits.samples, limits.labels, limits.body_size_bytes),
        (Some(7), Some(5), Some(1 << 20))
    );
    assert_eq!(config.scrape_protocols[0], ScrapeProtocol::PrometheusProto);
    assert_eq!(
        (config.name_validation, config.name_escaping),
        (NameValidation::Legacy, NameEscaping::Underscores)
    );
    let config = read_with(&global, "{job_name: x, metric_name_validation_scheme: utf8}").unwrap();
    assert_eq!(config.name_escaping, NameEscaping::AllowUtf8);
}

#[test]
fn client_options_are_read_and_secrets_stay_secret() {
    let config = read(
        "job_name: x\nbearer_token_file: token\ntls_config: {ca_file: ca.pem, cert_file: /c, key: KEY, min_version: TLS12}\n\
         proxy_url: http://me:pw@proxy:3128\nproxy_connect_header: {X-A: [s3cr3t]}\n\
         http_headers: {X-B: {values: [v], secrets: [s3cr3t], files: [h]}}\n",
    )
    .unwrap();
    let Some(Auth::Authorization(authorization)) = &config.http.auth else {
        panic!("{:?}", config.http.auth)
    };
    assert_eq!(authorization.scheme, "Bearer");
    assert_eq!(
        authorization.credentials,
        Some(SecretSource::File("/etc/p/token".into()))
    );
    assert_eq!(config.http.tls.ca, Some(TextSource::File("/etc/p/ca.pem".into())));
    assert_eq!(config.http.tls.min_version, Some(TlsVersion::Tls12));
    let shown = config.to_out().to_yaml();
    assert!(
        !shown.contains("s3cr3t") && !shown.contains("KEY") && !shown.contains("pw@"),
        "{shown}"
    );
    assert!(
        shown.contains("proxy_url: http://me:xxxxx@proxy:3128") && shown.contains("key: <secret>"),
        "{shown}"
    );
    assert!(!format!("{config:?}").contains("s3cr3t"));
    let oauth = "job_name: x\noauth2: {client_id: c, client_secret: s3cr3t, token_url: 'http://tu:pw@a/t'}\n";
    let shown = read(oauth).unwrap().to_out().to_yaml();
    assert!(shown.contains("token_url: http://tu:xxxxx@a/t"), "{shown}");
    let bad = read("{job_name: x, proxy_url: 'http://me:pw@bad:host:1'}")
        .unwrap_err()
        .to_string();
    assert!(bad.contains("***@bad:host:1") && !bad.contains("pw@"), "{bad}");
}

#[test]
fn what_is_shown_reads_back_as_the_same() {
    let config = read(
        "job_name: x\nparams: {'match[]': ['{a=\"b\"}']}\nbasic_auth: {username: u, password_file: p}\n\
         relabel_configs: [{source_labels: [a, b], regex: 'x(.*)', target_label: c}, {action: labelkeep, regex: ''}]\n\
         metric_relabel_configs: [{action: hashmod, source_labels: [a], target_label: t, modulus: 8}]\n\
         static_configs: [{targets: ['a:1'], labels: {l: v}}]\nfile_sd_configs: [{files: ['a/*.yml']}]\n\
         native_histogram_min_bucket_factor: 1.1\nkeep_dropped_targets: 3\nscheme: https\n",
    )
    .unwrap();
    let shown = config.to_out().to_yaml();
    assert_eq!(read(&shown).unwrap(), config, "{shown}");
}

#[test]
fn mistakes_are_named_where_they_are() {
    for (text, message) in [
        ("", "1:1: empty or null scrape config section"),
        ("job_name:", "1:1: job_name: job_name is empty"),
        (
            "{job_name: x, scrape_interval: 5x}",
            "1:32: scrape_interval: unknown unit \"x\" in duration \"5x\"",
        ),
        (
            "{job_name: x, sample_limit: -1}",
            "1:29: sample_limit: must not be negative",
        ),
        (
            "{job_name: x, scheme: ftp}",
            "1:23: scheme: \"ftp\" is neither http nor https",
        ),
        ("{job_name: x, params: {a: b}}", "1:27: params.a: a list belongs here"),
        (
            "{job_name: x, sampel_limit: 1}",
            "1:15: sampel_limit: unknown field \"sampel_limit\"; is \"sample_limit\" meant?",
        ),
        (
            "{job_name: x, static_configs: [{targets: ['http://bad']}]}",
            "1:43: static_configs[0].targets[0]: \"http://bad\" is not a valid hostname",
        ),
        (
            "{job_name: x, file_sd_configs: [{files: ['a*/b.yml']}]}",
            "1:42: file_sd_configs[0].files[0]: path name \"a*/b.yml\" is not valid for file discovery",
        ),
        (
            "{job_name: x, tls_config: {cert_file: a}}",
            "1:27: tls_config: exactly one of key or key_file must be configured when a client certificate is provided",
        ),
        (
            "{job_name: x, authorization: {type: basic}}",
            "1:31: authorization.type: authorization type cannot be set to \"basic\", use \"basic_auth\" instead",
        ),
        (
            "{job_name: x, http_headers: {Host: {values: [a]}}}",
            "1:36: http_headers.Host: setting header \"Host\" is not allowed",
        ),
        (
            "{job_name: x, no_proxy: a}",
            "1:15: no_proxy: if no_proxy is configured, proxy_url must also be configured",
        ),
        (
            "{job_name: x, relabel_configs: [{regex: 'a(b'}]}",
            "1:41: relabel_configs[0].regex: error parsing regexp: missing closing ): `a(b`",
        ),
        (
            "{job_name: x, dns_sd_configs: [{names: [a], type: A}]}",
            "1:32: dns_sd_configs[0]: a port is required in DNS-SD configs for all record types except SRV",
        ),
        (
            "{job_name: x, basic_auth: {password_ref: a}}",
            "1:28: basic_auth.password_ref: there is no secret manager here to look this up in; use password or \
             password_file",
        ),
    ] {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn zeros_at_the_beginning_want_protobuf_unless_the_file_names_protocols() {
    let mut config = crate::testing::config("j");
    let zero = config.with_zero_at_created();
    assert!(zero.zero_at_created && !config.zero_at_created);
    assert_eq!(zero.scrape_protocols[0], ScrapeProtocol::PrometheusProto);
    assert_eq!(zero.scrape_protocols[1..], ScrapeProtocol::DEFAULT);
    config.scrape_protocols = vec![ScrapeProtocol::OpenMetricsText1_0_0];
    assert_eq!(config.with_zero_at_created().scrape_protocols, config.scrape_protocols);
}
