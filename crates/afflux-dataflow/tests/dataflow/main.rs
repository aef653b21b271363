//! The dataflow from outside: cases, and random graphs against a naive reference.

mod cases;
mod properties;
mod reference;
mod rows;
mod stages;
