//! A question in words is answered about digits through cross-attention, soft and hard.

fn main() {}
