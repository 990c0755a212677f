//! How to speak HTTP to a target (or any other peer): authentication, TLS, proxy, headers.

use super::secret::{Secret, SecretSource, TextSource};
use std::collections::BTreeMap;

/// The validated client options. `Default` is Prometheus' default: no authentication, redirects followed, HTTP/2 on.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpClientConfig {
    /// At most one kind.
    pub auth: Option<Auth>,
    pub tls: TlsConfig,
    pub follow_redirects: bool,
    pub enable_http2: bool,
    pub proxy: ProxyConfig,
    /// Extra headers by name; none of them is one that the client sets itself.
    pub headers: BTreeMap<String, HeaderValues>,
}

impl Default for HttpClientConfig {
    fn default() -> Self {
        Self {
            auth: None,
            tls: TlsConfig::default(),
            follow_redirects: true,
            enable_http2: true,
            proxy: ProxyConfig::default(),
            headers: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Auth {
    Basic(BasicAuth),
    /// `Authorization: <scheme> <credentials>`; `bearer_token` and `bearer_token_file` become this too.
    Authorization(Authorization),
    OAuth2(Box<OAuth2>),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct BasicAuth {
    pub username: Option<TextSource>,
    pub password: Option<SecretSource>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Authorization {
    /// `Bearer` unless set; never `Basic`.
    pub scheme: String,
    pub credentials: Option<SecretSource>,
}

/// The client-credentials grant (RFC 6749, section 4.4).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OAuth2 {
    pub client_id: String,
    pub client_secret: Option<SecretSource>,
    pub scopes: Vec<String>,
    pub token_url: String,
    pub endpoint_params: BTreeMap<String, String>,
    pub tls: TlsConfig,
    pub proxy: ProxyConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

/// An empty one means the system's roots and no client certificate. `cert` and `key` are both set or both not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsConfig {
    pub ca: Option<TextSource>,
    pub cert: Option<TextSource>,
    pub key: Option<SecretSource>,
    /// Used for SNI and for checking the certificate, in place of the host of the URL.
    pub server_name: Option<String>,
    pub insecure_skip_verify: bool,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxyConfig {
    pub url: Option<url::Url>,
    /// Comma-separated hosts that are reached without the proxy; only with `url`.
    pub no_proxy: Option<String>,
    /// Take `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` from the environment; never with `url`.
    pub from_environment: bool,
    /// Headers for the proxy's CONNECT request.
    pub connect_headers: BTreeMap<String, Vec<Secret>>,
}

/// All values of one extra header, in the order in which they are sent: values, secrets, contents of files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderValues {
    pub values: Vec<String>,
    pub secrets: Vec<Secret>,
    pub files: Vec<std::path::PathBuf>,
}
