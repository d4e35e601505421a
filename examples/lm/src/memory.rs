//! How much memory this process has taken.

/// The most bytes of memory that this process has held at once so far, by the system's own count: code, data, threads and all that was
/// allocated, by whomever. `None` where the system does not tell: it is Linux that does. What lies on a GPU is not in it.
pub fn peak() -> Option<u64> {
    parsed(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmHWM:     1234 kB`.
fn parsed(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_read() {
        assert_eq!(parsed("Name:\tlm\nVmHWM:\t    1234 kB\nVmRSS:\t 1000 kB\n"), Some(1234 * 1024));
        assert_eq!(parsed("Name:\tlm\n"), None);
        assert_eq!(parsed("VmHWM:\t x kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_touched_is_counted() {
        let before = peak().unwrap();
        let touched = vec![1_u8; 3 * before as usize];
        assert!(std::hint::black_box(&touched).iter().map(|byte| u64::from(*byte)).sum::<u64>() >= 3 * before);
        assert!(peak().unwrap() >= 3 * before);
    }
}
