//! The engine on the real log, on a simulated disk, driven by hand.

mod backfill;
mod exactly_once;
mod failure;
mod following;
mod threads;
mod topics;
mod trimming;
mod world;
