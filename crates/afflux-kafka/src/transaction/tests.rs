//! The coordinator, event by event.

use afflux_types::TopicName;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);
const WEEK: Duration = Duration::from_hours(7 * 24);

fn at(seconds: u64) -> Now {
    Now { monotonic: Duration::from_secs(seconds), wall: Timestamp(seconds as i64 * 1000) }
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TopicName::new("t").unwrap(), number)
}

fn who(id: i64, epoch: i16) -> Identity {
    Identity { id, epoch }
}

struct World {
    coordinator: Coordinator,
    id: TransactionalId,
    fresh: i64,
}

impl World {
    fn new() -> Self {
        Self { coordinator: Coordinator::new(MINUTE * 15, WEEK, 4), id: "id".into(), fresh: 100 }
    }

    /// An init as the edge does it, all appends going well.
    fn init(&mut self, now: Now, expected: Option<Identity>) -> Result<Identity, ResponseError> {
        let mut fresh = None;
        loop {
            match self.coordinator.init(now, &self.id, MINUTE, expected, fresh)? {
                Init::NeedsProducer => {
                    self.fresh += 1;
                    fresh = Some(self.fresh);
                }
                Init::Write(facts) => {
                    self.coordinator.settle(now, &self.id, true);
                    return Ok(facts.producer);
                }
                Init::Abort(_) => self.coordinator.settle(now, &self.id, true),
            }
        }
    }

    fn add(&mut self, who: Identity) -> Result<bool, ResponseError> {
        let added = self.coordinator.add(at(1), "id", who, &[partition(0)], false);
        added.map(|record| record.is_some())
    }

    fn end(
        &mut self,
        who: Identity,
        marker: Marker,
        version: i16,
    ) -> Result<Identity, ResponseError> {
        let mut fresh = None;
        loop {
            match self.coordinator.end(at(2), &self.id, who, marker, version, fresh)? {
                Ending::NeedsProducer => fresh = Some(999),
                Ending::Already(who) => return Ok(who),
                Ending::Write(end) => {
                    self.coordinator.settle(at(2), &self.id, true);
                    return Ok(end.outcome.producer);
                }
            }
        }
    }

    fn state(&self) -> &'static str {
        self.coordinator.describe("id").unwrap().1
    }
}

#[test]
fn each_init_fences_the_one_before() {
    let mut world = World::new();
    let first = world.init(at(0), None).unwrap();
    assert_eq!(first, who(101, 0));
    let second = world.init(at(0), None).unwrap();
    assert_eq!(second, who(101, 1));
    assert_eq!(world.add(first), Err(ResponseError::ProducerFenced));
    assert_eq!(world.add(who(5, 1)), Err(ResponseError::InvalidProducerIdMapping));
    assert_eq!(world.add(second), Ok(true));
    assert_eq!(world.add(second), Ok(false), "nothing new");
    // The third finds a transaction open, and aborts it first.
    assert_eq!(world.init(at(0), None), Ok(who(101, 4)));
    assert_eq!(world.end(second, Marker::Commit, 1), Err(ResponseError::ProducerFenced));
}

#[test]
fn a_client_that_knows_itself_goes_on() {
    let mut world = World::new();
    let first = world.init(at(0), None).unwrap();
    let bumped = world.init(at(0), Some(first)).unwrap();
    assert_eq!(bumped, who(101, 1));
    assert_eq!(world.init(at(0), Some(first)), Ok(bumped), "the answer was lost");
    assert_eq!(world.init(at(0), None), Ok(who(101, 2)));
    assert_eq!(world.init(at(0), Some(first)), Err(ResponseError::ProducerFenced));
    assert_eq!(world.init(at(0), Some(who(7, 2))), Err(ResponseError::ProducerFenced));
}

#[test]
fn ends_are_answered_as_kafka_does() {
    use Marker::{Abort, Commit};
    // (added, version, first end, second end with the same epoch, its outcome)
    let invalid = Err(ResponseError::InvalidTxnState);
    let cases = [
        (true, 1, Commit, Commit, Ok(who(101, 0))),
        (true, 1, Commit, Abort, invalid),
        (true, 1, Abort, Abort, Ok(who(101, 0))),
        (true, 2, Commit, Commit, Ok(who(101, 1))),
        (true, 2, Commit, Abort, invalid),
        (true, 2, Abort, Commit, invalid),
        (true, 2, Abort, Abort, Ok(who(101, 1))),
        (false, 2, Abort, Abort, Ok(who(101, 1))),
    ];
    for (added, version, first, second, expected) in cases {
        let mut world = World::new();
        let me = world.init(at(0), None).unwrap();
        if added {
            world.add(me).unwrap();
        }
        world.end(me, first, version).unwrap();
        assert_eq!(world.end(me, second, version), expected, "{version} {first:?} {second:?}");
    }
    let mut world = World::new();
    let me = world.init(at(0), None).unwrap();
    assert_eq!(world.end(me, Commit, 2), invalid, "there is nothing to commit");
    assert_eq!(world.end(me, Abort, 1), invalid, "nor to abort, before version 2");
}

