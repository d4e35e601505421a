//! Attention for Burn with one exact meaning on every backend.
//!
//! ```
//! use attn::{Attention, AttentionSpec, Mask};
//! use burn::tensor::{Bool, Distribution, Tensor};
//!
//! # fn main() -> Result<(), attn::AttentionError> {
//! let device = attn::device("ndarray")?; // or any device of Burn's, `Device::flex()`
//! let q = Tensor::<4>::random([1, 8, 5, 64], Distribution::Default, &device); // [batch, heads, query_len, head_dim]
//! let k = Tensor::<4>::random([1, 2, 9, 64], Distribution::Default, &device); // 2 key/value heads serve 8 query heads
//! let v = Tensor::<4>::random([1, 2, 9, 64], Distribution::Default, &device);
//!
//! // Causal attention, in one call …
//! let out = attn::attention(q.clone(), k.clone(), v.clone(), &AttentionSpec::new().with_causal(true))?;
//! assert_eq!(out.dims(), [1, 8, 5, 64]);
//!
//! // … or with masks, a window, and more to give back.
//! let padding = Tensor::<4, Bool>::from_data([[[[true, true, true, true, true, true, true, false, false]]]], &device);
//! let attention = Attention::new(q, k, v).window(Some(4), Some(0)).mask(Mask::keep(padding)).with_lse();
//! println!("{}", attention.plan()?); // which kernel will serve it, why, and at what cost
//! let output = attention.forward()?;
//! assert_eq!(output.lse.unwrap().dims(), [1, 8, 5]);
//! # Ok(())
//! # }
//! ```
//!
//! The contract, formula by formula, stands in [`attn_core`]. The backend is the one on whose [`Device`](burn::tensor::Device)
//! the tensors lie; it is compiled in by a feature of its name: `ndarray` (default), `flex`, `tch`, `wgpu`, `cuda`, `rocm`. On an autodiff device everything
//! that comes out is differentiable by everything that went in.

mod additive;
mod attention;
mod autodiff;
mod boxed;
mod device;
mod dispatch;
mod functions;
#[cfg(all(feature = "cubecl", feature = "fusion"))]
mod fusion;
pub mod nn;
mod seeds;

pub use attention::{Attention, AttentionOutput};
pub use attn_core::composite::Selection;
pub use attn_core::{
    Alignment, AttentionError, AttentionSpec, BlockMask, Dropout, KernelChoice, Mask, MaskExpr, MaskShape, Pair,
    PassPlan, Plan, Polarity, ScoreMod, Window,
};
#[cfg(feature = "cubecl")]
pub use attn_wgpu::{Adapter, adapters};
pub use device::{BACKENDS, device};
pub use dispatch::AttentionBackend;
pub use functions::{apply_weights, attention, merge};
pub use seeds::seed;
