//! Requests, one behind the other, to a broker in memory.
#![no_main]

afflux_fuzz::target!(afflux_kafka::fuzzing::BROKER);
