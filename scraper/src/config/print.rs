//! The configuration as it is shown: defaults filled in, secrets masked, in Prometheus' order of fields.

use super::defaults::ScrapeDefaults;
use super::http::{
    Auth, Authorization, BasicAuth, HeaderValues, HttpClientConfig, OAuth2, ProxyConfig, TlsConfig, TlsVersion,
};
use super::scrape::{NameValidation, ScrapeConfig, ScrapeLimits, ScrapeProtocol};
use super::secret::{REDACTED, SecretSource, TextSource};
use super::shape::mask_password;
use super::targets::{FileSdConfig, TargetGroup};
use gnomon_model::duration::format_duration_ms;
use gnomon_model::relabel::{DEFAULT_REGEX, RelabelConfig};
use gnomon_model::size::format_size_bytes;
use gnomon_model::yaml::Out;
use std::path::Path;
use std::time::Duration;

/// Fields in order; those that are empty are left out.
#[derive(Default)]
pub struct Printed(pub Vec<(String, Out)>);

impl Printed {
    pub fn put(&mut self, name: &str, out: Out) -> &mut Self {
        self.0.push((name.to_owned(), out));
        self
    }

    pub fn put_filled(&mut self, name: &str, out: Out) -> &mut Self {
        if !out.is_empty() {
            self.put(name, out);
        }
        self
    }

    pub fn put_if(&mut self, name: &str, flag: bool) -> &mut Self {
        if flag {
            self.put(name, Out::Bool(true));
        }
        self
    }

    fn put_number(&mut self, name: &str, number: Option<u64>) -> &mut Self {
        if let Some(number) = number {
            self.put(name, Out::Int(i64::try_from(number).unwrap_or(i64::MAX)));
        }
        self
    }

    fn put_path(&mut self, name: &str, path: Option<&Path>) -> &mut Self {
        if let Some(path) = path {
            self.put(name, Out::text(path.to_string_lossy()));
        }
        self
    }
}

pub fn duration(duration: Duration) -> Out {
    Out::text(format_duration_ms(
        i64::try_from(duration.as_millis()).unwrap_or(i64::MAX),
    ))
}

fn protocols(protocols: &[ScrapeProtocol]) -> Out {
    Out::texts(protocols.iter().map(|protocol| protocol.name()))
}

fn validation(validation: NameValidation) -> Out {
    Out::text(match validation {
        NameValidation::Utf8 => "utf8",
        NameValidation::Legacy => "legacy",
    })
}

fn put_limits(out: &mut Printed, limits: &ScrapeLimits) {
    if let Some(bytes) = limits.body_size_bytes {
        out.put("body_size_limit", Out::text(format_size_bytes(bytes)));
    }
    out.put_number("sample_limit", limits.samples)
        .put_number("target_limit", limits.targets)
        .put_number("label_limit", limits.labels)
        .put_number("label_name_length_limit", limits.label_name_bytes)
        .put_number("label_value_length_limit", limits.label_value_bytes)
        .put_number("native_histogram_bucket_limit", limits.native_histogram_buckets);
    if let Some(factor) = limits.native_histogram_min_bucket_factor {
        out.put("native_histogram_min_bucket_factor", Out::Float(factor));
    }
    out.put_number("keep_dropped_targets", limits.keep_dropped_targets);
}

impl ScrapeDefaults {
    /// The fields before those of rules and external labels.
    pub fn print_timing(&self, out: &mut Printed) {
        out.put("scrape_interval", duration(self.scrape_interval));
        out.put("scrape_timeout", duration(self.scrape_timeout));
        if let Some(own) = &self.scrape_protocols {
            out.put("scrape_protocols", protocols(own));
        }
    }

    /// The fields after them.
    pub fn print_rest(&self, out: &mut Printed) {
        put_limits(out, &self.limits);
        out.put("metric_name_validation_scheme", validation(self.name_validation));
        if let Some(escaping) = self.name_escaping {
            out.put("metric_name_escaping_scheme", Out::text(escaping.name()));
        }
        out.put("scrape_native_histograms", Out::Bool(self.scrape_native_histograms))
            .put_if(
                "convert_classic_histograms_to_nhcb",
                self.convert_classic_histograms_to_nhcb,
            )
            .put_if(
                "always_scrape_classic_histograms",
                self.always_scrape_classic_histograms,
            )
            .put_if("extra_scrape_metrics", self.extra_scrape_metrics);
    }
}

