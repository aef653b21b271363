//! CRC32C of bytes whose parts are known already.
//!
//! A checksum is a polynomial over GF(2) modulo that of CRC32C (Castagnoli; RFC 3720, appendix
//! B.4); the first bit is the highest power. What is put in front of `n` bytes is multiplied by
//! `x^8n`, so the checksum of two parts is that of the first times this power, plus that of the
//! second. That takes a few multiplications, however long the second part is.

/// CRC32C's polynomial without its highest power, in the order in which checksums hold their bits.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;
/// The polynomial x.
const X: u32 = 1 << 30;

/// `x^(8 * 2^i)`.
const POWERS: [u32; 32] = {
    let mut powers = [0; 32];
    let mut power = X;
    let mut i = 0;
    while i < 3 {
        power = times(power, power);
        i += 1;
    }
    i = 0;
    while i < powers.len() {
        powers[i] = power;
        power = times(power, power);
        i += 1;
    }
    powers
};

const fn times(mut one: u32, mut other: u32) -> u32 {
    let mut product = 0;
    while one != 0 {
        // All ones if the power is there, else none: a branch would be guessed wrong half the time.
        product ^= other & (one >> 31).wrapping_neg();
        one <<= 1;
        other = (other >> 1) ^ (POLYNOMIAL & (other & 1).wrapping_neg());
    }
    product
}

/// The checksum of one part with another behind it, from both checksums and the second's length.
pub(crate) fn join(first: u32, second: u32, second_bytes: u32) -> u32 {
    let mut power = ONE;
    let mut left = second_bytes;
    while left != 0 {
        power = times(POWERS[left.trailing_zeros() as usize], power);
        left &= left - 1;
    }
    times(power, first) ^ second
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_give_what_the_whole_gives(
            first in proptest::collection::vec(any::<u8>(), 0..100),
            second in proptest::collection::vec(any::<u8>(), 0..5000),
        ) {
            let whole = [&first[..], &second].concat();
            let joined = join(crc32c::crc32c(&first), crc32c::crc32c(&second), second.len() as u32);
            prop_assert_eq!(joined, crc32c::crc32c(&whole));
        }
    }

    #[test]
    fn lengths_of_any_size_are_right() {
        for bits in 0..27 {
            let zeros = vec![0_u8; 1 << bits];
            let first = crc32c::crc32c(b"first");
            let whole = crc32c::crc32c_append(first, &zeros);
            assert_eq!(join(first, crc32c::crc32c(&zeros), 1 << bits), whole, "2^{bits}");
        }
    }
}
