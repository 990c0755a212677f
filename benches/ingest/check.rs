//! Whether a server has what it acknowledged: every series, with the value that was written last.

use super::load::{Load, METRICS, number_of};
use crate::side_by_side::servers::Server;
use serde_json::Value;

/// Runs one query; none where there is no good answer (yet).
pub(crate) async fn query(server: &Server, path: &str) -> Option<Value> {
    let url = server.http.url(&format!("{path}{}", server.query_more));
    let answer = server.http.client().get(url).send().await.ok()?;
    let body: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
    (body["status"] == "success").then(|| body["data"]["result"].clone())
}

pub(crate) fn instant(query: &str, at_ms: i64) -> String {
    let query = super::harness::client::encode(query);
    format!("/api/v1/query?query={query}&time={}", at_ms as f64 / 1000.0)
}

/// How many series are not there with their last value.
pub(crate) async fn wrong(server: &Server, load: &Load) -> usize {
    let mut right = 0;
    for metric in 0..METRICS {
        let path = instant(&format!("node_metric_{metric}_total"), load.end_ms);
        let result = query(server, &path).await.unwrap_or_default();
        right += result
            .as_array()
            .into_iter()
            .flatten()
            .filter(|r| is_right(r, load))
            .count();
    }
    load.series.abs_diff(right)
}

fn is_right(row: &Value, load: &Load) -> bool {
    let value = row["value"][1].as_str().and_then(|v| v.parse::<f64>().ok());
    let written = number_of(&row["metric"]).map(|i| load.value(i, load.rounds - 1));
    value.is_some() && value == written
}

/// Whether all series are counted.
pub(crate) async fn has_all(server: &Server, load: &Load) -> bool {
    let result = query(server, &instant("count({job=\"node\"})", load.end_ms)).await;
    let counted = result.and_then(|r| r[0]["value"][1].as_str()?.parse::<usize>().ok());
    counted == Some(load.series)
}
