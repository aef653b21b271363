//! A cursor over the bytes of one JSON text (RFC 8259).
//!
//! It yields positions and values, never a tree. It does not allocate but for text with escapes.

use std::fmt;

/// How deep values may nest. `serde_json` and most others say 128 too.
const DEPTH_MAX: usize = 128;

/// What is wrong with a text, and where: bytes from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) at: usize,
    pub(super) what: &'static str,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not JSON: {} at byte {}", self.what, self.at)
    }
}

/// A number's text and what is known of it from reading it once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'a> {
    pub(super) text: &'a str,
    /// All digits as one integer, if it has at most 19 of them.
    mantissa: Option<u64>,
    /// The power of ten to multiply the mantissa with.
    exponent: i32,
    negative: bool,
    /// Neither fraction nor exponent.
    plain: bool,
}

impl Number<'_> {
    /// The value if the text is a plain integer that fits.
    #[inline]
    pub(super) fn integer(&self) -> Option<i64> {
        let mantissa = self.mantissa.filter(|_| self.plain)?;
        if self.negative {
            0i64.checked_sub_unsigned(mantissa)
        } else {
            i64::try_from(mantissa).ok()
        }
    }

    /// The nearest double; infinite if it is out of range.
    #[inline]
    pub(super) fn double(&self) -> f64 {
        // Mantissa and power of ten are both exact doubles, so one rounding is left.
        const POWERS: [f64; 23] = [
            1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
            1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
        ];
        let power = POWERS.get(self.exponent.unsigned_abs() as usize);
        if let (Some(mantissa), Some(power)) = (self.mantissa.filter(|m| *m < 1 << 53), power) {
            let mantissa = mantissa as f64;
            let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
            return if self.negative { -value } else { value };
        }
        self.text.parse().unwrap_or(f64::INFINITY)
    }
}

