//! What is stored of groups, commits and transactions.
#![no_main]

afflux_fuzz::target!(afflux_kafka::fuzzing::GROUP_RECORDS);
