//! The kinds of discovery that this version can read but not follow: which fields each has, and what they must hold.
//!
//! Source: the Prometheus documentation, "Configuration".

use super::http::{Auth, HttpClientConfig};
use super::shape::Kind::{
    Count, Duration, Flag, List, LooseUrl, Map, OneOf, OneOfAnyCase, Secret, Text, TextMap, Texts, Url,
};
use super::shape::{Around, Client, Field, Section, Shape, may, must, no_check};
use gnomon_model::relabel::NameRules;
use gnomon_model::yaml::{Fields, Mark, Out, YamlError};
use std::path::Path;

/// A `*_sd_configs` section of a kind that is not supported yet.
#[derive(Clone, Debug, PartialEq)]
pub struct UnsupportedDiscovery {
    /// `kubernetes_sd_configs`
    pub section: &'static str,
    /// Where its list begins.
    pub mark: Mark,
    /// Its entries, secrets masked, for showing the configuration.
    pub entries: Out,
}

/// Takes all of them from among the fields of a section.
///
/// # Errors
/// When one is malformed.
pub(super) fn read_others(fields: &mut Fields<'_>, dir: &Path) -> Result<Vec<UnsupportedDiscovery>, YamlError> {
    let around = Around {
        dir,
        names: NameRules::Utf8,
    };
    let mut found = Vec::new();
    for (section, shape) in KINDS {
        let Some(at) = fields.get(section) else {
            continue;
        };
        let entries: Vec<Out> = at
            .items()?
            .iter()
            .map(|at| Ok(Out::Map(shape.read(at, around)?.fields)))
            .collect::<Result<_, _>>()?;
        if !entries.is_empty() {
            found.push(UnsupportedDiscovery {
                section,
                mark: at.mark(),
                entries: Out::List(entries),
            });
        }
    }
    Ok(found)
}

/// In the order in which Prometheus lists them.
const KINDS: &[(&str, &Shape)] = &[
    ("aws_sd_configs", &AWS),
    ("azure_sd_configs", &AZURE),
    ("consul_sd_configs", &CONSUL),
    ("digitalocean_sd_configs", &PLAIN),
    ("dns_sd_configs", &DNS),
    ("docker_sd_configs", &DOCKER),
    ("dockerswarm_sd_configs", &DOCKERSWARM),
    ("ec2_sd_configs", &EC2),
    ("eureka_sd_configs", &EUREKA),
    ("gce_sd_configs", &GCE),
    ("hetzner_sd_configs", &HETZNER),
    ("http_sd_configs", &HTTP),
    ("ionos_sd_configs", &IONOS),
    ("kubernetes_sd_configs", &KUBERNETES),
    ("kuma_sd_configs", &KUMA),
    ("lightsail_sd_configs", &LIGHTSAIL),
    ("linode_sd_configs", &LINODE),
    ("marathon_sd_configs", &MARATHON),
    ("nerve_sd_configs", &ZOOKEEPER),
    ("nomad_sd_configs", &NOMAD),
    ("oci_sd_configs", &OCI),
    ("openstack_sd_configs", &OPENSTACK),
    ("outscale_sd_configs", &OUTSCALE),
    ("ovhcloud_sd_configs", &OVHCLOUD),
    ("puppetdb_sd_configs", &PUPPETDB),
    ("scaleway_sd_configs", &SCALEWAY),
    ("serverset_sd_configs", &ZOOKEEPER),
    ("stackit_sd_configs", &STACKIT),
    ("triton_sd_configs", &TRITON),
    ("uyuni_sd_configs", &UYUNI),
    ("vultr_sd_configs", &PLAIN),
];

const REFRESH: Field = may("refresh_interval", Duration);
const PORT: Field = may("port", Count);

const PLAIN: Shape = Shape::new(&[PORT, REFRESH], Client::Http);

const FILTER: Shape = Shape::new(&[must("name", Text), must("values", Texts)], Client::None);

const AWS: Shape = Shape::new(
    &[
        must("role", OneOf(&["ec2", "ecs", "elasticache", "lightsail", "msk", "rds"])),
        may("endpoint", Text),
        may("region", Text),
        may("access_key", Text),
        may("secret_key", Secret),
        may("profile", Text),
        may("role_arn", Text),
        may("external_id", Text),
        may("clusters", Texts),
        may("request_concurrency", Count),
        PORT,
        REFRESH,
        may("filters", List(&FILTER)),
    ],
    Client::Http,
);

