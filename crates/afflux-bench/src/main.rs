//! afflux-bench
fn main() {}
