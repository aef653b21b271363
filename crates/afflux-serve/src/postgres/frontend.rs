//! What Postgres clients send: bytes to messages.
//!
//! Not a codec for both directions: answers are pgwire's messages. Requests are decoded here
//! because a client's lengths and counts must not be trusted, neither to reserve memory nor to
//! read behind the message's end.
//!
//! ```text
//! before the start-up:  length:i32  code:i32  rest[length - 8]
//! afterwards:           tag:u8  length:i32  body[length - 4]
//! ```
//!
//! 1. A length is checked against its limit as soon as its bytes are there, before anything is
//!    reserved for the body.
//! 2. A body is decoded from exactly its own bytes; what is missing or left over is an error.

use bytes::{Buf, Bytes, BytesMut};

/// The longest start-up packet, as in Postgres (`MAX_STARTUP_PACKET_LENGTH`).
const STARTUP_BYTES_MAX: usize = 10_000;

/// The first packets of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// "Do you speak TLS?"
    Tls,
    /// "Do you speak GSSAPI encryption?"
    Gss,
    /// "Cancel what that connection is doing."
    Cancel {
        /// The connection's number.
        process: i32,
        /// Its secret.
        secret: Bytes,
    },
    /// The start of a session.
    Startup {
        /// Major in the upper half, minor in the lower.
        version: u32,
        /// `user`, `database`, `application_name`, settings …
        parameters: Vec<(String, String)>,
    },
}

/// What a statement name or a portal name in `Describe` and `Close` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Statement,
    Portal,
}

/// A request of a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Query(String),
    Parse {
        name: String,
        query: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe(Target, String),
    Execute {
        portal: String,
        rows_max: usize,
    },
    Close(Target, String),
    Flush,
    Sync,
    Terminate,
    /// A message that this server has no use for: its tag.
    Other(u8),
}

/// `Bind`, undigested.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) portal: String,
    pub(crate) statement: String,
    pub(crate) parameter_formats: Vec<i16>,
    pub(crate) parameters: Vec<Option<Bytes>>,
    pub(crate) result_formats: Vec<i16>,
}

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a message of {actual} bytes is longer than the {max} that are accepted")]
    TooLong { actual: usize, max: usize },
    #[error("a message is malformed: {0}")]
    Body(&'static str),
}

/// Takes the next opening packet off the buffer; `None` if it is not there yet.
pub(crate) fn opening(buffer: &mut BytesMut) -> Result<Option<Opening>, Malformed> {
    let Some(mut body) = frame(buffer, 0, STARTUP_BYTES_MAX)? else { return Ok(None) };
    let code = body.code()?;
    let opening = match code {
        80_877_103 => Opening::Tls,
        80_877_104 => Opening::Gss,
        80_877_102 => {
            let process = body.code()? as i32;
            Opening::Cancel { process, secret: body.0.split_off(0) }
        }
        version => {
            let mut parameters = Vec::new();
            loop {
                let name = body.text()?;
                if name.is_empty() {
                    break;
                }
                parameters.push((name, body.text()?));
            }
            Opening::Startup { version, parameters }
        }
    };
    if matches!(opening, Opening::Cancel { .. }) { Ok(Some(opening)) } else { body.end(opening) }
}

/// Takes the next request off the buffer; `None` if it is not there yet.
pub(crate) fn request(
    buffer: &mut BytesMut,
    bytes_max: usize,
) -> Result<Option<Request>, Malformed> {
    let Some(&tag) = buffer.first() else { return Ok(None) };
    let Some(mut body) = frame(buffer, 1, bytes_max)? else { return Ok(None) };
    let request = match tag {
        b'Q' => Request::Query(body.text()?),
        b'P' => {
            let (name, query) = (body.text()?, body.text()?);
            let count = body.count(4)?;
            let types = (0..count).map(|_| body.code()).collect::<Result<_, _>>()?;
            Request::Parse { name, query, types }
        }
        b'B' => Request::Bind(bind(&mut body)?),
        b'D' => Request::Describe(body.target()?, body.text()?),
        b'E' => {
            let (portal, rows) = (body.text()?, body.code()? as i32);
            Request::Execute { portal, rows_max: usize::try_from(rows).unwrap_or(0) }
        }
        b'C' => Request::Close(body.target()?, body.text()?),
        b'H' => Request::Flush,
        b'S' => Request::Sync,
        b'X' => Request::Terminate,
        other => return Ok(Some(Request::Other(other))),
    };
    body.end(request)
}

fn bind(body: &mut Body) -> Result<Bind, Malformed> {
    let (portal, statement) = (body.text()?, body.text()?);
    let count = body.count(2)?;
    let parameter_formats = (0..count).map(|_| body.short()).collect::<Result<_, _>>()?;
    let count = body.count(4)?;
    let parameters = (0..count).map(|_| body.value()).collect::<Result<_, _>>()?;
    let count = body.count(2)?;
    let result_formats = (0..count).map(|_| body.short()).collect::<Result<_, _>>()?;
    Ok(Bind { portal, statement, parameter_formats, parameters, result_formats })
}

/// Splits off one frame once it is whole. `ahead` bytes come before the length, which counts
/// itself but not them.
fn frame(buffer: &mut BytesMut, ahead: usize, max: usize) -> Result<Option<Body>, Malformed> {
    let Some(length) = buffer.get(ahead..ahead + 4) else { return Ok(None) };
    let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
    if length < 4 {
        return Err(Malformed::Body("its length is less than that of the length itself"));
    }
    if length > max {
        return Err(Malformed::TooLong { actual: length, max });
    }
    if buffer.len() < ahead + length {
        return Ok(None);
    }
    buffer.advance(ahead + 4);
    Ok(Some(Body(buffer.split_to(length - 4).freeze())))
}

