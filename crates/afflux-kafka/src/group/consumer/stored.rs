//! The records of a group of the consumer protocol: Kafka's, all of version 0 and flexible.
//!
//! ```text
//! Group         epoch:i32  tags 0: hash of topics:i64
//! Member        instance? rack? client host topics:[string] expression? rebalance-ms:i32
//!               assignor?  tags 0: classic: session-ms:i32 protocols:[name metadata]
//! Target        epoch:i32
//! TargetMember  partitions
//! Current       epoch:i32 previous:i32 progress:i8 assigned:partitions revoking:partitions
//! Expression    topics:[string] version:i64 time:i64
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use afflux_types::Timestamp;
use bytes::{BufMut, Bytes};

use super::{Classic, Group, Member, Progress, Resolved};
use crate::{
    fields::{
        MalformedRecord, Reader, duration, put_compact, put_count, put_maybe_compact, put_millis,
        put_tags,
    },
    group::{
        GroupId,
        records::{Key, parts, put_parts},
    },
};

const VERSION: i16 = 0;

impl Group {
    /// Notes when what is about to be stored was so.
    pub(crate) fn stamp(&mut self, time: Timestamp) {
        self.empty_since = self.members.is_empty().then(|| self.empty_since.unwrap_or(time));
        for resolved in self.expressions.values_mut() {
            resolved.time.get_or_insert(time);
        }
    }

    /// What has to be stored. Whoever takes it has it stored.
    pub(crate) fn changed(&mut self) -> &mut BTreeSet<Key> {
        &mut self.changed
    }

    /// The value of a record; none if what it is about is no more.
    pub(crate) fn value(&self, key: &Key) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        out.put_i16(VERSION);
        match key {
            Key::Classic(_) => return None,
            Key::Group(_) => {
                out.put_i32(self.epoch);
                put_tags(&mut out, &[(0, self.hash.to_be_bytes().to_vec())]);
            }
            Key::Target(_) => {
                out.put_i32(self.target_epoch);
                put_tags(&mut out, &[]);
            }
            Key::Member(_, id) => put_member(&mut out, self.members.get(id)?),
            Key::TargetMember(_, id) => {
                put_parts(&mut out, self.target.get(id)?);
                put_tags(&mut out, &[]);
            }
            Key::Current(_, id) => {
                let member = self.members.get(id)?;
                out.put_i32(member.epoch);
                out.put_i32(member.previous);
                out.put_i8(match member.progress {
                    Progress::Stable => 0,
                    Progress::Unrevoked => 1,
                    Progress::Unreleased => 2,
                });
                put_parts(&mut out, &member.assigned);
                put_parts(&mut out, &member.revoking);
                put_tags(&mut out, &[]);
            }
            Key::Expression(_, expression) => {
                let resolved = self.expressions.get(expression)?;
                put_count(&mut out, resolved.topics.len());
                resolved.topics.iter().for_each(|topic| put_compact(&mut out, topic));
                out.put_i64(resolved.version);
                out.put_i64(resolved.time.map_or(-1, |time| time.0));
                put_tags(&mut out, &[]);
            }
        }
        Some(out)
    }

    /// A group as it was stored. Its members have a whole session to be heard of.
    pub(crate) fn decode(
        now: Duration,
        id: &GroupId,
        records: &BTreeMap<Key, Bytes>,
        session: Duration,
    ) -> Result<Self, MalformedRecord> {
        let mut group = Self::new(id.clone());
        for (key, value) in records {
            let mut from = Reader(value);
            from.version(VERSION)?;
            match key {
                Key::Classic(_) => {}
                Key::Group(_) => {
                    group.epoch = from.i32()?;
                    for (tag, mut value) in from.tags()? {
                        if tag == 0 {
                            group.hash = value.i64()?;
                        }
                    }
                }
                Key::Target(_) => group.target_epoch = from.i32()?,
                Key::Member(_, id) => {
                    group.members.insert(id.clone(), get_member(&mut from)?);
                }
                Key::TargetMember(_, id) => {
                    group.target.insert(id.clone(), parts(&mut from)?);
                }
                Key::Current(_, id) => {
                    if let Some(member) = group.members.get_mut(id) {
                        get_current(&mut from, member)?;
                    }
                }
                Key::Expression(_, expression) => {
                    let mut topics = BTreeSet::new();
                    for _ in 0..from.count()? {
                        topics.insert(from.compact()?);
                    }
                    let version = from.i64()?;
                    let time = Some(Timestamp(from.i64()?));
                    let resolved = Resolved { topics, version, time };
                    group.expressions.insert(expression.clone(), resolved);
                }
            }
        }
        group.rise(now, session);
        Ok(group)
    }

    /// Sets what is not stored.
    fn rise(&mut self, now: Duration, session: Duration) {
        let members = &mut self.members;
        self.target.retain(|id, _| members.contains_key(id));
        for (id, member) in members {
            let asked = member.classic.as_ref().map(|classic| classic.session);
            member.expires = now + asked.unwrap_or(session);
            if member.progress == Progress::Unrevoked {
                member.due = Some(now + member.rebalance);
            }
            let held = member.assigned.iter().chain(&member.revoking);
            self.owners.extend(held.map(|part| (*part, id.clone())));
        }
        self.subscriptions_changed();
        self.changed.clear();
    }
}

