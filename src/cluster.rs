//! `gnomon cluster`: the cluster in tables that a person can read, and what an operator may ask of it.

use crate::flags::{Cluster, ClusterTask};
use crate::output;
use crate::query::{beginning, shown_url};
use anyhow::{Context, bail};
use gnomon_cluster::node::{SCRAPER_ASIDE, SCRAPER_LEAVING, SCRAPER_STARTING};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks at something that goes on.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Answers mostly come at once.
const SAY_AFTER: Duration = Duration::from_secs(5);
/// How long a node may take to show what it knows; while something goes on that is waited for, longer.
const SHOW_WITHIN: Duration = Duration::from_secs(10);
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// Runs the command; 1 where it could not be done.
#[must_use]
pub fn run(what: &Cluster) -> ExitCode {
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(carry_out(what)))
        .and_then(|text| output::say(&text));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::fail("gnomon cluster", &error);
            ExitCode::FAILURE
        }
    }
}

async fn carry_out(what: &Cluster) -> anyhow::Result<String> {
    let server = Server {
        url: what.server.trim_end_matches('/'),
        client: reqwest::Client::new(),
        reads_within: match what.task {
            ClusterTask::Status => SHOW_WITHIN,
            _ => LOOK_WITHIN,
        },
    };
    let said = match &what.task {
        ClusterTask::Status => return status(&server, what.json).await,
        ClusterTask::Drain { node, undo, wait } => drain(&server, *node, *undo, *wait).await?,
        ClusterTask::Move { shard, from, to, wait } => move_replica(&server, *shard, (*from, *to), *wait).await?,
        ClusterTask::Rebalance => rebalance(&server).await?,
        ClusterTask::Replicas { replicas } => {
            let pairs = [("replicas", replicas.to_string())];
            server.ask(Method::POST, "replicas", &pairs).await?;
            Said {
                words: format!("each shard is to have {replicas} replicas, as far as there are ingesters\n"),
                document: json!({"replicas": replicas}),
            }
        }
        ClusterTask::Reshard { shards } => {
            let pairs = [("shards", shards.to_string())];
            let change = server.ask(Method::POST, "reshard", &pairs).await?;
            Said {
                words: coming(&change).unwrap_or_else(|| format!("there are {shards} shards\n")),
                document: json!({"shards": shards, "change": change}),
            }
        }
        ClusterTask::CancelReshard => {
            let pairs = [("cancel", "true".to_owned())];
            let cancelled = server.ask(Method::POST, "reshard", &pairs).await?;
            Said {
                words: format!("placement epoch {} is called off\n", cancelled["calledOff"]),
                document: json!({"calledOff": cancelled["calledOff"]}),
            }
        }
        ClusterTask::Forget { node } => {
            let pairs = [("node", node.to_string())];
            server.ask(Method::POST, "forget", &pairs).await?;
            Said {
                words: format!("node {node} is forgotten\n"),
                document: json!({"node": node}),
            }
        }
    };
    Ok(match what.json {
        true => serde_json::to_string_pretty(&said.document)? + "\n",
        false => said.words,
    })
}

/// What a task has done: for people, and for machines.
struct Said {
    words: String,
    document: Value,
}

async fn drain(server: &Server<'_>, node: u64, undo: bool, wait: bool) -> anyhow::Result<Said> {
    let mut pairs = vec![("node", node.to_string())];
    if undo {
        pairs.push(("undo", "true".into()));
    }
    server.ask(Method::POST, "drain", &pairs).await?;
    let words = match (undo, wait) {
        (true, _) => format!("node {node} takes replicas again\n"),
        (false, false) => format!("node {node} is draining: gnomon cluster status shows how far it is\n"),
        (false, true) => {
            server
                .until(&format!("draining node {node}"), |s| s.left_on(node))
                .await?
        }
    };
    let document = json!({"node": node, "draining": !undo, "done": undo || wait});
    Ok(Said { words, document })
}

