//! Record batches.
#![no_main]

afflux_fuzz::target!(afflux_record::fuzzing::RECORD_BATCH);
