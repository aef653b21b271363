//! Frames: the header of a request, and the bytes of an answer.
//!
//! ```text
//! request   length:i32  key:i16  version:i16  correlation:i32  client:string  [tags]  body
//! answer    length:i32  correlation:i32  [tags]  body
//! ```
//! `length` counts what lies behind it. The client's name has a 16-bit length even where the body
//! is flexible; tags are there if it is. An answer to `ApiVersions` never has tags in its header,
//! for its sender can not know yet whether the receiver understands them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::ApiKey,
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes},
};

use crate::{
    api::{self, Api},
    budget::Paid,
    guard::{self, MalformedRequest},
};

/// What a request says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) key: i16,
    pub(crate) version: i16,
    pub(crate) correlation: i32,
    /// What the client calls itself.
    pub(crate) client: StrBytes,
}

/// A request that nobody can answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the request is malformed: {0}")]
    Malformed(#[from] MalformedRequest),
    #[error("API {0} is not served")]
    UnknownApi(i16),
    #[error("version {version} of {key:?} is not served; {min} to {max} are")]
    UnknownVersion { key: ApiKey, version: i16, min: i16, max: i16 },
    #[error("the request does not decode: {0}")]
    Undecodable(String),
}

/// A request whose body has been looked over.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) header: Header,
    pub(crate) api: &'static Api,
    /// How many elements its arrays have together.
    pub(crate) elements: usize,
    pub(crate) body: Bytes,
}

/// The fixed part of the header: key, version and correlation.
pub(crate) fn parse_header(mut frame: &[u8]) -> Result<Header, MalformedRequest> {
    if frame.len() < 8 {
        return Err(MalformedRequest::Truncated);
    }
    Ok(Header {
        key: frame.get_i16(),
        version: frame.get_i16(),
        correlation: frame.get_i32(),
        client: StrBytes::new(),
    })
}

/// Reads a frame's header and looks its body over.
pub(crate) fn parse(mut header: Header, mut frame: Bytes) -> Result<Request, Unreadable> {
    let (key, version) = (header.key, header.version);
    let api = api::find(key).ok_or(Unreadable::UnknownApi(key))?;
    if !api.serves(version) {
        return Err(Unreadable::UnknownVersion {
            key: api.key,
            version,
            min: api.served_min,
            max: api.version_max,
        });
    }
    frame.advance(8);
    if frame.len() < 2 {
        return Err(MalformedRequest::Truncated.into());
    }
    if let Ok(length) = usize::try_from(frame.get_i16()) {
        if length > frame.len() {
            return Err(MalformedRequest::Truncated.into());
        }
        // A copy: the answer keeps it, and must not keep the frame.
        let client = std::str::from_utf8(&frame[..length])
            .map_err(|error| Unreadable::Undecodable(error.to_string()))?;
        header.client = StrBytes::from_string(client.to_owned());
        frame.advance(length);
    }
    let flexible = api.is_flexible(version);
    if flexible {
        let behind = guard::skip_tags(&frame)?.len();
        frame.advance(frame.len() - behind);
    }
    let elements = guard::inspect(&frame, api.request, version, flexible)?;
    Ok(Request { header, api, elements, body: frame })
}

impl Request {
    /// Decodes the body.
    pub(crate) fn decode<T: Decodable>(&mut self) -> Result<T, Unreadable> {
        T::decode(&mut self.body, self.header.version)
            .map_err(|error| Unreadable::Undecodable(error.to_string()))
    }
}

/// The bytes of an answer, in pieces that need not lie side by side, and what was paid for them.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pieces: Vec<Bytes>,
    paid: Option<Paid>,
}

impl Answer {
    /// Puts the length in front of pieces that begin behind it.
    pub(crate) fn framed(pieces: Vec<Bytes>) -> Self {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let mut all = Vec::with_capacity(pieces.len() + 1);
        all.push(Bytes::copy_from_slice(&(length as i32).to_be_bytes()));
        all.extend(pieces);
        Self { pieces: all, paid: None }
    }

    /// The same, which was paid for.
    pub(crate) fn paid(self, paid: Option<Paid>) -> Self {
        Self { paid, ..self }
    }

    /// The pieces, in order, and what is given back once they are written.
    pub(crate) fn into_parts(self) -> (Vec<Bytes>, Option<Paid>) {
        (self.pieces, self.paid)
    }
}

/// Encodes an answer. An error is a fault of ours: a field that the version does not have.
pub(crate) fn encode<T: Encodable + HeaderVersion>(
    correlation: i32,
    version: i16,
    body: &T,
) -> Result<Answer, String> {
    let failed = |error: &dyn std::fmt::Display| format!("encoding an answer: {error}");
    let tagged = T::header_version(version) >= 1;
    let body_bytes = body.compute_size(version).map_err(|error| failed(&error))?;
    let bytes = 4 + usize::from(tagged) + body_bytes;
    let mut out = BytesMut::with_capacity(4 + bytes);
    out.put_i32(i32::try_from(bytes).map_err(|error| failed(&error))?);
    out.put_i32(correlation);
    if tagged {
        out.put_u8(0);
    }
    body.encode(&mut out, version).map_err(|error| failed(&error))?;
    Ok(Answer { pieces: vec![out.freeze()], paid: None })
}