impl ScrapeConfig {
    /// The entry of `scrape_configs`, secrets masked.
    #[must_use]
    pub fn to_out(&self) -> Out {
        let mut out = Printed::default();
        out.put("job_name", Out::text(&self.job_name))
            .put_if("honor_labels", self.honor_labels)
            .put("honor_timestamps", Out::Bool(self.honor_timestamps))
            .put("track_timestamps_staleness", Out::Bool(self.track_timestamps_staleness));
        let params = self
            .params
            .iter()
            .map(|(name, values)| (name.clone(), Out::texts(values)))
            .collect();
        out.put_filled("params", Out::Map(params))
            .put("scrape_interval", duration(self.scrape_interval))
            .put("scrape_timeout", duration(self.scrape_timeout))
            .put("scrape_protocols", protocols(&self.scrape_protocols));
        if let Some(fallback) = self.fallback_scrape_protocol {
            out.put("fallback_scrape_protocol", Out::text(fallback.name()));
        }
        out.put("scrape_native_histograms", Out::Bool(self.scrape_native_histograms))
            .put(
                "always_scrape_classic_histograms",
                Out::Bool(self.always_scrape_classic_histograms),
            )
            .put(
                "convert_classic_histograms_to_nhcb",
                Out::Bool(self.convert_classic_histograms_to_nhcb),
            )
            .put_path("scrape_failure_log_file", self.scrape_failure_log_file.as_deref())
            .put_filled("metrics_path", Out::text(&self.metrics_path))
            .put("scheme", Out::text(self.scheme.as_str()))
            .put("enable_compression", Out::Bool(self.enable_compression));
        put_limits(&mut out, &self.limits);
        out.put("metric_name_validation_scheme", validation(self.name_validation))
            .put("metric_name_escaping_scheme", Out::text(self.name_escaping.name()))
            .put("extra_scrape_metrics", Out::Bool(self.extra_scrape_metrics));
        out.0.extend(self.http.to_fields());
        out.put_filled("relabel_configs", relabel_configs(&self.relabel_configs))
            .put_filled("metric_relabel_configs", relabel_configs(&self.metric_relabel_configs));
        for other in &self.unsupported_discovery {
            out.put(other.section, other.entries.clone());
        }
        out.put_filled(
            "file_sd_configs",
            Out::List(self.file_sd_configs.iter().map(FileSdConfig::to_out).collect()),
        );
        out.put_filled(
            "static_configs",
            Out::List(self.static_configs.iter().map(TargetGroup::to_out).collect()),
        );
        Out::Map(out.0)
    }
}

impl TargetGroup {
    /// The entry of `static_configs`.
    #[must_use]
    pub fn to_out(&self) -> Out {
        let labels = self
            .labels
            .iter()
            .map(|(name, value)| (name.to_owned(), Out::text(value)))
            .collect();
        let mut out = Printed::default();
        out.put("targets", Out::texts(&self.targets))
            .put_filled("labels", Out::Map(labels));
        Out::Map(out.0)
    }
}

impl FileSdConfig {
    /// The entry of `file_sd_configs`.
    #[must_use]
    pub fn to_out(&self) -> Out {
        let mut out = Printed::default();
        out.put(
            "files",
            Out::texts(self.files.iter().map(|path| path.to_string_lossy())),
        );
        out.put("refresh_interval", duration(self.refresh_interval));
        Out::Map(out.0)
    }
}

/// A list of rules.
#[must_use]
pub fn relabel_configs(rules: &[RelabelConfig]) -> Out {
    let print = |rule: &RelabelConfig| {
        let mut out = Printed::default();
        out.put_filled("source_labels", Out::Flow(rule.source_labels.clone()));
        out.put_filled("separator", Out::text(&rule.separator));
        if rule.regex.source() != DEFAULT_REGEX {
            let source = rule.regex.source();
            out.put(
                "regex",
                if source.is_empty() {
                    Out::Null
                } else {
                    Out::text(source)
                },
            );
        }
        out.put_number("modulus", Some(rule.modulus).filter(|modulus| *modulus > 0))
            .put_filled("target_label", Out::text(&rule.target_label))
            .put_filled("replacement", Out::text(&rule.replacement))
            .put("action", Out::text(rule.action.name()));
        Out::Map(out.0)
    };
    Out::List(rules.iter().map(print).collect())
}

fn put_text_source(out: &mut Printed, inline: &str, file: &str, source: Option<&TextSource>) {
    match source {
        Some(TextSource::Inline(text)) => out.put(inline, Out::text(text)),
        Some(TextSource::File(path)) => out.put_path(file, Some(path)),
        None => out,
    };
}

fn put_secret_source(out: &mut Printed, inline: &str, file: &str, source: Option<&SecretSource>) {
    match source {
        Some(SecretSource::Inline(_)) => out.put(inline, Out::text(REDACTED)),
        Some(SecretSource::File(path)) => out.put_path(file, Some(path)),
        None => out,
    };
}