#[test]
fn whoever_was_fenced_is_not_taken_for_who_came_after() {
    for version in [0, 2] {
        let mut world = World::new();
        // The first was of version 2 once, and has nothing open when it is fenced.
        let first = world.init(at(0), None).unwrap();
        let first = world.end(first, Marker::Abort, 2).unwrap();
        let second = world.init(at(0), None).unwrap();
        assert_eq!(second.epoch, first.epoch + 1);
        world.add(second).unwrap();
        world.end(second, Marker::Commit, version).unwrap();
        for marker in [Marker::Commit, Marker::Abort] {
            assert_eq!(world.end(first, marker, 2), Err(ResponseError::ProducerFenced));
        }
    }
}

#[test]
fn nor_is_one_that_had_used_up_its_epochs() {
    let mut world = World::new();
    let first = world.init(at(0), None).unwrap();
    let mut facts = world.coordinator.describe("id").unwrap().0.clone();
    (facts.producer.epoch, facts.version) = (EPOCH_LAST, EPOCH_BUMP);
    world.coordinator.restore(at(0), "id".into(), facts);
    let second = world.init(at(0), None).unwrap();
    assert_eq!(second, who(102, 0));
    world.add(second).unwrap();
    // It does not raise its epoch, which is what the first would have been given.
    world.end(second, Marker::Abort, 0).unwrap();
    let first = who(first.id, EPOCH_LAST);
    for marker in [Marker::Commit, Marker::Abort] {
        let refused = world.end(first, marker, 2);
        assert_eq!(refused, Err(ResponseError::InvalidProducerIdMapping));
    }
}

#[test]
fn a_time_out_aborts_and_a_late_commit_is_fenced() {
    let mut world = World::new();
    let me = world.init(at(0), None).unwrap();
    world.add(me).unwrap();
    assert_eq!(world.coordinator.tick(at(60)), []);
    let ends = world.coordinator.tick(at(61));
    assert_eq!((ends[0].marker, ends[0].producer), (Marker::Abort, who(101, 2)));
    assert_eq!(ends[0].partitions, [partition(0)].into());
    assert_eq!(world.state(), "PrepareAbort");
    assert_eq!(world.add(me), Err(ResponseError::ConcurrentTransactions));
    // The disk was full: it is tried again.
    world.coordinator.settle(at(61), "id", false);
    assert_eq!(world.state(), "Ongoing");
    assert_eq!(world.coordinator.tick(at(62)).len(), 1);
    world.coordinator.settle(at(62), "id", true);
    assert_eq!(world.state(), "CompleteAbort");
    for version in [1, 2] {
        let late = world.end(me, Marker::Commit, version);
        assert_eq!(late, Err(ResponseError::ProducerFenced), "{version}");
    }
    assert_eq!(world.coordinator.tick(at(1_000)), []);
}

#[test]
fn a_producer_whose_epochs_are_used_up_goes_on_as_another() {
    let mut world = World::new();
    let me = world.init(at(0), None).unwrap();
    let mut facts = world.coordinator.describe("id").unwrap().0.clone();
    facts.producer.epoch = EPOCH_LAST;
    world.coordinator.restore(at(0), "id".into(), facts);
    let last = who(me.id, EPOCH_LAST);
    world.add(last).unwrap();
    assert_eq!(world.end(last, Marker::Commit, 2), Ok(who(999, 0)));
    assert_eq!(world.end(last, Marker::Commit, 2), Ok(who(999, 0)), "a retry");
    assert_eq!(world.init(at(0), Some(last)), Ok(who(999, 0)), "it may not have heard");
    assert_eq!(world.add(who(999, 0)), Ok(true));
}

#[test]
fn what_was_refused_never_was() {
    let mut world = World::new();
    let init = |c: &mut Coordinator, id: &TransactionalId| {
        c.init(at(0), id, MINUTE, None, Some(1)).unwrap()
    };
    let id = Arc::clone(&world.id);
    assert!(matches!(init(&mut world.coordinator, &id), Init::Write(_)));
    let concurrent = world.coordinator.init(at(0), &id, MINUTE, None, Some(2));
    assert_eq!(concurrent, Err(ResponseError::ConcurrentTransactions));
    world.coordinator.settle(at(0), "id", false);
    assert!(world.coordinator.describe("id").is_none());
    let me = world.init(at(0), None).unwrap();
    world.add(me).unwrap();
    world.coordinator.unsaved("id");
    assert_eq!(world.add(me), Ok(true), "the record is given again");
    let outside = world.coordinator.verify("id", me, &partition(1));
    assert_eq!(outside, Err(ResponseError::TransactionAbortable));
    assert_eq!(world.coordinator.verify("id", me, &partition(0)), Ok(()));
    assert_eq!(world.coordinator.expire(at(10_000_000)), [], "it has a transaction open");
    world.end(me, Marker::Abort, 1).unwrap();
    assert_eq!(world.coordinator.expire(at(604_801)), []);
    assert_eq!(world.coordinator.expire(at(604_802)), [id]);
    assert_eq!(world.add(me), Err(ResponseError::InvalidProducerIdMapping));
}

