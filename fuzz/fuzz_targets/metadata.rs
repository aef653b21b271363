//! Changes of the log's metadata.
#![no_main]

afflux_fuzz::target!(afflux_log::fuzzing::METADATA);
