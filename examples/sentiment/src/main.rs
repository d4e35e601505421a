//! Hierarchical attention rates snippets of reviews, editorials and tweets, and a page lights the words it read.

fn main() {}
