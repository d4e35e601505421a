//! A device's own limits, measured with Burn's tensors on it: a large matrix product, and copying.
//!
//! They are what Burn's own kernels reach there, and so a floor of what the device can do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use burn::tensor::{Device, Distribution, Tensor};
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, burn_dtype, hand_over};
use crate::guard::guarded;
use crate::shapes::Dtype;

/// The limits of a device that keeps tensors in its own memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DevicePeaks {
    /// The backend through which they were measured.
    pub backend: String,
    /// The device's name; the backend's where Burn does not tell it.
    pub name: String,
    /// Burn's square matrix product in TFLOP/s (10¹² operations, two a multiply-add), by element type; without those that failed.
    pub matmul_tflops: BTreeMap<String, f64>,
    /// The matrices' rows.
    pub matmul_side: usize,
    /// Burn's `tensor + 1` in GB/s (10⁹ bytes), read and written; null where it failed.
    pub copy_gbps: Option<f64>,
    /// Bytes of that tensor, which is f32.
    pub copy_bytes: u64,
}

/// What is tried on a device.
#[derive(Clone, Copy)]
struct Sizes {
    side: usize,
    copy_bytes: u64,
}

/// For a card. wgpu binds no buffer of 2 GiB everywhere.
const CARD: Sizes = Sizes { side: 8192, copy_bytes: 1 << 31 };
const CARD_BINDINGS: Sizes = Sizes { copy_bytes: 1 << 30, ..CARD };
/// For a device that is none, such as llvmpipe.
const SMALL: Sizes = Sizes { side: 512, copy_bytes: 1 << 26 };
/// A card multiplies the small matrices in less.
const CARD_SECONDS: f64 = 1e-3;
/// How long a batch of calls lasts at least.
const BATCH: Duration = Duration::from_millis(20);
/// Batches, of which the fastest counts: others can only take speed away.
const BATCHES: usize = 5;

impl DevicePeaks {
    /// Measures the backend's device in each of `dtypes` that it has; `note` is told what failed.
    pub fn measure(backend: Backend, dtypes: &[Dtype], mut note: impl FnMut(&str)) -> Self {
        let device = backend.device();
        let dtypes: Vec<Dtype> = dtypes.iter().copied().filter(|&dtype| backend.has_dtype(dtype)).collect();
        let mut tried = |what: &str, measured: Result<f64>| match measured {
            Ok(number) => Some(number),
            Err(error) => {
                note(&format!("peak of {backend}: {what} left out: {error:#}"));
                None
            }
        };
        let small = |dtype: &Dtype| guarded(|| product_seconds(&device, *dtype, SMALL.side));
        let is_card = dtypes.first().and_then(|d| tried("a small product", small(d))).is_some_and(|s| s < CARD_SECONDS);
        let sizes = match (is_card, backend.name()) {
            (false, _) => SMALL,
            (true, "wgpu") => CARD_BINDINGS,
            (true, _) => CARD,
        };
        let mut matmul_tflops = BTreeMap::new();
        for dtype in dtypes {
            let seconds = guarded(|| product_seconds(&device, dtype, sizes.side));
            if let Some(seconds) = tried(&format!("products in {}", dtype.name()), seconds) {
                let operations = 2.0 * (sizes.side as f64).powi(3);
                matmul_tflops.insert(dtype.name().to_string(), operations / seconds * 1e-12);
            }
            device.memory_cleanup();
        }
        let copying = tried("copying", guarded(|| copy_seconds(&device, sizes.copy_bytes)));
        device.memory_cleanup();
        Self {
            backend: backend.name().to_string(),
            name: device_name(&device).unwrap_or_else(|| backend.name().to_string()),
            matmul_tflops,
            matmul_side: sizes.side,
            copy_gbps: copying.map(|seconds| 2.0 * sizes.copy_bytes as f64 / seconds * 1e-9),
            copy_bytes: sizes.copy_bytes,
        }
    }

