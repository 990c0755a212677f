//! What travels of the metadata state.

use super::*;
use crate::layers::Retries;
use crate::meta::tests::large::{holding, large};
use gnomon_proto::v1::meta_server::{Meta, MetaServer};
use prost::Message;
use tonic::{Request, Response, Status};

/// A node alone whose state is that.
async fn node_with(machine: &Arc<MetaMachine>) -> super::Node {
    let replica = Replica {
        id: 1,
        leader: Arc::new(Mutex::new(1)),
        machine: machine.clone(),
        passed_on: Arc::default(),
    };
    serve(Services {
        meta: Some(Arc::new(replica)),
        ..Services::default()
    })
    .await
}

fn at(node: &super::Node) -> RemoteMeta {
    let options = ChannelOptions::default();
    let channel = crate::layers::connect(&node.address, &options, &metrics(), &clock()).unwrap();
    Remote::new(channel, Retries::new(1, metrics())).meta()
}

fn stage(machine: &MetaMachine, number: u64) {
    let block = BlockRecord {
        id: format!("{number:032x}"),
        tenant: "anonymous".into(),
        shard: 1,
        end_ms: 7_200_000,
        parts: vec![number],
        path: format!("blocks/anonymous/1/{number:032x}"),
        ..BlockRecord::default()
    };
    let command = MetaCommand {
        proposed_at_ms: 1,
        command: Some(Command::StageBlock(StageBlock {
            block: Some(block),
            cap_bytes: 0,
        })),
    };
    assert_eq!(machine.apply_command(&command).refused, "");
}

#[tokio::test]
async fn a_state_that_fits_no_message_is_read_and_followed() {
    let mut state = large(3, 4, 8_000);
    for block in &mut state.blocks {
        block.parts = (1 << 60..).take(1_000).collect();
    }
    assert!(state.encoded_len() > MAX_MESSAGE_BYTES);
    let machine = Arc::new(holding(&state));
    let node = node_with(&machine).await;
    let client = client(std::slice::from_ref(&node.address));
    assert!(client.read().await.unwrap() == machine.state());
    let (states, seen) = watch::channel(Arc::new(MetaState::default()));
    let stop = CancellationToken::new();
    let following = tokio::spawn(follow_meta(client.clone(), states, stop.clone()));
    let shown = || seen.borrow().revision == machine.state().revision;
    until(shown).await;
    for number in 1_000_000..1_000_005 {
        stage(&machine, number);
        until(shown).await;
        assert!(*seen.borrow() == machine.state());
    }
    assert!(client.read().await.unwrap() == machine.state());
    stop.cancel();
    following.await.unwrap();
}

/// A node of a build that knows nothing of changes.
struct Older(Arc<MetaMachine>);

#[async_trait]
impl Meta for Older {
    type WatchStream = BoxStream<'static, Result<MetaState, Status>>;
    type ReadChangesStream = BoxStream<'static, Result<MetaUpdate, Status>>;
    type WatchChangesStream = BoxStream<'static, Result<MetaUpdate, Status>>;

    async fn propose(&self, _: Request<MetaCommand>) -> Result<Response<MetaResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn propose_through(&self, _: Request<ProposeThroughRequest>) -> Result<Response<MetaResponse>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn read(&self, _: Request<MetaReadRequest>) -> Result<Response<MetaState>, Status> {
        Ok(Response::new(self.0.state().as_ref().clone()))
    }
    async fn watch(&self, request: Request<MetaWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let after = request.into_inner().after_revision;
        let states = tokio_stream::wrappers::WatchStream::new(self.0.watch());
        let newer = move |s: Arc<MetaState>| std::future::ready((s.revision > after).then(|| Ok(s.as_ref().clone())));
        Ok(Response::new(states.filter_map(newer).boxed()))
    }
    async fn read_changes(&self, _: Request<MetaChangesRequest>) -> Result<Response<Self::ReadChangesStream>, Status> {
        // What a node says to one that does not know its cluster yet.
        Err(ServiceError::OtherCluster("the call does not say which cluster it is for".into()).into())
    }
    async fn watch_changes(
        &self,
        _: Request<MetaChangesRequest>,
    ) -> Result<Response<Self::WatchChangesStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test]
async fn an_older_peer_tells_the_whole_state() {
    let machine = Arc::new(holding(&large(3, 4, 10)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Server::builder().add_service(MetaServer::new(Older(machine.clone())));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let client = client(&[address]);
    assert_eq!(client.read().await.unwrap(), machine.state());
    let mut states = client.watch_from(machine.state()).await.unwrap();
    stage(&machine, 1_000_000);
    let state = tokio::time::timeout(DEADLINE, states.next()).await.unwrap();
    assert_eq!(state.unwrap().unwrap(), machine.state());
}

/// Of this process, all threads, milliseconds.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // In ticks of 10 ms: user and system time.
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<f64>().unwrap() * 10.0)
        .sum()
}

/// Prints what docs/capacity.md says of watching.
/// `cargo test --workspace --lib -- --ignored --nocapture clients::tests::changes`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_ten_watchers_of_a_hundred_thousand_blocks_cost() {
    const WATCHERS: usize = 10;
    const CHANGES: u64 = 40;
    let machine = Arc::new(holding(&large(20, 100, 100_000)));
    let node = node_with(&machine).await;
    println!(
        "| each of {CHANGES} changes, {WATCHERS} watchers | bytes told | CPU of the node and its watchers |\n|---|---:|---:|"
    );
    let mut number = 1_000_000;
    for whole in [true, false] {
        let base = machine.state();
        let mut watching = Vec::new();
        for _ in 0..WATCHERS {
            let remote = at(&node);
            watching.push(match whole {
                true => remote.watch(base.revision).await.unwrap(),
                false => remote.watch_from(base.clone()).await.unwrap(),
            });
        }
        // Connections, and what is found out once.
        let mut bytes = 0;
        let mut history = crate::meta::changes::History::default();
        history.observe(&base);
        let mut before = 0.0;
        for round in 0..=CHANGES {
            if round == 1 {
                (before, bytes) = (cpu_ms(), 0);
            }
            let had = machine.state();
            number += 1;
            stage(&machine, number);
            let is = machine.state();
            for watch in &mut watching {
                assert_eq!(watch.next().await.unwrap().unwrap().revision, is.revision);
            }
            let spent = cpu_ms();
            bytes += match whole {
                true => is.encoded_len(),
                false => {
                    history.observe(&is);
                    history.since(had.revision).map(|piece| piece.encoded_len()).sum()
                }
            } * WATCHERS;
            before += cpu_ms() - spent;
        }
        let how = if whole { "a whole state" } else { "what differs" };
        let (bytes, cpu) = (bytes as u64 / CHANGES, (cpu_ms() - before) / CHANGES as f64);
        println!("| {how} | {bytes} | {cpu:.1} ms |");
    }
}
