//! A world: one node on a simulated disk and network, clients of all kinds, and what befalls the
//! node while they are at it.
//!
//! 1. All clients begin. One task steps the log and moves the clock, and what blocks takes its turn
//!    among all tasks: the seed decides what comes when. Some producers have few epochs left.
//! 2. The node lives several lives. Each ends with a power cut, at a write or a sync or anywhere,
//!    with a disk that fails, or in order; meanwhile the disk may fill up, something can not be
//!    read, and time may jump. In some worlds the wall clock is set forward and back, too, while the
//!    node is there or between two of its lives. Each has sizes of its own, of files, blocks and what
//!    is kept.
//! 3. When all clients are done it is restarted once more, what they left open is fenced, and
//!    everything is read. Then so much time goes by that commits are no longer kept.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use afflux_env::{
    Clock as _,
    sim::{Failure, Operation, Sim, SimRandom},
};
use afflux_kafka::Options;
use afflux_log::{EmbeddedLog, Entry, Group, Log as _, LogOptions, TopicSpec, settings::Settings};
use afflux_record::{Compression, batch::Builder};
use afflux_types::{TopicName, TopicPartition};
use kafka_protocol::messages::ApiVersionsRequest;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::{
    clients::{
        COMPACTED, Client, Diary, PARTITIONS, PASSING, RETAINED, TIMELESS, beat, commit_for,
        end_hanging, follow, keep, look_up, member, produce, produce_to, seek, start_of, stay,
        sweep, tail, transact, work, work_together,
    },
    history::{Found, History, STEADY, Topic},
    link::{Link, Manners},
    producer,
    sim::{ADDRESS, Node, call, open_log, patiently, small},
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
    /// Producers are forgotten as if days went by.
    Memory,
    /// What is said to be deleted is not.
    Deletion,
}

const LIVES: u64 = 5;
/// How long a producer is known that writes nothing, and a commit that nobody needs.
const KEPT: Duration = Duration::from_hours(24);
/// Less than that, however often the other jumps come, and however the wall clock is set.
const NEARLY_KEPT: Duration = Duration::from_hours(17);
/// How far the wall clock may be ahead of time, or behind.
const ASTRAY: Duration = Duration::from_hours(3);
/// Longer than transactions and members may take.
const LAPSE: Duration = Duration::from_secs(61);
/// Ids of transactional producers.
const IDS: [&str; 5] = ["a", "b", "w", "k", "l"];
/// Groups that nobody is a member of in the end.
const GROUPS: [&str; 4] = ["g-a", "g-b", "g-w", "g-together"];

struct World {
    sim: Sim,
    broken: Broken,
    random: SimRandom,
    /// The log that is stepped.
    log: Arc<Mutex<Option<Arc<EmbeddedLog>>>>,
    /// How often it was.
    steps: Arc<AtomicU64>,
    /// Whether time has jumped as far as it may: less than producers and commits are kept.
    has_aged: AtomicBool,
    /// How the wall clock is set, if it is. Apart from the rest, which is the same without it.
    setting: Option<SimRandom>,
}

