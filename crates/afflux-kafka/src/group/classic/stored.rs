//! The record of a classic group: `GroupMetadataValue`, version 3.
//!
//! ```text
//! version:i16=3  kind:string  generation:i32  protocol:string?  leader:string?  since:i64
//! count:i32  members: id:string  instance:string?  client:string  host:string
//!                     rebalance-ms:i32  session-ms:i32  subscription:bytes  assignment:bytes
//! ```
//! A group is stored when its leader has assigned, when a static member takes its former place,
//! and when its last member is gone: what it was in between is lost with the node, and members
//! then join again. So a rewrite of all records writes what was stored last, not what is now.

use std::{sync::Arc, time::Duration};

use afflux_types::Timestamp;
use bytes::BufMut;

use super::{Group, Member, State};
use crate::fields::{
    MalformedRecord, Reader, duration, put_bytes, put_maybe_text, put_millis, put_text,
};

const VERSION: i16 = 3;
/// The last version whose fields have fixed lengths.
const VERSION_MAX: i16 = 3;

impl Group {
    /// Whether its record says something else by now.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Makes its record say what it is now, if that has to be stored.
    pub(crate) fn store(&mut self, time: Timestamp) {
        if std::mem::take(&mut self.changed) {
            self.empty_since = self.members.is_empty().then_some(time);
            self.stored = Some(self.encode(time));
        }
    }

    /// The value of its record, if it has one.
    pub(crate) fn value(&self) -> Option<&Vec<u8>> {
        self.stored.as_ref()
    }

    /// Has its record written with the next ones.
    pub(crate) fn set_changed(&mut self) {
        self.changed = true;
    }

    fn encode(&self, time: Timestamp) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_i16(VERSION);
        put_text(&mut out, &self.kind());
        out.put_i32(self.generation);
        put_maybe_text(&mut out, self.protocol.as_deref());
        put_maybe_text(&mut out, self.leader.as_deref());
        out.put_i64(time.0);
        out.put_i32(self.members.len() as i32);
        let protocol = self.protocol.as_deref().unwrap_or_default();
        for (id, member) in &self.members {
            put_text(&mut out, id);
            put_maybe_text(&mut out, member.instance.as_deref());
            put_text(&mut out, &member.client);
            put_text(&mut out, &member.host);
            put_millis(&mut out, member.rebalance);
            put_millis(&mut out, member.session);
            put_bytes(&mut out, &member.metadata(protocol));
            put_bytes(&mut out, &member.assignment);
        }
        out
    }

    /// A group as it was stored. Its members have a whole session to be heard of.
    pub(crate) fn decode(now: Duration, value: &[u8]) -> Result<Self, MalformedRecord> {
        let mut from = Reader(value);
        let version = from.version(VERSION_MAX)?;
        let mut group = Self { kind: Some(from.text()?), ..Self::default() };
        group.generation = from.i32()?;
        group.protocol = from.maybe_text()?;
        group.leader = from.maybe_text()?;
        let since = if version >= 2 { Timestamp(from.i64()?) } else { Timestamp(-1) };
        let protocol = group.protocol.clone().unwrap_or_else(|| Arc::from(""));
        for order in 0..from.i32()? {
            let id = from.text()?;
            let mut member = Member::new(order as u64);
            member.instance = if version >= 3 { from.maybe_text()? } else { None };
            member.client = from.text()?;
            member.host = from.text()?;
            let rebalance = if version >= 1 { Some(duration(from.i32()?)) } else { None };
            member.session = duration(from.i32()?);
            member.rebalance = rebalance.unwrap_or(member.session);
            member.protocols = vec![(protocol.clone(), from.bytes()?)];
            member.assignment = from.bytes()?;
            member.expires = now + member.session;
            member.synced = true;
            group.members.insert(id, member);
        }
        group.joins = group.members.len() as u64;
        group.state = if group.members.is_empty() { State::Empty } else { State::Stable };
        group.empty_since = group.members.is_empty().then_some(since);
        group.stored = Some(value.to_vec());
        Ok(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        let mut group = Group {
            kind: Some("consumer".into()),
            generation: 5,
            protocol: Some("range".into()),
            leader: Some("m".into()),
            ..Group::default()
        };
        let mut member = Member::new(1);
        member.instance = Some("i".into());
        member.client = "c".into();
        member.host = "/h".into();
        member.session = Duration::from_millis(10);
        member.rebalance = Duration::from_millis(11);
        member.protocols = vec![("range".into(), vec![1, 2].into())];
        member.assignment = vec![3].into();
        group.members.insert("m".into(), member);
        group
    }

    #[test]
    fn it_is_laid_out_as_kafkas() {
        let mut bytes = vec![0, 3, 0, 8];
        bytes.extend(b"consumer");
        bytes.extend([0, 0, 0, 5, 0, 5]);
        bytes.extend(b"range");
        bytes.extend([0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1]);
        bytes.extend([0, 1, b'm', 0, 1, b'i', 0, 1, b'c', 0, 2, b'/', b'h']);
        bytes.extend([0, 0, 0, 11, 0, 0, 0, 10, 0, 0, 0, 2, 1, 2, 0, 0, 0, 1, 3]);
        let group = group();
        assert_eq!(group.encode(Timestamp(9)), bytes);
        let read = Group::decode(Duration::from_secs(1), &bytes).unwrap();
        assert_eq!((read.state, read.generation), (State::Stable, 5));
        assert_eq!(read.encode(Timestamp(9)), bytes);
        for length in 0..bytes.len() {
            assert!(Group::decode(Duration::ZERO, &bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn it_is_stored_once_for_each_change() {
        let mut group = group();
        group.store(Timestamp(8));
        assert_eq!(group.value(), None);
        group.changed = true;
        group.store(Timestamp(9));
        group.store(Timestamp(10));
        assert_eq!(group.value(), Some(&group.encode(Timestamp(9))));
        group.members.clear();
        group.changed = true;
        group.store(Timestamp(77));
        let read = Group::decode(Duration::ZERO, group.value().unwrap()).unwrap();
        assert_eq!((read.state, read.empty_since), (State::Empty, Some(Timestamp(77))));
    }
}
