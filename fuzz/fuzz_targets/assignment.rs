//! What members of groups tell each other through the coordinator.
#![no_main]

afflux_fuzz::target!(afflux_kafka::fuzzing::ASSIGNMENT);
