//! Devices by the name of their backend, for programs whose user picks one.

// Burn deprecates its NdArray backend, to go in 0.23; until then it is served.
#![allow(deprecated)]

use attn_core::AttentionError;
use burn::tensor::Device;

/// The backends compiled in, by the names of their features.
pub const BACKENDS: &[&str] = &[
    #[cfg(feature = "ndarray")]
    "ndarray",
    #[cfg(feature = "flex")]
    "flex",
];

/// The default device of a backend, by the name of its feature: `ndarray`, `flex`.
///
/// # Errors
/// A value error that names `backend` where that backend is unknown or not compiled in.
pub fn device(backend: &str) -> Result<Device, AttentionError> {
    match backend {
        #[cfg(feature = "ndarray")]
        "ndarray" => Ok(Device::ndarray()),
        #[cfg(feature = "flex")]
        "flex" => Ok(Device::flex()),
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
