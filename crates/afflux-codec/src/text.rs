//! Values as text and back: times, dates, decimals. One grammar for every format.
//!
//! - A time point is ISO-8601: `2013-01-01T10:17:00Z`, `2013-01-01 10:17`, with a fraction of up
//!   to any number of digits (more than the unit holds are cut off), with `Z`, `+01`, `+0100`,
//!   `+01:00` or no zone, which means UTC. A date alone is its midnight.
//! - A date is `2013-01-01`, years 0000 to 9999. A time of day is `10:17[:00[.123]]`.
//! - A number is JSON's. Converted to a decimal it is rounded half away from zero.

use std::fmt::Write;

use arrow::datatypes::TimeUnit;

const SECONDS_PER_DAY: i64 = 86_400;

/// How many of a unit make a second.
pub fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A time point, counted from 1970 in a unit. `None` if the text is not one or the unit can not
/// hold it.
pub fn timestamp(text: &[u8], unit: TimeUnit) -> Option<i64> {
    let mut input = Digits(text);
    let days = input.date()?;
    let mut seconds = i64::from(days) * SECONDS_PER_DAY;
    let mut nanos = 0;
    if !input.0.is_empty() {
        if !matches!(input.next()?, b'T' | b't' | b' ') {
            return None;
        }
        let (of_day, fraction) = input.time()?;
        seconds += of_day - input.zone()?;
        nanos = fraction;
    }
    if !input.0.is_empty() {
        return None;
    }
    let scale = per_second(unit);
    seconds.checked_mul(scale)?.checked_add(nanos / (1_000_000_000 / scale))
}

/// A date, in days from 1970-01-01.
pub fn date(text: &[u8]) -> Option<i32> {
    let mut input = Digits(text);
    let days = input.date()?;
    input.0.is_empty().then_some(days)
}

/// A time of day, counted from midnight in a unit.
pub fn time_of_day(text: &[u8], unit: TimeUnit) -> Option<i64> {
    let mut input = Digits(text);
    let (seconds, nanos) = input.time()?;
    let scale = per_second(unit);
    input.0.is_empty().then(|| seconds * scale + nanos / (1_000_000_000 / scale))
}

/// Why a number has no decimal of the wanted form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalFault {
    /// It has digits that would be lost.
    Inexact,
    /// It is too large.
    Range,
}

/// `number` times ten to the power of `scale`, of a text that has JSON's grammar for numbers.
/// `round`: half away from zero; otherwise digits that would be lost are a fault.
pub fn scaled(number: &[u8], scale: i32, round: bool) -> Result<i128, DecimalFault> {
    let mut mantissa: i128 = 0;
    let mut shift = i64::from(scale);
    let (mut negative, mut in_fraction, mut lost, mut full) = (false, false, false, false);
    let mut rest = number;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'-' => negative = true,
            b'+' => {}
            b'.' => in_fraction = true,
            b'e' | b'E' => {
                shift = shift.saturating_add(exponent(tail));
                break;
            }
            digit => {
                let digit = i128::from(digit.wrapping_sub(b'0'));
                let next = mantissa.checked_mul(10).and_then(|m| m.checked_add(digit));
                if let Some(next) = next.filter(|_| !full) {
                    mantissa = next;
                    shift -= i64::from(in_fraction);
                } else {
                    full = true;
                    lost |= digit != 0;
                    shift += i64::from(!in_fraction);
                }
            }
        }
    }
    let value = if mantissa == 0 { 0 } else { shifted(mantissa, shift, lost, round)? };
    Ok(if negative { -value } else { value })
}

fn exponent(text: &[u8]) -> i64 {
    let negative = text.first() == Some(&b'-');
    let digits = text.iter().filter(|byte| byte.is_ascii_digit());
    let value =
        digits.fold(0i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(1 << 40));
    if negative { -value } else { value }
}

fn shifted(mantissa: i128, shift: i64, lost: bool, round: bool) -> Result<i128, DecimalFault> {
    let power = |by: i64| u32::try_from(by).ok().and_then(|by| 10i128.checked_pow(by));
    if shift >= 0 {
        if lost && !round {
            return Err(DecimalFault::Inexact);
        }
        return power(shift).and_then(|p| mantissa.checked_mul(p)).ok_or(DecimalFault::Range);
    }
    let (quotient, remainder, half) = match power(-shift) {
        Some(p) => (mantissa / p, mantissa % p, p / 2),
        None => (0, mantissa, i128::MAX),
    };
    if !round && (lost || remainder != 0) {
        return Err(DecimalFault::Inexact);
    }
    Ok(quotient + i128::from(round && remainder >= half && half < i128::MAX))
}

