//! The fields of which Kafka's own records are made, those of groups, commits and transactions.
//!
//! Numbers are big-endian. A version that is flexible has its lengths and counts as varints, one more
//! than they mean, and ends what belongs together with tagged fields.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes};
use uuid::Uuid;

/// A record that does not read as what it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record is malformed: {0}")]
pub(crate) struct MalformedRecord(pub(crate) &'static str);

const CUT: MalformedRecord = MalformedRecord("it is cut");

/// A time in milliseconds, as long as fits.
pub(crate) fn put_millis(out: &mut Vec<u8>, duration: Duration) {
    out.put_i32(i32::try_from(duration.as_millis()).unwrap_or(i32::MAX));
}

/// The time that so many milliseconds are, in a record or in a request; none if they are negative.
pub(crate) fn duration(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// A string with a 16-bit length. All that come here came in strings of at most that length.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

/// The same, or nothing.
pub(crate) fn put_maybe_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => put_text(out, text),
        None => out.put_i16(-1),
    }
}

/// Bytes with a 32-bit length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

/// A count or length of a flexible version: one more, as a varint.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_varint(out, count as u32 + 1);
}

/// A varint.
fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// A string of a flexible version.
pub(crate) fn put_compact(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.put_slice(text.as_bytes());
}

/// The same, or nothing.
pub(crate) fn put_maybe_compact(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => put_compact(out, text),
        None => out.put_u8(0),
    }
}

/// Tagged fields, in order.
pub(crate) fn put_tags(out: &mut Vec<u8>, tags: &[(u32, Vec<u8>)]) {
    put_varint(out, tags.len() as u32);
    for (tag, value) in tags {
        put_varint(out, *tag);
        put_varint(out, value.len() as u32);
        out.put_slice(value);
    }
}

/// Reads what others may have written: nothing is reserved by a count, and every read can fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MalformedRecord> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(CUT)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn slice(&mut self, bytes: usize) -> Result<&'a [u8], MalformedRecord> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn i8(&mut self) -> Result<i8, MalformedRecord> {
        Ok(i8::from_be_bytes(self.take()?))
    }

    pub(crate) fn i16(&mut self) -> Result<i16, MalformedRecord> {
        Ok(i16::from_be_bytes(self.take()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, MalformedRecord> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, MalformedRecord> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    pub(crate) fn text(&mut self) -> Result<Arc<str>, MalformedRecord> {
        self.maybe_text()?.ok_or(MalformedRecord("a string is missing"))
    }

    pub(crate) fn maybe_text(&mut self) -> Result<Option<Arc<str>>, MalformedRecord> {
        match self.i16()? {
            -1 => Ok(None),
            length => self.utf8(usize::try_from(length).map_err(|_| CUT)?).map(Some),
        }
    }

    pub(crate) fn compact(&mut self) -> Result<Arc<str>, MalformedRecord> {
        self.maybe_compact()?.ok_or(MalformedRecord("a string is missing"))
    }

    pub(crate) fn maybe_compact(&mut self) -> Result<Option<Arc<str>>, MalformedRecord> {
        match self.varint()? {
            0 => Ok(None),
            length => self.utf8(length as usize - 1).map(Some),
        }
    }

    fn utf8(&mut self, length: usize) -> Result<Arc<str>, MalformedRecord> {
        let bytes = self.slice(length)?;
        std::str::from_utf8(bytes)
            .map(Arc::from)
            .map_err(|_| MalformedRecord("a string is not UTF-8"))
    }

    /// Bytes with a 32-bit length; none are none.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, MalformedRecord> {
        let length = self.i32()?.max(0);
        Ok(Bytes::copy_from_slice(self.slice(length as usize)?))
    }

    pub(crate) fn compact_bytes(&mut self) -> Result<Bytes, MalformedRecord> {
        let length = self.count()?;
        Ok(Bytes::copy_from_slice(self.slice(length)?))
    }

    fn varint(&mut self) -> Result<u32, MalformedRecord> {
        let mut value = 0;
        for i in 0..5 {
            let [byte] = self.take()?;
            value |= u32::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(MalformedRecord("a varint is too long"))
    }

    /// A count of a flexible version; none are none.
    pub(crate) fn count(&mut self) -> Result<usize, MalformedRecord> {
        Ok((self.varint()? as usize).saturating_sub(1))
    }

    /// The tagged fields.
    pub(crate) fn tags(&mut self) -> Result<Vec<(u32, Reader<'a>)>, MalformedRecord> {
        let mut tags = Vec::new();
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let bytes = self.varint()? as usize;
            tags.push((tag, Reader(self.slice(bytes)?)));
        }
        Ok(tags)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, MalformedRecord> {
        Ok(Uuid::from_bytes(self.take()?))
    }

    /// The version, which must be one up to this.
    pub(crate) fn version(&mut self, last: i16) -> Result<i16, MalformedRecord> {
        let version = self.i16()?;
        if (0..=last).contains(&version) {
            Ok(version)
        } else {
            Err(MalformedRecord("its version is not known"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_cut_does_not() {
        let mut out = Vec::new();
        put_text(&mut out, "text");
        put_maybe_text(&mut out, None);
        put_compact(&mut out, &"x".repeat(300));
        put_maybe_compact(&mut out, None);
        put_bytes(&mut out, &[1, 2]);
        put_millis(&mut out, Duration::MAX);
        put_tags(&mut out, &[(7, vec![9])]);
        let read = |bytes: &[u8]| {
            let mut from = Reader(bytes);
            let texts = (from.text()?, from.maybe_text()?, from.compact()?, from.maybe_compact()?);
            let (bytes, millis) = (from.bytes()?, from.i32()?);
            let tags = from.tags()?.into_iter().map(|(tag, of)| (tag, of.0.to_vec())).collect();
            Ok::<(_, _, _, Vec<_>), MalformedRecord>((texts, bytes, millis, tags))
        };
        let (texts, bytes, millis, tags) = read(&out).unwrap();
        assert_eq!(texts, ("text".into(), None, "x".repeat(300).into(), None));
        assert_eq!((&bytes[..], millis, tags), (&[1, 2][..], i32::MAX, vec![(7, vec![9])]));
        assert!((0..out.len()).all(|cut| read(&out[..cut]).is_err()));
    }

    #[test]
    fn a_count_that_the_bytes_can_not_fill_is_refused_without_reserving() {
        let mut huge = Vec::new();
        put_varint(&mut huge, u32::MAX);
        assert!(Reader(&huge).compact().is_err());
        assert!(Reader(&huge).compact_bytes().is_err());
        assert!(Reader(&huge).tags().is_err());
        assert!(Reader(&[0xff; 6]).varint().is_err());
    }
}
