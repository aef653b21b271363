//! The embedded log on the simulated seam.

mod basics;
mod support;
