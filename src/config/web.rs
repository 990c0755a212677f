//! `--web.config.file`, in the format of Prometheus' exporter toolkit.

use super::ConfigError;
use gnomon_model::yaml::{self, At, Fields, YamlError};
use std::path::Path;

const NOT_SUPPORTED: &str = "is not supported: put a reverse proxy in front, and leave it out here";
const TLS_FIELDS: &[&str] = &[
    "cert",
    "key",
    "client_ca",
    "cert_file",
    "key_file",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "cipher_suites",
    "curve_preferences",
    "min_version",
    "max_version",
    "prefer_server_cipher_suites",
];

/// Refuses a web configuration that asks for protection which is not given; gives words about what has no effect.
///
/// # Errors
/// When the file cannot be read, is not a web configuration, or asks for TLS or passwords.
pub fn check_web(path: &Path) -> Result<Vec<String>, ConfigError> {
    let text = super::load::read_text(path)?;
    let read = || {
        let root = yaml::parse(&text)?;
        let mut warnings = Vec::new();
        let mut fields = At::root(&root).fields()?;
        read_root(&mut fields, &mut warnings)?;
        fields.finish()?;
        Ok(warnings)
    };
    let warnings: Vec<String> = read().map_err(|error| ConfigError::Invalid {
        path: path.to_owned(),
        error,
    })?;
    let place = |warning| format!("{}: {warning}", path.display());
    Ok(warnings.into_iter().map(place).collect())
}

fn read_root(root: &mut Fields<'_>, warnings: &mut Vec<String>) -> Result<(), YamlError> {
    if let Some(at) = root.get("tls_server_config") {
        let mut tls = at.fields()?;
        // An empty one asks for nothing.
        for name in TLS_FIELDS {
            if tls.get(name).is_some() {
                return Err(tls.error_at(name, format!("TLS {NOT_SUPPORTED}")));
            }
        }
        tls.finish()?;
    }
    if let Some(at) = root.get("basic_auth_users")
        && let Some((_, user)) = at.entries()?.first()
    {
        // The user's name is nobody's business in a log.
        let at_user = at.error(format!("a password {NOT_SUPPORTED}"));
        return Err(YamlError {
            mark: user.mark(),
            ..at_user
        });
    }
    if let Some(at) = root.get("http_server_config") {
        let mut http = at.fields()?;
        // HTTP/2 comes with TLS only.
        http.flag("http2", true)?;
        if let Some(headers) = http.get("headers")
            && !headers.text_map()?.is_empty()
        {
            warnings.push("http_server_config.headers has no effect: let a reverse proxy add them".to_owned());
        }
        http.finish()?;
    }
    if let Some(at) = root.get("rate_limit") {
        let mut limit = at.fields()?;
        limit.read("interval", At::duration)?;
        limit.read("burst", At::count)?;
        limit.finish()?;
        warnings.push("rate_limit has no effect".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.yml");
        std::fs::write(&path, text).unwrap();
        let bare = |text: String| text.replace(&format!("{}", path.display()), "web.yml");
        let shown = |warnings: Vec<String>| warnings.into_iter().map(bare).collect();
        check_web(&path).map(shown).map_err(|e| bare(e.to_string()))
    }

    #[test]
    fn what_asks_for_nothing_is_taken() {
        for text in [
            "",
            "{}\n",
            "# nothing\n",
            "tls_server_config: {}\nbasic_auth_users: {}\n",
            "tls_server_config:\nbasic_auth_users:\nhttp_server_config:\n  http2: false\n",
            "tls_server_config: {cert_file: }\n",
        ] {
            assert_eq!(check(text), Ok(Vec::new()), "{text}");
        }
        let said = check("http_server_config: {headers: {X-Frame-Options: deny}}").unwrap();
        assert_eq!(
            said,
            ["web.yml: http_server_config.headers has no effect: let a reverse proxy add them"]
        );
    }

    #[test]
    fn what_asks_for_protection_or_is_no_web_configuration_is_refused() {
        for (text, message) in [
            (
                "tls_server_config:\n  cert_file: x\n",
                "web.yml:2:3: tls_server_config.cert_file: TLS is not supported",
            ),
            (
                "{tls_server_config: {min_version: TLS12}}",
                "web.yml:1:22: tls_server_config.min_version: TLS is not",
            ),
            (
                "\"basic_auth_users\":\n  alice: $2y$10$x\n",
                "web.yml:2:10: basic_auth_users: a password is not",
            ),
            (
                "tls_config: {}\n",
                "web.yml:1:1: tls_config: unknown field \"tls_config\"",
            ),
            ("[]", "web.yml:1:1: a map belongs here"),
            (
                "http_server_config: {http2: maybe}",
                "web.yml:1:29: http_server_config.http2: \"maybe\" is neither",
            ),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
            assert!(!error.contains("alice"), "{error}");
        }
    }
}
