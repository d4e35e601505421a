//! The machine's own limits, measured: arithmetic in f32 and bf16, and reading memory; those of a device in `device.rs`.
//!
//! A share of a peak means something only where the peak was measured on the same machine in the same state. So each run
//! measures its peaks before the shapes and again after them, and keeps the better of the two: other programs can only
//! take speed away.

use std::sync::Barrier;
use std::time::{Duration, Instant};

mod bandwidth;
mod bf16;
mod device;
mod fma;

pub use bandwidth::Reading;
pub use device::DevicePeaks;

/// The machine's measured limits on a given number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// f32 fused multiply-adds, in GFLOP/s (two operations each).
    pub fma_gflops: f64,
    /// bf16 dot products with f32 sums, in GFLOP/s; none where the CPU has no such instruction.
    pub bf16_gflops: Option<f64>,
    /// Reading memory, in GB/s (10⁹ bytes).
    pub read_gbps: f64,
    /// Bytes of the buffer that was read.
    pub read_buffer: u64,
}

impl Peaks {
    /// Measures on `threads` threads; `quick` takes fewer turns and a smaller buffer.
    pub fn measure(threads: usize, quick: bool) -> Self {
        let turns = if quick { 60 } else { 200 };
        let read_buffer = bandwidth::buffer_bytes(quick);
        Self {
            fma_gflops: arithmetic_peak(threads, turns, fma::kernel()),
            bf16_gflops: bf16::kernel().map(|kernel| arithmetic_peak(threads, turns, kernel)),
            read_gbps: bandwidth::read_gbps(threads, read_buffer, if quick { 1 } else { 3 }),
            read_buffer,
        }
    }

    /// The better of two measurements.
    pub fn max(self, other: Self) -> Self {
        Self {
            fma_gflops: self.fma_gflops.max(other.fma_gflops),
            bf16_gflops: match (self.bf16_gflops, other.bf16_gflops) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            },
            read_gbps: self.read_gbps.max(other.read_gbps),
            read_buffer: self.read_buffer.max(other.read_buffer),
        }
    }
}

/// A loop of independent arithmetic that lives in registers.
#[derive(Clone, Copy)]
struct Arithmetic {
    /// Runs that many iterations and returns something that depends on all of them.
    run: fn(u64) -> f32,
    /// Floating-point operations of one iteration.
    flops: f64,
}

/// How long a turn lasts: long beside starting threads together, short beside a time slice of the scheduler, so that on a
/// machine with other work some turns have all CPUs to themselves.
const TURN: Duration = Duration::from_micros(1500);

/// The best of `turns` turns, in GFLOP/s.
fn arithmetic_peak(threads: usize, turns: usize, kernel: Arithmetic) -> f64 {
    let iterations = calibrate(kernel);
    (0..turns)
        .map(|_| {
            let seconds = on_all_threads(threads, |_| {
                std::hint::black_box((kernel.run)(iterations));
            });
            threads as f64 * iterations as f64 * kernel.flops / seconds / 1e9
        })
        .fold(0.0, f64::max)
}

/// Iterations that last about a turn on one thread, by the fastest of a few tries.
fn calibrate(kernel: Arithmetic) -> u64 {
    const TRIED: u64 = 1 << 14;
    let fastest = (0..20)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box((kernel.run)(TRIED));
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    ((TRIED as f64 * TURN.as_secs_f64() / fastest.max(1e-9)) as u64).max(1)
}

/// Runs `work(thread)` on `threads` threads that start together; the seconds until the last is done.
fn on_all_threads(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    work(thread);
                    (start, Instant::now())
                })
            })
            .collect();
        barrier.wait();
        let times: Vec<(Instant, Instant)> =
            handles.into_iter().map(|h| h.join().expect("a thread of a peak measurement panicked")).collect();
        let start = times.iter().map(|t| t.0).min();
        let end = times.iter().map(|t| t.1).max();
        match (start, end) {
            (Some(start), Some(end)) => (end - start).as_secs_f64(),
            _ => f64::INFINITY,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_positive_and_grow_with_the_better_measurement() {
        let one = arithmetic_peak(1, 3, fma::kernel());
        assert!(one > 0.1, "{one} GFLOP/s");
        let low = Peaks { fma_gflops: 1.0, bf16_gflops: None, read_gbps: 3.0, read_buffer: 1 };
        let high = Peaks { fma_gflops: 2.0, bf16_gflops: Some(5.0), read_gbps: 2.0, read_buffer: 1 };
        let best = low.max(high);
        assert_eq!((best.fma_gflops, best.bf16_gflops, best.read_gbps), (2.0, Some(5.0), 3.0));
    }

    #[test]
    fn reading_is_measured() {
        let gbps = bandwidth::read_gbps(2, 1 << 22, 1);
        assert!(gbps > 0.1 && gbps.is_finite(), "{gbps} GB/s");
    }
}
