//! Transactional producers, of which several instances share an id and fence each other; and
//! workers, which turn each record of partition 0 into one elsewhere, together with the offset
//! behind it.

use std::collections::BTreeSet;

use afflux_record::Marker;
use kafka_protocol::{ResponseError, protocol::StrBytes};

use super::{
    Client,
    consumers::{alive, join},
    keeper::{COMPACTED, PASSING, RETAINED, kind},
    told,
};
use crate::{
    history::{Kind, Outcome, STEADY, Transaction},
    link::{LOST, Link, Manners},
    producer,
};

type Producer = producer::Client<Link>;

/// The group of workers that share one.
const TOGETHER: &str = "g-together";

/// Tries again what got lost.
macro_rules! again {
    ($client:expr, $ask:expr) => {{
        let mut outcome = Err(LOST);
        for _ in 0..6 {
            outcome = $ask.await;
            let is_worth_it = matches!(
                outcome,
                Err(LOST
                    | ResponseError::ConcurrentTransactions
                    | ResponseError::CoordinatorNotAvailable
                    | ResponseError::NotCoordinator
                    | ResponseError::NotEnoughReplicas
                    | ResponseError::KafkaStorageError)
            );
            if !is_worth_it {
                break;
            }
            $client.link.pause(200).await;
        }
        outcome
    }};
}

/// How an instance goes on.
enum Then {
    /// With its next transaction.
    On,
    /// As another: it was fenced, or does not know what it has written.
    Anew,
}

/// One instance after the other.
pub(crate) async fn transact(client: Client, id: String) {
    for _ in 0..4 {
        let Some(mut producer) = begin(&client, &id).await else { continue };
        for _ in 0..5 {
            let group = format!("g-{id}");
            let mut this = new(&client, &producer, &group, None);
            let written = write(&client, &mut producer, &mut this).await;
            if let Then::Anew = end(&client, &mut producer, this, written).await {
                break;
            }
            client.link.pause(300).await;
        }
    }
}

/// The same for a worker. It commits as nobody's member: instances fence each other by their id.
pub(crate) async fn work(client: Client, id: String) {
    let group = format!("g-{id}");
    for _ in 0..4 {
        let Some(mut producer) = begin(&client, &id).await else { continue };
        for _ in 0..8 {
            if let Some(Then::Anew) = turn_next(&client, &mut producer, &group).await {
                break;
            }
        }
    }
}

/// Workers that share a group, each with an id of its own: generations alone fence them.
pub(crate) async fn work_together(client: Client, id: String) {
    let members = Client { link: client.link.with(Manners::Orderly), ..client.clone() };
    let mut member = StrBytes::new();
    for _ in 0..8 {
        let standing = match join(&members, TOGETHER, &member, None).await {
            Ok(standing) => standing,
            Err(error) => {
                if error == ResponseError::UnknownMemberId {
                    member = StrBytes::new();
                }
                client.link.pause(300).await;
                continue;
            }
        };
        member = standing.member.clone();
        let Some(mut producer) = begin(&client, &id).await else { continue };
        (producer.generation, producer.member) = (standing.generation, member.clone());
        for _ in 0..6 {
            if alive(&members, &standing).await.is_err() {
                break;
            }
            if !standing.partitions.contains(&0) {
                client.link.pause(200).await;
            } else if let Some(Then::Anew) = turn_next(&client, &mut producer, TOGETHER).await {
                break;
            }
        }
    }
}

/// Turns the next record of partition 0 into another, if there is one.
async fn turn_next(client: &Client, producer: &mut Producer, group: &str) -> Option<Then> {
    // Asked for each time: an older answer may be from before this instance began.
    let standing = client.standing(group, 0).await.ok()?;
    let poll = client.poll(true, STEADY, 0, standing.max(0)).await.ok()?;
    let Some(source) = poll.records.first().cloned() else {
        client.link.pause(300).await;
        return None;
    };
    let mut this = new(client, producer, group, Some(source.clone()));
    this.reads.push(source.1);
    this.offset = Some((group.to_owned(), source.0 + 1));
    let written = turn(client, producer, &mut this).await;
    Some(end(client, producer, this, written).await)
}

async fn begin(client: &Client, id: &str) -> Option<Producer> {
    // A client of before version 2 of transactions could not tell late requests from new ones.
    let is_modern = client.below(3) > 0;
    let manners = if is_modern { Manners::Late } else { Manners::Orderly };
    for _ in 0..40 {
        if let Ok(mut begun) = Producer::init(client.link.with(manners), id, is_modern).await {
            begun.compression = client.compression();
            return Some(begun);
        }
        client.link.pause(200).await;
    }
    None
}

