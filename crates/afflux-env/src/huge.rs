//! Memory on huge pages, where the system has them.
//!
//! What goes past the system's cache is fetched or put by the device where it lies in memory, and
//! small pages are scattered there: each is a piece of its own. On huge ones a megabyte is one
//! piece. Reads past the cache took a half to a third of the time (decision 0006).
//!
//! Not here: who keeps such memory. It is worth it only for what is used over and over.

use std::mem::MaybeUninit;

/// Bytes of a huge page, and what its address is a multiple of.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Asks for huge pages behind room that a buffer has and has not used yet. Only a hint: the first
/// huge page begins at the first address that is a multiple of its size.
pub fn prefer_huge_pages<T>(room: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        let (start, bytes) = (room.as_mut_ptr().cast::<u8>(), size_of_val(room));
        let from = start.align_offset(HUGE_PAGE_BYTES);
        let whole = bytes.saturating_sub(from) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if whole == 0 {
            return;
        }
        #[expect(unsafe_code, reason = "a hint for memory has no safe way into the system")]
        // SAFETY: the range is memory of this slice, and the hint changes nothing in it.
        let _ = unsafe {
            let from = start.wrapping_add(from).cast();
            rustix::mm::madvise(from, whole, rustix::mm::Advice::LinuxHugepage)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = room;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_of_any_size_stays_what_it_was() {
        for bytes in [0, 1, 5000, HUGE_PAGE_BYTES, 3 * HUGE_PAGE_BYTES + 7] {
            let mut buffer = vec![7_u8; 3];
            buffer.reserve_exact(bytes);
            let room = buffer.capacity();
            prefer_huge_pages(buffer.spare_capacity_mut());
            assert_eq!((buffer.len(), buffer.capacity()), (3, room));
            buffer.resize(room, 7);
            assert!(buffer.iter().all(|byte| *byte == 7));
        }
    }
}