const EC2: Shape = Shape::new(
    &[
        may("endpoint", Text),
        may("region", Text),
        may("access_key", Text),
        may("secret_key", Secret),
        may("profile", Text),
        may("role_arn", Text),
        may("external_id", Text),
        REFRESH,
        PORT,
        may("filters", List(&FILTER)),
    ],
    Client::Http,
);

const LIGHTSAIL: Shape = EC2;

const AZURE: Shape = Shape::checked(
    &[
        may("environment", Text),
        PORT,
        must("subscription_id", Text),
        may("tenant_id", Text),
        may("client_id", Text),
        may("client_secret", Secret),
        REFRESH,
        may(
            "authentication_method",
            OneOf(&["OAuth", "ManagedIdentity", "SDK", "WorkloadIdentity"]),
        ),
        may("resource_group", Text),
    ],
    Client::Http,
    |azure| {
        if !matches!(azure.text("authentication_method"), "" | "OAuth") {
            return None;
        }
        let absent = ["tenant_id", "client_id", "client_secret"]
            .into_iter()
            .find(|name| !azure.has(name))?;
        Some((absent, format!("azure SD configuration requires a {absent}")))
    },
);

const CONSUL: Shape = Shape::new(
    &[
        may("server", Text),
        may("path_prefix", Text),
        may("token", Secret),
        may("datacenter", Text),
        may("namespace", Text),
        may("partition", Text),
        may("tag_separator", Text),
        may("scheme", OneOf(&["http", "https"])),
        may("username", Text),
        may("password", Secret),
        may("allow_stale", Flag),
        REFRESH,
        may("services", Texts),
        may("tags", Texts),
        may("node_meta", TextMap),
        may("filter", Text),
        may("health_filter", Text),
    ],
    Client::Http,
);

const DNS: Shape = Shape::checked(
    &[
        must("names", Texts),
        REFRESH,
        may("type", OneOfAnyCase(&["SRV", "A", "AAAA", "MX", "NS"])),
        PORT,
    ],
    Client::None,
    |dns| {
        let needs_port = !matches!(dns.text("type").to_ascii_uppercase().as_str(), "" | "SRV");
        (needs_port && !dns.has("port")).then(|| {
            (
                "port",
                "a port is required in DNS-SD configs for all record types except SRV".to_owned(),
            )
        })
    },
);

const DOCKER: Shape = Shape::new(
    &[
        must("host", Text),
        PORT,
        may("filters", List(&FILTER)),
        may("host_networking_host", Text),
        may("match_first_network", Flag),
        REFRESH,
    ],
    Client::Http,
);

const DOCKERSWARM: Shape = Shape::new(
    &[
        must("host", Text),
        must("role", OneOf(&["services", "tasks", "nodes"])),
        PORT,
        may("filters", List(&FILTER)),
        REFRESH,
    ],
    Client::Http,
);

const EUREKA: Shape = Shape::new(&[must("server", Url), REFRESH], Client::Http);

const GCE: Shape = Shape::new(
    &[
        must("project", Text),
        must("zone", Text),
        may("filter", Text),
        REFRESH,
        PORT,
        may("tag_separator", Text),
    ],
    Client::None,
);

const HETZNER: Shape = Shape::new(
    &[
        must("role", OneOf(&["hcloud", "robot"])),
        may("label_selector", Text),
        PORT,
        REFRESH,
    ],
    Client::Http,
);

const HTTP: Shape = Shape::new(&[must("url", Url), REFRESH], Client::Http);

const IONOS: Shape = Shape::new(&[must("datacenter_id", Text), PORT, REFRESH], Client::Http);

const SELECTOR: Shape = Shape::checked(
    &[
        must("role", OneOf(KUBERNETES_ROLES)),
        may("label", Text),
        may("field", Text),
    ],
    Client::None,
    |selector| {
        // Every part of a field selector compares a field with a value.
        let bad = selector
            .text("field")
            .split(',')
            .find(|part| !part.is_empty() && !part.contains('='))?;
        Some((
            "field",
            format!("{bad:?} is not a field selector; known operators are '=', '==' and '!='"),
        ))
    },
);

