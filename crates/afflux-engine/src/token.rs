//! Resume tokens: where a follower of a view stands, as a text that survives disconnects and
//! restarts.

use std::{fmt, str::FromStr};

use afflux_types::{Classified, ErrorKind, Tick};

/// Which life of a view a token belongs to. A view that is dropped and made again has another
/// one, even if its name and number are the same (a data directory made anew).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViewIncarnation(pub u32);

/// All changes of a view up to and with a tick have been seen. Written as
/// `<incarnation in hex>-<tick>`, for example `9f04c2d1-81920`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResumeToken {
    /// The life of the view.
    pub incarnation: ViewIncarnation,
    /// The last tick that was seen.
    pub tick: Tick,
}

/// Text that is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is not a resume token", .0.escape_debug())]
pub struct InvalidToken(String);

impl Classified for InvalidToken {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
    fn hint(&self) -> Option<String> {
        Some("pass the id of an event as it came, or none to start with a snapshot".to_owned())
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.incarnation.0, self.tick)
    }
}

impl FromStr for ResumeToken {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let parse = || {
            let (incarnation, tick) = text.split_once('-')?;
            let digits = |text: &str| !text.is_empty() && !text.starts_with('+');
            if incarnation.len() != 8 || !digits(incarnation) || !digits(tick) {
                return None;
            }
            Some(Self {
                incarnation: ViewIncarnation(u32::from_str_radix(incarnation, 16).ok()?),
                tick: Tick(tick.parse().ok()?),
            })
        };
        parse().ok_or_else(|| InvalidToken(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_text_and_back() {
        let check = |text: &str, expected: Option<(u32, u64)>| {
            let parsed = text.parse::<ResumeToken>().ok();
            assert_eq!(parsed.map(|t| (t.incarnation.0, t.tick.0)), expected, "{text:?}");
            if let Some(token) = parsed {
                assert_eq!(token.to_string(), text);
            }
        };
        check("9f04c2d1-81920", Some((0x9f04_c2d1, 81920)));
        check("00000000-0", Some((0, 0)));
        check("ffffffff-18446744073709551615", Some((u32::MAX, u64::MAX)));
        check("ffffffff-18446744073709551616", None);
        check("", None);
        check("-", None);
        check("12-5", None);
        check("+0000012-5", None);
        check("00000012-+5", None);
        check("00000012-", None);
        check("00000012--5", None);
        check("00000012", None);
        check("0000001g-5", None);
    }
}
