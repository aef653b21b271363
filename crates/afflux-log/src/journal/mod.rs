//! The journal: one sequence of frames over a chain of files.
//!
//! ```text
//!   position 0                    8 MiB                          24 MiB
//!   +------+----------------------+------+-----------------------+------+--------------
//!   | page | frames ... seal |0000| page | frames ...            | page | 0000000000000
//!   +------+----------------------+------+-----------------------+------+--------------
//!     file 0000000000000000         file 0000000000800000          file 0000000001800000
//!        sealed, indexed               being written                   prepared
//! ```
//! A position counts bytes over all files, unused ends and first pages included, so that a file's
//! name, its base position in hexadecimal, says which positions are in it. Files are filled with
//! zeros before they are used, or were used before: overwriting syncs much faster than growing.
//!
//! | module | does |
//! |---|---|
//! | `file` | one file: its first page, making, finding |
//! | `writer` | frames to disk: one write, one sync |
//! | `frames` | frames from disk: in order, or searched for |
//! | `recovery` | what counts after a crash |
//! | `sealing` | from a full file's entries to its index |
//! | `index_file` | a sealed file's index beside it: a cache |
//! | `compacted_file` | what compaction left of a partition: not in the sequence, and no cache |

mod compacted_file;
mod file;
mod frames;
mod index_file;
mod recovery;
mod sealing;
mod writer;

use std::path::Path;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use compacted_file::path_of as compacted_path;
pub(crate) use compacted_file::{
    COMPACTED, Finished, Writer as CompactedWriter, base_of as compacted_base,
    open as open_compacted, run as compacted_run,
};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use file::path_of as journal_path;
pub(crate) use file::{
    FIRST_PAGE, Identity, JournalFile, READ_BYTES_MAX, base_of, spare_number, spare_path,
    write_whole,
};
pub(crate) use frames::{Last, Reader, check_header, check_offsets, explain, proof};
pub(crate) use index_file::{IndexFile, RunMeta, Section, encode_producers, path_of as index_path};
pub(crate) use recovery::{Recovered, is_usable, recover};
pub(crate) use sealing::{Sealing, gather, install};
pub(crate) use writer::{Frame, Payload, WriteBatch};

/// Whether a path is an index that was not finished, or whose journal file is gone, or a compacted
/// file that is not in use.
pub(crate) fn is_leftover(path: &Path, is_there: impl Fn(u64) -> bool) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    match extension {
        Some("new") => true,
        Some("index" | "compacted") => {
            !stem.and_then(|stem| u64::from_str_radix(stem, 16).ok()).is_some_and(is_there)
        }
        _ => false,
    }
}
