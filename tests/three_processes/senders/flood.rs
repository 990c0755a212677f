//! More writers than a cluster serves at a time: what is beyond its bounds it refuses itself.

use crate::harness::{Http, remote};
use crate::trio::now_ms;
use gnomon_proto::v1::write_client::WriteClient;
use gnomon_proto::v1::write_response::Outcome;
use gnomon_proto::v1::{WriteRequest, WriteSample, WriteSeries};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Of a node, for remote write, OTLP over HTTP and gRPC: more than it works on of each at a time (docs/writing.md).
const HTTP_WRITERS: usize = 300;
const OTLP_WRITERS: usize = 300;
const GRPC_WRITERS: usize = 80;
/// For what was begun to be taken once all is well.
const TAKEN_WITHIN: Duration = Duration::from_secs(180);
/// Of a writer; a request has one sample of each.
const SERIES: usize = 20;
/// After this a request is made again.
const REQUEST_WITHIN: Duration = Duration::from_secs(20);
/// A writer that was refused waits so long. Less than is asked for: it is one that does not care.
const PAUSE: Duration = Duration::from_millis(300);

/// What became of its requests.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Samples.
    pub(crate) taken: AtomicU64,
    /// Requests, by the nodes.
    pub(crate) http_refused: AtomicU64,
    pub(crate) otlp_refused: AtomicU64,
    pub(crate) grpc_refused: AtomicU64,
}

impl Counts {
    pub(crate) fn each_refused(&self) -> [u64; 3] {
        [&self.http_refused, &self.otlp_refused, &self.grpc_refused].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Writers that run.
pub(crate) struct Flood {
    pub(crate) counts: Arc<Counts>,
    stop: CancellationToken,
    writers: JoinSet<()>,
}

/// What one try came to.
enum Tried {
    Taken,
    Refused,
    /// It may be there or not.
    Unknown,
}

impl Flood {
    /// At nodes, each with its address for gRPC.
    pub(crate) fn start(nodes: &[(Http, String)]) -> Self {
        let mut flood = Self {
            counts: Arc::default(),
            stop: CancellationToken::new(),
            writers: JoinSet::new(),
        };
        for (node, (http, grpc)) in nodes.iter().enumerate() {
            for writer in 0..HTTP_WRITERS {
                let (http, name) = (http.clone(), format!("http-{node}-{writer}"));
                flood.begin(name, move |name, at_ms| over_http(http.clone(), name, at_ms));
            }
            for writer in 0..OTLP_WRITERS {
                let (http, name) = (http.clone(), format!("otlp-{node}-{writer}"));
                flood.begin(name, move |name, at_ms| over_otlp(http.clone(), name, at_ms));
            }
            let endpoint = Channel::from_shared(format!("http://{grpc}")).expect("an address");
            for writer in 0..GRPC_WRITERS {
                // One connection each, as of many clients.
                let client = WriteClient::new(endpoint.connect_lazy());
                let name = format!("grpc-{node}-{writer}");
                flood.begin(name, move |name, at_ms| over_grpc(client.clone(), name, at_ms));
            }
        }
        flood
    }

    /// A writer sends one request after the other, each until it is taken.
    fn begin<F>(&mut self, name: String, send: impl Fn(String, i64) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Tried> + Send,
    {
        let (counts, stop) = (Arc::clone(&self.counts), self.stop.clone());
        self.writers.spawn(async move {
            let refused = match name.split('-').next() {
                Some("http") => &counts.http_refused,
                Some("otlp") => &counts.otlp_refused,
                _ => &counts.grpc_refused,
            };
            let mut last_ms = 0;
            while !stop.is_cancelled() {
                let at_ms = now_ms().max(last_ms + 1);
                last_ms = at_ms;
                // What was begun is known to be there in the end, or not.
                loop {
                    match tokio::time::timeout(REQUEST_WITHIN, send(name.clone(), at_ms)).await {
                        Ok(Tried::Taken) => break,
                        Ok(Tried::Refused) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(Tried::Unknown) | Err(_) => {}
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                counts.taken.fetch_add(SERIES as u64, Ordering::Relaxed);
            }
        });
    }

    /// Ends when all that was begun is taken. How many samples that are.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.cancel();
        let taken = tokio::time::timeout(TAKEN_WITHIN, self.writers.join_all()).await;
        taken.expect("what the flood had begun is taken once all is well");
        self.counts.taken.load(Ordering::Relaxed)
    }
}

async fn over_http(http: Http, writer: String, at_ms: i64) -> Tried {
    let series = (0..SERIES).map(|n| {
        let n = n.to_string();
        let labels = [("__name__", "flood"), ("n", &n), ("writer", &writer)];
        remote::time_series(&labels, &[(at_ms, at_ms as f64)])
    });
    match remote::send(&http, remote::body(series.collect())).await {
        Ok((204, _)) => Tried::Taken,
        Ok((503, _)) => Tried::Refused,
        Ok((code, text)) => panic!("the flood was answered {code}: {text}"),
        Err(_) => Tried::Unknown,
    }
}

async fn over_otlp(http: Http, writer: String, at_ms: i64) -> Tried {
    let point = |n: usize| {
        format!(
            r#"{{"timeUnixNano":"{at_ms}000000","asDouble":{at_ms},"attributes":[
                 {{"key":"n","value":{{"stringValue":"{n}"}}}},{{"key":"writer","value":{{"stringValue":"{writer}"}}}}]}}"#
        )
    };
    let points: Vec<String> = (0..SERIES).map(point).collect();
    let body = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"name":"flood","gauge":{{"dataPoints":[{}]}}}}]}}]}}]}}"#,
        points.join(",")
    );
    let sent = http
        .client()
        .post(http.url("/api/v1/otlp/v1/metrics"))
        .header("content-type", "application/json")
        .body(body)
        .send();
    let Ok(answer) = sent.await else {
        return Tried::Unknown;
    };
    match (answer.status().as_u16(), answer.text().await) {
        (200, Ok(text)) if text == "{}" => Tried::Taken,
        (503, _) => Tried::Refused,
        (_, Err(_)) => Tried::Unknown,
        (code, Ok(text)) => panic!("the flood was answered {code}: {text}"),
    }
}

async fn over_grpc(mut client: WriteClient<Channel>, writer: String, at_ms: i64) -> Tried {
    match client.write(request(&writer, at_ms)).await {
        Ok(answer) => match answer.get_ref().outcome() {
            Outcome::Taken => Tried::Taken,
            outcome => panic!("the flood was answered {outcome:?}: {answer:?}"),
        },
        Err(status) if status.code() == tonic::Code::Unavailable && status.source().is_none() => Tried::Refused,
        Err(_) => Tried::Unknown,
    }
}

fn request(writer: &str, at_ms: i64) -> WriteRequest {
    let mut symbols = ["", "__name__", "flood", "n", "writer", writer]
        .map(str::to_owned)
        .to_vec();
    let timeseries = (0..SERIES).map(|n| {
        symbols.push(n.to_string());
        WriteSeries {
            labels_refs: vec![1, 2, 3, symbols.len() as u32 - 1, 4, 5],
            samples: vec![WriteSample {
                value: at_ms as f64,
                timestamp: at_ms,
                start_timestamp: 0,
            }],
            ..WriteSeries::default()
        }
    });
    let timeseries = timeseries.collect();
    WriteRequest {
        symbols,
        timeseries,
        ..WriteRequest::default()
    }
}