async fn move_replica(server: &Server<'_>, shard: u32, nodes: (u64, u64), wait: bool) -> anyhow::Result<Said> {
    let (from, to) = nodes;
    let pairs = [
        ("shard", shard.to_string()),
        ("from", from.to_string()),
        ("to", to.to_string()),
    ];
    let moved = server.ask(Method::POST, "move", &pairs).await?;
    let words = match wait {
        false => format!("shard {shard} moves from node {from} to node {to}\n"),
        true => {
            server
                .until(&format!("moving shard {shard}"), Shards::unsettled)
                .await?
        }
    };
    let document = json!({"shard": shard, "nodes": moved["nodes"], "done": wait});
    Ok(Said { words, document })
}

/// Until nothing is to be changed, and everything is as it was wished.
async fn rebalance(server: &Server<'_>) -> anyhow::Result<Said> {
    let (mut moved, mut seen) = (false, Vec::<Value>::new());
    loop {
        let planned = server.ask(Method::POST, "rebalance", &[]).await?;
        let is_planned = list_of(&planned["changes"]).next().is_some();
        // One that is planned twice is made once.
        let new: Vec<_> = list_of(&planned["changes"])
            .filter(|c| !seen.contains(c))
            .cloned()
            .collect();
        seen.extend(new);
        let shards = Shards(server.ask(Method::GET, "shards", &[]).await?);
        if !is_planned && shards.unsettled() == 0 {
            break;
        }
        moved = true;
        server.until("moving replicas", Shards::unsettled).await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let words = match moved {
        true => "everything is where it is to be\n",
        false => "everything was level\n",
    };
    Ok(Said {
        words: words.to_owned(),
        document: json!({"moved": moved, "changes": seen, "done": true}),
    })
}

/// What is on its way, in words; none where nothing is.
fn coming(change: &Value) -> Option<String> {
    let begins = gnomon_querier::Rfc3339(change["fromMs"].as_i64()?);
    Some(format!(
        "placement epoch {} with {} shards begins at {begins}: {} new shards are not open, {} shards before it not closed\n",
        change["epoch"], change["shards"], change["notOpen"], change["notClosed"]
    ))
}

struct Server<'a> {
    url: &'a str,
    client: reqwest::Client,
    /// A change may wait for the metadata group, which is said; what is only shown does not.
    reads_within: Duration,
}

