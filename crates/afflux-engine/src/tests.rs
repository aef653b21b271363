//! The engine on the real log, on a simulated disk, driven by hand.

mod exactly_once;
mod world;
