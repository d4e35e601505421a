//! Attention over a session names the next item, and its recency bias recovers a known rule.

fn main() {}
