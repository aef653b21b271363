//! The embedded log on the simulated seam.

mod basics;
mod blocks;
mod compaction;
mod compaction_rules;
mod crash;
mod damage;
mod producers;
mod repair;
mod retention;
mod space;
mod support;
mod threads;
mod ticks;
mod transactions;