/// A position in a text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0 }
    }

    pub(super) fn error<T>(&self, what: &'static str) -> Result<T, SyntaxError> {
        Err(SyntaxError { at: self.at, what })
    }

    /// The next byte that is not white space, not taken; 0 at the end.
    #[inline]
    pub(super) fn peek(&mut self) -> u8 {
        while let Some(&byte) = self.bytes.get(self.at) {
            if byte > b' ' || !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return byte;
            }
            self.at += 1;
        }
        0
    }

    /// Takes a byte if it is the next one.
    #[inline]
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte && self.at < self.bytes.len();
        self.at += usize::from(found);
        found
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.peek();
        self.at == self.bytes.len()
    }

    /// Takes `true`, `false` or `null`.
    pub(super) fn word(&mut self, word: &str) -> Result<(), SyntaxError> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        self.error("expected a value")
    }

    /// Takes text, of which the opening quote is next. What it returns is between the quotes, as
    /// it stands there, and whether it has escapes.
    #[inline]
    pub(super) fn raw_text(&mut self) -> Result<(&'a str, bool), SyntaxError> {
        self.at += 1;
        let start = self.at;
        let mut escapes = false;
        loop {
            self.at += plain_length(&self.bytes[self.at..]);
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let text = &self.text[start..self.at];
                    self.at += 1;
                    return Ok((text, escapes));
                }
                Some(b'\\') => {
                    escapes = true;
                    self.at += 2;
                }
                Some(_) => return self.error("a control character in text"),
                None => return self.error("text without an end"),
            }
            if self.at > self.bytes.len() {
                self.at = self.bytes.len();
                return self.error("text without an end");
            }
        }
    }

    /// Takes a number, of which the first byte is next.
    pub(super) fn number(&mut self) -> Result<Number<'a>, SyntaxError> {
        let start = self.at;
        let negative = self.bytes[self.at] == b'-';
        self.at += usize::from(negative);
        let mut mantissa = 0u64;
        let first = self.at;
        self.digits(&mut mantissa);
        let whole = self.at - first;
        if whole == 0 {
            return self.error("expected a digit");
        }
        if whole > 1 && self.bytes[first] == b'0' {
            return self.error("a number that begins with 0");
        }
        let mut fraction = 0;
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            let first = self.at;
            self.digits(&mut mantissa);
            fraction = self.at - first;
            if fraction == 0 {
                return self.error("expected a digit");
            }
        }
        let mut exponent = -(i32::try_from(fraction).unwrap_or(i32::MAX));
        let mut plain = fraction == 0;
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            plain = false;
            self.at += 1;
            let minus = self.bytes.get(self.at) == Some(&b'-');
            self.at += usize::from(minus || self.bytes.get(self.at) == Some(&b'+'));
            let (first, mut value) = (self.at, 0u64);
            self.digits(&mut value);
            if self.at == first {
                return self.error("expected a digit");
            }
            let value = if self.at - first > 9 { i32::MAX } else { value as i32 };
            exponent = exponent.saturating_add(if minus { -value } else { value });
        }
        let mantissa = (whole + fraction <= 19).then_some(mantissa);
        Ok(Number { text: &self.text[start..self.at], mantissa, exponent, negative, plain })
    }

    #[inline]
    fn digits(&mut self, value: &mut u64) {
        while let Some(digit) = self.bytes.get(self.at).map(|byte| byte.wrapping_sub(b'0')) {
            if digit > 9 {
                return;
            }
            // Wraps only beyond 19 digits, where the caller does not look at it.
            *value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
    }

    /// Takes any value and checks its syntax.
    pub(super) fn skip(&mut self, depth: usize) -> Result<(), SyntaxError> {
        if depth > DEPTH_MAX {
            return self.error("values nest too deep");
        }
        match self.peek() {
            b'"' => {
                let (text, escapes) = self.raw_text()?;
                if escapes {
                    self.check_escapes(text)?;
                }
            }
            b'-' | b'0'..=b'9' => {
                self.number()?;
            }
            b't' => self.word("true")?,
            b'f' => self.word("false")?,
            b'n' => self.word("null")?,
            b'[' => {
                self.at += 1;
                if self.take(b']') {
                    return Ok(());
                }
                loop {
                    self.skip(depth + 1)?;
                    if self.take(b']') {
                        return Ok(());
                    }
                    if !self.take(b',') {
                        return self.error("expected , or ]");
                    }
                }
            }
            b'{' => return self.skip_object(depth),
            _ => return self.error("expected a value"),
        }
        Ok(())
    }

    fn skip_object(&mut self, depth: usize) -> Result<(), SyntaxError> {
        self.at += 1;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            if self.peek() != b'"' {
                return self.error("expected a name");
            }
            let (name, escapes) = self.raw_text()?;
            if escapes {
                self.check_escapes(name)?;
            }
            if !self.take(b':') {
                return self.error("expected :");
            }
            self.skip(depth + 1)?;
            if self.take(b'}') {
                return Ok(());
            }
            if !self.take(b',') {
                return self.error("expected , or }");
            }
        }
    }

    pub(super) fn check_escapes(&self, raw: &str) -> Result<(), SyntaxError> {
        self.unescape(raw, &mut Vec::new())
    }

    /// Appends what a text with escapes means.
    pub(super) fn unescape(&self, raw: &str, out: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let mut rest = raw;
        while let Some((plain, tail)) = rest.split_once('\\') {
            out.extend_from_slice(plain.as_bytes());
            let Some(&kind) = tail.as_bytes().first() else {
                return self.error("an escape without an end");
            };
            rest = tail.get(1..).unwrap_or_default();
            match kind {
                b'"' | b'\\' | b'/' => out.push(kind),
                b'b' => out.push(8),
                b'f' => out.push(12),
                b'n' => out.push(b'\n'),
                b'r' => out.push(b'\r'),
                b't' => out.push(b'\t'),
                b'u' => {
                    let Some((character, tail)) = unicode(rest) else {
                        return self.error("an escape that is no character");
                    };
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    rest = tail;
                }
                _ => return self.error("an unknown escape"),
            }
        }
        out.extend_from_slice(rest.as_bytes());
        Ok(())
    }
}

/// The character behind `\u`, and what follows. Characters beyond 16 bits are two escapes.
fn unicode(text: &str) -> Option<(char, &str)> {
    let unit = |text: &str| {
        let digits =
            text.get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let first = unit(text)?;
    let rest = &text[4..];
    if !(0xD800..0xDC00).contains(&first) {
        return Some((char::from_u32(first)?, rest));
    }
    let second = unit(rest.strip_prefix("\\u")?).filter(|unit| (0xDC00..0xE000).contains(unit))?;
    let character = char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00))?;
    Some((character, &rest[6..]))
}

/// How many bytes there are before the first quote, backslash or control character. Eight at a
/// time: a byte below 0x20 borrows from its top bit, as does a byte equal to a searched one after
/// an exclusive or.
#[inline]
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let escape = zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (quote | escape | control) & TOPS;
        if found != 0 {
            return index * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\') || *byte < 0x20;
    words.len() * 8 + tail.iter().position(special).unwrap_or(tail.len())
}
