//! Microsoft's emulator of Azure Blob Storage, as `make peers` fetches it, or as `GNOMON_AZURITE` names it. It verifies the
//! signature of every request.

use super::Server;
use super::dates::http_date;
use aws_lc_rs::hmac;
use base64::prelude::{BASE64_STANDARD, Engine};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The server's container.
pub const CONTAINER: &str = "gnomon-test";
/// The account that every Azurite has, and its key, which is no secret.
pub const ACCOUNT: &str = "devstoreaccount1";
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const VERSION: &str = "2023-11-03";

/// None (with a word) where it is missing; a failure where CI runs.
pub fn find() -> Option<PathBuf> {
    let named = std::env::var_os("GNOMON_AZURITE").map(PathBuf::from);
    let found = named.or_else(|| super::fetched("azurite/bin/azurite-blob"));
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "azurite (an emulator of Azure Blob Storage) is missing: run `make peers`"
        );
        eprintln!("skipped: azurite (an emulator of Azure Blob Storage) is missing (`make peers` fetches it)");
    }
    found
}

/// How a program is to be told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is an emulator.
    Emulator,
    /// It is any service at an endpoint, with an account and its key.
    Endpoint,
}

pub struct Azurite {
    program: PathBuf,
    port: u16,
    told: Told,
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Drop for Azurite {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Azurite {
    /// Returns once it has its container.
    pub fn start(program: PathBuf, told: Told) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let folder = tempfile::tempdir().unwrap();
        let child = None;
        let mut server = Self {
            program,
            port,
            told,
            child,
            folder,
        };
        server.start_again();
        server
    }

    /// Status and answer of a signed request without a body; 0 while nobody answers. `query` has its parameters in order,
    /// with values that need no escapes.
    fn request(&self, method: &str, query: &[(&str, &str)]) -> (u16, String) {
        let date = http_date();
        let path = format!("/{ACCOUNT}/{CONTAINER}");
        // The account is there twice: for its own sake, and as the first segment of an emulator's paths.
        let resource: String = query.iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
        let headers = format!("x-ms-date:{date}\nx-ms-version:{VERSION}");
        let signed = format!("{method}{}{headers}\n/{ACCOUNT}{path}{resource}", "\n".repeat(12));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(KEY).unwrap());
        let signature = BASE64_STANDARD.encode(hmac::sign(&key, signed.as_bytes()));
        let parameters: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let head = format!(
            "{method} {path}?{} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\
             x-ms-date: {date}\r\nx-ms-version: {VERSION}\r\nAuthorization: SharedKey {ACCOUNT}:{signature}\r\n\r\n",
            parameters.join("&"),
            self.port
        );
        let attempt = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(head.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let text = attempt().unwrap_or_default();
        let code = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        (code, text)
    }
}

impl Server for Azurite {
    fn url(&self) -> String {
        format!("az://{CONTAINER}")
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn environment_at(&self, endpoint: &str) -> Vec<(&'static str, String)> {
        match self.told {
            Told::Emulator => vec![
                ("AZURE_STORAGE_USE_EMULATOR", "true".into()),
                ("AZURITE_BLOB_STORAGE_URL", endpoint.into()),
            ],
            Told::Endpoint => vec![
                ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.into()),
                ("AZURE_STORAGE_ACCOUNT_KEY", KEY.into()),
                ("AZURE_STORAGE_ENDPOINT", format!("{endpoint}/{ACCOUNT}")),
            ],
        }
    }

    fn read_timeout(&self) -> &'static str {
        "AZURE_READ_TIMEOUT"
    }

    /// With a word beforehand: it writes what it knows of its blobs every few seconds, and at its end.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        for _ in 0..100 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    fn start_again(&mut self) {
        let child = Command::new(&self.program)
            .args(["--blobHost", "127.0.0.1", "--silent", "--disableTelemetry"])
            .args(["--blobPort", &self.port.to_string()])
            .arg("--location")
            .arg(self.folder.path())
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let mut last = (0, String::new());
        for _ in 0..600 {
            last = self.request("PUT", &[("restype", "container")]);
            // 409: it is there already.
            if matches!(last.0, 201 | 409) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("azurite did not make a container within a minute: {last:?}");
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        let (code, text) = self.request("GET", &[("comp", "list"), ("prefix", prefix), ("restype", "container")]);
        assert_eq!(code, 200, "{text}");
        let names = text.split("<Name>").skip(1);
        names
            .filter_map(|rest| rest.split_once("</Name>").map(|(name, _)| name.to_owned()))
            .collect()
    }
}
