//! What of a partition a pass has to read a second time. Pure.
//!
//! Who has seen all keys knows which records are the newest, and so where they are: often in few
//! batches, for most of what is written to few keys is written over soon. The others are not read
//! again.
//!
//! 1. What the first reading goes through is cut into equal parts, at most [`PARTS_MAX`]. They are
//!    single offsets unless it is long.
//! 2. A part is marked that has something which may stay: the newest record of a key, or a batch
//!    that stays, or lets another stay, for other reasons than its records.
//! 3. A batch that lies in no marked part leaves nothing, or would leave nothing if it were read.
//!    One that was compacted before was not read, and may always leave something.

/// A bit each.
const PARTS_MAX: u64 = 1 << 23;

/// The parts of a stretch of offsets.
#[derive(Debug)]
pub(super) struct Parts {
    from: i64,
    /// Offsets of a part.
    length: u64,
    marked: Vec<u64>,
}

impl Parts {
    /// Those of what lies from an offset on and before another; none is marked.
    pub(super) fn new(from: i64, upper: i64) -> Self {
        Self::of_at_most(PARTS_MAX, from, upper)
    }

    fn of_at_most(most: u64, from: i64, upper: i64) -> Self {
        let offsets = upper.abs_diff(from);
        let length = offsets.div_ceil(most).max(1);
        let words = offsets.div_ceil(length).div_ceil(64);
        Self { from, length, marked: vec![0; words as usize] }
    }

    fn part(&self, offset: i64) -> (usize, u32) {
        let part = offset.abs_diff(self.from) / self.length;
        ((part / 64) as usize, (part % 64) as u32)
    }

    /// Marks the part of an offset. What is before or behind all parts counts as marked anyway: a
    /// batch may begin before an offset that its partition was trimmed to.
    pub(super) fn mark(&mut self, offset: i64) {
        let (word, bit) = self.part(offset);
        if offset >= self.from
            && let Some(word) = self.marked.get_mut(word)
        {
            *word |= 1 << bit;
        }
    }

    /// Whether a batch with these offsets may leave something.
    pub(super) fn has_marked(&self, base: i64, next: i64) -> bool {
        if base < self.from {
            return true;
        }
        let ((first, low), (last, high)) = (self.part(base), self.part(next - 1));
        (first..=last).any(|word| {
            let Some(bits) = self.marked.get(word) else { return true };
            let from = if word == first { u64::MAX << low } else { u64::MAX };
            let to = if word == last { u64::MAX >> (63 - high) } else { u64::MAX };
            bits & from & to != 0
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_marked_is_found_and_little_else(
            most in 1_u64..300,
            from in 0_i64..1000,
            offsets in 1_i64..1000,
            marks in proptest::collection::vec(0_i64..1000, 0..4),
            (base, length) in (-100_i64..1000, 1_i64..200),
            outside in -1000_i64..0,
        ) {
            let mut parts = Parts::of_at_most(most, from, from + offsets);
            let marks = marks.iter().map(|mark| mark % offsets);
            marks.clone().for_each(|mark| parts.mark(from + mark));
            parts.mark(from + outside);
            parts.mark(from + 2 * offsets + 64 * most as i64 - outside);
            let (base, next) = (base.min(offsets - 1), (base + length).min(offsets));
            let part = |offset: i64| offset / parts.length as i64;
            let mut touched = marks.map(part);
            let expected =
                base < 0 || touched.any(|mark| (part(base)..=part(next - 1)).contains(&mark));
            prop_assert_eq!(parts.has_marked(from + base, from + next), expected);
            prop_assert!(parts.marked.len() as u64 <= most.div_ceil(64));
        }
    }

    #[test]
    fn parts_are_single_offsets_of_what_is_short() {
        let mut parts = Parts::new(10, 10 + PARTS_MAX as i64);
        parts.mark(500);
        for (base, next, expected) in [(10, 500, false), (500, 501, true), (501, 9999, false)] {
            assert_eq!(parts.has_marked(base, next), expected);
        }
        assert_eq!(Parts::new(10, 11 + PARTS_MAX as i64).length, 2);
        assert!(Parts::new(i64::MAX - 1, i64::MAX).marked.len() == 1);
    }
}