/// Lives a seed's world; its history.
pub(crate) async fn live(seed: u64, broken: Broken) -> History {
    let sim = Sim::new(seed);
    sim.clock.wake_sleepers();
    let diary = Arc::new(Diary::default());
    diary.shows_all.store(broken == Broken::Isolation, Ordering::SeqCst);
    diary.forgets.store(broken == Broken::Sequences, Ordering::SeqCst);
    diary.idles.store(broken == Broken::Deletion, Ordering::SeqCst);
    let setting = SimRandom::new(seed ^ 0xC10C);
    let world = World {
        setting: (setting.below(2) == 0).then_some(setting),
        broken,
        random: SimRandom::new(seed ^ 0x0417),
        log: Arc::default(),
        steps: Arc::default(),
        has_aged: AtomicBool::new(false),
        sim,
    };
    world.wear_out();
    let stepping = world.step();
    let mut node = world.start().await;
    let (calm, late) = (Arc::new(AtomicBool::new(false)), Arc::default());
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
        clock: Arc::clone(&world.sim.clock),
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
    for (number, name) in [(17, PASSING), (20, RETAINED), (23, COMPACTED)] {
        clients.spawn(produce_to(client(number), name));
        clients.spawn(follow(client(number + 1), name, number % 2 == 0));
        // What keeps a topic knows what it has done.
        let mut keeper = client(number + 2);
        keeper.link.manners = Manners::Orderly;
        clients.spawn(keep(keeper, name));
    }
    clients.spawn(follow(client(26), PASSING, true));
    for number in [29, 30] {
        clients.spawn(seek(client(number)));
        clients.spawn(sweep(client(number + 2)));
    }
    for (number, instance) in [(33, "i"), (34, "i"), (35, "j")] {
        let mut client = client(number);
        client.link.manners = Manners::Orderly;
        clients.spawn(stay(client, instance));
    }
    let mut committer = client(27);
    committer.link.manners = Manners::Orderly;
    clients.spawn(commit_for(committer));
    for _ in 0..LIVES {
        node = world.befall(node, &mut clients, &diary).await;
    }
    while let Some(ended) = patiently("a client hangs", clients.join_next()).await {
        ended.unwrap();
    }
    let mut late = std::mem::take(&mut *late.lock());
    while let Some(ended) = patiently("a late request hangs", late.join_next()).await {
        ended.unwrap();
    }
    calm.store(true, Ordering::SeqCst);
    node = world.restart(node, true).await;
    find_out(&client(16)).await;
    // Members go first: what they have committed is needed until then.
    world.sim.clock.advance(LAPSE);
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
    world.sim.clock.advance(2 * KEPT);
    outlive(&client(28)).await;
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
        let forgets = self.broken == Broken::Memory;
        tokio::spawn(async move {
            loop {
                let present = log.lock().clone();
                if let Some(log) = present.filter(|_| random.below(slowness) == 0) {
                    log.step();
                }
                let step = steps.fetch_add(1, Ordering::SeqCst);
                if forgets && step.is_multiple_of(50) {
                    clock.advance(2 * KEPT);
                }
                clock.advance(Duration::from_micros(random.below(60)));
                for _ in 0..=random.below(4) {
                    tokio::task::yield_now().await;
                }
            }
        })
    }

    /// Some ids have used up nearly all epochs of their producers when the world begins.
    fn wear_out(&self) {
        let log = open_log(&self.sim, EmbeddedLog::open_stepped, small());
        let name = TopicName::new("__transaction_state").unwrap();
        log.ensure_topic(&TopicSpec { name: name.clone(), partitions: 1 }).unwrap();
        for id in IDS.into_iter().filter(|_| self.random.below(2) == 0) {
            let producer = log.next_producer_id().unwrap().0;
            let epoch = i16::MAX - 1 - self.random.below(10) as i16;
            let mut key = vec![0, 0, 0, id.len() as u8];
            key.extend(id.bytes());
            // Version 1, a minute's timeout, no transaction, no partitions, used now.
            let mut value = vec![0, 1];
            value.extend(producer.to_be_bytes());
            value.extend(epoch.to_be_bytes());
            value.extend(60_000_i32.to_be_bytes());
            value.extend([0, 0]);
            value.extend(self.sim.clock.now().0.to_be_bytes());
            value.extend((-1_i64).to_be_bytes());
            value.push(0);
            let mut builder = Builder::new(Compression::None);
            builder.push(self.sim.clock.now(), Some(&key), Some(&value));
            let partition = TopicPartition::new(name.clone(), 0);
            let entries = vec![Entry { partition, batch: builder.finish().unwrap() }];
            drop(log.append(&Group { entries }));
        }
        // What is on its way gets there.
        log.shutdown();
    }

    /// Of a life, whatever they were before: some keep everything in memory, others nothing.
    fn sizes(&self) -> LogOptions {
        let one_of = |sizes: [u64; 3]| sizes[self.random.below(3) as usize];
        let file_bytes = one_of([16 << 10, 32 << 10, 64 << 10]);
        LogOptions {
            file_bytes,
            first_file_bytes: file_bytes,
            hot_bytes: one_of([0, 8 << 10, 32 << 20]) as usize,
            block_bytes: one_of([1 << 10, 4 << 10, 64 << 10]),
            block_cache_bytes: one_of([0, 16 << 10, 64 << 10]) as usize,
            index_cache_bytes: one_of([0, 1 << 10, 16 << 20]) as usize,
            compaction_bytes_max: one_of([1, 200, 64 << 20]) as usize,
            spares_max: one_of([0, 1, 16]) as usize,
            ..small()
        }
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
            group_offsets_retention: KEPT,
            group_offsets_check: Duration::from_millis(5),
            transaction_check: Duration::from_millis(3),
            rewrite_bytes: 1 + self.random.below(400) as usize,
            ..Options::default()
        };
        let log = open_log(&self.sim, EmbeddedLog::open_stepped, self.sizes());
        let node = Node::start(&self.sim, log, options).await;
        *self.log.lock() = Some(Arc::clone(&node.log));
        // Before anything fails it serves.
        call(&node, 0, &ApiVersionsRequest::default()).await;
        let name = TopicName::new("t").unwrap();
        if node.log.topic(&name).is_none() {
            let durability = if self.broken == Broken::Durability { "relaxed" } else { "fsync" };
            let set = TIMELESS.into_iter().chain([("durability", durability)]);
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

    /// Sets the wall clock to where it may be, forward or back.
    fn set_clock(&self, diary: &Diary) {
        let (Some(random), clock) = (&self.setting, &self.sim.clock) else { return };
        let (before, most) = (clock.now(), ASTRAY.as_millis() as i64);
        clock.set_wall(random.below(2 * most as u64) as i64 - most);
        if clock.now() > before {
            // As if so much time had gone by for what is old.
            diary.jumped.store(clock.monotonic().as_micros() as u64, Ordering::SeqCst);
        }
        diary.history.lock().wall.push((before, clock.now()));
    }

    /// Something befalls the node, sooner or later; its next life.
    async fn befall(&self, node: Node, clients: &mut JoinSet<()>, diary: &Diary) -> Node {
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
        // Nobody forgets it but a crash.
        for _ in 0..if crashes { self.random.below(4) } else { 0 } {
            let failure = Failure::Error(std::io::ErrorKind::Other);
            self.sim.disk.fail_at(Operation::Read, 1 + self.random.below(300), failure);
        }
        let begun = self.steps.load(Ordering::SeqCst);
        let end = begun + 100 + self.random.below(2_000);
        let is_filled = self.random.below(4) == 0;
        let (fills, empties) = (begun + self.random.below(400), begun + self.random.below(1_500));
        let jumps = begun + self.random.below(4_000);
        let mut has_jumped = false;
        let random = self.setting.as_ref();
        let mut sets = random.map_or(u64::MAX, |random| begun + random.below(2_000));
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
                let ages = self.random.below(3) == 0 && !self.has_aged.swap(true, Ordering::SeqCst);
                let time = if ages { NEARLY_KEPT } else { LAPSE };
                if ages {
                    diary.history.lock().aged = Some(diary.now());
                }
                self.sim.clock.advance(time);
                diary.jumped.store(self.sim.clock.monotonic().as_micros() as u64, Ordering::SeqCst);
            }
            if now >= sets {
                sets = u64::MAX;
                self.set_clock(diary);
            }
            tokio::task::yield_now().await;
        }
        let (lived, left) = (self.steps.load(Ordering::SeqCst) - begun, clients.len());
        let failed = node.log.failure().is_some();
        println!("  {lived} steps, {left} clients left, crashes {crashes}, failed {failed}");
        // A machine that starts has the time from elsewhere.
        if random.is_some_and(|random| random.below(3) == 0) {
            self.set_clock(diary);
        }
        self.restart(node, crashes).await
    }
}

