//! afflux
fn main() {}
