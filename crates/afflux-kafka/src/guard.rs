//! Looks a request over before the generated decoders see it.
//!
//! Those decoders reserve room for as many elements as a count says, before the elements are
//! there: eight bytes can make them reserve gigabytes. So each request is walked first, by a
//! description of its shape:
//! 1. every length must fit the bytes that are left;
//! 2. every element of every array is really walked, so a count can not exceed what is there;
//! 3. tagged fields are stepped over by their size; one that the decoder knows must have its own;
//! 4. elements and tagged fields are counted: a decoded one takes many times its two bytes or so.
//!
//! Not here: what the fields mean. What passes may still be refused by the decoder (a null where
//! none may be, text that is not UTF-8), but can not make it reserve more than a small multiple
//! of the request's own bytes.
//!
//! A known tagged field is read by the decoder according to its type, not by its size: with another
//! size it would shift everything behind it, and counts with it. At the very end of Fetch there are
//! some whose size is not looked at, since nothing with a count follows.

/// The longest string: Kafka's limit, also where a longer length could be written.
const TEXT_BYTES_MAX: usize = i16::MAX as usize;

/// The most elements and tagged fields of a request: what they take once they are decoded is some
/// megabytes.
const ELEMENTS_MAX: usize = 1 << 17;

/// A request that can not be what it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MalformedRequest {
    /// A length or count points behind the end.
    #[error("a length or count points behind the end of the request")]
    Truncated,
    /// A length below -1.
    #[error("a length is negative")]
    Negative,
    /// A tagged field of another size than it has.
    #[error("a tagged field has another size than it can have")]
    Tagged,
    /// A string longer than Kafka's strings are.
    #[error("a string has more than {TEXT_BYTES_MAX} bytes")]
    LongText,
    /// More elements than a request may have.
    #[error("it has more than {ELEMENTS_MAX} elements")]
    Elements,
}

/// A field, and the versions that have it.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) from: i16,
    pub(crate) to: i16,
    pub(crate) kind: Kind,
}

/// How a field lies in the request.
#[derive(Debug)]
pub(crate) enum Kind {
    /// That many bytes.
    Fixed(usize),
    /// A string: 16-bit length, or a varint in flexible versions.
    Text,
    /// Bytes: 32-bit length, or a varint in flexible versions.
    Bytes,
    /// Structures, each with its tagged fields in flexible versions.
    Array(&'static [Field]),
    /// Bare values, without tagged fields.
    List(&'static Kind),
    /// A structure that may be null: a byte says so, -1 if it is.
    Optional(&'static [Field]),
    /// A tagged field: its number and its size.
    Tagged(u32, usize),
}

/// A field of all versions.
pub(crate) const fn always(kind: Kind) -> Field {
    Field { from: 0, to: i16::MAX, kind }
}

/// A field of a version and all later ones.
pub(crate) const fn since(from: i16, kind: Kind) -> Field {
    Field { from, to: i16::MAX, kind }
}

/// A field of all versions up to one.
pub(crate) const fn until(to: i16, kind: Kind) -> Field {
    Field { from: 0, to, kind }
}

/// A field of some versions only.
pub(crate) const fn between(from: i16, to: i16, kind: Kind) -> Field {
    Field { from, to, kind }
}

/// Walks a request's body; how many elements it has. Bytes behind it are not looked at, as in Kafka.
pub(crate) fn inspect(
    body: &[u8],
    fields: &[Field],
    version: i16,
    flexible: bool,
) -> Result<usize, MalformedRequest> {
    let mut walk = Walk { rest: body, elements: 0, version, flexible };
    walk.structure(fields)?;
    Ok(walk.elements)
}

/// Steps over tagged fields; what lies behind them.
pub(crate) fn skip_tags(bytes: &[u8]) -> Result<&[u8], MalformedRequest> {
    let mut walk = Walk { rest: bytes, elements: 0, version: 0, flexible: true };
    walk.tags(&[])?;
    Ok(walk.rest)
}

struct Walk<'a> {
    rest: &'a [u8],
    elements: usize,
    version: i16,
    flexible: bool,
}

impl Walk<'_> {
    fn structure(&mut self, fields: &[Field]) -> Result<(), MalformedRequest> {
        for field in self.present(fields) {
            self.field(&field.kind)?;
        }
        if self.flexible { self.tags(fields) } else { Ok(()) }
    }

    /// The fields that the version has.
    fn present<'b>(&self, fields: &'b [Field]) -> impl Iterator<Item = &'b Field> + use<'b> {
        let version = self.version;
        fields.iter().filter(move |field| (field.from..=field.to).contains(&version))
    }