/// Writes a time point as ISO-8601 with `Z`, with 0, 3, 6 or 9 digits of fraction, as few as
/// hold it. Years outside 0000 to 9999 get a sign and as many digits as they need.
pub fn write_timestamp(value: i64, unit: TimeUnit, out: &mut String) {
    let scale = per_second(unit);
    let seconds = value.div_euclid(scale);
    write_date(seconds.div_euclid(SECONDS_PER_DAY), out);
    out.push('T');
    write_time(seconds.rem_euclid(SECONDS_PER_DAY), value.rem_euclid(scale), scale, out);
    out.push('Z');
}

/// Writes a time of day.
pub fn write_time_of_day(value: i64, unit: TimeUnit, out: &mut String) {
    let scale = per_second(unit);
    write_time(value.div_euclid(scale), value.rem_euclid(scale), scale, out);
}

/// Writes a date, of days from 1970-01-01.
pub fn write_date(days: i64, out: &mut String) {
    let (year, month, day) = civil(days);
    let sign = if year > 9999 { "+" } else { "" };
    let width = if year < 0 { 5 } else { 4 };
    // Writing to a string can not fail.
    let _ = write!(out, "{sign}{year:0width$}-{month:02}-{day:02}");
}

/// Writes a decimal of a scale as a JSON number.
pub fn write_decimal(value: i128, scale: i8, out: &mut String) {
    let digits = value.unsigned_abs().to_string();
    if value < 0 {
        out.push('-');
    }
    let Some(scale) = usize::try_from(scale).ok().filter(|&scale| scale > 0) else {
        out.push_str(&digits);
        if value != 0 {
            out.extend(std::iter::repeat_n('0', usize::from(scale.unsigned_abs())));
        }
        return;
    };
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    out.push_str(whole);
    out.push('.');
    out.push_str(fraction);
}

fn write_time(seconds: i64, fraction: i64, scale: i64, out: &mut String) {
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
    if fraction == 0 {
        return;
    }
    let nanos = fraction * (1_000_000_000 / scale);
    let _ = if nanos % 1_000_000 == 0 {
        write!(out, ".{:03}", nanos / 1_000_000)
    } else if nanos % 1_000 == 0 {
        write!(out, ".{:06}", nanos / 1_000)
    } else {
        write!(out, ".{nanos:09}")
    };
}

/// Days from 1970-01-01 of a date of the proleptic Gregorian calendar, in eras of 400 years
/// that begin in March, so that the leap day comes last.
fn days_of(year: i32, month: i32, day: i32) -> i32 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

fn days_in_month(year: i32, month: i32) -> i32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Text that is read from its front.
struct Digits<'a>(&'a [u8]);

