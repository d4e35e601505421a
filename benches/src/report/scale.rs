//! Numbers as people read them.

/// Three significant digits, without an exponent.
pub fn significant(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The unit in which speeds up to `fastest`, told in `unit`, are read best, and what divides them: TFLOP/s from 10 on.
pub fn unit_for(unit: &'static str, fastest: f64) -> (&'static str, f64) {
    if unit == "GFLOP/s" && fastest >= 1e4 { ("TFLOP/s", 1e3) } else { (unit, 1.0) }
}

/// A share as a percentage.
pub fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Bytes in binary units.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{} {}", significant(value), UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        assert_eq!(significant(1234.5), "1234");
        assert_eq!(significant(99.97), "100");
        assert_eq!(significant(9.996), "10.0");
        assert_eq!(significant(1.0), "1.00");
        assert_eq!(significant(0.0123), "0.012");
        assert_eq!(unit_for("GFLOP/s", 9999.0), ("GFLOP/s", 1.0));
        assert_eq!(unit_for("GFLOP/s", 1e4), ("TFLOP/s", 1e3));
        assert_eq!(unit_for("GB/s", 1e5), ("GB/s", 1.0));
        assert_eq!(percent(0.876), "88%");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(5 << 30), "5.00 GiB");
        assert_eq!(bytes(5 << 41), "10240 GiB");
    }
}
