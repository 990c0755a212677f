//! What a request carries to authenticate. Files are read for every request, so that rotated secrets need no reload.

use super::error::{Via, innermost, reason};
use super::files::Files;
use super::{ClientError, HttpClient, shown_text};
use crate::config::http::{Auth, HttpClientConfig, OAuth2};
use crate::config::{SecretSource, TextSource};
use crate::scrape::AGENT;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use serde::Deserialize;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

pub(super) struct Authenticator {
    auth: Option<Auth>,
    token: Mutex<Option<Token>>,
    /// Who asks the authorization server, which has a `tls_config` and a `proxy_url` of its own.
    asks: OnceCell<Box<HttpClient>>,
    /// Whether that server looks for who asks in the form rather than in a header, once it is known.
    in_form: OnceLock<bool>,
    files: Files,
}

/// An access token of OAuth 2.
#[derive(Clone)]
struct Token {
    header: HeaderValue,
    expires: Option<Instant>,
}

/// The authorization server's answer (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default)]
    token_type: String,
    /// Seconds; some servers send them as text.
    expires_in: Option<serde_json::Value>,
}

impl TokenAnswer {
    /// As JSON, or as a form, in which servers answered before there was the standard.
    fn of(body: &[u8]) -> Result<Self, String> {
        let bad = match serde_json::from_slice::<Self>(body) {
            Ok(answer) if answer.access_token.is_empty() => "its access_token is empty".to_owned(),
            Ok(answer) => return Ok(answer),
            Err(error) => error.to_string(),
        };
        let mut answer = Self {
            access_token: String::new(),
            token_type: String::new(),
            expires_in: None,
        };
        for (name, value) in url::form_urlencoded::parse(body) {
            match &*name {
                "access_token" => answer.access_token = value.into_owned(),
                "token_type" => answer.token_type = value.into_owned(),
                "expires_in" => answer.expires_in = Some(serde_json::Value::String(value.into_owned())),
                _ => {}
            }
        }
        match answer.access_token.is_empty() {
            true => Err(bad),
            false => Ok(answer),
        }
    }

    /// None where it does not say, or says 0.
    fn lasts(&self) -> Option<Duration> {
        let seconds = match self.expires_in.as_ref()? {
            serde_json::Value::String(text) => text.trim().parse().ok()?,
            number => number.as_f64()?,
        };
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|lasts| !lasts.is_zero())
    }
}

/// A token is not used in its last seconds.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