const KUBERNETES_ROLES: &[&str] = &["node", "pod", "service", "endpoints", "endpointslice", "ingress"];
const NAMESPACES: Shape = Shape::new(&[may("own_namespace", Flag), may("names", Texts)], Client::None);
const ATTACH: Shape = Shape::new(&[may("node", Flag), may("namespace", Flag)], Client::None);

const KUBERNETES: Shape = Shape::checked(
    &[
        may("api_server", LooseUrl),
        must("role", OneOf(KUBERNETES_ROLES)),
        may("kubeconfig_file", Text),
        may("namespaces", Map(&NAMESPACES)),
        may("selectors", List(&SELECTOR)),
        may("attach_metadata", Map(&ATTACH)),
    ],
    Client::Http,
    check_kubernetes,
);

fn check_kubernetes(section: &Section) -> Option<(&'static str, String)> {
    let custom_client = section
        .http
        .as_ref()
        .is_some_and(|http| *http != HttpClientConfig::default());
    let own_namespace = matches!(section.get("namespaces"), Some(Out::Map(fields))
        if fields.contains(&("own_namespace".to_owned(), Out::Bool(true))));
    let (api_server, kubeconfig) = (section.has("api_server"), section.has("kubeconfig_file"));
    let refuse = |name, message: &str| Some((name, message.to_owned()));
    if api_server && kubeconfig {
        return refuse(
            "kubeconfig_file",
            "cannot use 'kubeconfig_file' and 'api_server' simultaneously",
        );
    }
    if kubeconfig && custom_client {
        return refuse(
            "kubeconfig_file",
            "cannot use a custom HTTP client configuration together with 'kubeconfig_file'",
        );
    }
    if !api_server && custom_client {
        let message = "to use custom HTTP client configuration please provide the 'api_server' URL explicitly";
        return refuse("api_server", message);
    }
    if own_namespace && (api_server || kubeconfig) {
        let other = if api_server { "api_server" } else { "kubeconfig_file" };
        return Some((
            "namespaces",
            format!("cannot use '{other}' and 'namespaces.own_namespace' simultaneously"),
        ));
    }
    check_selectors(section)
}

fn check_selectors(section: &Section) -> Option<(&'static str, String)> {
    let Some(Out::List(selectors)) = section.get("selectors") else {
        return None;
    };
    let role = section.text("role");
    let allowed: &[&str] = match role {
        "pod" => &["pod", "node"],
        "endpoints" => &["pod", "service", "endpoints", "node"],
        "endpointslice" => &["pod", "service", "endpointslice", "node"],
        "service" => &["service"],
        "node" => &["node"],
        _ => &["ingress"],
    };
    let mut seen = Vec::new();
    for selector in selectors {
        let Out::Map(fields) = selector else { continue };
        let Some((_, Out::Text(of))) = fields.iter().find(|(name, _)| name == "role") else {
            continue;
        };
        if seen.contains(of) {
            return Some(("selectors", format!("duplicated selector role: {of}")));
        }
        if !allowed.contains(&of.as_str()) {
            let allowed = allowed.join(", ");
            return Some((
                "selectors",
                format!("{role} role supports only {allowed} selectors, not {of}"),
            ));
        }
        seen.push(of.clone());
    }
    None
}

const KUMA: Shape = Shape::new(
    &[
        must("server", Url),
        may("client_id", Text),
        REFRESH,
        may("fetch_timeout", Duration),
    ],
    Client::Http,
);

const LINODE: Shape = Shape::new(
    &[PORT, may("tag_separator", Text), may("region", Text), REFRESH],
    Client::Http,
);

const MARATHON: Shape = Shape::checked(
    &[
        must("servers", Texts),
        REFRESH,
        may("auth_token", Secret),
        may("auth_token_file", Text),
    ],
    Client::Http,
    |marathon| {
        let (token, file) = (marathon.has("auth_token"), marathon.has("auth_token_file"));
        let refuse = |name, message: &str| Some((name, message.to_owned()));
        match marathon.auth() {
            _ if token && file => refuse(
                "auth_token_file",
                "at most one of auth_token & auth_token_file must be configured",
            ),
            Some(Auth::Basic(_)) if token || file => refuse(
                "basic_auth",
                "at most one of basic_auth, auth_token & auth_token_file must be configured",
            ),
            Some(Auth::Authorization(_)) if token || file => refuse(
                "auth_token",
                "at most one of auth_token, auth_token_file & authorization must be configured",
            ),
            _ => None,
        }
    },
);

