//! A journal file's frames.
#![no_main]

afflux_fuzz::target!(afflux_log::fuzzing::JOURNAL_FRAMES);