fn sensitive(text: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| ClientError("the credentials have characters that no header may have".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Authenticator {
    pub(super) fn new(config: &HttpClientConfig, files: Files) -> Self {
        Self {
            auth: config.auth.clone(),
            token: Mutex::new(None),
            asks: OnceCell::new(),
            in_form: OnceLock::new(),
            files,
        }
    }

    async fn secret(&self, source: Option<&SecretSource>, what: &str) -> Result<String, ClientError> {
        match source {
            None => Ok(String::new()),
            Some(SecretSource::Inline(secret)) => Ok(secret.expose().to_owned()),
            Some(SecretSource::File(path)) => self.files.text(path, what).await,
        }
    }

    async fn text(&self, source: Option<&TextSource>, what: &str) -> Result<String, ClientError> {
        match source {
            None => Ok(String::new()),
            Some(TextSource::Inline(text)) => Ok(text.clone()),
            Some(TextSource::File(path)) => self.files.text(path, what).await,
        }
    }

    /// Adds the `Authorization` header, if any.
    pub(super) async fn add_to(&self, headers: &mut HeaderMap) -> Result<(), ClientError> {
        let value = match &self.auth {
            None => return Ok(()),
            Some(Auth::Basic(basic)) => {
                let user = self.text(basic.username.as_ref(), "basic auth username").await?;
                let password = self.secret(basic.password.as_ref(), "basic auth password").await?;
                basic_header(&user, &password)?
            }
            Some(Auth::Authorization(authorization)) => {
                let credentials = self
                    .secret(authorization.credentials.as_ref(), "authorization credentials")
                    .await?;
                sensitive(format!("{} {credentials}", authorization.scheme).trim())?
            }
            Some(Auth::OAuth2(oauth)) => self.token(oauth).await?,
        };
        headers.insert(AUTHORIZATION, value);
        Ok(())
    }

    /// Reads what [`Self::add_to`] would read, and sends nothing.
    pub(super) async fn read(&self) -> Result<(), ClientError> {
        match &self.auth {
            None => {}
            Some(Auth::Basic(basic)) => {
                self.text(basic.username.as_ref(), "basic auth username").await?;
                self.secret(basic.password.as_ref(), "basic auth password").await?;
            }
            Some(Auth::Authorization(authorization)) => {
                self.secret(authorization.credentials.as_ref(), "authorization credentials")
                    .await?;
            }
            Some(Auth::OAuth2(oauth)) => {
                self.secret(oauth.client_secret.as_ref(), "oauth2 client secret")
                    .await?;
                self.asks(oauth).await?;
            }
        }
        Ok(())
    }

    /// Over HTTP/1.1, as Prometheus asks.
    async fn asks(&self, oauth: &OAuth2) -> Result<reqwest::Client, ClientError> {
        let config = HttpClientConfig {
            tls: oauth.tls.clone(),
            proxy: oauth.proxy.clone(),
            enable_http2: false,
            ..HttpClientConfig::default()
        };
        let made = self
            .asks
            .get_or_try_init(|| async { HttpClient::new(&config).await.map(Box::new) });
        made.await?.current().await
    }

    async fn token(&self, oauth: &OAuth2) -> Result<HeaderValue, ClientError> {
        // Held over the request, so that many scrapes ask for one token once.
        let mut kept = self.token.lock().await;
        let valid = |t: &&Token| t.expires.is_none_or(|at| Instant::now() + EXPIRY_MARGIN < at);
        if let Some(token) = kept.as_ref().filter(valid) {
            return Ok(token.header.clone());
        }
        let password = self
            .secret(oauth.client_secret.as_ref(), "oauth2 client secret")
            .await?;
        let token = fetch_token(&self.asks(oauth).await?, oauth, &password, &self.in_form).await?;
        let header = token.header.clone();
        *kept = Some(token);
        Ok(header)
    }
}

fn basic_header(user: &str, password: &str) -> Result<HeaderValue, ClientError> {
    sensitive(&format!("Basic {}", base64(format!("{user}:{password}").as_bytes())))
}

fn token_form(oauth: &OAuth2) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if !oauth.scopes.is_empty() {
        form.append_pair("scope", &oauth.scopes.join(" "));
    }
    for (name, value) in &oauth.endpoint_params {
        form.append_pair(name, value);
    }
    form.finish()
}

/// A token's answer is no longer, by far.
const MOST_TOKEN_BYTES: usize = 1 << 20;
/// Characters of a server's answer in an error.
const MOST_SAID: usize = 500;

/// # Errors
/// Where it ends early, or is longer than an answer may be.
async fn bounded(mut answer: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| innermost(&e))? {
        if body.len() + chunk.len() > MOST_TOKEN_BYTES {
            return Err(format!("the answer has more than {MOST_TOKEN_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The client-credentials grant (RFC 6749, section 4.4.2).
async fn fetch_token(
    client: &reqwest::Client,
    oauth: &OAuth2,
    password: &str,
    in_form: &OnceLock<bool>,
) -> Result<Token, ClientError> {
    let shown = shown_text(&oauth.token_url);
    let failed = |why: String| ClientError(format!("oauth2: cannot fetch token from {shown}: {why}"));
    let via = Via::of(&oauth.proxy);
    let of_request = |error: reqwest::Error| match url::Url::parse(&oauth.token_url) {
        Ok(url) => failed(reason(&url, &via, &error)),
        Err(bad) => failed(bad.to_string()),
    };
    let form_encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let basic = basic_header(&form_encoded(&oauth.client_id), &form_encoded(password))?;
    let ask = async |basic: Option<&HeaderValue>, form: String| {
        let request = client
            .post(&oauth.token_url)
            .header(USER_AGENT, AGENT)
            .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        let request = match basic {
            Some(basic) => request.header(AUTHORIZATION, basic),
            None => request,
        };
        let answer = request.send().await.map_err(of_request)?;
        let status = answer.status();
        let body = bounded(answer).await.map_err(failed)?;
        Ok((status, body))
    };
    let with_secret = || {
        let mut form = url::form_urlencoded::Serializer::new(token_form(oauth));
        form.append_pair("client_id", &oauth.client_id);
        form.append_pair("client_secret", password);
        form.finish()
    };
    let known = in_form.get().copied();
    let (mut status, mut body) = match known {
        Some(true) => ask(None, with_secret()).await?,
        _ => ask(Some(&basic), token_form(oauth)).await?,
    };
    let mut is_in_form = known.unwrap_or(false);
    if known.is_none() && !status.is_success() {
        // Some servers look for who asks in the form only (section 2.3.1).
        let (again, answer) = ask(None, with_secret()).await?;
        if again.is_success() {
            (status, body, is_in_form) = (again, answer, true);
        }
    }
    if !status.is_success() {
        let said: String = String::from_utf8_lossy(&body).chars().take(MOST_SAID).collect();
        return Err(failed(format!("{status}: {}", said.trim())));
    }
    let answer = TokenAnswer::of(&body).map_err(failed)?;
    in_form.get_or_init(|| is_in_form);
    let lasts = answer.lasts();
    let scheme = match answer.token_type.to_ascii_lowercase().as_str() {
        "" | "bearer" => "Bearer".to_owned(),
        "mac" => "MAC".to_owned(),
        "basic" => "Basic".to_owned(),
        _ => answer.token_type,
    };
    Ok(Token {
        header: sensitive(&format!("{scheme} {}", answer.access_token))?,
        expires: lasts.and_then(|lasts| Instant::now().checked_add(lasts)),
    })
}

/// RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let padding = i > chunk.len();
            let index = (word >> (18 - 6 * i)) & 63;
            out.push(if padding {
                '='
            } else {
                char::from(ALPHABET[index as usize])
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    /// An authorization server that gives `answer` what each request has said, one connection each.
    async fn server(answer: impl Fn(&str) -> (u16, Vec<u8>) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut said = Vec::new();
                // Each request ends with its form, whose last field is known.
                while !String::from_utf8_lossy(&said).contains("end=1") {
                    if stream.read_buf(&mut said).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                let (status, body) = answer(&String::from_utf8_lossy(&said));
                let head = format!("HTTP/1.1 {status} Said\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body).await;
            }
        });
        url
    }

    async fn fetched(answer: impl Fn(&str) -> (u16, Vec<u8>) + Send + 'static) -> Result<String, String> {
        let oauth = OAuth2 {
            client_id: "me".to_owned(),
            token_url: server(answer).await,
            endpoint_params: [("end".to_owned(), "1".to_owned())].into_iter().collect(),
            ..OAuth2::default()
        };
        let in_form = OnceLock::new();
        fetch_token(&reqwest::Client::new(), &oauth, "word", &in_form)
            .await
            .ok();
        let token = fetch_token(&reqwest::Client::new(), &oauth, "word", &in_form).await;
        token
            .map(|token| token.header.to_str().unwrap().to_owned())
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn errors_do_not_tell_the_password_of_the_token_url() {
        for (token_url, told) in [
            (
                "http://tu:QSECRET@127.0.0.1:1/token",
                "from http://tu:***@127.0.0.1:1/token: dial tcp 127.0.0.1:1: connect: connection refused",
            ),
            (
                "http://tu:QSECRET@bad:host:1/token",
                "from ***@bad:host:1/token: invalid port number",
            ),
        ] {
            let oauth = OAuth2 {
                token_url: token_url.to_owned(),
                ..OAuth2::default()
            };
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let token = fetch_token(&client, &oauth, "word", &OnceLock::new()).await;
            let error = token.err().unwrap().to_string();
            assert!(error.ends_with(told), "{error}");
        }
    }

    #[tokio::test]
    async fn tokens_are_taken_from_servers_of_all_kinds() {
        let json = |text: &str| (200, format!(r#"{{"access_token":"t",{text}}}"#).into_bytes());
        assert_eq!(
            fetched(move |_| json(r#""expires_in":"60""#)).await.unwrap(),
            "Bearer t"
        );
        assert_eq!(fetched(move |_| json(r#""token_type":"mac""#)).await.unwrap(), "MAC t");
        let form = |_: &str| (200, b"access_token=t&token_type=bearer&expires_in=60".to_vec());
        assert_eq!(fetched(form).await.unwrap(), "Bearer t");
        let in_the_form = move |said: &str| match said.contains("client_secret=word") {
            true => json(r#""token_type":"Bearer""#),
            false => (401, b"{}".to_vec()),
        };
        assert_eq!(fetched(in_the_form).await.unwrap(), "Bearer t");
        let names_itself = |said: &str| match said.to_ascii_lowercase().contains("user-agent: gnomon/") {
            true => (200, b"access_token=t".to_vec()),
            false => (400, Vec::new()),
        };
        assert_eq!(fetched(names_itself).await.unwrap(), "Bearer t");
        let error = fetched(|_| (400, br#"{"error":"invalid_grant"}"#.to_vec()))
            .await
            .unwrap_err();
        assert!(error.contains("400") && error.contains("invalid_grant"), "{error}");
        let error = fetched(|_| (200, vec![b'a'; MOST_TOKEN_BYTES + 1])).await.unwrap_err();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
        for (text, seconds) in [("3600", 3600), ("3600.0", 3600), (r#"" 60""#, 60)] {
            let answer = format!(r#"{{"access_token":"t","expires_in":{text}}}"#);
            let lasts = TokenAnswer::of(answer.as_bytes()).unwrap().lasts();
            assert_eq!(lasts, Some(Duration::from_secs(seconds)), "{text}");
        }
        let error = fetched(|_| (200, br#"{"access_token":""}"#.to_vec()))
            .await
            .unwrap_err();
        assert!(error.contains("its access_token is empty"), "{error}");
        let error = fetched(|_| (200, b"{}".to_vec())).await.unwrap_err();
        assert!(error.contains("access_token"), "{error}");
    }
}
