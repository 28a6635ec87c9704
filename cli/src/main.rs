//! `towline`.
fn main() {}