struct Body(Bytes);

impl Body {
    fn code(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed::Body("it ends within a number"))
    }

    fn short(&mut self) -> Result<i16, Malformed> {
        self.0.try_get_i16().map_err(|_| Malformed::Body("it ends within a number"))
    }

    /// A count of things that take at least `size` bytes each.
    fn count(&mut self, size: usize) -> Result<usize, Malformed> {
        let count = self.short()? as u16 as usize;
        if count * size > self.0.len() {
            return Err(Malformed::Body("it counts more than it holds"));
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(Malformed::Body("a text has no end"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.into()).map_err(|_| Malformed::Body("a text is not UTF-8"))
    }

    fn value(&mut self) -> Result<Option<Bytes>, Malformed> {
        let length = self.code()? as i32;
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        if length > self.0.len() {
            return Err(Malformed::Body("a parameter is longer than the message"));
        }
        Ok(Some(self.0.split_to(length)))
    }

    fn target(&mut self) -> Result<Target, Malformed> {
        match self.0.try_get_u8() {
            Ok(b'S') => Ok(Target::Statement),
            Ok(b'P') => Ok(Target::Portal),
            _ => Err(Malformed::Body("it names neither a statement nor a portal")),
        }
    }

    fn end<T>(&self, value: T) -> Result<Option<T>, Malformed> {
        if self.0.is_empty() {
            Ok(Some(value))
        } else {
            Err(Malformed::Body("bytes follow its end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::from(&[tag][..]);
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn requests_are_decoded_or_refused() {
        let check = |tag: u8, body: &[u8], expected: Result<Request, &str>| {
            let actual = request(&mut message(tag, body), 1 << 20);
            match (actual, expected) {
                (Ok(Some(actual)), Ok(expected)) => assert_eq!(actual, expected),
                (Err(Malformed::Body(actual)), Err(expected)) => assert_eq!(actual, expected),
                (actual, expected) => panic!("{actual:?} is not {expected:?}"),
            }
        };
        check(b'Q', b"SELECT 1\0", Ok(Request::Query("SELECT 1".into())));
        check(b'Q', b"SELECT 1", Err("a text has no end"));
        check(b'Q', b"\xff\0", Err("a text is not UTF-8"));
        check(b'Q', b"a\0b", Err("bytes follow its end"));
        check(
            b'P',
            b"s\0SELECT $1\0\0\x01\0\0\0\x17",
            Ok(Request::Parse { name: "s".into(), query: "SELECT $1".into(), types: vec![23] }),
        );
        check(b'P', b"\0\0\xff\xff", Err("it counts more than it holds"));
        check(
            b'B',
            b"\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\x01",
            Ok(Request::Bind(Bind {
                portal: String::new(),
                statement: "s".into(),
                parameter_formats: vec![1],
                parameters: vec![Some(Bytes::from_static(b"x")), None],
                result_formats: vec![1],
            })),
        );
        check(b'B', b"\0\0\0\0\0\x01\0\0\x01\0", Err("a parameter is longer than the message"));
        check(b'D', b"Sx\0", Ok(Request::Describe(Target::Statement, "x".into())));
        check(b'D', b"Zx\0", Err("it names neither a statement nor a portal"));
        check(b'E', b"\0\0\0\0\x05", Ok(Request::Execute { portal: String::new(), rows_max: 5 }));
        check(b'E', b"\0\0\0", Err("it ends within a number"));
        check(b'S', b"", Ok(Request::Sync));
        check(b'!', b"what", Ok(Request::Other(b'!')));
    }

    #[test]
    fn lengths_are_checked_before_the_body_arrives() {
        let mut bytes = BytesMut::from(&b"Q\x7f\xff\xff\xff"[..]);
        assert_eq!(
            request(&mut bytes, 1 << 20),
            Err(Malformed::TooLong { actual: 0x7fff_ffff, max: 1 << 20 })
        );
        let mut bytes = BytesMut::from(&b"Q\0\0\0\x03"[..]);
        assert!(matches!(request(&mut bytes, 1 << 20), Err(Malformed::Body(_))));
        let mut bytes = BytesMut::from(&b"Q\0\0\0"[..]);
        assert_eq!(request(&mut bytes, 1 << 20), Ok(None));
        let mut bytes = BytesMut::from(&b"\xff\xff\xff\xff\0\0\0\0"[..]);
        assert!(matches!(opening(&mut bytes), Err(Malformed::TooLong { .. })));
    }

    #[test]
    fn openings_are_told_apart() {
        let check = |body: &[u8], expected: Opening| {
            let mut bytes = BytesMut::from(&(body.len() as u32 + 4).to_be_bytes()[..]);
            bytes.extend_from_slice(body);
            assert_eq!(opening(&mut bytes), Ok(Some(expected)));
            assert!(bytes.is_empty());
        };
        check(&80_877_103_u32.to_be_bytes(), Opening::Tls);
        check(&80_877_104_u32.to_be_bytes(), Opening::Gss);
        check(
            b"\x04\xd2\x16\x2e\0\0\0\x07abcd",
            Opening::Cancel { process: 7, secret: Bytes::from_static(b"abcd") },
        );
        check(
            b"\0\x03\0\0user\0ada\0\0",
            Opening::Startup { version: 0x3_0000, parameters: vec![("user".into(), "ada".into())] },
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = opening(&mut BytesMut::from(&bytes[..]));
            let _ = request(&mut BytesMut::from(&bytes[..]), 100);
        }

        #[test]
        fn no_body_makes_it_panic(
            tag in proptest::sample::select(b"QPBDECHSX".to_vec()),
            body in proptest::collection::vec(0_u8..4, 0..60),
        ) {
            let _ = request(&mut message(tag, &body), 1 << 10);
        }
    }
}
