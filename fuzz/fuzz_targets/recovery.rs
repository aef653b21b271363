//! A wounded data directory.
#![no_main]

afflux_fuzz::target!(afflux_log::fuzzing::RECOVERY);