/// Fences what is left open, and reads everything.
async fn find_out(client: &Client) {
    for id in IDS {
        producer::Client::init(client.link.clone(), id, true).await.unwrap();
    }
    for partition in 0..PARTITIONS {
        let found = read_all(client, STEADY, partition, 0).await;
        client.diary.history.lock().found.insert(partition, found);
    }
    for name in [PASSING, RETAINED, COMPACTED] {
        let Some((topic, partitions)) = look_up(client, name).await.unwrap() else { continue };
        let mut left = BTreeMap::new();
        for partition in 0..partitions {
            let start = start_of(client, name, partition).await.unwrap();
            left.insert(partition, read_all(client, topic, partition, start).await);
        }
        client.diary.history.lock().left.insert(topic, left);
    }
    for group in GROUPS {
        let standing = client.standing(group, 0).await.unwrap();
        client.diary.history.lock().standing.insert(group.to_owned(), standing);
    }
}

/// Long after, nothing stands any more of what groups without members have committed.
async fn outlive(client: &Client) {
    let groups = GROUPS.into_iter().map(|group| ("t", group));
    for (topic, group) in groups.chain([(PASSING, "g-passing")]) {
        let mut standing = 0;
        for _ in 0..10_000 {
            standing = client.standing_in(topic, group, 0).await.unwrap();
            if standing < 0 {
                break;
            }
        }
        client.diary.history.lock().outlived.insert(group.to_owned(), standing);
    }
}

/// What a partition holds from an offset on.
async fn read_all(client: &Client, topic: Topic, partition: i32, start: i64) -> Found {
    let mut found = Found { start, ..Found::default() };
    for is_committed in [false, true] {
        let mut from = start;
        loop {
            let poll = client.poll(is_committed, topic, partition, from).await.unwrap();
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
    found
}
