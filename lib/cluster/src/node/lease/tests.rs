//! Scrapers whose clocks are off, before a metadata group whose leader's is right.

use super::*;
use async_trait::async_trait;
use futures::stream::BoxStream;
use gnomon_model::{ManualClock, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::{InitCluster, MetaResponse, PlacementEpoch, RaiseFeatureLevel, ShardReplicas};
use tokio::task::JoinHandle;

use crate::meta::MetaMachine;

const T0: i64 = 1_000_000_000;
const LEASE: Duration = Duration::from_secs(15);
const OFF_MS: i64 = 300_000;

/// A metadata group of one replica; its clock goes with tokio's.
struct Group {
    machine: MetaMachine,
    began: tokio::time::Instant,
}

impl Group {
    fn now_ms(&self) -> i64 {
        T0 + i64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    fn apply(&self, what: Command) -> MetaResponse {
        let proposal = MetaCommand {
            proposed_at_ms: self.now_ms(),
            ..command(what)
        };
        self.machine.apply_command(&proposal)
    }

    fn ring(&self) -> Vec<u64> {
        self.machine.state().scrapers.clone().unwrap_or_default().nodes
    }

    fn term(&self) -> u64 {
        self.machine.state().scrapers.clone().unwrap_or_default().term
    }

    fn node(&self, id: u64) -> Node {
        let state = self.machine.state();
        state.nodes.iter().find(|node| node.id == id).cloned().unwrap()
    }
}

#[async_trait]
impl MetaService for Group {
    async fn propose(&self, proposal: MetaCommand) -> Result<MetaResponse, ServiceError> {
        Ok(self.apply(proposal.command.unwrap()))
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        Ok(self.machine.state())
    }

    async fn watch(
        &self,
        _after: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        unreachable!("the machine's own watch is followed")
    }
}

fn node(id: u64, roles: &[&str]) -> Node {
    Node {
        id,
        address: format!("10.0.0.{id}:9095"),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        incarnation: 1,
        feature_level: CLOCKS_FEATURE_LEVEL.0,
        ..Node::default()
    }
}

struct Rig {
    group: Arc<Group>,
    clocks: Vec<Arc<ManualClock>>,
    scraping: Vec<watch::Sender<Scraping>>,
    over: Vec<watch::Receiver<Option<String>>>,
    stop: CancellationToken,
    renewals: Vec<JoinHandle<()>>,
}

impl Rig {
    /// An ingester, which is node 1, and scrapers from node 2 on.
    fn new(scrapers: usize) -> Self {
        let group = Arc::new(Group {
            machine: MetaMachine::default(),
            began: tokio::time::Instant::now(),
        });
        let founding = InitCluster {
            cluster_id: format!("{:032x}", 7),
            founder: 1,
            expect: 1,
            shards: vec![ShardReplicas {
                shard: 0,
                nodes: vec![1],
            }],
            epoch: Some(PlacementEpoch {
                epoch: 1,
                from_ms: i64::MIN,
                shards: vec![0],
                ..PlacementEpoch::default()
            }),
            ..InitCluster::default()
        };
        assert_eq!(group.apply(Command::InitCluster(founding)).refused, "");
        let mut rig = Self {
            group,
            clocks: Vec::new(),
            scraping: Vec::new(),
            over: Vec::new(),
            stop: CancellationToken::new(),
            renewals: Vec::new(),
        };
        rig.start(node(1, &["ingester"]));
        let level = CLOCKS_FEATURE_LEVEL.0;
        let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
        assert_eq!(rig.group.apply(raise).refused, "");
        for id in 2..2 + scrapers as u64 {
            rig.begin(node(id, &["scraper", "querier"]));
        }
        rig
    }

    /// One that can scrape at once.
    fn begin(&mut self, node: Node) {
        self.start(node);
        self.scraping.last().unwrap().send_replace(Scraping::Begun);
    }

    fn start(&mut self, node: Node) {
        let (scraping, told) = watch::channel(Scraping::Starting);
        self.scraping.push(scraping);
        let (ends, over) = watch::channel(None);
        self.over.push(over);
        let clock = Arc::new(ManualClock::at(TimestampMs(self.group.now_ms())));
        let renewal = Renewal {
            meta: self.group.clone(),
            only_scrapes: node.roles[0] == SCRAPER,
            node,
            lease: LEASE,
            clock: clock.clone(),
            states: self.group.machine.watch(),
            clock_off: Gauge::new("off", "seconds").unwrap(),
            scraping: told,
            over: ends,
        };
        let entering = renewal.registration(SCRAPER_STARTING, 0).command.unwrap();
        assert_eq!(self.group.apply(entering).refused, "");
        self.clocks.push(clock);
        self.renewals.push(tokio::spawn(renewal.run(self.stop.clone())));
    }

    /// Time passes, in steps as small as half of a second; each clock stays as far off as it is told to.
    async fn pass(&self, seconds: u64, off_ms: &[i64]) {
        for _ in 0..2 * seconds {
            for (clock, off_ms) in self.clocks.iter().zip(off_ms) {
                clock.set_wall(TimestampMs(self.group.now_ms() + off_ms));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_scraper_that_stepped_aside_lives_on_and_comes_back() {
    let rig = Rig::new(2);
    rig.pass(20, &[0, 0, 0]).await;
    assert_eq!(rig.group.ring(), [2, 3]);
    rig.pass(60, &[0, 0, OFF_MS]).await;
    assert_eq!(rig.group.ring(), [2]);
    let term = rig.group.term();
    // For longer than nodes are remembered that are silent.
    rig.pass(25 * 3600, &[0, 0, OFF_MS]).await;
    assert_eq!((rig.group.ring(), rig.group.term()), (vec![2], term), "and stays out");
    let aside = rig.group.node(3);
    assert!(aside.lease_until_ms >= rig.group.now_ms(), "alive");
    assert_eq!(aside.roles, [SCRAPER_ASIDE, "querier"]);
    assert!((aside.clock_off_ms - OFF_MS).abs() < 1_000);
    rig.pass(20, &[0, 0, 0]).await;
    assert_eq!((rig.group.ring(), rig.group.term()), (vec![2, 3], term + 1));
    assert_eq!(rig.group.node(3).roles, [SCRAPER, "querier"]);
    rig.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn scrapers_whose_clocks_are_all_wrong_go_on_until_there_is_one_that_is_right() {
    let mut rig = Rig::new(2);
    rig.pass(1, &[0, 0, 0]).await;
    let term = rig.group.term();
    let wrong = [0, OFF_MS, OFF_MS];
    for _ in 0..300 {
        rig.pass(1, &wrong).await;
        assert_eq!((rig.group.ring(), rig.group.term()), (vec![2, 3], term));
    }
    // One that has just come is no better. (It comes while the others do not renew: they would take it for one that is.)
    rig.pass(2, &wrong).await;
    rig.begin(node(4, &["scraper"]));
    for _ in 0..60 {
        rig.pass(1, &[0, OFF_MS, OFF_MS, OFF_MS]).await;
        assert_eq!((rig.group.ring(), rig.group.term()), (vec![2, 3, 4], term + 1));
    }
    rig.begin(node(5, &["scraper"]));
    rig.pass(30, &[0, OFF_MS, -OFF_MS, OFF_MS, 0]).await;
    assert_eq!(rig.group.ring(), [5]);
    // Its clock is wrong by now, too.
    rig.pass(30, &[0, OFF_MS, -OFF_MS, OFF_MS, OFF_MS]).await;
    assert_eq!(rig.group.ring(), [2, 3, 4, 5]);
    rig.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn one_is_in_the_ring_from_when_it_can_scrape_until_it_is_about_to_stop() {
    let mut rig = Rig::new(1);
    rig.pass(1, &[0, 0]).await;
    let term = rig.group.term();
    rig.start(node(3, &["ingester", "scraper"]));
    rig.pass(60, &[0, 0, 0]).await;
    assert_eq!((rig.group.ring(), rig.group.term()), (vec![2], term));
    let starting = rig.group.node(3);
    assert!(starting.lease_until_ms >= rig.group.now_ms(), "alive");
    assert_eq!(starting.roles, ["ingester", SCRAPER_STARTING]);
    rig.scraping[2].send_replace(Scraping::Begun);
    rig.pass(1, &[0, 0, 0]).await;
    assert_eq!((rig.group.ring(), rig.group.term()), (vec![2, 3], term + 1));
    assert_eq!(rig.group.node(3).roles, ["ingester", SCRAPER]);
    // A life that ended without a word: others have its targets while the next one starts.
    let mut next = node(3, &["ingester", "scraper"]);
    next.incarnation = 2;
    rig.start(next);
    assert_eq!((rig.group.ring(), rig.group.term()), (vec![2], term + 2));
    rig.scraping[3].send_replace(Scraping::Begun);
    rig.pass(1, &[0, 0, 0, 0]).await;
    assert_eq!((rig.group.ring(), rig.group.term()), (vec![2, 3], term + 3));
    let before_ms = rig.group.now_ms();
    rig.scraping[3].send_replace(Scraping::Leaving);
    rig.pass(1, &[0, 0, 0, 0]).await;
    assert_eq!((rig.group.ring(), rig.group.term()), (vec![2], term + 4));
    let leaving = rig.group.node(3);
    assert_eq!(leaving.roles, ["ingester", SCRAPER_LEAVING]);
    // Where that is not noted, all builds take it from the lease, as if it was not a little shorter.
    let shorter_ms = LEASE.as_millis() as i64 - asked_ms(LEASE);
    assert_eq!(
        leaving.lease_until_ms - before_ms,
        LEASE.as_millis() as i64 - shorter_ms
    );
    assert!(shorter_ms > 0);
    assert_eq!(crate::node::left_ring_ms(&leaving, LEASE), Some(before_ms - shorter_ms));
    rig.stop.cancel();
}

#[test]
fn one_whose_lease_is_over_takes_no_targets() {
    let scraper = |id, clock_off_ms, lease_until_ms| Node {
        clock_off_ms,
        lease_until_ms,
        ..node(id, &["scraper"])
    };
    let mut state = MetaState {
        feature_level: CLOCKS_FEATURE_LEVEL.0,
        nodes: vec![
            Node {
                lease_until_ms: 100,
                ..node(1, &["ingester"])
            },
            scraper(2, OFF_MS, 100),
            scraper(3, 0, 100),
        ],
        scrapers: Some(gnomon_proto::v1::ScraperRing {
            term: 1,
            nodes: vec![2, 3],
        }),
        ..MetaState::default()
    };
    assert!(has_to_go(&state, 2, OFF_MS, 50));
    assert!(!has_to_go(&state, 3, 0, 50), "its own is right");
    state.nodes[2].lease_until_ms = 49;
    assert!(!has_to_go(&state, 2, OFF_MS, 50));
}

#[tokio::test(start_paused = true)]
async fn a_life_that_another_process_lives_ends() {
    let mut rig = Rig::new(1);
    rig.pass(20, &[0, 0]).await;
    assert!(rig.over.iter().all(|over| over.borrow().is_none()));
    // As one that started from a copy of the folder in the same moment.
    let twin = Node {
        address: "10.0.0.9:9095".to_owned(),
        ..node(2, &["scraper", "querier"])
    };
    rig.begin(twin);
    rig.pass(20, &[0, 0, 0]).await;
    let told = rig.over[1].borrow().clone().unwrap();
    assert!(told.contains("10.0.0.9:9095"), "{told}");
    assert_eq!(*rig.over[2].borrow(), None, "one of the two goes on");
    // As one that was started again.
    let next = Node {
        incarnation: 2,
        ..node(2, &["scraper", "querier"])
    };
    rig.begin(next);
    rig.pass(20, &[0, 0, 0, 0]).await;
    let told = rig.over[2].borrow().clone().unwrap();
    assert!(told.contains("present life is 2, not 1"), "{told}");
    assert_eq!(*rig.over[3].borrow(), None);
    assert_eq!(*rig.over[0].borrow(), None, "another's");
}
