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
/// What an account's services are called after it; sovereign clouds have other names.
const SERVICES: [&str; 2] = [".dfs.", ".blob."];
const PUBLIC_CLOUD: &str = "core.windows.net";

/// Credentials come from an account key, a shared access signature, a service principal, workload identity, or else the
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
    if let Some(key) = environment.first(&KEY) {
        builder = builder.with_access_key(key);
    }
    let emulates = environment.first(&["AZURE_STORAGE_USE_EMULATOR"]);
    let account = place.account.as_deref().or_else(|| environment.first(&ACCOUNT));
    match account {
        Some(account) => builder = builder.with_account(account),
        None if emulates.is_some_and(|text| text.eq_ignore_ascii_case("true")) => {}
        None => {
            return Err(wire.setting(format!(
                "the storage account is not named: set {}, or write abfss://CONTAINER@ACCOUNT.dfs.{PUBLIC_CLOUD}/PREFIX \
                 (a connection string is not read)",
                ACCOUNT[0]
            )));
        }
    }
    if let Some(endpoint) = place.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(endpoint) = environment.first(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"])
        && endpoint.starts_with("http://")
    {
        builder = builder.with_allow_http(true);
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
