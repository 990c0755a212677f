//! HTTP client options out of a section that holds them among its own fields.

use super::http::{
    Auth, Authorization, BasicAuth, HeaderValues, HttpClientConfig, OAuth2, ProxyConfig, TlsConfig, TlsVersion,
};
use super::secret::{Secret, SecretSource, TextSource};
use super::shape::without_credentials;
use gnomon_model::yaml::{At, Fields, YamlError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Headers that the client sets itself, in lower case.
const RESERVED_HEADERS: [&str; 18] = [
    "authorization",
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
    "x-prometheus-scrape-timeout-seconds",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
];

/// A path as the file means it: relative to the folder of the file.
pub fn join_dir(dir: &Path, path: &str) -> PathBuf {
    if path.is_empty() {
        PathBuf::new()
    } else {
        dir.join(path)
    }
}

fn file(fields: &mut Fields<'_>, name: &'static str, dir: &Path) -> Result<Option<PathBuf>, YamlError> {
    let path = fields.text(name)?;
    Ok((!path.is_empty()).then(|| join_dir(dir, &path)))
}

fn filled(fields: &mut Fields<'_>, name: &'static str) -> Result<Option<String>, YamlError> {
    let text = fields.text(name)?;
    Ok((!text.is_empty()).then_some(text))
}

/// The names of the three ways to give one secret or text.
#[derive(Clone, Copy)]
struct Ways {
    inline: &'static str,
    file: &'static str,
    reference: &'static str,
    /// What an error calls the section.
    section: &'static str,
}

/// Reads one of `x`, `x_file`; `x_ref` names a secret of a secret manager, which a server does not have.
fn one_way(fields: &mut Fields<'_>, ways: Ways, dir: &Path) -> Result<Option<TextSource>, YamlError> {
    let Ways {
        inline,
        file: file_name,
        reference,
        section,
    } = ways;
    let (text, path) = (filled(fields, inline)?, file(fields, file_name, dir)?);
    if filled(fields, reference)?.is_some() {
        let message = format!("there is no secret manager here to look this up in; use {inline} or {file_name}");
        return Err(fields.error_at(reference, message));
    }
    match (text, path) {
        (Some(_), Some(_)) => Err(fields.error_at(
            file_name,
            format!("at most one of {section}{inline}, {file_name} & {reference} must be configured"),
        )),
        (Some(text), None) => Ok(Some(TextSource::Inline(text))),
        (None, Some(path)) => Ok(Some(TextSource::File(path))),
        (None, None) => Ok(None),
    }
}

fn secret(source: TextSource) -> SecretSource {
    match source {
        TextSource::Inline(text) => SecretSource::Inline(Secret::new(text)),
        TextSource::File(path) => SecretSource::File(path),
    }
}

impl HttpClientConfig {
    /// Takes the client options from among the fields of a section; relative paths are relative to `dir`.
    ///
    /// # Errors
    /// When an option is malformed, or options exclude each other.
    pub fn read(fields: &mut Fields<'_>, dir: &Path) -> Result<Self, YamlError> {
        Ok(Self {
            auth: read_auth(fields, dir)?,
            tls: TlsConfig::read(fields, dir)?,
            follow_redirects: fields.flag("follow_redirects", true)?,
            enable_http2: fields.flag("enable_http2", true)?,
            proxy: ProxyConfig::read(fields)?,
            headers: fields
                .read("http_headers", |at| read_headers(at, dir))?
                .unwrap_or_default(),
        })
    }
}

fn read_auth(fields: &mut Fields<'_>, dir: &Path) -> Result<Option<Auth>, YamlError> {
    let basic = fields.read("basic_auth", |at| read_basic(at, dir))?;
    let oauth2 = fields.read("oauth2", |at| read_oauth2(at, dir))?;
    let authorization = fields.read("authorization", |at| read_authorization(at, dir))?;
    let token = filled(fields, "bearer_token")?;
    let token_file = file(fields, "bearer_token_file", dir)?;
    let bearer = token.is_some() || token_file.is_some();
    let refuse = |name: &str, message: &str| Err(fields.error_at(name, message));
    if token.is_some() && token_file.is_some() {
        return refuse(
            "bearer_token_file",
            "at most one of bearer_token & bearer_token_file must be configured",
        );
    }
    if bearer && (basic.is_some() || oauth2.is_some()) {
        let at = if token.is_some() {
            "bearer_token"
        } else {
            "bearer_token_file"
        };
        return refuse(
            at,
            "at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured",
        );
    }
    if bearer && authorization.is_some() {
        return refuse(
            "authorization",
            "authorization is not compatible with bearer_token & bearer_token_file",
        );
    }
    if usize::from(basic.is_some()) + usize::from(oauth2.is_some()) + usize::from(authorization.is_some()) > 1 {
        let at = if oauth2.is_some() { "oauth2" } else { "basic_auth" };
        return refuse(
            at,
            "at most one of basic_auth, oauth2 & authorization must be configured",
        );
    }
    let credentials = token
        .map(|token| SecretSource::Inline(Secret::new(token)))
        .or(token_file.map(SecretSource::File));
    let bearer = credentials.map(|c| Authorization {
        scheme: "Bearer".to_owned(),
        credentials: Some(c),
    });
    Ok(basic
        .map(Auth::Basic)
        .or(oauth2.map(|oauth2| Auth::OAuth2(Box::new(oauth2))))
        .or(authorization.or(bearer).map(Auth::Authorization)))
}

fn read_basic(at: &At<'_>, dir: &Path) -> Result<BasicAuth, YamlError> {
    let section = "basic_auth ";
    let mut fields = at.fields()?;
    let username = Ways {
        inline: "username",
        file: "username_file",
        reference: "username_ref",
        section,
    };
    let password = Ways {
        inline: "password",
        file: "password_file",
        reference: "password_ref",
        section,
    };
    let auth = BasicAuth {
        username: one_way(&mut fields, username, dir)?,
        password: one_way(&mut fields, password, dir)?.map(secret),
    };
    fields.finish()?;
    Ok(auth)
}

fn read_authorization(at: &At<'_>, dir: &Path) -> Result<Authorization, YamlError> {
    let mut fields = at.fields()?;
    let scheme = fields.text("type")?.trim().to_owned();
    if scheme.eq_ignore_ascii_case("basic") {
        let message = r#"authorization type cannot be set to "basic", use "basic_auth" instead"#;
        return Err(fields.error_at("type", message));
    }
    let ways = Ways {
        inline: "credentials",
        file: "credentials_file",
        reference: "credentials_ref",
        section: "authorization ",
    };
    let credentials = one_way(&mut fields, ways, dir)?.map(secret);
    fields.finish()?;
    Ok(Authorization {
        scheme: if scheme.is_empty() { "Bearer".to_owned() } else { scheme },
        credentials,
    })
}

fn read_oauth2(at: &At<'_>, dir: &Path) -> Result<OAuth2, YamlError> {
    let mut fields = at.fields()?;
    let ways = Ways {
        inline: "client_secret",
        file: "client_secret_file",
        reference: "client_secret_ref",
        section: "oauth2 ",
    };
    let oauth2 = OAuth2 {
        client_id: fields.text("client_id")?,
        client_secret: one_way(&mut fields, ways, dir)?.map(secret),
        scopes: fields.texts("scopes")?,
        token_url: fields.text("token_url")?,
        endpoint_params: fields.read("endpoint_params", At::text_map)?.unwrap_or_default(),
        tls: TlsConfig::read(&mut fields, dir)?,
        proxy: ProxyConfig::read(&mut fields)?,
    };
    if oauth2.client_id.is_empty() {
        return Err(fields.error_at("client_id", "oauth2 client_id must be configured"));
    }
    if oauth2.token_url.is_empty() {
        return Err(fields.error_at("token_url", "oauth2 token_url must be configured"));
    }
    fields.finish()?;
    Ok(oauth2)
}

impl TlsConfig {
    /// Takes `tls_config` from among the fields of a section.
    ///
    /// # Errors
    /// When an option is malformed, or options exclude each other.
    pub fn read(fields: &mut Fields<'_>, dir: &Path) -> Result<Self, YamlError> {
        Ok(fields.read("tls_config", |at| read_tls(at, dir))?.unwrap_or_default())
    }
}

fn read_tls(at: &At<'_>, dir: &Path) -> Result<TlsConfig, YamlError> {
    let section = "";
    let mut fields = at.fields()?;
    let ca = Ways {
        inline: "ca",
        file: "ca_file",
        reference: "ca_ref",
        section,
    };
    let cert = Ways {
        inline: "cert",
        file: "cert_file",
        reference: "cert_ref",
        section,
    };
    let key = Ways {
        inline: "key",
        file: "key_file",
        reference: "key_ref",
        section,
    };
    let tls = TlsConfig {
        ca: one_way(&mut fields, ca, dir)?,
        cert: one_way(&mut fields, cert, dir)?,
        key: one_way(&mut fields, key, dir)?.map(secret),
        server_name: filled(&mut fields, "server_name")?,
        insecure_skip_verify: fields.flag("insecure_skip_verify", false)?,
        min_version: fields.read("min_version", tls_version)?,
        max_version: fields.read("max_version", tls_version)?,
    };
    if tls.cert.is_some() && tls.key.is_none() {
        let message = "exactly one of key or key_file must be configured when a client certificate is provided";
        return Err(fields.error(message));
    }
    if tls.key.is_some() && tls.cert.is_none() {
        let message = "exactly one of cert or cert_file must be configured when a client key is provided";
        return Err(fields.error(message));
    }
    fields.finish()?;
    Ok(tls)
}

fn tls_version(at: &At<'_>) -> Result<TlsVersion, YamlError> {
    Ok(match at.text()? {
        "TLS10" => TlsVersion::Tls10,
        "TLS11" => TlsVersion::Tls11,
        "TLS12" => TlsVersion::Tls12,
        "TLS13" => TlsVersion::Tls13,
        other => return Err(at.error(format!("unknown TLS version: {other} (TLS10, TLS11, TLS12 or TLS13)"))),
    })
}

impl ProxyConfig {
    fn read(fields: &mut Fields<'_>) -> Result<Self, YamlError> {
        let headers = |at: &At<'_>| {
            let secrets = |at: &At<'_>| Ok(at.texts()?.into_iter().map(Secret::new).collect::<Vec<_>>());
            at.entries()?
                .iter()
                .map(|(name, at)| Ok(((*name).to_owned(), secrets(at)?)))
                .collect()
        };
        let proxy = Self {
            url: fields.read("proxy_url", proxy_url)?.flatten(),
            no_proxy: filled(fields, "no_proxy")?,
            from_environment: fields.flag("proxy_from_environment", false)?,
            connect_headers: fields.read("proxy_connect_header", headers)?.unwrap_or_default(),
        };
        let refuse = |name: &str, message: &str| Err(fields.error_at(name, message));
        if !proxy.connect_headers.is_empty() && !proxy.from_environment && proxy.url.is_none() {
            return refuse(
                "proxy_connect_header",
                "if proxy_connect_header is configured, proxy_url or proxy_from_environment must also be configured",
            );
        }
        if proxy.from_environment && proxy.url.is_some() {
            return refuse(
                "proxy_url",
                "if proxy_from_environment is configured, proxy_url must not be configured",
            );
        }
        if proxy.from_environment && proxy.no_proxy.is_some() {
            return refuse(
                "no_proxy",
                "if proxy_from_environment is configured, no_proxy must not be configured",
            );
        }
        if proxy.url.is_none() && proxy.no_proxy.is_some() {
            return refuse(
                "no_proxy",
                "if no_proxy is configured, proxy_url must also be configured",
            );
        }
        Ok(proxy)
    }
}

fn proxy_url(at: &At<'_>) -> Result<Option<url::Url>, YamlError> {
    let text = at.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    url::Url::parse(text)
        .map(Some)
        .map_err(|e| at.error(format!("{:?} is not a URL: {e}", without_credentials(text))))
}

fn read_headers(at: &At<'_>, dir: &Path) -> Result<BTreeMap<String, HeaderValues>, YamlError> {
    let mut headers = BTreeMap::new();
    for (name, at) in at.entries()? {
        if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(at.error(format!("setting header {name:?} is not allowed")));
        }
        let mut fields = at.fields()?;
        let values = HeaderValues {
            values: fields.texts("values")?,
            secrets: fields.texts("secrets")?.into_iter().map(Secret::new).collect(),
            files: fields.texts("files")?.iter().map(|path| join_dir(dir, path)).collect(),
        };
        fields.finish()?;
        headers.insert(name.to_owned(), values);
    }
    Ok(headers)
}