impl HttpClientConfig {
    /// The fields that stand among those of the section, secrets masked.
    #[must_use]
    pub fn to_fields(&self) -> Vec<(String, Out)> {
        let mut out = Printed::default();
        match &self.auth {
            Some(Auth::Basic(basic)) => out.put("basic_auth", basic.to_out()),
            Some(Auth::Authorization(authorization)) => out.put("authorization", authorization.to_out()),
            Some(Auth::OAuth2(oauth2)) => out.put("oauth2", oauth2.to_out()),
            None => &mut out,
        };
        out.0.extend(self.tls.to_fields());
        out.put("follow_redirects", Out::Bool(self.follow_redirects));
        out.put("enable_http2", Out::Bool(self.enable_http2));
        self.proxy.print(&mut out);
        let headers = self
            .headers
            .iter()
            .map(|(name, values)| (name.clone(), values.to_out()))
            .collect();
        out.put_filled("http_headers", Out::Map(headers));
        out.0
    }
}

impl BasicAuth {
    fn to_out(&self) -> Out {
        let mut out = Printed::default();
        if self.username.is_none() {
            out.put("username", Out::text(""));
        }
        put_text_source(&mut out, "username", "username_file", self.username.as_ref());
        put_secret_source(&mut out, "password", "password_file", self.password.as_ref());
        Out::Map(out.0)
    }
}

impl Authorization {
    fn to_out(&self) -> Out {
        let mut out = Printed::default();
        out.put("type", Out::text(&self.scheme));
        put_secret_source(&mut out, "credentials", "credentials_file", self.credentials.as_ref());
        Out::Map(out.0)
    }
}

impl OAuth2 {
    fn to_out(&self) -> Out {
        let mut out = Printed::default();
        out.put("client_id", Out::text(&self.client_id));
        put_secret_source(
            &mut out,
            "client_secret",
            "client_secret_file",
            self.client_secret.as_ref(),
        );
        let params = self
            .endpoint_params
            .iter()
            .map(|(name, value)| (name.clone(), Out::text(value)))
            .collect();
        out.put_filled("scopes", Out::texts(&self.scopes))
            .put("token_url", Out::text(mask_password(&self.token_url)))
            .put_filled("endpoint_params", Out::Map(params));
        out.0.extend(self.tls.to_fields());
        self.proxy.print(&mut out);
        Out::Map(out.0)
    }
}

impl TlsConfig {
    /// `tls_config`, if there is anything in it.
    #[must_use]
    pub fn to_fields(&self) -> Vec<(String, Out)> {
        if *self == Self::default() {
            return Vec::new();
        }
        let mut out = Printed::default();
        put_text_source(&mut out, "ca", "ca_file", self.ca.as_ref());
        put_text_source(&mut out, "cert", "cert_file", self.cert.as_ref());
        put_secret_source(&mut out, "key", "key_file", self.key.as_ref());
        out.put_filled("server_name", Out::text(self.server_name.clone().unwrap_or_default()));
        out.put("insecure_skip_verify", Out::Bool(self.insecure_skip_verify));
        for (name, version) in [("min_version", self.min_version), ("max_version", self.max_version)] {
            if let Some(version) = version {
                out.put(name, Out::text(version.name()));
            }
        }
        vec![("tls_config".to_owned(), Out::Map(out.0))]
    }
}

impl TlsVersion {
    const fn name(self) -> &'static str {
        match self {
            Self::Tls10 => "TLS10",
            Self::Tls11 => "TLS11",
            Self::Tls12 => "TLS12",
            Self::Tls13 => "TLS13",
        }
    }
}

impl ProxyConfig {
    fn print(&self, out: &mut Printed) {
        if let Some(url) = &self.url {
            out.put(
                "proxy_url",
                Out::text(mask_password(url.as_str().trim_end_matches('/'))),
            );
        }
        out.put_filled("no_proxy", Out::text(self.no_proxy.clone().unwrap_or_default()));
        out.put_if("proxy_from_environment", self.from_environment);
        let masked = |values: &Vec<_>| Out::texts(values.iter().map(|_| REDACTED));
        let headers = self
            .connect_headers
            .iter()
            .map(|(name, values)| (name.clone(), masked(values)))
            .collect();
        out.put_filled("proxy_connect_header", Out::Map(headers));
    }
}

impl HeaderValues {
    fn to_out(&self) -> Out {
        let mut out = Printed::default();
        out.put_filled("values", Out::texts(&self.values))
            .put_filled("secrets", Out::texts(self.secrets.iter().map(|_| REDACTED)))
            .put_filled(
                "files",
                Out::texts(self.files.iter().map(|path| path.to_string_lossy())),
            );
        Out::Map(out.0)
    }
}