    /// The better of two measurements of one device.
    pub fn max(mut self, other: Self) -> Self {
        for (dtype, speed) in other.matmul_tflops {
            let best = self.matmul_tflops.entry(dtype).or_insert(speed);
            *best = best.max(speed);
        }
        self.copy_gbps = match (self.copy_gbps, other.copy_gbps) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        self
    }
}

/// What the device calls itself.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn device_name(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name).filter(|name| !name.is_empty())
}

/// Only CubeCL's devices have a name.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn device_name(_: &Device) -> Option<String> {
    None
}

/// Seconds of a product of two square matrices of random numbers.
fn product_seconds(device: &Device, dtype: Dtype, side: usize) -> Result<f64> {
    let matrix = || Tensor::<2>::random([side, side], Distribution::Normal(0.0, 1.0), (device, burn_dtype(dtype)));
    let (a, b) = (matrix(), matrix());
    seconds(device, || a.clone().matmul(b.clone()))
}

/// Seconds of reading a tensor of f32 and writing one as large.
fn copy_seconds(device: &Device, bytes: u64) -> Result<f64> {
    const COLUMNS: usize = 4096;
    let rows = bytes as usize / size_of::<f32>() / COLUMNS;
    let tensor = Tensor::<2>::random([rows, COLUMNS], Distribution::Default, (device, burn_dtype(Dtype::F32)));
    seconds(device, || tensor.clone() + 1.0)
}

/// The seconds a call of the fastest batch of calls, each batch waited for once.
fn seconds(device: &Device, call: impl Fn() -> Tensor<2>) -> Result<f64> {
    let batch = |calls: u32| -> Result<Duration> {
        let start = Instant::now();
        let mut last = None;
        for _ in 0..calls {
            last = Some(call());
            hand_over(device)?;
        }
        device.sync().context("waiting for the device")?;
        let taken = start.elapsed();
        if let Some(last) = last {
            // A launch that failed shows in what it did not write alone.
            last.slice([0..1, 0..1]).try_into_vec_as::<f32>().context("reading the device's answer")?;
        }
        Ok(taken)
    };
    // Kernels are compiled and chosen.
    batch(1)?;
    let mut calls = 1;
    while batch(calls)? < BATCH && calls < 1 << 12 {
        calls *= 2;
    }
    let mut fastest = Duration::MAX;
    for _ in 0..BATCHES {
        fastest = fastest.min(batch(calls)?);
    }
    Ok(fastest.as_secs_f64() / f64::from(calls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "cpu")]
    #[test]
    fn a_device_is_measured_by_its_tensors() {
        let mut notes = Vec::new();
        let peaks = DevicePeaks::measure(Backend::Flex, &[Dtype::F32], |note| notes.push(note.to_string()));
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!((peaks.backend.as_str(), peaks.matmul_tflops.len()), ("flex", 1));
        let speeds = [peaks.matmul_tflops["f32"] * 1e3, peaks.copy_gbps.expect("copying is measured")];
        assert!(speeds.iter().all(|&speed| speed > 0.01 && speed < 1e6), "{speeds:?}");
    }

    #[test]
    fn the_better_of_two_measurements_counts() {
        let peaks = |f16: Option<f64>, bf16: Option<f64>, copy_gbps| DevicePeaks {
            backend: "cuda".into(),
            name: "a card".into(),
            matmul_tflops: [("f16", f16), ("bf16", bf16)]
                .into_iter()
                .filter_map(|(dtype, speed)| Some((dtype.to_string(), speed?)))
                .collect(),
            matmul_side: 8192,
            copy_gbps,
            copy_bytes: 1 << 31,
        };
        let best = peaks(Some(400.0), None, None).max(peaks(Some(300.0), Some(500.0), Some(2000.0)));
        assert_eq!(best, peaks(Some(400.0), Some(500.0), Some(2000.0)));
    }
}