impl Server<'_> {
    async fn ask(&self, method: Method, path: &str, pairs: &[(&str, String)]) -> anyhow::Result<Value> {
        let text = format!("{}/api/v1/cluster/{path}", self.url);
        let mut url = Url::parse(&text)
            .with_context(|| format!("--server {:?} is no URL like http://host:port", shown_url(self.url)))?;
        for (name, value) in pairs {
            url.query_pairs_mut().append_pair(name, value);
        }
        let (server, is_read) = (shown_url(self.url), method == Method::GET);
        let asking = async {
            let answer = self.client.request(method, url.clone()).send().await;
            let answer = answer.with_context(|| format!("{server} cannot be asked"))?;
            let status = answer.status();
            anyhow::Ok((status, answer.text().await.context("the answer ended early")?))
        };
        let mut asking = std::pin::pin!(asking);
        let first = if is_read { self.reads_within } else { SAY_AFTER };
        let (status, body) = match tokio::time::timeout(first, &mut asking).await {
            Ok(answer) => answer?,
            Err(_) if is_read => bail!("{server} has not answered within {} s", first.as_secs()),
            Err(_) => {
                output::tell(format_args!(
                    "{server} has not answered yet: without most voters of the metadata group nothing can be changed \
                     (gnomon cluster status)"
                ));
                asking.await?
            }
        };
        let Ok(mut answer) = serde_json::from_str::<Value>(&body) else {
            bail!("{} answers {status}: {}", shown_url(url.as_str()), beginning(&body));
        };
        if answer["status"] == "success" {
            return Ok(answer["data"].take());
        }
        bail!("{}", answer["error"].as_str().unwrap_or(&body))
    }

    /// Waits until nothing is left to do, and shows how far it is where somebody looks.
    async fn until(&self, doing: &str, left: impl Fn(&Shards) -> usize) -> anyhow::Result<String> {
        let is_watched = std::io::stderr().is_terminal();
        let mut most = 0;
        loop {
            let shards = Shards(self.ask(Method::GET, "shards", &[]).await?);
            let left = left(&shards);
            most = most.max(left);
            if is_watched {
                output::show(format_args!("\r{doing}: {} of {most} done ", most - left));
            }
            if left == 0 {
                if is_watched {
                    output::tell(format_args!(""));
                }
                return Ok(format!("{doing}: done\n"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What `/api/v1/cluster/shards` says.
struct Shards(Value);

impl Shards {
    fn all(&self) -> impl Iterator<Item = &Value> {
        self.0["shards"].as_array().into_iter().flatten()
    }

    fn left_on(&self, node: u64) -> usize {
        let has = |list: &Value| {
            list.as_array()
                .is_some_and(|ids| ids.iter().any(|id| id.as_u64() == Some(node)))
        };
        let of_shards = self.all().filter(|s| has(&s["wished"]) || has(&s["voters"])).count();
        of_shards + usize::from(has(&self.0["metadata"]["voters"]))
    }

    fn unsettled(&self) -> usize {
        self.all().filter(|s| s["settled"] != true).count()
    }
}

async fn status(server: &Server<'_>, json: bool) -> anyhow::Result<String> {
    let nodes = server.ask(Method::GET, "nodes", &[]).await?;
    let shards = server.ask(Method::GET, "shards", &[]).await?;
    let ring = server.ask(Method::GET, "ring", &[]).await?;
    if json {
        let all = json!({"nodes": nodes, "shards": shards, "ring": ring});
        return Ok(serde_json::to_string_pretty(&all)? + "\n");
    }
    shown(&nodes, &shards, &ring)
}

fn shown(nodes: &Value, shards: &Value, ring: &Value) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(text, "cluster {}", word(&nodes["clusterId"]))?;
    let scrapes = |id: &Value| {
        let mut scrapers = ring["scrapers"].as_array().into_iter().flatten();
        scrapers.any(|node| node["id"] == *id)
    };
    let mut table = Table::new(&[
        "NODE", "ADDRESS", "STATE", "ZONE", "ROLES", "REPLICAS", "LEADS", "VERSION",
    ]);
    for node in nodes["nodes"].as_array().into_iter().flatten() {
        let leads = list_of(&shards["shards"]).filter(|s| s["leader"] == node["id"]).count();
        let mut roles = words(&node["roles"]);
        if node["metadataVoter"] == true {
            roles.push_str(" (metadata)");
        }
        let other_roles = [
            (SCRAPER_ASIDE, "scraper (its clock is wrong)"),
            (SCRAPER_STARTING, "scraper (starting)"),
            (SCRAPER_LEAVING, "scraper (stopping)"),
        ];
        if let Some((role, shown)) = other_roles.iter().find(|(role, _)| roles.contains(role)) {
            roles = roles.replace(role, shown);
        } else if !scrapes(&node["id"]) && roles.contains("scraper") {
            roles = roles.replace("scraper", "scraper (not in the ring)");
        }
        table.row([
            word(&node["id"]),
            word(&node["address"]),
            word(&node["state"]),
            word(&node["zone"]),
            roles,
            word(&node["replicas"]),
            leads.to_string(),
            word(&node["version"]),
        ]);
    }
    table.write(&mut text)?;
    text.push('\n');
    let mut table = Table::new(&[
        "SHARD",
        "LEADER",
        "VOTERS",
        "WISHED",
        "TERM",
        "COMMITTED",
        "BEHIND",
        "STATE",
    ]);
    let mut row = |name: String, group: &Value| {
        let behind = list_of(&group["members"]).map(|m| (word(&m["node"]), m["behind"].as_u64().unwrap_or(0)));
        let behind: Vec<String> = behind
            .filter(|(_, n)| *n > 0)
            .map(|(node, n)| format!("{node}:{n}"))
            .collect();
        let state = match (group["leader"].is_null(), group["settled"] == true) {
            (true, _) => "no leader",
            _ if group["committed"].is_null() => "leader does not answer",
            (false, true) => "ok",
            (false, false) => "moving",
        };
        table.row([
            name,
            word(&group["leader"]),
            words(&group["voters"]),
            words(&group["wished"]),
            word(&group["term"]),
            word(&group["committed"]),
            behind.join(" "),
            state.to_owned(),
        ]);
    };
    row("metadata".to_owned(), &shards["metadata"]);
    for shard in list_of(&shards["shards"]) {
        row(word(&shard["shard"]), shard);
    }
    table.write(&mut text)?;
    if let Some(coming) = coming(&shards["epochChange"]) {
        text.push('\n');
        text.push_str(&coming);
    }
    Ok(text)
}

fn list_of(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn words(value: &Value) -> String {
    let all: Vec<String> = list_of(value).map(word).collect();
    if all.is_empty() { "-".into() } else { all.join(",") }
}

/// Columns as wide as what is in them.
struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    fn new(head: &[&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
        }
    }

    fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; N] = std::array::from_fn(width);
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                write!(line, "{cell:width$}  ")?;
            }
            writeln!(text, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_only_shown_is_not_waited_for_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server {
            url: &url,
            client: reqwest::Client::new(),
            reads_within: Duration::from_millis(100),
        };
        let error = status(&server, true).await.unwrap_err().to_string();
        assert!(error.contains("has not answered within"), "{error}");
    }

    #[test]
    fn the_status_is_two_tables() {
        let nodes = json!({"clusterId": "2a", "nodes": [
            {"id": 1, "address": "10.0.0.1:9095", "state": "live", "zone": "", "roles": ["scraper", "ingester"],
             "replicas": 2, "version": "0.1.0", "metadataVoter": true},
            {"id": 12, "address": "10.0.0.2:9095", "state": "silent", "zone": "b", "roles": ["scraper"],
             "replicas": 0, "version": "0.1.0", "metadataVoter": false},
            {"id": 13, "address": "10.0.0.3:9095", "state": "live", "zone": "", "roles": [SCRAPER_ASIDE],
             "replicas": 0, "version": "0.1.0", "metadataVoter": false},
        ]});
        let shards = json!({"metadata": {"leader": 1, "voters": [1], "wished": [], "term": 3, "committed": 10,
             "settled": true, "members": []},
            "shards": [
            {"shard": 0, "leader": 1, "voters": [1, 2], "wished": [1, 3], "term": 2, "committed": 100,
             "settled": false, "members": [{"node": 1, "behind": 0}, {"node": 2, "behind": 7}]},
            {"shard": 1, "leader": null, "voters": [], "wished": [1], "term": 0, "committed": 0, "settled": false,
             "members": []},
        ]});
        let ring = json!({"scrapers": [{"id": 1}]});
        let text = shown(&nodes, &shards, &ring).unwrap();
        let expected = "\
cluster 2a
NODE  ADDRESS        STATE   ZONE  ROLES                         REPLICAS  LEADS  VERSION
1     10.0.0.1:9095  live    -     scraper,ingester (metadata)   2         1      0.1.0
12    10.0.0.2:9095  silent  b     scraper (not in the ring)     0         0      0.1.0
13    10.0.0.3:9095  live    -     scraper (its clock is wrong)  0         0      0.1.0

SHARD     LEADER  VOTERS  WISHED  TERM  COMMITTED  BEHIND  STATE
metadata  1       1       -       3     10                 ok
0         1       1,2     1,3     2     100        2:7     moving
1         -       -       1       0     0                  no leader
";
        assert_eq!(text, expected);
        let shards = Shards(shards);
        assert_eq!((shards.left_on(1), shards.left_on(2), shards.left_on(4)), (3, 1, 0));
        assert_eq!(shards.unsettled(), 2);
    }
}
