//! How freed memory goes back to the system: late.
//!
//! A request's bytes and the journal's copy of them come and go by the hundred kilobytes. Left
//! alone, glibc gives such a piece back as soon as it is free and asks for a fresh one at once;
//! where memory is handed out late, as in virtual machines, its first touch costs as much as
//! receiving what is put there. What is kept instead is bounded, an arena. Other allocators stay
//! as they are.

/// Free memory at an arena's end that is kept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: i32 = 64 << 20;
/// The smallest piece that is mapped by itself, and so given back at once; glibc takes no more.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: i32 = 32 << 20;

/// Sets it for this process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc has no other way; it only sets two numbers, under its lock")]
pub(crate) fn keep() {
    // SAFETY: `mallopt` may be called at any time by any thread. A value that it does not take
    // leaves things as they are.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Nothing to set.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep() {}
