//! Requests of every kind.
#![no_main]

afflux_fuzz::target!(afflux_kafka::fuzzing::REQUEST);