impl Digits<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, tail) = self.0.split_first()?;
        self.0 = tail;
        Some(first)
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    /// Exactly `count` digits.
    fn number(&mut self, count: usize) -> Option<i32> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        head.iter().try_fold(0, |value, byte| {
            byte.is_ascii_digit().then(|| value * 10 + i32::from(byte - b'0'))
        })
    }

    fn date(&mut self) -> Option<i32> {
        let year = self.number(4)?;
        let month = self.skip(b'-').then(|| self.number(2))??;
        let day = self.skip(b'-').then(|| self.number(2))??;
        let legal = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
        legal.then(|| days_of(year, month, day))
    }

    /// Seconds and nanoseconds of the day.
    fn time(&mut self) -> Option<(i64, i64)> {
        let hour = self.number(2)?;
        let minute = self.skip(b':').then(|| self.number(2))??;
        let second = if self.skip(b':') { self.number(2)? } else { 0 };
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let mut nanos = 0;
        if self.skip(b'.') || self.skip(b',') {
            let mut unit = 100_000_000;
            let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
            for digit in &self.0[..digits] {
                nanos += i64::from(digit - b'0') * unit;
                unit /= 10;
            }
            self.0 = &self.0[digits..];
            if digits == 0 {
                return None;
            }
        }
        Some((i64::from(hour * 3600 + minute * 60 + second), nanos))
    }

    /// The zone's seconds east of UTC; none means UTC.
    fn zone(&mut self) -> Option<i64> {
        let sign = match self.0.first() {
            None => return Some(0),
            Some(b'Z' | b'z') => {
                self.next();
                return Some(0);
            }
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return None,
        };
        self.next();
        let hours = self.number(2)?;
        let minutes = if self.skip(b':') || !self.0.is_empty() { self.number(2)? } else { 0 };
        (hours <= 23 && minutes <= 59).then(|| i64::from(sign * (hours * 3600 + minutes * 60)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_points() {
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(timestamp(text.as_bytes(), TimeUnit::Millisecond), expected, "{text:?}");
        };
        check("1970-01-01T00:00:00Z", Some(0));
        check("2013-01-01T10:17:00Z", Some(1_357_035_420_000));
        check("2013-01-01T10:17:00", Some(1_357_035_420_000));
        check("2013-01-01 10:17", Some(1_357_035_420_000));
        check("2013-01-01", Some(1_356_998_400_000));
        check("2013-01-01T10:17:00.5Z", Some(1_357_035_420_500));
        check("2013-01-01T10:17:00.123456789Z", Some(1_357_035_420_123));
        check("2013-01-01T10:17:00,1", Some(1_357_035_420_100));
        check("2013-01-01T05:17:00-05:00", Some(1_357_035_420_000));
        check("2013-01-01T05:17:00-0500", Some(1_357_035_420_000));
        check("2013-01-01T05:17:00-05", Some(1_357_035_420_000));
        check("2013-01-01T15:47:00+05:30", Some(1_357_035_420_000));
        check("1969-12-31T23:59:59.999Z", Some(-1));
        check("1969-12-31T23:59:59.9999Z", Some(-1));
        check("2012-02-29T00:00:00Z", Some(1_330_473_600_000));
        check("2013-02-29T00:00:00Z", None);
        check("2013-13-01T00:00:00Z", None);
        check("2013-01-01T24:00:00Z", None);
        check("2013-01-01T10:60:00Z", None);
        check("2013-01-01T10:17:00.Z", None);
        check("2013-01-01T10:17:00+24:00", None);
        check("2013-01-01T10:17:00 Z", None);
        check("2013-01-01T", None);
        check("2013-1-1", None);
        check("", None);
        check("now", None);
        check("2013-01-01T10:17:00Zx", None);
    }

    #[test]
    fn numbers_are_scaled_exactly() {
        use DecimalFault::{Inexact, Range};
        let check = |text: &str, scale: i32, round: bool, expected: Result<i128, DecimalFault>| {
            assert_eq!(scaled(text.as_bytes(), scale, round), expected, "{text} scale {scale}");
        };
        check("0", 0, false, Ok(0));
        check("-12", 0, false, Ok(-12));
        check("12.0", 0, false, Ok(12));
        check("1.5e1", 0, false, Ok(15));
        check("1500e-2", 0, false, Ok(15));
        check("1.5", 0, false, Err(Inexact));
        check("1e-400", 0, false, Err(Inexact));
        check("0e999999999999", 0, false, Ok(0));
        check("1e999999999999", 0, false, Err(Range));
        check("1.005", 2, true, Ok(101));
        check("-1.005", 2, true, Ok(-101));
        check("1.0049999", 2, true, Ok(100));
        check("1e-400", 2, true, Ok(0));
        check("9007199254740993", 0, false, Ok(9_007_199_254_740_993));
        check("100000000000000000000000000000000000000000e-40", 0, false, Ok(10));
        check("1000000000000000000000000000000000000000001e-40", 0, false, Err(Inexact));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in -62_167_219_200_000i64..253_402_300_800_000) {
            let mut text = String::new();
            write_timestamp(value, TimeUnit::Millisecond, &mut text);
            prop_assert_eq!(timestamp(text.as_bytes(), TimeUnit::Millisecond), Some(value));
        }

        #[test]
        fn decimals_are_written_as_they_are(value in -10i128.pow(37)..10i128.pow(37), scale in 0i8..30) {
            let mut text = String::new();
            write_decimal(value, scale, &mut text);
            prop_assert_eq!(scaled(text.as_bytes(), i32::from(scale), false), Ok(value));
        }

        #[test]
        fn any_text_is_read_or_refused(text: Vec<u8>, extreme: i64) {
            let _ = timestamp(&text, TimeUnit::Nanosecond);
            let _ = time_of_day(&text, TimeUnit::Nanosecond);
            let mut out = String::new();
            write_timestamp(extreme, TimeUnit::Second, &mut out);
        }
    }
}
