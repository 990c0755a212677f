//! Who may ask the stand-in of Google Cloud Storage: service accounts with their keys, and tokens of the metadata server.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
use serde_json::{Value, json};
use std::time::SystemTime;

const SCOPES: [&str; 2] = [
    "https://www.googleapis.com/auth/cloud-platform",
    "https://www.googleapis.com/auth/devstorage.read_write",
];
/// A token that a client signs itself may be valid for so long (<https://google.aip.dev/auth/4111>), seconds.
const LONGEST: u64 = 3600;
/// Clocks may differ by so much, seconds.
const SKEW: u64 = 300;

/// A service account with an RSA key of its own, made when it is.
pub struct ServiceAccount {
    email: String,
    key_id: String,
    private_pem: String,
    public: Vec<u8>,
}

impl ServiceAccount {
    pub fn new(email: &str) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let text = BASE64_STANDARD.encode(private.as_ref());
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|c| std::str::from_utf8(c).unwrap())
            .collect();
        Self {
            email: email.to_owned(),
            key_id: "key-1".to_owned(),
            private_pem: format!(
                "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
                lines.join("\n")
            ),
            public: pair.public_key().as_ref().to_vec(),
        }
    }

    /// The file that Google gives to the owner of a key; `base_url` is no part of Google's own.
    pub fn file(&self, base_url: &str) -> String {
        json!({
            "type": "service_account",
            "private_key_id": self.key_id,
            "private_key": self.private_pem,
            "client_email": self.email,
            "gcs_base_url": base_url,
        })
        .to_string()
    }

    /// Whether `token` is one that the account's key has signed, for this service and for now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, token: &str) -> Result<(), String> {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(format!("a token of {} parts", parts.len()));
        };
        let bytes = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|e| e.to_string());
        let document = |part: &str| serde_json::from_slice::<Value>(&bytes(part)?).map_err(|e| e.to_string());
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public);
        public
            .verify(format!("{header}.{claims}").as_bytes(), &bytes(signature)?)
            .map_err(|_| "the signature is not the key's".to_owned())?;
        let (header, claims) = (document(header)?, document(claims)?);
        let has = |document: &Value, name: &str, wanted: &[&str]| {
            let found = document[name].as_str().unwrap_or_default();
            let is_right = wanted.contains(&found);
            is_right.then_some(()).ok_or_else(|| format!("{name} is {found:?}"))
        };
        has(&header, "alg", &["RS256"])?;
        has(&header, "typ", &["JWT"])?;
        has(&header, "kid", &[&self.key_id])?;
        has(&claims, "iss", &[&self.email])?;
        has(&claims, "sub", &[&self.email])?;
        has(&claims, "scope", &SCOPES)?;
        let time = |name: &str| claims[name].as_u64().ok_or_else(|| format!("{name} is no number"));
        let (from, until, now) = (
            time("iat")?,
            time("exp")?,
            SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs(),
        );
        if from > now + SKEW || until <= now || until.saturating_sub(from) > LONGEST {
            return Err(format!("valid from {from} to {until}, it is {now}"));
        }
        Ok(())
    }
}
