//! What a step of a training costs: time, and memory.

use std::fs;
use std::time::Instant;

/// Steps that are timed together, as the losses of as many are read from the device together.
const TIMED: usize = 8;

/// What a step costs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Seconds, the median over runs of 8 steps: on a GPU a step begins before the last has ended. `None` if there was no step.
    pub seconds: Option<f64>,
    /// The most bytes of memory that the process held within a step, by the system's own count, the median over steps: what a checkpoint
    /// takes now and then is not in it, but code, text, weights and moments are, and all that was allocated, by whomever. `None` where the
    /// system does not tell: it is Linux that does. What lies on a GPU is not counted.
    pub memory: Option<u64>,
}

/// Watches steps go by.
#[derive(Debug, Default)]
pub struct Meter {
    starts: Vec<Instant>,
    peaks: Vec<u64>,
}

impl Meter {
    /// A step begins.
    pub fn step(&mut self) {
        if !self.starts.is_empty() {
            self.peaks.extend(peak());
        }
        // Where the system refuses, the peak is that of the whole process.
        let _ = fs::write("/proc/self/clear_refs", "5");
        self.starts.push(Instant::now());
    }

    /// The last step has ended.
    pub fn stop(mut self) -> Cost {
        self.peaks.extend(peak().filter(|_| !self.starts.is_empty()));
        self.starts.push(Instant::now());
        self.peaks.sort_unstable();
        Cost { seconds: median(&self.starts), memory: self.peaks.get(self.peaks.len() / 2).copied() }
    }
}

/// The median time from one of these to the next, by runs of [`TIMED`].
fn median(starts: &[Instant]) -> Option<f64> {
    let steps = starts.len().saturating_sub(1);
    let run = TIMED.min(steps);
    let mut times: Vec<f64> = (0..steps.checked_div(run)?)
        .map(|at| (starts[(at + 1) * run] - starts[at * run]).as_secs_f64() / run as f64)
        .collect();
    times.sort_by(f64::total_cmp);
    Some(times[times.len() / 2])
}

/// The most memory that this process has held since it began, or was told to forget.
fn peak() -> Option<u64> {
    parsed(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmHWM:     1234 kB`.
fn parsed(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_line_is_read() {
        assert_eq!(parsed("Name:\tlm\nVmHWM:\t    1234 kB\nVmRSS:\t 1000 kB\n"), Some(1234 * 1024));
        assert_eq!(parsed("Name:\tlm\n"), None);
        assert_eq!(parsed("VmHWM:\t x kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_step_holds_is_counted() {
        const BYTES: usize = 1 << 26;
        // Held throughout, since other tests of this process may make it forget its peak at any time.
        let touched = vec![1_u8; BYTES];
        assert_eq!(std::hint::black_box(&touched).iter().map(|byte| usize::from(*byte)).sum::<usize>(), BYTES);
        let mut meter = Meter::default();
        (0..5).for_each(|_| meter.step());
        assert!(meter.stop().memory.unwrap() >= BYTES as u64);
        drop(touched);
        assert_eq!(Meter::default().stop(), Cost::default());
    }

    #[test]
    fn the_time_of_a_step_is_the_median_of_runs_of_steps() {
        let start = Instant::now();
        let marks = |seconds: &[f64]| -> Vec<Instant> {
            let mut at = 0.0;
            let rest = seconds.iter().map(|seconds| {
                at += seconds;
                start + Duration::from_secs_f64(at)
            });
            [start].into_iter().chain(rest).collect()
        };
        assert_eq!(median(&[]), None);
        assert_eq!(median(&marks(&[])), None);
        assert!((median(&marks(&[1.0, 3.0])).unwrap() - 2.0).abs() < 1e-9);
        // Three runs of eight steps, one of which was held up, and one left over.
        let seconds = [[1.0; 8], [9.0; 8], [2.0; 8]].concat();
        assert!((median(&marks(&[&seconds[..], &[70.0]].concat())).unwrap() - 2.0).abs() < 1e-9);
    }
}