const NOMAD: Shape = Shape::new(
    &[
        may("server", Text),
        may("namespace", Text),
        may("region", Text),
        may("allow_stale", Flag),
        may("tag_separator", Text),
        REFRESH,
    ],
    Client::Http,
);

const OCI: Shape = Shape::new(
    &[
        may("auth", OneOf(&["api_key", "instance_principal", "workload_identity"])),
        must("region", Text),
        may("tenancy", Text),
        may("user", Text),
        may("fingerprint", Text),
        may("key_file", Text),
        may("key_passphrase", Secret),
        may("compartments", Texts),
        PORT,
        REFRESH,
    ],
    Client::Http,
);

const OPENSTACK: Shape = Shape::new(
    &[
        may("identity_endpoint", Text),
        may("username", Text),
        may("userid", Text),
        may("password", Secret),
        may("project_name", Text),
        may("project_id", Text),
        may("domain_name", Text),
        may("domain_id", Text),
        may("application_credential_name", Text),
        may("application_credential_id", Text),
        may("application_credential_secret", Secret),
        may("availability", OneOf(&["public", "admin", "internal"])),
        must("role", OneOf(&["hypervisor", "instance", "loadbalancer"])),
        must("region", Text),
        REFRESH,
        PORT,
        may("all_tenants", Flag),
    ],
    Client::Tls,
);

/// Exactly one of a secret and a file that holds it.
fn one_secret(section: &Section, inline: &'static str, file: &'static str) -> Option<(&'static str, String)> {
    match (section.has(inline), section.has(file)) {
        (true, true) => Some((file, format!("at most one of {inline} & {file} must be configured"))),
        (false, false) => Some((inline, format!("one of {inline} & {file} must be configured"))),
        _ => None,
    }
}

const OUTSCALE: Shape = Shape::checked(
    &[
        must("region", Text),
        must("access_key", Text),
        may("secret_key", Secret),
        may("secret_key_file", Text),
        may("endpoint", Url),
        PORT,
        REFRESH,
    ],
    Client::Http,
    |section| one_secret(section, "secret_key", "secret_key_file"),
);

const OVHCLOUD: Shape = Shape::new(
    &[
        may("endpoint", Text),
        must("application_key", Text),
        must("application_secret", Secret),
        must("consumer_key", Secret),
        must("service", OneOf(&["vps", "dedicated_server"])),
        REFRESH,
    ],
    Client::None,
);

const PUPPETDB: Shape = Shape::new(
    &[
        must("url", Url),
        must("query", Text),
        may("include_parameters", Flag),
        PORT,
        REFRESH,
    ],
    Client::Http,
);

const SCALEWAY: Shape = Shape::checked(
    &[
        must("project_id", Text),
        must("role", OneOf(&["instance", "baremetal"])),
        must("access_key", Text),
        may("secret_key", Secret),
        may("secret_key_file", Text),
        may("api_url", Url),
        may("zone", Text),
        may("name_filter", Text),
        may("tags_filter", Texts),
        PORT,
        REFRESH,
    ],
    Client::Http,
    |section| one_secret(section, "secret_key", "secret_key_file"),
);

const STACKIT: Shape = Shape::new(
    &[
        may("project", Text),
        may("region", Text),
        may("endpoint", Url),
        PORT,
        REFRESH,
        may("service_account_key", Secret),
        may("service_account_key_path", Text),
        may("private_key", Secret),
        may("private_key_path", Text),
        may("credentials_file_path", Text),
    ],
    Client::Http,
);

const TRITON: Shape = Shape::new(
    &[
        must("account", Text),
        may("role", OneOf(&["container", "cn"])),
        must("dns_suffix", Text),
        must("endpoint", Text),
        may("groups", Texts),
        PORT,
        REFRESH,
        may("version", Count),
    ],
    Client::Tls,
);

const UYUNI: Shape = Shape::new(
    &[
        must("server", Text),
        must("username", Text),
        must("password", Secret),
        may("entitlement", Text),
        may("separator", Text),
        REFRESH,
    ],
    Client::Http,
);

/// Nerve and serversets.
const ZOOKEEPER: Shape = Shape {
    fields: &[must("servers", Texts), must("paths", Texts), may("timeout", Duration)],
    client: Client::None,
    check: no_check,
};
