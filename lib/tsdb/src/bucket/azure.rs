//! Azure Blob Storage: `az://container/prefix`, with the account from the environment, or
//! `abfss://container@account.dfs.core.windows.net/prefix`.

use super::suffix::WithSuffixRanges;
use super::wire::Wire;
use super::{Bucket, BucketError, Environment};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use url::Url;

/// The account, by the name that the store's client reads and the one that Azure's command line reads.
const ACCOUNT: [&str; 2] = ["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"];
const KEY: [&str; 3] = [
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_KEY",
];
const SIGNATURE: [&str; 2] = ["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"];
/// A service principal, workload identity, an emulator.
const OTHER_WAYS: [&str; 3] = [
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_STORAGE_USE_EMULATOR",
];
/// As the portal shows it: account, key and endpoint in one.
const CONNECTION: &str = "AZURE_STORAGE_CONNECTION_STRING";
/// What an account's services are called after it; sovereign clouds have other names.
const SERVICES: [&str; 2] = [".dfs.", ".blob."];
const PUBLIC_CLOUD: &str = "core.windows.net";

/// Credentials come from a connection string, an account key, a shared access signature, a service principal, workload identity, or else the
/// machine's managed identity.
pub(super) fn open(text: &str, url: &Url, environment: &Environment) -> Result<Bucket, BucketError> {
    let wire = Wire::new(text, url, "AZURE_", environment)?;
    let place = place(&wire, url)?;
    let mut builder = MicrosoftAzureBuilder::new();
    for (key, value) in environment.keys::<AzureConfigKey>("AZURE_") {
        builder = builder.with_config(key, value);
    }
    // By these names App Service tells of its own identity endpoint.
    if let Some(endpoint) = environment.first(&["IDENTITY_ENDPOINT"]) {
        builder = builder.with_msi_endpoint(endpoint);
    }
    let named = place.account.as_deref().or_else(|| environment.first(&ACCOUNT));
    // Who names another way in does not mean what may stand there as well.
    let has_own = [&KEY[..], &SIGNATURE, &OTHER_WAYS]
        .iter()
        .any(|names| environment.first(names).is_some());
    let connection = environment.first(&[CONNECTION]).filter(|_| !has_own);
    let connection = connection.map(|text| Connection::read(text, named)).transpose();
    let connection = connection.map_err(|what| wire.setting(format!("{CONNECTION}: {what}")))?;
    let connection = connection.unwrap_or_default();
    if let Some(key) = environment.first(&KEY).or(connection.key) {
        builder = builder.with_access_key(key);
    }
    if let Some(signature) = connection.signature {
        builder = builder.with_config(AzureConfigKey::SasKey, signature);
    }
    if connection.is_emulator {
        builder = builder.with_use_emulator(true);
    }
    let emulates = environment.first(&["AZURE_STORAGE_USE_EMULATOR"]);
    match connection.account.or(named) {
        Some(account) => builder = builder.with_account(account),
        None if connection.is_emulator || emulates.is_some_and(|text| text.eq_ignore_ascii_case("true")) => {}
        None => {
            return Err(wire.setting(format!(
                "the storage account is not named: set {} or {CONNECTION}, or write \
                 abfss://CONTAINER@ACCOUNT.dfs.{PUBLIC_CLOUD}/PREFIX",
                ACCOUNT[0]
            )));
        }
    }
    let of_environment = environment.first(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]);
    let of_connection = connection.endpoint.filter(|_| of_environment.is_none());
    if of_environment
        .or(of_connection.as_deref())
        .is_some_and(|endpoint| endpoint.starts_with("http://"))
    {
        builder = builder.with_allow_http(true);
    }
    if let Some(endpoint) = place.endpoint.or(of_connection) {
        builder = builder.with_endpoint(endpoint);
    }
    builder = builder
        .with_container_name(place.container)
        .with_retry(Wire::retries())
        .with_http_connector(wire.connector());
    for (key, limit) in wire.limits() {
        builder = builder.with_config(AzureConfigKey::Client(key), limit);
    }
    wire.bucket(builder.build().map(WithSuffixRanges))
}

/// What a connection string says. Format:
/// <https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string>.
#[derive(Default)]
struct Connection<'a> {
    account: Option<&'a str>,
    key: Option<&'a str>,
    signature: Option<&'a str>,
    /// Of blobs; `None` where the account says it.
    endpoint: Option<String>,
    is_emulator: bool,
}

impl<'a> Connection<'a> {
    /// Of the account that is `named` elsewhere, if it is. The error says nothing of what may be secret.
    fn read(text: &'a str, named: Option<&'a str>) -> Result<Self, String> {
        let mut read = Self::default();
        let (mut protocol, mut suffix, mut blobs) = ("https", None, None);
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err("it is NAME=VALUE;NAME=VALUE".to_owned());
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "accountname" => read.account = Some(value),
                "accountkey" => read.key = Some(value),
                "sharedaccesssignature" => read.signature = Some(value.trim_start_matches('?')),
                "defaultendpointsprotocol" => protocol = value,
                "endpointsuffix" => suffix = Some(value),
                "blobendpoint" => blobs = Some(value.trim_end_matches('/')),
                "usedevelopmentstorage" => read.is_emulator = value.eq_ignore_ascii_case("true"),
                // Endpoints of other services.
                _ => {}
            }
        }
        // A string with a signature may name its endpoint only.
        let of_endpoint = || Some(blobs?.split_once("://")?.1.split_once(".blob.")?.0);
        read.account = read.account.or_else(of_endpoint);
        match (read.account, named) {
            (Some(account), Some(named)) if account != named => {
                return Err(format!("it is of the account {account:?}, and {named:?} is named"));
            }
            (None, None) if !read.is_emulator => return Err("AccountName is missing".to_owned()),
            _ => read.account = read.account.or(named),
        }
        read.endpoint = blobs.map(str::to_owned).or_else(|| {
            let is_usual = protocol == "https" && suffix.is_none_or(|suffix| suffix == PUBLIC_CLOUD);
            let account = read.account.filter(|_| !is_usual)?;
            Some(format!(
                "{protocol}://{account}.blob.{}",
                suffix.unwrap_or(PUBLIC_CLOUD)
            ))
        });
        Ok(read)
    }
}

/// What a URL names.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    container: String,
    /// None where the environment has to name it.
    account: Option<String>,
    /// Of a cloud other than the public one.
    endpoint: Option<String>,
}

fn place(wire: &Wire<'_>, url: &Url) -> Result<Place, BucketError> {
    let host = wire.host("container")?;
    if url.username().is_empty() {
        if host.contains('.') {
            return Err(wire.bad_url(format!("{host:?} is no container's name: CONTAINER@{host}, perhaps")));
        }
        return Ok(Place {
            container: host.to_owned(),
            account: None,
            endpoint: None,
        });
    }
    let named = SERVICES.iter().find_map(|service| {
        let (account, cloud) = host.split_once(service)?;
        (!account.is_empty() && !account.contains('.') && !cloud.is_empty()).then_some((account, cloud))
    });
    let Some((account, cloud)) = named else {
        return Err(wire.bad_url(format!("{host:?} is not ACCOUNT.dfs.{PUBLIC_CLOUD}")));
    };
    Ok(Place {
        container: url.username().to_owned(),
        account: Some(account.to_owned()),
        endpoint: (cloud != PUBLIC_CLOUD).then(|| format!("https://{account}.blob.{cloud}")),
    })
}
