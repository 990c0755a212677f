//! Certificates as tests need them: good, expired, of whatever name and authority.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use std::path::{Path, PathBuf};

/// A certificate and its key, in PEM.
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Pair {
    /// Writes both, as one replaces files of a service that runs: each whole, by renaming.
    pub(crate) fn write(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (folder.join("node.pem"), folder.join("node.key"));
        replace(&key, &self.key);
        replace(&cert, &self.cert);
        (cert, key)
    }
}

/// Replaces a file in one step.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// An authority.
pub(crate) struct Authority {
    pub(crate) cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap().pem();
        Self {
            cert,
            issuer: Issuer::new(params, key),
        }
    }

    /// For these host names and addresses.
    pub(crate) fn pair(&self, names: &[&str]) -> Pair {
        self.sign(params(names))
    }

    /// One whose time is over.
    pub(crate) fn expired(&self, names: &[&str]) -> Pair {
        let mut params = params(names);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.sign(params)
    }

    /// One with other names than those of hosts.
    #[allow(dead_code)]
    pub(crate) fn with_sans(&self, sans: Vec<SanType>) -> Pair {
        let mut params = params(&[]);
        params.subject_alt_names = sans;
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}