#[test]
fn a_transaction_takes_no_more_partitions_than_can_be_ended() {
    let mut world = World::new();
    let me = world.init(at(0), None).unwrap();
    let mut add = |partitions: &[i32], by_data: bool| {
        let partitions: Vec<_> = partitions.iter().map(|index| partition(*index)).collect();
        let added = world.coordinator.add(at(1), "id", me, &partitions, by_data);
        let facts = world.coordinator.describe("id").unwrap().0;
        (added.map(drop), facts.partitions.len())
    };
    let refused = Err(ResponseError::PolicyViolation);
    assert_eq!(add(&[0, 1, 2, 3, 4], false), (refused, 0), "and nothing is begun");
    assert_eq!(add(&[0, 1, 0], false), (Ok(()), 2));
    assert_eq!(add(&[2, 3, 4], true), (refused, 2), "all or none");
    assert_eq!(add(&[1, 2, 3, 3], true), (Ok(()), 4));
    assert_eq!(add(&[4], true), (refused, 4));
    assert_eq!(add(&[0, 1, 2, 3], false), (Ok(()), 4), "these are in it");
    world.end(me, Marker::Commit, 1).unwrap();
    assert_eq!(world.state(), "CompleteCommit");
}

#[test]
fn time_outs_go_on_after_a_restart() {
    let mut world = World::new();
    let me = world.init(at(0), None).unwrap();
    world.add(me).unwrap();
    let facts = world.coordinator.describe("id").unwrap().0.clone();
    let mut restarted = Coordinator::new(MINUTE, WEEK, 4);
    // The node's own clock begins at 0 again; the transaction began 41 seconds ago.
    let now = Now { monotonic: Duration::ZERO, wall: Timestamp(42_000) };
    restarted.restore(now, "id".into(), facts);
    let later = |seconds| Now { monotonic: Duration::from_secs(seconds), ..now };
    assert_eq!(restarted.tick(later(18)), []);
    assert_eq!(restarted.tick(later(19)).len(), 1);
    for timeout in [Duration::ZERO, MINUTE * 2] {
        let refused = restarted.init(now, &"new".into(), timeout, None, Some(1));
        assert_eq!(refused, Err(ResponseError::InvalidTransactionTimeout));
    }
}

#[test]
fn what_the_log_has_open_is_the_truth() {
    let mut world = World::new();
    let me = world.init(at(0), None).unwrap();
    let stray = [(who(7, 0), partition(3)), (who(me.id, 9), partition(3))];
    // What was begun under an older epoch has to be ended by somebody, too.
    let mine = [(me, partition(0)), (who(me.id, me.epoch - 1), partition(1))];
    let open = mine.into_iter().chain(stray.clone());
    assert_eq!(world.coordinator.cover(at(1), open), stray);
    assert_eq!(world.state(), "Ongoing");
    assert_eq!(world.coordinator.tick(at(60)), []);
    let Ok(Ending::Write(end)) =
        world.coordinator.end(at(2), &world.id, me, Marker::Commit, 1, None)
    else {
        panic!("it is open")
    };
    assert_eq!(end.partitions, [0, 1].map(partition).into());
}

#[test]
fn data_adds_its_partition_without_a_record_but_for_the_first() {
    let mut world = World::new();
    let me = world.init(at(0), None).unwrap();
    let mut add = |number| {
        let added = world.coordinator.add(at(1), "id", me, &[partition(number)], true);
        added.unwrap().is_some()
    };
    assert_eq!([add(0), add(1), add(1)], [true, false, false]);
    let facts = world.coordinator.describe("id").unwrap().0;
    assert_eq!((facts.partitions.len(), facts.version), (2, EPOCH_BUMP));
    // Whoever may end any transaction ends this one, and fences its producer.
    assert_eq!(world.coordinator.abort(at(2), 5), Ok(None));
    let end = world.coordinator.abort(at(2), me.id).unwrap().unwrap();
    assert_eq!((end.marker, end.producer), (Marker::Abort, who(me.id, 2)));
    let again = world.coordinator.abort(at(2), me.id);
    assert_eq!(again, Err(ResponseError::ConcurrentTransactions));
}

#[test]
fn one_that_was_fenced_at_the_last_epoch_is_refused() {
    let mut world = World::new();
    let me = world.init(at(0), None).unwrap();
    let mut facts = world.coordinator.describe("id").unwrap().0.clone();
    facts.producer.epoch = EPOCH_LAST;
    world.coordinator.restore(at(0), "id".into(), facts);
    let last = who(me.id, EPOCH_LAST);
    world.add(last).unwrap();
    assert_eq!(world.coordinator.tick(at(99)).len(), 1);
    world.coordinator.settle(at(99), "id", true);
    assert_eq!(world.end(last, Marker::Commit, 2), Err(ResponseError::ProducerFenced));
    assert_eq!(world.init(at(99), None), Ok(who(102, 0)));
}
