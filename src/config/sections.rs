//! The sections that later versions bring: read, checked, masked for showing, reported as unsupported.
//!
//! Source: the Prometheus documentation, "Configuration".

use gnomon_ingester::otlp::{OtlpSettings, Strategy};
use gnomon_model::yaml::{At, Out, YamlError};
use gnomon_scraper::config::print::Printed;
use gnomon_scraper::config::shape::Kind::{
    Count, Duration, Flag, Float, Integer, LooseUrl, Map, OneOf, Percentage, Positive, Relabel, Secret, Size, Text,
    TextMap, Texts,
};
use gnomon_scraper::config::shape::{Around, CLIENT, Client, Preset, Section, Shape, may, must, preset};
use gnomon_scraper::config::{Discovered, FileSdConfig, TargetGroup};

type Complaint = Option<(&'static str, String)>;

const RELABEL: &str = "relabeling rule";

const SIGV4: Shape = Shape::new(
    &[
        may("region", Text),
        may("access_key", Text),
        may("secret_key", Secret),
        may("profile", Text),
        may("role_arn", Text),
        may("external_id", Text),
        may("use_fips_sts_endpoint", Flag),
        may("service_name", Text),
    ],
    Client::None,
);

const ALERTMANAGER: Shape = Shape::checked(
    &[
        CLIENT,
        may("sigv4", Map(&SIGV4)),
        preset("scheme", OneOf(&["http", "https"]), Preset::Text("http")),
        may("path_prefix", Text),
        preset("timeout", Duration, Preset::Text("10s")),
        preset("api_version", OneOf(&["v2"]), Preset::Text("v2")),
        may("relabel_configs", Relabel(RELABEL)),
        may("alert_relabel_configs", Relabel(RELABEL)),
    ],
    Client::Http,
    |section| {
        let message = "at most one of basic_auth, authorization, oauth2, & sigv4 must be configured";
        (section.auth().is_some() && section.has("sigv4")).then(|| ("sigv4", message.to_owned()))
    },
);

const ALERTING: Shape = Shape::new(&[may("alert_relabel_configs", Relabel(RELABEL))], Client::None);

/// # Errors
/// When the section is malformed.
pub(super) fn read_alerting(at: &At<'_>, around: Around<'_>) -> Result<Out, YamlError> {
    let mut fields = at.fields()?;
    let mut section = ALERTING.read_fields(&mut fields, around)?;
    let mut alertmanagers = Vec::new();
    for at in fields.items("alertmanagers")? {
        alertmanagers.push(read_alertmanager(&at, around)?);
    }
    fields.finish()?;
    if !alertmanagers.is_empty() {
        section
            .fields
            .push(("alertmanagers".to_owned(), Out::List(alertmanagers)));
    }
    Ok(Out::Map(section.fields))
}

fn read_alertmanager(at: &At<'_>, around: Around<'_>) -> Result<Out, YamlError> {
    if at.is_null() {
        return Err(at.error("empty or null section"));
    }
    let mut fields = at.fields()?;
    let discovered = Discovered::read(&mut fields, around.dir)?;
    let section = ALERTMANAGER.read_fields(&mut fields, around)?;
    if !section.has("relabel_configs") {
        discovered.refuse_urls(&mut fields)?;
    }
    fields.finish()?;
    let mut out = Printed(section.fields);
    for other in discovered.unsupported {
        out.put(other.section, other.entries);
    }
    let files = discovered.file_sd_configs.iter().map(FileSdConfig::to_out).collect();
    let groups = discovered.static_configs.iter().map(TargetGroup::to_out).collect();
    out.put_filled("file_sd_configs", Out::List(files))
        .put_filled("static_configs", Out::List(groups));
    Ok(Out::Map(out.0))
}

/// Headers that the sender sets itself, in lower case.
const RESERVED: [&str; 15] = [
    "host",
    "content-encoding",
    "content-length",
    "content-type",
    "user-agent",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
    "accept-encoding",
    "x-prometheus-remote-write-version",
    "x-prometheus-remote-read-version",
    "x-amz-date",
    "x-amz-security-token",
];

fn check_headers(section: &Section, authorization: &str) -> Complaint {
    let Some(Out::Map(headers)) = section.get("headers") else {
        return None;
    };
    for (name, _) in headers {
        let lower = name.to_ascii_lowercase();
        if lower == "authorization" {
            return Some(("headers", authorization.to_owned()));
        }
        if lower == "x-amz-content-sha256" || RESERVED.contains(&lower.as_str()) {
            return Some((
                "headers",
                format!("{name} is a reserved header. It must not be changed"),
            ));
        }
    }
    None
}

const HEADERS_OF_REMOTE: &str = "authorization header must be changed via the basic_auth, authorization, oauth2, \
                                 sigv4, azuread or google_iam parameter";

const QUEUE: Shape = Shape::new(
    &[
        preset("capacity", Positive, Preset::Int(10_000)),
        preset("max_shards", Positive, Preset::Int(50)),
        preset("min_shards", Positive, Preset::Int(1)),
        preset("max_samples_per_send", Positive, Preset::Int(2000)),
        preset("batch_send_deadline", Duration, Preset::Text("5s")),
        preset("min_backoff", Duration, Preset::Text("30ms")),
        preset("max_backoff", Duration, Preset::Text("5s")),
        may("retry_on_http_429", Flag),
        may("sample_age_limit", Duration),
    ],
    Client::None,
);

const METADATA: Shape = Shape::new(
    &[
        preset("send", Flag, Preset::Flag(true)),
        preset("send_interval", Duration, Preset::Text("1m")),
        preset("max_samples_per_send", Count, Preset::Int(2000)),
    ],
    Client::None,
);

const AZURE_IDENTITY: Shape = Shape::new(&[may("client_id", Text)], Client::None);
const AZURE_OAUTH: Shape = Shape::new(
    &[
        must("client_id", Text),
        must("client_secret", Secret),
        must("tenant_id", Text),
    ],
    Client::None,
);
const AZURE_SDK: Shape = Shape::new(&[may("tenant_id", Text)], Client::None);
const AZURE_WORKLOAD: Shape = Shape::new(
    &[
        must("client_id", Text),
        must("tenant_id", Text),
        may("token_file_path", Text),
    ],
    Client::None,
);
const AZURE_AD: Shape = Shape::new(
    &[
        may("cloud", Text),
        may("managed_identity", Map(&AZURE_IDENTITY)),
        may("oauth", Map(&AZURE_OAUTH)),
        may("sdk", Map(&AZURE_SDK)),
        may("workload_identity", Map(&AZURE_WORKLOAD)),
        may("scope", Text),
    ],
    Client::None,
);
const GOOGLE_IAM: Shape = Shape::new(&[may("credentials_file", Text)], Client::None);

pub(super) const REMOTE_WRITE: Shape = Shape::checked(
    &[
        must("url", LooseUrl),
        preset("remote_timeout", Duration, Preset::Text("30s")),
        may("headers", TextMap),
        may("write_relabel_configs", Relabel(RELABEL)),
        may("name", Text),
        may("send_exemplars", Flag),
        may("send_native_histograms", Flag),
        may("round_robin_dns", Flag),
        preset(
            "protobuf_message",
            OneOf(&["prometheus.WriteRequest", "io.prometheus.write.v2.Request"]),
            Preset::Text("prometheus.WriteRequest"),
        ),
        CLIENT,
        preset("queue_config", Map(&QUEUE), Preset::Nested),
        preset("metadata_config", Map(&METADATA), Preset::Nested),
        may("sigv4", Map(&SIGV4)),
        may("azuread", Map(&AZURE_AD)),
        may("google_iam", Map(&GOOGLE_IAM)),
    ],
    Client::Http1,
    |section| {
        let own = ["sigv4", "azuread", "google_iam"]
            .into_iter()
            .filter(|name| section.get(name).is_some());
        let kinds: Vec<&'static str> = own.chain(section.auth().map(|_| "authorization")).collect();
        if kinds.len() > 1 {
            let message = "at most one of basic_auth, authorization, oauth2, sigv4, azuread or google_iam must be \
                           configured";
            return Some((kinds[0], message.to_owned()));
        }
        check_headers(section, HEADERS_OF_REMOTE)
    },
);

pub(super) const REMOTE_READ: Shape = Shape::checked(
    &[
        must("url", LooseUrl),
        preset("remote_timeout", Duration, Preset::Text("1m")),
        preset("chunked_read_limit", Count, Preset::Int(50_000_000)),
        may("headers", TextMap),
        may("read_recent", Flag),
        may("name", Text),
        CLIENT,
        may("required_matchers", TextMap),
        preset("filter_external_labels", Flag, Preset::Flag(true)),
    ],
    Client::Http,
    |section| check_headers(section, HEADERS_OF_REMOTE),
);

/// A list of ends of remote storage, no two of one name.
///
/// # Errors
/// When one is malformed or a name occurs twice.
pub(super) fn read_remotes(at: &At<'_>, shape: &Shape, around: Around<'_>) -> Result<Out, YamlError> {
    let what = at.path().replace('_', " ");
    let mut names = std::collections::HashSet::new();
    let mut all = Vec::new();
    for item in at.items()? {
        let section = shape.read(&item, around)?;
        let name = section.text("name").to_owned();
        if !name.is_empty() && !names.insert(name.clone()) {
            let message = format!("found multiple {what} configs with job name {name:?}");
            return Err(item.fields()?.error_at("name", message));
        }
        all.push(Out::Map(section.fields));
    }
    Ok(Out::List(all))
}

pub(super) const TRACING: Shape = Shape::checked(
    &[
        preset("client_type", OneOf(&["http", "grpc"]), Preset::Text("grpc")),
        must("endpoint", Text),
        may("sampling_fraction", Float),
        may("insecure", Flag),
        CLIENT,
        may("headers", TextMap),
        may("compression", OneOf(&["gzip"])),
        may("timeout", Duration),
    ],
    Client::Tls,
    |section| {
        check_headers(
            section,
            "custom authorization header configuration is not yet supported",
        )
    },
);

const STRATEGIES: &[&str] = &[
    "UnderscoreEscapingWithSuffixes",
    "UnderscoreEscapingWithoutSuffixes",
    "NoUTF8EscapingWithSuffixes",
    "NoTranslation",
];

pub(super) const OTLP: Shape = Shape::checked(
    &[
        may("promote_all_resource_attributes", Flag),
        may("promote_resource_attributes", Texts),
        may("ignore_resource_attributes", Texts),
        preset(
            "translation_strategy",
            OneOf(STRATEGIES),
            Preset::Text("UnderscoreEscapingWithSuffixes"),
        ),
        may("keep_identifying_resource_attributes", Flag),
        may("convert_histograms_to_nhcb", Flag),
        may("promote_scope_metadata", Flag),
        preset("label_name_underscore_sanitization", Flag, Preset::Flag(true)),
        preset("label_name_preserve_multiple_underscores", Flag, Preset::Flag(true)),
    ],
    Client::None,
    |section| {
        let (promote, ignore) = ("promote_resource_attributes", "ignore_resource_attributes");
        let all = section.has("promote_all_resource_attributes");
        if all && section.has(promote) {
            let message = "'promote_all_resource_attributes' and 'promote_resource_attributes' cannot be configured \
                           simultaneously";
            return Some((promote, message.to_owned()));
        }
        if !all && section.has(ignore) {
            let message = "'ignore_resource_attributes' cannot be configured unless \
                           'promote_all_resource_attributes' is true";
            return Some((ignore, message.to_owned()));
        }
        check_attributes(section, promote, "promoted").or_else(|| check_attributes(section, ignore, "ignored"))
    },
);

/// What a section that was read asks for.
pub(super) fn otlp_settings(section: &Section) -> OtlpSettings {
    let flag = |name: &str, default: bool| match section.get(name) {
        Some(Out::Bool(value)) => *value,
        _ => default,
    };
    let promote_all = flag("promote_all_resource_attributes", false);
    let attributes = match section.get(match promote_all {
        true => "ignore_resource_attributes",
        false => "promote_resource_attributes",
    }) {
        Some(Out::List(attributes)) => attributes.as_slice(),
        _ => &[],
    };
    let defaults = OtlpSettings::default();
    OtlpSettings {
        strategy: Strategy::named(section.text("translation_strategy")).unwrap_or(defaults.strategy),
        resource_attributes: attributes
            .iter()
            .filter_map(|attribute| match attribute {
                Out::Text(text) => Some(text.trim().to_owned()),
                _ => None,
            })
            .collect(),
        promote_all,
        keep_identifying: flag("keep_identifying_resource_attributes", false),
        convert_histograms_to_nhcb: flag("convert_histograms_to_nhcb", false),
        promote_scope: flag("promote_scope_metadata", false),
        mark_underscore: flag("label_name_underscore_sanitization", true),
        keep_underscores: flag("label_name_preserve_multiple_underscores", true),
    }
}

fn check_attributes(section: &Section, name: &'static str, what: &str) -> Complaint {
    let Some(Out::List(attributes)) = section.get(name) else {
        return None;
    };
    let mut seen = std::collections::HashSet::new();
    for attribute in attributes {
        let Out::Text(text) = attribute else { continue };
        let text = text.trim();
        if text.is_empty() {
            return Some((name, format!("empty {what} OTel resource attribute")));
        }
        if !seen.insert(text) {
            return Some((name, format!("duplicated {what} OTel resource attribute {text:?}")));
        }
    }
    None
}

const RETENTION: Shape = Shape::new(
    &[may("time", Duration), may("size", Size), may("percentage", Percentage)],
    Client::None,
);
const CHUNK_ENCODING: Shape = Shape::new(&[may("floats", OneOf(&["xor", "xor2"]))], Client::None);
const TSDB: Shape = Shape::new(
    &[
        may("out_of_order_time_window", Duration),
        may("stale_series_compaction_threshold", Float),
        may("retention", Map(&RETENTION)),
        may("chunk_encoding", Map(&CHUNK_ENCODING)),
    ],
    Client::None,
);
const EXEMPLARS: Shape = Shape::new(&[may("max_exemplars", Integer)], Client::None);
pub(super) const STORAGE: Shape = Shape::new(
    &[may("tsdb", Map(&TSDB)), may("exemplars", Map(&EXEMPLARS))],
    Client::None,
);

/// Go's garbage collector has no like here: read and shown only.
pub(super) const RUNTIME: Shape = Shape::new(&[may("gogc", Integer)], Client::None);
