//! Blocks that are spread over the queriers: each is read by the one it belongs to, and by whoever asks where that one is
//! gone; the answers are the same.

use super::harness::{Http, client, eventually, remote};
use super::{Running, let_lead, places, replicas_at};
use gnomon_proto::v1::block_record::State;

const HOUR_MS: i64 = 3_600_000;
const WINDOWS: i64 = 6;
const SERIES: usize = 40;
const STEP_MS: i64 = 10 * 60_000;

/// The sum over the nodes of a metric's line that begins so.
async fn sum(nodes: &[Running], begin: &str) -> f64 {
    let mut sum = 0.0;
    for node in nodes {
        let (_, metrics) = node.http.get("/metrics").await;
        let line = metrics.lines().find(|line| line.starts_with(begin));
        sum += line
            .and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .unwrap_or(0.0);
    }
    sum
}

async fn write(http: &Http, start_ms: i64) {
    for step in 0..WINDOWS * 2 * HOUR_MS / STEP_MS {
        let at = start_ms + step * STEP_MS;
        let series = (0..SERIES).map(|i| {
            let n = format!("n{i}");
            let labels = [("__name__", "old"), ("instance", n.as_str()), ("job", "j")];
            remote::time_series(&labels, &[(at, ((step * 1000) as f64 + i as f64).sqrt())])
        });
        remote::send_until_taken(http, &remote::body(series.collect())).await;
    }
}

const READ_ELSEWHERE: &str = "gnomon_querier_block_reads_total{read=\"elsewhere\"}";
const READ_INSTEAD: &str = "gnomon_querier_block_reads_total{read=\"instead\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_read_by_the_queriers_that_they_belong_to() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut places = places(folder.path());
    for place in &mut places {
        let flags = ["--ingest.seal-quiet=1s", "--query.small-block-size=0"];
        place.flags.extend(flags.map(str::to_owned));
    }
    let mut nodes = replicas_at(places).await;
    let_lead(&nodes, nodes[0].id).await;
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let start_ms = now_ms.div_euclid(2 * HOUR_MS) * 2 * HOUR_MS - 24 * HOUR_MS;
    write(&nodes[0].http, start_ms).await;
    let end = (start_ms + WINDOWS * 2 * HOUR_MS) as f64 / 1000.0;
    let ask = async |node: &Running, query: &str| {
        let path = format!("/api/v1/query?query={}&time={end}", client::encode(query));
        let (code, text) = node.http.get(&path).await;
        assert!(code == 200 && !text.contains("warnings"), "{code} {text}");
        text
    };
    let queries = [
        "old[12h1s]",
        "sum by (instance) (sum_over_time(old[12h]))",
        "count(old offset 3h)",
    ];
    let mut expected = Vec::new();
    for query in queries {
        expected.push(ask(&nodes[0], query).await);
    }
    let samples = WINDOWS * 2 * HOUR_MS / STEP_MS;
    assert_eq!(
        expected[0].matches("],[").count() as i64 + SERIES as i64,
        SERIES as i64 * samples
    );
    eventually("all windows to be in blocks", async || {
        let live = |state: &gnomon_proto::v1::MetaState| {
            let live = state.blocks.iter().filter(|block| block.state == State::Live as i32);
            live.map(|block| block.samples).sum::<u64>()
        };
        let all = (SERIES as i64 * samples) as u64;
        let known = nodes
            .iter()
            .all(|node| live(&node.node.handle().meta_watch.borrow()) == all);
        known.then_some(())
    })
    .await;
    for node in &nodes {
        for (query, expected) in queries.iter().zip(&expected) {
            assert!(ask(node, query).await == *expected, "{query} of {}", node.id);
        }
    }
    assert!(sum(&nodes, READ_ELSEWHERE).await > 0.0);

    // One is gone: what belonged to it is read by whoever asks, and then by whom it belongs to next.
    let place = nodes.remove(2).kill().await;
    let asked = nodes.len();
    for node in &nodes {
        for (query, expected) in queries.iter().zip(&expected) {
            let text = eventually("a whole answer", async || {
                let path = format!("/api/v1/query?query={}&time={end}", client::encode(query));
                let (code, text) = node.http.get(&path).await;
                (code == 200 && !text.contains("warnings")).then_some(text)
            })
            .await;
            assert!(text == *expected, "{query} of {}, one of {asked}", node.id);
        }
    }
    println!(
        "{} blocks were read instead of the one that is gone",
        sum(&nodes, READ_INSTEAD).await
    );
    nodes.push(Running::start(place).await);
    for node in nodes {
        node.stop().await;
    }
}
