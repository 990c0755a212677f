//! The Prometheus HTTP API as a client sees it.

use serde_json::Value;
use std::collections::BTreeMap;

/// One server.
#[derive(Clone)]
pub struct Http {
    base: String,
    client: reqwest::Client,
}

/// Series by their label set in canonical text, each with its samples (seconds, value as printed).
pub type Series = BTreeMap<String, Vec<(f64, String)>>;

impl Http {
    pub fn new(base: &str) -> Self {
        let client = reqwest::Client::builder()
            .timeout(super::PATIENCE)
            .no_proxy()
            .build()
            .expect("a client");
        Self {
            base: base.to_owned(),
            client,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub async fn is_ready(&self) -> bool {
        self.client
            .get(self.url("/-/ready"))
            .send()
            .await
            .is_ok_and(|r| r.status().is_success())
    }

    /// Status code and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self
            .client
            .get(self.url(path))
            .send()
            .await
            .unwrap_or_else(|e| panic!("GET {path}: {e}"));
        let code = response.status().as_u16();
        (
            code,
            response.text().await.unwrap_or_else(|e| panic!("GET {path}: {e}")),
        )
    }

    pub async fn post(&self, path: &str, content_type: &str, body: Vec<u8>) -> (u16, String) {
        let request = self
            .client
            .post(self.url(path))
            .header("content-type", content_type)
            .body(body);
        let response = request.send().await.unwrap_or_else(|e| panic!("POST {path}: {e}"));
        let code = response.status().as_u16();
        (code, response.text().await.unwrap_or_default())
    }

    /// The `data` of a successful API call.
    pub async fn api(&self, path: &str) -> Value {
        let (code, body) = self.get(path).await;
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"));
        assert_eq!(
            (code, &answer["status"]),
            (200, &Value::from("success")),
            "{path}: {body}"
        );
        answer["data"].clone()
    }

    pub async fn query(&self, query: &str, time: f64) -> Value {
        self.api(&format!("/api/v1/query?query={}&time={time}", encode(query)))
            .await
    }

    pub async fn query_range(&self, query: &str, start: f64, end: f64, step: f64) -> Value {
        self.api(&format!(
            "/api/v1/query_range?query={}&start={start}&end={end}&step={step}",
            encode(query)
        ))
        .await
    }
}

/// Percent-encodes a query parameter.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A vector or matrix as a map.
pub fn series(data: &Value) -> Series {
    let mut found = Series::new();
    for row in data["result"].as_array().into_iter().flatten() {
        let labels: BTreeMap<_, _> = row["metric"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(n, v)| (n.clone(), v.as_str().unwrap_or_default().to_owned()))
            .collect();
        let one = |pair: &Value| {
            (
                pair[0].as_f64().unwrap_or(f64::NAN),
                pair[1].as_str().unwrap_or("?").to_owned(),
            )
        };
        let samples = match row.get("values") {
            Some(values) => values.as_array().into_iter().flatten().map(one).collect(),
            None => vec![one(&row["value"])],
        };
        assert!(
            found.insert(format!("{labels:?}"), samples).is_none(),
            "twice in one answer: {labels:?}"
        );
    }
    found
}
