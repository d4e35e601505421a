//! A sequence learns to become another: dates to ISO, English to French, with the alignment drawn.

fn main() {}