    fn field(&mut self, kind: &Kind) -> Result<(), MalformedRequest> {
        match kind {
            Kind::Fixed(bytes) => self.skip(*bytes),
            Kind::Text => {
                let length = if self.flexible { self.compact()? } else { self.short()? };
                if length > TEXT_BYTES_MAX {
                    return Err(MalformedRequest::LongText);
                }
                self.skip(length)
            }
            Kind::Bytes => {
                let length = if self.flexible { self.compact()? } else { self.long()? };
                self.skip(length)
            }
            Kind::Array(element) => {
                for _ in 0..self.count()? {
                    self.structure(element)?;
                }
                Ok(())
            }
            Kind::List(element) => {
                for _ in 0..self.count()? {
                    self.field(element)?;
                }
                Ok(())
            }
            Kind::Optional(fields) => match self.take()? {
                [0xff] => Ok(()),
                _ => self.structure(fields),
            },
            // Behind all others: see `tags`.
            Kind::Tagged(..) => Ok(()),
        }
    }

    /// A count of elements, none of which takes less than a byte.
    fn count(&mut self) -> Result<usize, MalformedRequest> {
        let count = if self.flexible { self.compact()? } else { self.long()? };
        if count > self.rest.len() {
            return Err(MalformedRequest::Truncated);
        }
        self.add(count)?;
        Ok(count)
    }

    fn add(&mut self, elements: usize) -> Result<(), MalformedRequest> {
        self.elements = self.elements.saturating_add(elements);
        if self.elements > ELEMENTS_MAX { Err(MalformedRequest::Elements) } else { Ok(()) }
    }

    fn tags(&mut self, fields: &[Field]) -> Result<(), MalformedRequest> {
        for _ in 0..self.varint()? {
            self.add(1)?;
            let (tag, size) = (self.varint()?, self.varint()? as usize);
            let is_other = |field: &Field| matches!(field.kind, Kind::Tagged(known, bytes) if known == tag && bytes != size);
            if self.present(fields).any(is_other) {
                return Err(MalformedRequest::Tagged);
            }
            self.skip(size)?;
        }
        Ok(())
    }

    fn skip(&mut self, bytes: usize) -> Result<(), MalformedRequest> {
        self.rest = self.rest.get(bytes..).ok_or(MalformedRequest::Truncated)?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], MalformedRequest> {
        let (taken, rest) =
            self.rest.split_first_chunk::<N>().ok_or(MalformedRequest::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A 16-bit length; null counts as 0.
    fn short(&mut self) -> Result<usize, MalformedRequest> {
        length(i32::from(i16::from_be_bytes(self.take()?)))
    }

    /// A 32-bit length; null counts as 0.
    fn long(&mut self) -> Result<usize, MalformedRequest> {
        length(i32::from_be_bytes(self.take()?))
    }

    /// A varint length, one more than it means; null counts as 0.
    fn compact(&mut self) -> Result<usize, MalformedRequest> {
        Ok((self.varint()? as usize).saturating_sub(1))
    }

    /// At most five bytes, whatever the fifth says: as the generated decoders read it.
    fn varint(&mut self) -> Result<u32, MalformedRequest> {
        let mut value = 0;
        for i in 0..5 {
            let [byte] = self.take()?;
            value |= u32::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }
}

fn length(length: i32) -> Result<usize, MalformedRequest> {
    match length {
        -1 => Ok(0),
        length => usize::try_from(length).map_err(|_| MalformedRequest::Negative),
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
