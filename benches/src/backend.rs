//! The backends that this build can measure, by name.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device};

use crate::shapes::{Dtype, Shape, Suite};

/// A backend of Burn on which ours runs, and whose own operation is a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Backend {
    /// `burn-ndarray`.
    #[cfg(feature = "cpu")]
    NdArray,
    /// `burn-flex`.
    #[cfg(feature = "cpu")]
    Flex,
    /// `burn-tch`.
    #[cfg(feature = "tch")]
    LibTorch,
    /// `burn-wgpu`, on the adapter that wgpu prefers.
    #[cfg(feature = "wgpu")]
    Wgpu,
    /// `burn-cuda`, on the first card.
    #[cfg(feature = "cuda")]
    Cuda,
}

/// Where the memory of a backend's tensors is, and so how it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// From Rust's allocator, which counts.
    Counted,
    /// From the system, past Rust's allocator: the process grows.
    Process,
    /// On a device: not measured here.
    Device,
}

impl Backend {
    /// Those compiled in.
    pub const ALL: &'static [Self] = &[
        #[cfg(feature = "cpu")]
        Self::NdArray,
        #[cfg(feature = "cpu")]
        Self::Flex,
        #[cfg(feature = "tch")]
        Self::LibTorch,
        #[cfg(feature = "wgpu")]
        Self::Wgpu,
        #[cfg(feature = "cuda")]
        Self::Cuda,
    ];

    /// The name on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "cpu")]
            Self::NdArray => "ndarray",
            #[cfg(feature = "cpu")]
            Self::Flex => "flex",
            #[cfg(feature = "tch")]
            Self::LibTorch => "tch",
            #[cfg(feature = "wgpu")]
            Self::Wgpu => "wgpu",
            #[cfg(feature = "cuda")]
            Self::Cuda => "cuda",
        }
    }

    /// What Burn's own operation on this backend is called among the peers.
    pub fn peer_name(self) -> &'static str {
        match self {
            #[cfg(feature = "cpu")]
            Self::NdArray => "burn-ndarray",
            #[cfg(feature = "cpu")]
            Self::Flex => "burn-flex",
            #[cfg(feature = "tch")]
            Self::LibTorch => "burn-tch",
            #[cfg(feature = "wgpu")]
            Self::Wgpu => "burn-wgpu",
            #[cfg(feature = "cuda")]
            Self::Cuda => "burn-cuda",
        }
    }

    /// What Burn's operation is called where it is made to take its way of separate operations, if there is another: GPU
    /// backends with `autotune` take the fastest of their fused kernels.
    pub fn unfused_name(self) -> Option<&'static str> {
        match self {
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some("burn-wgpu-unfused"),
            #[cfg(feature = "cuda")]
            Self::Cuda => Some("burn-cuda-unfused"),
            #[allow(unreachable_patterns, reason = "a build may have GPU backends alone")]
            _ => None,
        }
    }

    /// The device that ours and Burn's operation run on.
    pub fn device(self) -> Device {
        match self {
            // NdArray is deprecated since Burn 0.22, and the last release has it: it is named here only.
            #[cfg(feature = "cpu")]
            #[allow(deprecated)]
            Self::NdArray => Device::ndarray(),
            #[cfg(feature = "cpu")]
            Self::Flex => Device::flex(),
            // As NdArray.
            #[cfg(feature = "tch")]
            #[allow(deprecated)]
            Self::LibTorch => Device::libtorch(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::cuda(0),
        }
    }

    /// Where its tensors' memory is.
    pub fn memory(self) -> Memory {
        match self {
            #[cfg(feature = "cpu")]
            Self::NdArray | Self::Flex => Memory::Counted,
            #[cfg(feature = "tch")]
            Self::LibTorch => Memory::Process,
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Memory::Device,
            #[cfg(feature = "cuda")]
            Self::Cuda => Memory::Device,
        }
    }

    /// Whether the backend has tensors of the type.
    pub fn has_dtype(self, dtype: Dtype) -> bool {
        self.device().supports_dtype(burn_dtype(dtype))
    }

    /// Why Burn's operation on this backend can't do `shape`; none if it can.
    ///
    /// Shared key/value heads are Flex's forward alone: the fallback, which NdArray always takes and training takes
    /// everywhere, multiplies [B, H, …] by [B, G, …].
    pub fn peer_lacks(self, shape: &Shape) -> Option<&'static str> {
        if !self.has_dtype(shape.dtype) {
            return Some("no tensors of this type");
        }
        if shape.extras.sinks {
            return Some("no sinks");
        }
        let shares_heads = match self {
            #[cfg(feature = "cpu")]
            Self::NdArray => false,
            #[cfg(feature = "cpu")]
            Self::Flex => shape.suite != Suite::Train,
            #[cfg(feature = "tch")]
            Self::LibTorch => false,
            #[cfg(feature = "wgpu")]
            Self::Wgpu => false,
            #[cfg(feature = "cuda")]
            Self::Cuda => false,
        };
        (shape.heads != shape.kv_heads && !shares_heads).then_some("no shared key/value heads")
    }
}

/// Hands operations that Burn's fusion puts off to the device, without waiting for it. Without fusion they are handed over as they
/// come; asking for it there would cut what the device takes in batches.
///
/// # Errors
/// Where the device does not take them.
pub fn hand_over(device: &Device) -> Result<()> {
    if cfg!(feature = "fusion") {
        device.flush().context("handing work to the device")?;
    }
    Ok(())
}

/// Burn's name of the type.
pub fn burn_dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL.iter().copied().find(|b| b.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|b| b.name()).collect();
            format!("no backend of this name in this build, which has: {}", names.join(", "))
        })
    }
}
