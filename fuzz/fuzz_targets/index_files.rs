//! Indexes of journal files and of compacted ones.
#![no_main]

afflux_fuzz::target!(afflux_log::fuzzing::INDEX_FILES);
