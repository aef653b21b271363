//! Consumers that do not go on where they were: some look for offsets by times, others read a
//! compacted topic in one go, to know what stands.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use afflux_env::Clock as _;
use afflux_types::Timestamp;
use kafka_protocol::ResponseError;

use super::{
    Client, PARTITIONS,
    keeper::{COMPACTED, PASSING, RETAINED, list, look_up},
};
use crate::{
    history::{EARLIEST, Lookup, STEADY, Sweep, TIMES, Topic},
    link::LOST,
};

/// Instead of a time: the record with the latest one.
const LATEST: i64 = -3;
/// A sweep takes less, and time has not jumped for as long before it. What is left of how long
/// tombstones stay is for the pass of compaction that began before it.
const SWEEP: Duration = Duration::from_millis(40);

/// Looks for times in topics of all kinds.
pub(crate) async fn seek(client: Client) {
    for _ in 0..60 {
        client.link.pause(150).await;
        let name = ["t", PASSING, RETAINED, COMPACTED][client.below(4) as usize];
        let Some((topic, partitions)) = known(&client, name).await else { continue };
        let partition = client.below(partitions as u64) as i32;
        let time = EARLIEST + client.below(TIMES * 3 / 2) as i64;
        let asked = (client.below(3) > 0).then_some(Timestamp(time));
        let is_committed = client.below(2) == 0;
        let begun = client.diary.now();
        let wanted = asked.map_or(LATEST, |time| time.0);
        let Ok(at) = list(&client, (name, partition), wanted, is_committed).await else { continue };
        let ended = client.diary.now();
        let found = (at.0 >= 0).then_some((at.0, Timestamp(at.1)));
        // An answer is about a name. Another topic may have had it.
        if known(&client, name).await.is_some_and(|(now, _)| now == topic) {
            let lookup = Lookup { is_committed, topic, partition, asked, found, begun, ended };
            client.diary.history.lock().lookups.push(lookup);
        }
    }
}

/// The topic of a name, and how many partitions it has.
async fn known(client: &Client, name: &str) -> Option<(Topic, i32)> {
    match name {
        "t" => Some((STEADY, PARTITIONS)),
        _ => look_up(client, name).await.ok().flatten(),
    }
}

/// Reads the compacted topic, from its start or where it was, and what comes behind for a while.
pub(crate) async fn sweep(client: Client) {
    let mut places = BTreeMap::new();
    for _ in 0..40 {
        client.link.pause(100).await;
        let Ok(Some((topic, partitions))) = look_up(&client, COMPACTED).await else { continue };
        let begun = client.clock.monotonic();
        let partition = client.below(partitions as u64) as i32;
        let place = places.entry(partition).or_insert(0);
        let next = if client.below(3) == 0 { 0 } else { *place };
        let mut sweep = Sweep { topic, partition, records: Vec::new(), next };
        let is_whole = read_on(&client, &mut sweep).await.is_ok();
        *place = sweep.next;
        let took = client.clock.monotonic().saturating_sub(begun);
        let jumped = Duration::from_micros(client.diary.jumped.load(Ordering::SeqCst));
        if is_whole && took < SWEEP && begun.saturating_sub(jumped) > SWEEP {
            client.diary.history.lock().sweeps.push(sweep);
        }
    }
}

/// Reads until nothing more comes, one time or another.
async fn read_on(client: &Client, sweep: &mut Sweep) -> Result<(), ResponseError> {
    let slowness = 1 + client.below(200);
    loop {
        match client.poll(true, sweep.topic, sweep.partition, sweep.next).await {
            Ok(poll) if poll.next > sweep.next => {
                sweep.records.extend(poll.records);
                sweep.next = poll.next;
            }
            Ok(_) if client.below(6) == 0 => return Ok(()),
            Ok(_) | Err(LOST) => {}
            Err(error) => return Err(error),
        }
        client.link.pause(slowness).await;
    }
}
