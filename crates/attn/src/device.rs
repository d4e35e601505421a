//! Devices by the name of their backend, for programs whose user picks one.

// Burn deprecates its NdArray and LibTorch backends, to go in 0.23; until then they are served.
#![allow(deprecated)]

use attn_core::AttentionError;
use burn::tensor::Device;

/// The backends compiled in, by the names of their features.
pub const BACKENDS: &[&str] = &[
    #[cfg(feature = "ndarray")]
    "ndarray",
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "tch")]
    "tch",
];

/// The default device of a backend, by the name of its feature: `ndarray`, `flex`, `tch` (LibTorch on the CPU); `tch-cuda` is
/// LibTorch on the first CUDA device.
///
/// # Errors
/// A value error that names `backend` where that backend is unknown or not compiled in, or has no such device here.
pub fn device(backend: &str) -> Result<Device, AttentionError> {
    match backend {
        #[cfg(feature = "ndarray")]
        "ndarray" => Ok(Device::ndarray()),
        #[cfg(feature = "flex")]
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "tch")]
        "tch" => Ok(Device::libtorch()),
        #[cfg(feature = "tch")]
        "tch-cuda" if attn_tch::has_cuda() => Ok(Device::libtorch_cuda(0)),
        other => Err(AttentionError::value(
            "backend",
            format!(
                "one that is compiled in: {}",
                if BACKENDS.is_empty() { "none is".to_string() } else { BACKENDS.join(", ") }
            ),
            other,
        )),
    }
}