fn put_member(out: &mut Vec<u8>, member: &Member) {
    put_maybe_compact(out, member.instance.as_deref());
    put_maybe_compact(out, member.rack.as_deref());
    put_compact(out, &member.client);
    put_compact(out, &member.host);
    put_count(out, member.topics.len());
    member.topics.iter().for_each(|topic| put_compact(out, topic));
    put_maybe_compact(out, member.expression.as_deref());
    put_millis(out, member.rebalance);
    put_maybe_compact(out, member.assignor.as_deref());
    let Some(classic) = &member.classic else { return put_tags(out, &[]) };
    // A structure that may be null says first that it is not.
    let mut told = vec![1];
    put_millis(&mut told, classic.session);
    put_count(&mut told, classic.protocols.len());
    for (name, metadata) in &classic.protocols {
        put_compact(&mut told, name);
        put_count(&mut told, metadata.len());
        told.put_slice(metadata);
        put_tags(&mut told, &[]);
    }
    put_tags(&mut told, &[]);
    put_tags(out, &[(0, told)]);
}

fn get_member(from: &mut Reader<'_>) -> Result<Member, MalformedRecord> {
    let mut member = Member::new();
    member.instance = from.maybe_compact()?;
    member.rack = from.maybe_compact()?;
    member.client = from.compact()?;
    member.host = from.compact()?;
    for _ in 0..from.count()? {
        member.topics.insert(from.compact()?);
    }
    member.expression = from.maybe_compact()?.filter(|text| !text.is_empty());
    member.rebalance = duration(from.i32()?);
    member.assignor = from.maybe_compact()?;
    for (tag, mut told) in from.tags()? {
        if tag == 0 && told.i8()? >= 0 {
            let mut classic = Classic { session: duration(told.i32()?), protocols: Vec::new() };
            for _ in 0..told.count()? {
                let name = told.compact()?;
                classic.protocols.push((name, told.compact_bytes()?));
                told.tags()?;
            }
            member.classic = Some(classic);
        }
    }
    Ok(member)
}

