//! Local attention forecasts a daily temperature, beside what last year says.

fn main() {}
