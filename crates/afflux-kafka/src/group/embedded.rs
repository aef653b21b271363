//! What consumers tell each other under the classic protocol, which its coordinator passes on as
//! bytes: subscriptions and assignments. The coordinator reads them only where a group is, or is
//! to be, one of the newer protocol.
//!
//! ```text
//! subscription  version:i16  topics:[string]  user-data:bytes?
//!               1: owned:[topic:string [partition:i32]]  2: generation:i32  3: rack:string?
//! assignment    version:i16  [topic:string [partition:i32]]  user-data:bytes?
//! ```
//! Later versions only add fields behind these, so that an unknown one is read as the last known.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{BufMut, Bytes};

use crate::fields::{MalformedRecord, Reader, put_text};

/// The kind of protocol that consumers use.
pub(crate) const KIND: &str = "consumer";

/// Partitions by the names of their topics.
pub(crate) type Named = BTreeMap<Arc<str>, Vec<i32>>;

/// What a consumer wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// The topics.
    pub(crate) topics: Vec<Arc<str>>,
    /// What it still holds. Eager consumers give all up before they join.
    pub(crate) owned: Named,
    /// Where it is.
    pub(crate) rack: Option<Arc<str>>,
}

impl Subscription {
    /// Reads one.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MalformedRecord> {
        let mut from = Reader(bytes);
        let version = from.i16()?;
        if version < 0 {
            return Err(MalformedRecord("a subscription has a negative version"));
        }
        let mut read = Self::default();
        for _ in 0..from.i32()? {
            read.topics.push(from.text()?);
        }
        from.bytes()?;
        if version >= 1 {
            read.owned = named(&mut from)?;
        }
        if version >= 2 {
            from.i32()?;
        }
        if version >= 3 {
            read.rack = from.maybe_text()?;
        }
        Ok(read)
    }
}

/// The partitions of an assignment; whether an assignor of the clients' own left a note in it.
pub(crate) fn decode_assignment(bytes: &[u8]) -> Result<(Named, bool), MalformedRecord> {
    if bytes.is_empty() {
        return Ok((Named::new(), false));
    }
    let mut from = Reader(bytes);
    if from.i16()? < 0 {
        return Err(MalformedRecord("an assignment has a negative version"));
    }
    let partitions = named(&mut from)?;
    let note = from.bytes()?;
    Ok((partitions, !note.is_empty()))
}

/// An assignment, in the version of what its receiver says of itself.
pub(crate) fn encode_assignment(partitions: &Named, subscription: &[u8]) -> Bytes {
    let version = Reader(subscription).i16().unwrap_or(0).clamp(0, 3);
    let mut out = Vec::new();
    out.put_i16(version);
    out.put_i32(partitions.len() as i32);
    for (topic, partitions) in partitions {
        put_text(&mut out, topic);
        out.put_i32(partitions.len() as i32);
        for partition in partitions {
            out.put_i32(*partition);
        }
    }
    out.put_i32(-1);
    out.into()
}

fn named(from: &mut Reader<'_>) -> Result<Named, MalformedRecord> {
    let mut named = Named::new();
    for _ in 0..from.i32()? {
        let partitions = named.entry(from.text()?).or_default();
        for _ in 0..from.i32()? {
            partitions.push(from.i32()?);
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_of_all_versions_are_read() {
        let check = |bytes: &[u8], owned: &[i32], rack: Option<&str>| {
            let read = Subscription::decode(bytes).unwrap();
            assert_eq!(read.topics, ["t".into()]);
            let held: Vec<i32> = read.owned.values().flatten().copied().collect();
            assert_eq!((&held[..], read.rack.as_deref()), (owned, rack));
            for length in 0..bytes.len() {
                assert!(Subscription::decode(&bytes[..length]).is_err(), "{length}");
            }
        };
        let topics = [0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];
        let owned = [0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4];
        let (generation, rack) = ([0, 0, 0, 9], [0, 1, b'r']);
        check(&[&[0, 0], &topics[..]].concat(), &[], None);
        check(&[&[0, 1], &topics[..], &owned].concat(), &[3, 4], None);
        check(&[&[0, 2], &topics[..], &owned, &generation].concat(), &[3, 4], None);
        let three = [&[0, 3], &topics[..], &owned, &generation, &rack].concat();
        check(&three, &[3, 4], Some("r"));
    }

    #[test]
    fn assignments_come_back() {
        let named = Named::from([("a".into(), vec![0, 2]), ("b".into(), vec![1])]);
        let bytes = encode_assignment(&named, &[0, 1, 0, 0]);
        assert_eq!(&bytes[..2], [0, 1]);
        assert_eq!(decode_assignment(&bytes), Ok((named, false)));
        assert_eq!(decode_assignment(&[]), Ok((Named::new(), false)));
        for length in 1..bytes.len() {
            assert!(decode_assignment(&bytes[..length]).is_err(), "{length}");
        }
        let noted = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7];
        assert_eq!(decode_assignment(&noted), Ok((Named::new(), true)));
        // An array that announces more than there is.
        assert!(decode_assignment(&[0, 0, 0x7f, 0xff, 0xff, 0xff]).is_err());
    }
}
