//! The file's contents, typed.

use super::{read, tls};
use gnomon_cluster::tls::{Files, Leaf, TlsError};
use gnomon_model::yaml::{self, At, Mark};
use gnomon_model::{SystemClock, TimestampMs};
use gnomon_scraper::config::Secret;
use http::{HeaderName, HeaderValue};
use rustls::crypto::SupportedKxGroup;
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A web configuration that was read and found good, but for the files that it names.
#[derive(Debug)]
pub struct WebConfig {
    /// None is plain text.
    pub(super) tls: Option<TlsServer>,
    /// Inside TLS.
    pub(super) http2: bool,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Names and bcrypt hashes; without any, nobody is asked.
    pub(super) users: BTreeMap<String, Secret>,
    pub(super) rate: Option<Rate>,
    /// What is taken and not acted on.
    pub(super) warnings: Vec<String>,
}

/// A token each `interval`, `burst` of them at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) interval: Duration,
    pub(super) burst: u64,
}

#[derive(Debug)]
pub(super) struct TlsServer {
    pub(super) cert: Source,
    pub(super) key: Source,
    pub(super) client_ca: Option<Source>,
    pub(super) client_auth: ClientAuth,
    /// None: any name will do.
    pub(super) allowed_sans: Option<Vec<String>>,
    /// Those of TLS 1.2 that were chosen, in that order, after all of TLS 1.3.
    pub(super) suites: Vec<SupportedCipherSuite>,
    pub(super) curves: Vec<&'static dyn SupportedKxGroup>,
    pub(super) prefer_server_suites: bool,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
}

/// As Go's `tls.ClientAuthType` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAuth {
    None,
    Request,
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

impl ClientAuth {
    pub(super) const fn is_required(self) -> bool {
        matches!(self, Self::RequireAny | Self::RequireAndVerify)
    }

    pub(super) const fn is_verified(self) -> bool {
        matches!(self, Self::VerifyIfGiven | Self::RequireAndVerify)
    }
}

/// A PEM text: in the web configuration, or in a file that it names.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) pem: Pem,
    /// Where in the web configuration it, or its name, stands.
    pub(super) mark: Mark,
    pub(super) field: String,
}

#[derive(Debug)]
pub(super) enum Pem {
    Inline(Secret),
    File(PathBuf),
}

/// A web configuration with the files that it names.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) config: WebConfig,
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// The certificate that is shown.
    leaf: Option<Leaf>,
}

impl Current {
    /// # Errors
    /// The first thing that is wrong: `web.yml:3:5: tls_server_config.cert_file: …`.
    pub(super) fn read(path: &Path, files: &mut Files) -> Result<Self, TlsError> {
        let text = String::from_utf8(files.read(path)?)
            .map_err(|_| TlsError::new(format!("{}: is not UTF-8 text", path.display())))?;
        let config = WebConfig::parse(&text, path)?;
        let built = config
            .tls
            .as_ref()
            .map(|tls| tls::server_config(tls, config.http2, path, files));
        let (tls, leaf) = built.transpose()?.unzip();
        Ok(Self {
            tls: tls.map(Arc::new),
            leaf,
            config,
        })
    }

    /// Itself, where it keeps out whom `before` keeps out, and its certificate is no worse.
    ///
    /// # Errors
    /// When it does not: a file that was emptied, or cut off, must not open the port. Or when its certificate has expired
    /// and the one in force has not.
    pub(super) fn in_place_of(self, before: Option<&Self>, path: &Path, now: TimestampMs) -> Result<Self, TlsError> {
        if let Some(lost) = before.and_then(|before| before.config.lost_by(&self.config)) {
            return Err(TlsError::new(format!("{}: {lost}", path.display())));
        }
        if let Some(leaf) = &self.leaf {
            leaf.admitted(before.and_then(|before| before.leaf.as_ref()), now)?;
        }
        Ok(self)
    }
}

impl WebConfig {
    /// What would no longer be asked of those who come, if `new` stood here; and what to do where that is meant.
    fn lost_by(&self, new: &Self) -> Option<&'static str> {
        let clients = |config: &Self| config.tls.as_ref().map_or(ClientAuth::None, |tls| tls.client_auth);
        let (had, has) = (clients(self), clients(new));
        if self.tls.is_some() && new.tls.is_none() {
            return Some("has no certificate in tls_server_config, and TLS is in force: only a restart turns it off");
        }
        if !self.users.is_empty() && new.users.is_empty() {
            return Some("has no basic_auth_users, and passwords are asked for: only a restart turns that off");
        }
        let names = |config: &Self| config.tls.as_ref().is_some_and(|tls| tls.allowed_sans.is_some());
        if names(self) && !names(new) {
            return Some(
                "has no tls_server_config.client_allowed_sans, and clients are told by their names: only a restart turns \
                 that off",
            );
        }
        let is_open = had.is_required() && !has.is_required();
        let is_unchecked = had == ClientAuth::RequireAndVerify && has != had;
        (is_open || is_unchecked).then_some(
            "tls_server_config.client_auth_type asks less of clients than what is in force: only a restart turns that off",
        )
    }

    /// Of a text that stands (or would stand) at `path`: names of files are relative to its folder.
    ///
    /// # Errors
    /// The first thing that is wrong, with file, line, column and field.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, TlsError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let read = || {
            let root = yaml::parse(text)?;
            read::root(At::root(&root).fields()?, folder)
        };
        read().map_err(|error| TlsError::new(format!("{}:{error}", path.display())))
    }
}

/// Reads a file and those that it names; gives what there is to say about them.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(path: &Path) -> Result<(String, Vec<String>), TlsError> {
    let current = Current::read(path, &mut Files::default())?;
    let mut config = current.config;
    let now = SystemClock::shared().now();
    config.warnings.extend(current.leaf.and_then(|leaf| leaf.trouble(now)));
    let clients = config.tls.as_ref().map_or(ClientAuth::None, |tls| tls.client_auth);
    let tls = match (current.tls.is_some(), clients) {
        (false, _) => "plain text",
        (true, ClientAuth::None) => "TLS",
        (true, ClientAuth::RequireAndVerify) => "TLS with client certificates",
        (true, _) => "TLS, client certificates not required or not checked",
    };
    let users = config.users.len();
    let plural = if users == 1 { "" } else { "s" };
    Ok((format!("{tls}, {users} user{plural}"), config.warnings))
}
