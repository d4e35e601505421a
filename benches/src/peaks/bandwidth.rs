//! Reading memory: all threads sum a buffer far larger than the last-level cache.
//!
//! Each thread reads its own part, which it also filled (untouched pages are all the one zero page, and reading that is
//! reading the cache). A thread reads several places of its part by turns: a core's prefetchers follow each as a stream
//! of its own, and together they keep more lines in flight than one stream does. The best turn with any number counts.

use super::on_all_threads;

/// Elements that one stream gives at a time: 16 cache lines.
const PIECE: usize = 128;
/// Elements that a thread reads in one timed turn: 16 MiB, some hundred microseconds, after which the turn moves on to
/// memory that has not been read for a whole round.
const TURN: usize = 2 << 20;
/// The numbers of streams tried.
const STREAMS: [usize; 3] = [1, 4, 8];

/// How large a buffer to read: 2 GiB (quick: 768 MiB), and no more than a quarter of what memory is free.
pub fn buffer_bytes(quick: bool) -> u64 {
    let wanted: u64 = if quick { 768 << 20 } else { 2 << 30 };
    match crate::machine::available_memory() {
        Some(free) => wanted.min(free / 4),
        None => wanted,
    }
}

/// The best turn of `rounds` rounds through `bytes` bytes with each number of streams, in GB/s.
pub fn read_gbps(threads: usize, bytes: u64, rounds: usize) -> f64 {
    let parts = filled(threads, bytes);
    let part = parts[0].len();
    let mut best = 0f64;
    for _ in 0..rounds {
        for streams in STREAMS {
            for start in (0..part).step_by(TURN) {
                let end = part.min(start + TURN);
                let seconds = on_all_threads(threads, |thread| {
                    std::hint::black_box(sum(&parts[thread][start..end], streams));
                });
                // A short last turn would weigh the start of the threads more than the reading.
                if end - start == TURN.min(part) {
                    best = best.max((threads * (end - start) * 8) as f64 / seconds / 1e9);
                }
            }
        }
    }
    best
}

/// Memory that is read beside others' turns: what it gives in the very state that they find it in.
pub struct Reading {
    /// Each thread's part, which it filled itself.
    parts: Vec<Vec<u64>>,
    /// How many streams were the fastest.
    streams: usize,
    /// Where the next turn begins.
    at: usize,
}

/// Bytes of a [`Reading`]'s buffer, a multiple of what a last-level cache holds.
const BESIDE: u64 = 1 << 30;

impl Reading {
    /// A buffer for `threads` threads, read through once with each number of streams.
    pub fn new(threads: usize) -> Self {
        let bytes = crate::machine::available_memory().map_or(BESIDE, |free| BESIDE.min(free / 8));
        let mut reading = Self { parts: filled(threads, bytes), streams: 1, at: 0 };
        let speeds = STREAMS.map(|streams| (reading.pass(streams), streams));
        reading.streams = speeds.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or(1, |(_, streams)| streams);
        reading
    }

    /// The median speed of a pass, in GB/s.
    fn pass(&mut self, streams: usize) -> f64 {
        self.streams = streams;
        let turns = (self.parts[0].len() / TURN).max(1);
        let mut speeds: Vec<f64> = (0..turns).map(|_| self.turn(1)).collect();
        speeds.sort_by(f64::total_cmp);
        crate::measure::median(&speeds)
    }

    /// Reads on where the last turn ended, so many times 16 MiB a thread, and around; GB/s.
    pub fn turn(&mut self, times: usize) -> f64 {
        let (parts, streams, length) = (&self.parts, self.streams, self.parts[0].len());
        let (mut bytes, mut seconds) = (0, 0.0);
        for _ in 0..times {
            let (start, end) = (self.at, length.min(self.at + TURN));
            seconds += on_all_threads(parts.len(), |thread| {
                std::hint::black_box(sum(&parts[thread][start..end], streams));
            });
            bytes += parts.len() * (end - start) * 8;
            self.at = if end == length { 0 } else { end };
        }
        bytes as f64 / seconds / 1e9
    }
}

/// A part for each thread, of whole pieces, which it fills itself.
fn filled(threads: usize, bytes: u64) -> Vec<Vec<u64>> {
    let part = ((bytes as usize / 8 / threads.max(1)) / PIECE).max(1) * PIECE;
    std::thread::scope(|scope| {
        let filling: Vec<_> =
            (0..threads.max(1)).map(|thread| scope.spawn(move || vec![thread as u64 + 1; part])).collect();
        filling.into_iter().map(|f| f.join().expect("filling the buffer panicked")).collect()
    })
}

/// The wrapping sum, read in `streams` streams.
fn sum(data: &[u64], streams: usize) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: avx512f has just been detected.
            return unsafe { sum_avx512(data, streams) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: avx2 has just been detected.
            return unsafe { sum_avx2(data, streams) };
        }
    }
    sum_streams(data, streams)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(data: &[u64], streams: usize) -> u64 {
    sum_streams(data, streams)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(data: &[u64], streams: usize) -> u64 {
    sum_streams(data, streams)
}

#[inline(always)]
fn sum_streams(data: &[u64], streams: usize) -> u64 {
    let (pieces, _) = data.as_chunks::<PIECE>();
    let length = pieces.len() / streams;
    let mut sums = [0u64; PIECE];
    for piece in 0..length {
        for stream in 0..streams {
            add(&mut sums, &pieces[stream * length + piece]);
        }
    }
    for rest in &pieces[length * streams..] {
        add(&mut sums, rest);
    }
    sums.iter().fold(0, |a, &b| a.wrapping_add(b))
}

#[inline(always)]
fn add(sums: &mut [u64; PIECE], piece: &[u64; PIECE]) {
    for (sum, value) in sums.iter_mut().zip(piece) {
        *sum = sum.wrapping_add(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_on_and_around() {
        let mut reading = Reading { parts: filled(2, (2 * TURN + PIECE) as u64 * 16), streams: 4, at: 0 };
        let ends = [TURN, 2 * TURN, 0, TURN];
        for end in ends {
            assert!(reading.turn(1) > 0.0);
            assert_eq!(reading.at, end);
        }
        assert!(reading.turn(3) > 0.0);
        assert_eq!(reading.at, TURN);
    }

    #[test]
    fn every_element_is_read_once() {
        for pieces in [1, 3, 8, 29] {
            let data: Vec<u64> = (0..pieces * PIECE as u64).map(|i| i * i).collect();
            let expected: u64 = data.iter().sum();
            for streams in STREAMS {
                assert_eq!(sum(&data, streams), expected, "{pieces} pieces, {streams} streams");
            }
        }
    }
}
