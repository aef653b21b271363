//! Frames of a pipeline's changelog.
#![no_main]

afflux_fuzz::target!(afflux_record::fuzzing::CHANGELOG);
