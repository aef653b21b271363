//! A world: one node on a simulated disk and network, clients of all kinds, and what befalls the
//! node while they are at it.
//!
//! 1. All clients begin. One task steps the log and moves the clock; so the seed decides what comes
//!    when, but for requests that block, which have threads of their own.
//! 2. The node lives several lives. Each ends with a power cut, at a write or a sync or anywhere,
//!    with a disk that fails, or in order; meanwhile the disk may fill up and the clock may jump.
//! 3. When all clients are done it is restarted once more, what they left open is fenced, and
//!    everything is read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use afflux_env::sim::{Failure, Operation, Sim, SimRandom};
use afflux_kafka::Options;
use afflux_log::{EmbeddedLog, TopicSpec, settings::Settings};
use afflux_types::TopicName;
use kafka_protocol::messages::ApiVersionsRequest;
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    clients::{
        Client, Diary, PARTITIONS, beat, end_hanging, member, produce, tail, transact, work,
        work_together,
    },
    history::{Found, History},
    link::{Link, Manners},
    producer,
    sim::{ADDRESS, Node, PATIENCE, call},
};

/// What is wrong with the broker, so that the checkers must find something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// Records are acknowledged before they are durable.
    Durability,
    /// Readers of committed records are shown all.
    Isolation,
    /// A batch that comes again is another.
    Sequences,
}

const LIVES: u64 = 5;

struct World {
    sim: Sim,
    broken: Broken,
    random: SimRandom,
    /// The log that is stepped.
    log: Arc<Mutex<Option<Arc<EmbeddedLog>>>>,
    /// How often it was.
    steps: Arc<AtomicU64>,
}