fn get_current(from: &mut Reader<'_>, member: &mut Member) -> Result<(), MalformedRecord> {
    member.epoch = from.i32()?;
    member.previous = from.i32()?;
    member.progress = match from.i8()? {
        0 => Progress::Stable,
        1 => Progress::Unrevoked,
        2 => Progress::Unreleased,
        _ => return Err(MalformedRecord("a member has an unknown state")),
    };
    member.assigned = parts(from)?;
    member.revoking = parts(from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::group::{MemberId, Parts};

    const NOW: Duration = Duration::ZERO;

    fn group() -> Group {
        let parts = Parts::from([(Uuid::from_u128(1), 7)]);
        let mut group = Group::new("g".into());
        (group.epoch, group.target_epoch, group.hash) = (3, 2, 9);
        let member = Member {
            instance: Some("i".into()),
            client: "c".into(),
            host: "/h".into(),
            topics: BTreeSet::from(["t".into()]),
            rebalance: Duration::from_millis(5),
            assignor: Some("range".into()),
            classic: Some(Classic {
                session: Duration::from_millis(7),
                protocols: vec![("p".into(), vec![1].into())],
            }),
            epoch: 3,
            previous: 2,
            progress: Progress::Unreleased,
            assigned: parts.clone(),
            ..Member::new()
        };
        group.members.insert("m".into(), member);
        group.target.insert("m".into(), parts);
        let topics = BTreeSet::from(["t".into()]);
        let resolved = Resolved { topics, version: 4, time: Some(Timestamp(8)) };
        group.expressions.insert("t.*".into(), resolved);
        group
    }

    #[test]
    fn values_are_laid_out_as_kafkas() {
        let (group, id, m) = (group(), GroupId::from("g"), MemberId::from("m"));
        let mut part = vec![2];
        part.extend(Uuid::from_u128(1).as_bytes());
        part.extend([2, 0, 0, 0, 7, 0]);
        let check =
            |key: &Key, bytes: &[u8]| assert_eq!(group.value(key).unwrap(), bytes, "{key:?}");
        check(&Key::Group(id.clone()), &[0, 0, 0, 0, 0, 3, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
        check(&Key::Target(id.clone()), &[0, 0, 0, 0, 0, 2, 0]);
        #[rustfmt::skip]
        check(&Key::Member(id.clone(), m.clone()), &[
            0, 0, // version
            2, b'i', 0, 2, b'c', 3, b'/', b'h', // instance, rack, client, host
            2, 2, b't', 0, 0, 0, 0, 5, // topics, expression, rebalance time-out
            6, b'r', b'a', b'n', b'g', b'e', // assignor
            1, 0, 12, 1, 0, 0, 0, 7, 2, 2, b'p', 2, 1, 0, 0, // as a classic member
        ]);
        check(&Key::TargetMember(id.clone(), m.clone()), &[&[0, 0], &part[..], &[0]].concat());
        let current = [&[0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 2], &part[..], &[1, 0]].concat();
        check(&Key::Current(id.clone(), m), &current);
        check(
            &Key::Expression(id, "t.*".into()),
            &[0, 0, 2, 2, b't', 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 0],
        );
    }

    #[test]
    fn what_is_read_is_what_was_written_and_cut_values_are_errors() {
        let mut group = group();
        let session = Duration::from_secs(45);
        // One that no member has would be forgotten.
        group.members.values_mut().for_each(|member| member.expression = Some("t.*".into()));
        let value = |key: Key| (key.clone(), Bytes::from(group.value(&key).unwrap()));
        let records: BTreeMap<Key, Bytes> = group.keys().into_iter().map(value).collect();
        let read = Group::decode(NOW, &"g".into(), &records, session).unwrap();
        let again: BTreeMap<Key, Bytes> = read
            .keys()
            .into_iter()
            .map(|key| (key.clone(), Bytes::from(read.value(&key).unwrap())))
            .collect();
        assert_eq!((records.len(), &again), (6, &records));
        for (key, value) in &records {
            // The last byte says that there are no tags, and need not be looked at.
            for length in 0..value.len() - 1 {
                let mut cut = records.clone();
                cut.insert(key.clone(), value.slice(..length));
                let read = Group::decode(NOW, &"g".into(), &cut, session);
                assert!(read.is_err(), "{key:?} {length}");
            }
        }
    }
}
