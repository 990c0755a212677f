//! `--cluster.tls.*`: of the server, and of the tasks that ask a running cluster.

use clap::{Arg, ArgMatches};
use gnomon_cluster::tls::TlsFiles;
use std::path::PathBuf;

/// Flags, their names in the environment, what they are for.
pub(super) const FLAGS: [(&str, &str, &str); 3] = [
    (
        "cluster.tls.cert-file",
        "GNOMON_CLUSTER_TLS_CERT_FILE",
        "This node's certificate between nodes, PEM; with the two below, both sides of every connection show and check one.",
    ),
    (
        "cluster.tls.key-file",
        "GNOMON_CLUSTER_TLS_KEY_FILE",
        "The certificate's key, PEM.",
    ),
    (
        "cluster.tls.ca-file",
        "GNOMON_CLUSTER_TLS_CA_FILE",
        "The authorities of the cluster's certificates, PEM.",
    ),
];

pub(super) fn args() -> impl Iterator<Item = Arg> {
    FLAGS.iter().map(|(name, environment, help)| {
        Arg::new(*name)
            .long(*name)
            .env(*environment)
            .hide_env_values(true)
            .value_name("FILE")
            .help(*help)
    })
}

pub(super) fn of_matches(matches: &ArgMatches) -> Result<Option<TlsFiles>, String> {
    all_or_none(|name| matches.get_one::<String>(name).cloned())
}

/// # Errors
/// When some are given and others not.
pub(super) fn all_or_none(value: impl Fn(&str) -> Option<String>) -> Result<Option<TlsFiles>, String> {
    let values = FLAGS.map(|(name, _, _)| value(name).filter(|text| !text.is_empty()));
    if let [Some(cert), Some(key), Some(ca)] = &values {
        let [cert, key, ca] = [cert, key, ca].map(PathBuf::from);
        return Ok(Some(TlsFiles { cert, key, ca }));
    }
    let of = |given: bool| {
        let names = FLAGS.iter().zip(&values).filter(|(_, value)| value.is_some() == given);
        names
            .map(|((name, _, _), _)| format!("--{name}"))
            .collect::<Vec<_>>()
            .join(" and ")
    };
    if values.iter().all(Option::is_none) {
        return Ok(None);
    }
    Err(format!("{} needs {} too", of(true), of(false)))
}