/// Lives a seed's world; its history.
pub(crate) async fn live(seed: u64, broken: Broken) -> History {
    let sim = Sim::new(seed);
    let diary = Arc::new(Diary::default());
    diary.shows_all.store(broken == Broken::Isolation, Ordering::SeqCst);
    diary.forgets.store(broken == Broken::Sequences, Ordering::SeqCst);
    let world = World {
        broken,
        random: SimRandom::new(seed ^ 0x0417),
        log: Arc::default(),
        steps: Arc::default(),
        sim,
    };
    let stepping = world.step();
    let mut node = world.start().await;
    let (calm, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let client = |number: u64| Client {
        link: Link {
            network: Arc::clone(&world.sim.network),
            address: ADDRESS.parse().unwrap(),
            random: Arc::new(SimRandom::new(seed << 8 | number)),
            manners: Manners::Late,
            calm: Arc::clone(&calm),
            late: Arc::clone(&late),
        },
        diary: Arc::clone(&diary),
    };
    let mut clients = JoinSet::new();
    clients.spawn(produce(client(0)));
    clients.spawn(produce(client(1)));
    // Two instances of one client, and one of another.
    for (number, id) in [(2, "a"), (3, "a"), (4, "b")] {
        clients.spawn(transact(client(number), id.to_owned()));
    }
    for number in [5, 6] {
        clients.spawn(work(client(number), "w".to_owned()));
    }
    for (number, id) in [(7, "k"), (8, "l")] {
        clients.spawn(work_together(client(number), id.to_owned()));
    }
    clients.spawn(end_hanging(client(15)));
    clients.spawn(tail(client(9), true));
    clients.spawn(tail(client(10), false));
    for number in 11..15 {
        let mut client = client(number);
        // A commit that comes late would move its group back, as it does in Kafka.
        client.link.manners = Manners::Orderly;
        if number % 2 == 0 {
            clients.spawn(member(client));
        } else {
            clients.spawn(beat(client));
        }
    }
    for _ in 0..LIVES {
        node = world.befall(node, &mut clients).await;
    }
    while let Some(ended) = timeout(PATIENCE, clients.join_next()).await.expect("none hangs") {
        ended.unwrap();
    }
    while late.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
    calm.store(true, Ordering::SeqCst);
    node = world.restart(node, true).await;
    find_out(&client(16)).await;
    node.stop().await;
    stepping.abort();
    std::mem::take(&mut *diary.history.lock())
}

impl World {
    /// Steps the log that there is, and moves the clock.
    fn step(&self) -> tokio::task::JoinHandle<()> {
        let (log, steps, clock) =
            (Arc::clone(&self.log), Arc::clone(&self.steps), Arc::clone(&self.sim.clock));
        let random = SimRandom::new(self.random.below(u64::MAX));
        // A slow disk has more on its way when it fails.
        let slowness = 1 + random.below(12);
        tokio::spawn(async move {
            loop {
                let present = log.lock().clone();
                if let Some(log) = present.filter(|_| random.below(slowness) == 0) {
                    log.step();
                }
                steps.fetch_add(1, Ordering::SeqCst);
                clock.advance(Duration::from_micros(random.below(60)));
                for _ in 0..=random.below(4) {
                    tokio::task::yield_now().await;
                }
            }
        })
    }

    async fn start(&self) -> Node {
        let options = Options {
            connections_max: 64,
            group_initial_delay: Duration::from_millis(1),
            group_session_min: Duration::from_millis(1),
            group_consumer_heartbeat: Duration::from_millis(5),
            group_consumer_session: Duration::from_millis(40),
            group_records_spare: 8,
            transaction_records_spare: 8,
            transaction_check: Duration::from_millis(3),
            rewrite_bytes: 1 + self.random.below(400) as usize,
            ..Options::default()
        };
        let node = Node::start(&self.sim, EmbeddedLog::open_stepped, options).await;
        *self.log.lock() = Some(Arc::clone(&node.log));
        // Before anything fails it serves.
        call(&node, 0, &ApiVersionsRequest::default()).await;
        let name = TopicName::new("t").unwrap();
        if node.log.topic(&name).is_none() {
            let durability = if self.broken == Broken::Durability { "relaxed" } else { "fsync" };
            let set = [("durability", durability), ("retention.ms", "-1")];
            let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let settings = Settings::new(set).unwrap();
            let spec = TopicSpec { name, partitions: PARTITIONS };
            node.log.create_topic_with(&spec, settings).unwrap();
        }
        node
    }

    /// Another life; with a crash, what was not synced is gone.
    async fn restart(&self, node: Node, crashes: bool) -> Node {
        self.sim.disk.set_capacity(1 << 40);
        let log = Arc::clone(&node.log);
        if crashes {
            self.sim.disk.crash();
            node.serving.abort();
            let _ = node.serving.await;
        } else {
            node.stop().await;
        }
        *self.log.lock() = None;
        log.shutdown();
        drop(log);
        self.start().await
    }

    /// Something befalls the node, sooner or later; its next life.
    async fn befall(&self, node: Node, clients: &mut JoinSet<()>) -> Node {
        let operation = [Operation::Write, Operation::Sync][self.random.below(2) as usize];
        let at = 1 + self.random.below(150);
        let crashes = match self.random.below(5) {
            0 | 1 => {
                self.sim.disk.fail_at(operation, at, Failure::Crash);
                true
            }
            2 => {
                let failure = Failure::Error(std::io::ErrorKind::Other);
                self.sim.disk.fail_at(operation, at, failure);
                true
            }
            3 => true,
            _ => false,
        };
        let begun = self.steps.load(Ordering::SeqCst);
        let end = begun + 100 + self.random.below(2_000);
        let is_filled = self.random.below(4) == 0;
        let (fills, empties) = (begun + self.random.below(400), begun + self.random.below(1_500));
        let jumps = begun + self.random.below(4_000);
        let mut has_jumped = false;
        loop {
            let now = self.steps.load(Ordering::SeqCst);
            if let Some(ended) = clients.try_join_next() {
                ended.unwrap();
            }
            let is_down = self.sim.disk.is_stopped() || node.log.failure().is_some();
            if now >= end || clients.is_empty() || is_down {
                break;
            }
            if is_filled {
                let is_full = (fills..empties).contains(&now);
                self.sim.disk.set_capacity(if is_full { 0 } else { 1 << 40 });
            }
            if now >= jumps && !has_jumped {
                has_jumped = true;
                self.sim.clock.advance(Duration::from_secs(61));
            }
            tokio::task::yield_now().await;
        }
        let (lived, left) = (self.steps.load(Ordering::SeqCst) - begun, clients.len());
        let failed = node.log.failure().is_some();
        println!("  {lived} steps, {left} clients left, crashes {crashes}, failed {failed}");
        self.restart(node, crashes).await
    }
}

/// Fences what is left open, and reads everything.
async fn find_out(client: &Client) {
    for id in ["a", "b", "w", "k", "l"] {
        producer::Client::init(client.link.clone(), id, true).await.unwrap();
    }
    for partition in 0..PARTITIONS {
        let mut found = Found::default();
        for is_committed in [false, true] {
            let mut from = 0;
            loop {
                let poll = client.poll(is_committed, partition, from).await.unwrap();
                let records = if is_committed { &mut found.committed } else { &mut found.all };
                records.extend(poll.records);
                let end = if is_committed { &mut found.stable } else { &mut found.high };
                *end = if is_committed { poll.next } else { poll.high };
                if poll.next == from {
                    break;
                }
                from = poll.next;
            }
        }
        client.diary.history.lock().found.insert(partition, found);
    }
    for group in ["g-a", "g-b", "g-w", "g-together"] {
        let standing = client.standing(group, 0).await.unwrap();
        client.diary.history.lock().standing.insert(group.to_owned(), standing);
    }
}