fn new(
    client: &Client,
    producer: &Producer,
    group: &str,
    source: Option<(i64, String)>,
) -> Transaction {
    let number = client.diary.number() as i64;
    let offset = (source.is_none() && client.below(2) == 0).then(|| (group.to_owned(), number));
    Transaction {
        id: producer.id.to_string(),
        order: (producer.producer, producer.epoch, number),
        writes: Vec::new(),
        passing: Vec::new(),
        reads: Vec::new(),
        source,
        offset,
        begun: client.diary.now(),
        asked: None,
        ended: 0,
        outcome: Outcome::Refused,
    }
}

/// Writes to some partitions, reads others, and commits an offset.
async fn write(
    client: &Client,
    producer: &mut Producer,
    this: &mut Transaction,
) -> Result<(), ResponseError> {
    let partitions: BTreeSet<i32> = (0..=client.below(3)).map(|_| client.partition()).collect();
    let partitions: Vec<i32> = partitions.into_iter().collect();
    add(client, producer, this, &partitions).await?;
    for partition in partitions {
        for _ in 0..=client.below(2) {
            put(client, producer, this, partition).await?;
        }
        if client.below(3) == 0 {
            let partition = client.partition();
            let from = client.below(60) as i64;
            if let Ok(poll) = client.poll(true, STEADY, partition, from).await {
                this.reads.extend(poll.records.into_iter().map(|(_, value)| value));
            }
        }
    }
    if client.below(3) == 0 {
        pass(client, producer, this).await?;
    }
    commit(client, producer, this).await
}

/// Writes to a topic that may lose it any time, or may go.
async fn pass(
    client: &Client,
    producer: &mut Producer,
    this: &mut Transaction,
) -> Result<(), ResponseError> {
    let name = [PASSING, RETAINED, COMPACTED][client.below(3) as usize];
    if !producer.is_modern {
        again!(client, producer.add_in(name, &[0]))?;
    }
    let has_key = kind(name) == Kind::Compacted;
    let key = if has_key { client.key() } else { String::new() };
    let value = || client.value(format!("{key}{}.{}.p", this.id, this.order.2));
    let gone = if has_key { client.tombstone() } else { None };
    let value = gone.unwrap_or_else(value);
    this.passing.push((kind(name), value.clone()));
    again!(client, producer.produce_to(name, 0, told(&value, has_key)))
}

/// Turns a record into another.
async fn turn(
    client: &Client,
    producer: &mut Producer,
    this: &mut Transaction,
) -> Result<(), ResponseError> {
    let partition = 1 + client.below(2) as i32;
    add(client, producer, this, &[partition]).await?;
    put(client, producer, this, partition).await?;
    commit(client, producer, this).await
}

async fn add(
    client: &Client,
    producer: &Producer,
    this: &Transaction,
    partitions: &[i32],
) -> Result<(), ResponseError> {
    if producer.is_modern {
        return Ok(());
    }
    again!(client, producer.add(partitions))?;
    match &this.offset {
        Some((group, _)) => again!(client, producer.add_offsets(group)),
        None => Ok(()),
    }
}

async fn put(
    client: &Client,
    producer: &mut Producer,
    this: &mut Transaction,
    partition: i32,
) -> Result<(), ResponseError> {
    let value = client.value(format!("{}.{}.{}", this.id, this.order.2, this.writes.len()));
    this.writes.push((partition, value.clone()));
    again!(client, producer.produce_to("t", partition, told(&value, false)))
}

async fn commit(
    client: &Client,
    producer: &Producer,
    this: &Transaction,
) -> Result<(), ResponseError> {
    match &this.offset {
        Some((group, offset)) => again!(client, producer.commit_offset(group, *offset)),
        None => Ok(()),
    }
}

/// Ends a transaction, and notes down what became of it.
async fn end(
    client: &Client,
    producer: &mut Producer,
    mut this: Transaction,
    written: Result<(), ResponseError>,
) -> Then {
    let commits = written.is_ok() && client.below(4) > 0;
    let marker = if commits { Marker::Commit } else { Marker::Abort };
    if commits {
        this.asked = Some(client.diary.now());
    }
    let mut is_certain = true;
    let mut outcome = Err(LOST);
    for _ in 0..12 {
        outcome = producer.end(marker).await;
        match outcome {
            Ok(()) => break,
            Err(error) if is_final(error) => break,
            Err(_) => is_certain = false,
        }
        client.link.pause(200).await;
    }
    this.ended = client.diary.now();
    this.outcome = match outcome {
        _ if !commits => Outcome::Refused,
        Ok(()) => Outcome::Done(()),
        Err(_) if is_certain => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    };
    client.diary.history.lock().transactions.push(this);
    // Before version 2 the epoch does not tell a batch that got lost from one of the next
    // transaction.
    let goes_on = outcome.is_ok() && (written.is_ok() || producer.is_modern);
    if goes_on { Then::On } else { Then::Anew }
}

/// Whether an end was refused for good.
fn is_final(error: ResponseError) -> bool {
    use ResponseError::{
        InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, ProducerFenced,
    };
    let refusals =
        [InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, ProducerFenced];
    refusals.contains(&error)
}
