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
    #[cfg(feature = "wgpu")]
    "wgpu",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "rocm")]
    "rocm",
];

/// The default device of a backend, by the name of its feature: `ndarray`, `flex`, `tch` (LibTorch on the CPU), `wgpu` (the
/// adapter that wgpu prefers), `cuda`, `rocm` (the first card); `tch-cuda` is LibTorch on the first CUDA device.
///
/// # Errors
/// A value error that names `backend` where that backend is unknown or not compiled in, or has no such device here. In a browser
/// `wgpu` is one, too: there an adapter can't be waited for, and the program starts it itself, by
/// `Device::wgpu_options().init_async().await`.
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
        #[cfg(feature = "wgpu")]
        "wgpu" => wgpu(),
        #[cfg(feature = "cuda")]
        "cuda" if attn_wgpu::has_cuda() => Ok(Device::cuda(0)),
        #[cfg(feature = "rocm")]
        "rocm" if attn_wgpu::has_rocm() => Ok(Device::rocm(0)),
        other => Err(AttentionError::value(
            "backend",
            format!(
                "one that is compiled in and has its device here: {}",
                if BACKENDS.is_empty() { "none is".to_string() } else { BACKENDS.join(", ") }
            ),
            other,
        )),
    }
}

/// The adapter that wgpu prefers, started once.
///
/// Burn's own way to that device panics at its first use where there is no adapter; so it is started here, where that is an error.
#[cfg(all(feature = "wgpu", not(target_family = "wasm")))]
fn wgpu() -> Result<Device, AttentionError> {
    use std::sync::OnceLock;

    use burn::tensor::DeviceKind;
    use burn::tensor::wgpu::WgpuInitError;

    static STARTED: OnceLock<Result<Device, String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| match Device::wgpu_options().init() {
        Ok(device) => Ok(device),
        // The program has used it before.
        Err(WgpuInitError::Registration { .. }) => Ok(Device::wgpu(DeviceKind::DefaultDevice)),
        Err(error) => Err(error.to_string()),
    });
    started
        .clone()
        .map_err(|reason| AttentionError::value("backend", "one with an adapter here", format!("wgpu: {reason}")))
}

#[cfg(all(feature = "wgpu", target_family = "wasm"))]
fn wgpu() -> Result<Device, AttentionError> {
    Err(AttentionError::value("backend", "in a browser: Device::wgpu_options().init_async().await", "wgpu"))
}
