//! Attention sorts questions by topic, and a page lights the keywords.

fn main() {}
