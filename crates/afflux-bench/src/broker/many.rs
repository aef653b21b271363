//! Much of everything: partitions, connections and groups at once; and a start behind a long log.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kafka_protocol::{
    messages::{
        HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest, SyncGroupRequest,
        join_group_request::JoinGroupRequestProtocol,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::StrBytes,
};

use super::{
    Bench, Which, in_turn,
    prebuilt::{ENDLESS, Load, THREADS},
    produce::FILL_WITHIN,
    reference,
    results::{Figures, Results},
    wire::{Wire, accepted, create_topic, ends, frame, wire_name},
};
use crate::{
    node::Node,
    report::{Reference, Report},
    usage,
};

const PARTITIONS: i32 = 1000;
const CONNECTIONS: usize = 1000;
const GROUPS: usize = 100;
const RECORD_BYTES: usize = 1000;
/// How often a member says that it is there, and commits.
const BEAT: Duration = Duration::from_secs(1);

const ONE: &str = "1 partition";
const MANY: &str = "1,000 partitions, 1,000 connections, 100 groups";

/// The log that a start is behind.
const LOG_BYTES: u64 = 10 << 30;
const LOG_BYTES_QUICK: u64 = 1 << 30;
/// What is written between two starts, so that each has a tail to look at.
const TAIL_BYTES: u64 = 100 << 20;
/// What a start may take.
const START_SECONDS: f64 = 2.0;

/// Ours with much of everything, beside the same load on one partition.
pub(super) fn partitions(
    bench: &mut Bench<'_>,
    results: &mut Results,
    report: &mut Report,
) -> Result<()> {
    if !bench.wants("many") {
        return Ok(());
    }
    let length = bench.length;
    let figures = results.case("many", |round| {
        let brokers = bench.brokers()?;
        in_turn(round, &[(ONE, 1), (MANY, PARTITIONS)], |(side, partitions)| {
            let topic = brokers.create(Which::Ours, partitions, &[])?;
            let address = brokers.address(Which::Ours);
            let load = Load::new(&topic, partitions, RECORD_BYTES)?;
            let sent = if side == ONE {
                load.send(address, length, ENDLESS)?
            } else {
                let load = load.connections((CONNECTIONS - GROUPS) / THREADS);
                beside_groups(address, &topic, || load.send(address, length, ENDLESS))?
            };
            let resident = usage::resident_bytes(brokers.ours.pid())? as f64 / 1e6;
            brokers.remove(Which::Ours, &topic)?;
            let memory = (format!("{side}, memory"), resident);
            Ok(Figures::from([(side.to_owned(), sent.megabytes_per_second()), memory]))
        })
    })?;
    let many = reference(MANY, &figures).value;
    report.compared(MANY, many, "MB/s", &reference(ONE, &figures));
    let memory = reference(&format!("{MANY}, memory"), &figures).value;
    report.figure(&format!("{MANY}: resident memory"), memory, "MB");
    Ok(())
}

/// Does something while groups of one member each say that they are there and commit.
fn beside_groups<T: Send>(
    address: &str,
    topic: &str,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let mut members = join(address)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let beating = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                let next = Instant::now() + BEAT;
                members.iter_mut().try_for_each(|member| member.beat(topic))?;
                while Instant::now() < next && !is_over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
            }
            Ok(())
        });
        let outcome = work();
        is_over.store(true, Ordering::Relaxed);
        beating.join().expect("a member does not panic")?;
        outcome
    })
}

/// A group's only member.
struct Member {
    wire: Wire,
    group: StrBytes,
    id: StrBytes,
    generation: i32,
}

/// Members of groups that are new or whose members are gone. All ask before one is answered: each
/// answer waits for others who might join.
fn join(address: &str) -> Result<Vec<Member>> {
    let text = StrBytes::from_static_str;
    let mut joining = Vec::with_capacity(GROUPS);
    for number in 0..GROUPS {
        let group = StrBytes::from_string(format!("group-{number}"));
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("any"))
            .with_metadata(Bytes::from_static(b"bench"));
        let request = JoinGroupRequest::default()
            .with_group_id(group.clone().into())
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(10_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let mut wire = Wire::connect(address)?;
        wire.send(&frame(3, &request)?)?;
        joining.push((wire, group));
    }
    let joined = joining.into_iter().map(|(mut wire, group)| {
        let answer = wire.receive_as::<JoinGroupRequest>(3)?;
        accepted(answer.error_code, "join a group")?;
        let (id, generation) = (answer.member_id, answer.generation_id);
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(id.clone())
            .with_assignment(Bytes::from_static(b"bench"));
        let request = SyncGroupRequest::default()
            .with_group_id(group.clone().into())
            .with_generation_id(generation)
            .with_member_id(id.clone())
            .with_assignments(vec![assignment]);
        accepted(wire.call(2, &request)?.error_code, "take an assignment")?;
        Ok(Member { wire, group, id, generation })
    });
    joined.collect()
}

impl Member {
    /// Says that it is there, and commits an offset.
    fn beat(&mut self, topic: &str) -> Result<()> {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group.clone().into())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone());
        accepted(self.wire.call(2, &request)?.error_code, "say that a member is there")?;
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(0);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group.clone().into())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.id.clone())
            .with_topics(vec![
                OffsetCommitRequestTopic::default()
                    .with_name(wire_name(topic))
                    .with_partitions(vec![partition]),
            ]);
        let answer = self.wire.call(6, &request)?;
        let code = answer.topics.first().and_then(|topic| topic.partitions.first());
        accepted(code.context("a commit was not answered")?.error_code, "commit")
    }
}

/// Kills a node with a long log and starts it again.
pub(super) fn restart(
    bench: &mut Bench<'_>,
    results: &mut Results,
    report: &mut Report,
) -> Result<()> {
    const TOPIC: &str = "long";
    let bytes = if bench.settings.quick { LOG_BYTES_QUICK } else { LOG_BYTES };
    let data = bench.settings.dir.join("long");
    let mut node = None;
    let name = format!("restart after SIGKILL with {} GiB of log", bytes >> 30);
    if !bench.wants(&name) {
        return Ok(());
    }
    let figures = results.case(&name, |_| {
        let running = if let Some(running) = node.take() {
            running
        } else {
            let new = Node::start(&bench.program, &data)?;
            create_topic(&new.addresses.kafka, TOPIC, 16, &[])?;
            fill(&new, TOPIC, bytes)?;
            new
        };
        fill(&running, TOPIC, TAIL_BYTES)?;
        let mut wire = Wire::connect(&running.addresses.kafka)?;
        let before = ends(&mut wire, TOPIC, 16)?;
        running.stop()?;
        rustix::fs::sync();
        let started = Instant::now();
        let again = Node::start(&bench.program, &data)?;
        let after = ends(&mut Wire::connect(&again.addresses.kafka)?, TOPIC, 16)?;
        let seconds = started.elapsed().as_secs_f64();
        ensure!(after == before, "the log ended at {before:?}, and ends at {after:?}");
        node = Some(again);
        Ok(Figures::from([("seconds".to_owned(), seconds)]))
    })?;
    let limit = Reference { name: "the limit".to_owned(), value: START_SECONDS };
    report.compared(&name, reference("seconds", &figures).value, "s", &limit);
    Ok(())
}

fn fill(node: &Node, topic: &str, bytes: u64) -> Result<()> {
    let load = Load::new(topic, 16, RECORD_BYTES)?;
    let sent = load.send(&node.addresses.kafka, FILL_WITHIN, bytes)?;
    ensure!(sent.bytes > bytes / 100 * 99, "only {} bytes were taken in time", sent.bytes);
    Ok(())
}
