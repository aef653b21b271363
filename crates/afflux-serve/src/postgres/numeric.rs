//! Postgres's `numeric` for all of Decimal128 (the decimals of the libraries at hand stop at 28
//! digits).
//!
//! ```text
//! digits:i16  weight:i16  sign:u16 (0 | 0x4000 | 0xC000 NaN)  scale:u16  digit:i16 (0..10000) …
//! value = ± digit[0] * 10000^weight + digit[1] * 10000^(weight - 1) + …
//! ```

use afflux_codec::text::write_decimal;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use datafusion::scalar::ScalarValue;

const NEGATIVE: u16 = 0x4000;
/// Decimal128's longest.
const DIGITS_MAX: u32 = 38;

/// `value / 10^scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numeric {
    pub(super) value: i128,
    pub(super) scale: i8,
}

impl Numeric {
    /// As Postgres writes it.
    pub(super) fn text(self) -> String {
        let mut text = String::new();
        write_decimal(self.value, self.scale, &mut text);
        text
    }

    /// As Postgres sends it.
    pub(super) fn binary(self, out: &mut BytesMut) {
        let text = self.text();
        let text = text.trim_start_matches('-');
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        // Pad both sides of the point to whole groups of four.
        let whole = format!("{whole:0>width$}", width = whole.len().div_ceil(4) * 4);
        let part_digits = format!("{part:0<width$}", width = part.len().div_ceil(4) * 4);
        let groups: Vec<i16> = format!("{whole}{part_digits}")
            .as_bytes()
            .chunks(4)
            .map(|group| group.iter().fold(0, |n, digit| n * 10 + i16::from(digit - b'0')))
            .collect();
        let leading = groups.iter().take_while(|group| **group == 0).count();
        let used = groups.iter().rposition(|group| *group != 0).map_or(leading, |last| last + 1);
        let groups = &groups[leading..used];
        out.put_i16(groups.len() as i16);
        out.put_i16(if groups.is_empty() {
            0
        } else {
            (whole.len() / 4) as i16 - 1 - leading as i16
        });
        out.put_u16(if self.value < 0 { NEGATIVE } else { 0 });
        out.put_u16(part.len() as u16);
        for group in groups {
            out.put_i16(*group);
        }
    }
}

/// A parameter's bytes.
pub(super) fn from_binary(mut bytes: Bytes) -> Result<ScalarValue, &'static str> {
    const LENGTH: &str = "it has another length";
    const RANGE: &str = "it has more than 38 digits";
    let count = bytes.try_get_u16().map_err(|_| LENGTH)?;
    let weight = i32::from(bytes.try_get_i16().map_err(|_| LENGTH)?);
    let sign = bytes.try_get_u16().map_err(|_| LENGTH)?;
    let scale = u32::from(bytes.try_get_u16().map_err(|_| LENGTH)?);
    if bytes.len() != usize::from(count) * 2 {
        return Err(LENGTH);
    }
    if sign != 0 && sign != NEGATIVE {
        return Err("it is not a number");
    }
    if scale > DIGITS_MAX {
        return Err(RANGE);
    }
    let mut value: i128 = 0;
    for n in 0..i32::from(count) {
        let group = i128::from(bytes.get_i16());
        // What this group's last digit counts, as a power of ten of the scaled value.
        let power = (weight - n) * 4 + scale as i32;
        let part = if power >= 0 {
            10_i128.checked_pow(power as u32).and_then(|p| p.checked_mul(group))
        } else {
            10_i128.checked_pow(power.unsigned_abs()).map(|p| group / p)
        };
        value = part.and_then(|part| value.checked_add(part)).ok_or(RANGE)?;
    }
    let value = if sign == NEGATIVE { -value } else { value };
    if value.unsigned_abs() >= 10_u128.pow(DIGITS_MAX) {
        return Err(RANGE);
    }
    Ok(ScalarValue::Decimal128(Some(value), DIGITS_MAX as u8, scale as i8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_postgres_writes_them() {
        let check = |value: i128, scale: i8, text: &str| {
            assert_eq!(Numeric { value, scale }.text(), text);
        };
        check(0, 0, "0");
        check(0, 2, "0.00");
        check(5, 2, "0.05");
        check(-12_345, 2, "-123.45");
        check(7, -3, "7000");
        check(0, -3, "0");
        check(10_i128.pow(38) - 1, 0, "99999999999999999999999999999999999999");
    }

    proptest::proptest! {
        #[test]
        fn binary_is_read_back(value in -(10_i128.pow(38) - 1)..10_i128.pow(38), scale in 0_i8..=38) {
            let mut bytes = BytesMut::new();
            Numeric { value, scale }.binary(&mut bytes);
            proptest::prop_assert_eq!(
                from_binary(bytes.freeze()),
                Ok(ScalarValue::Decimal128(Some(value), 38, scale))
            );
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let _ = from_binary(Bytes::from(bytes));
        }
    }
}
