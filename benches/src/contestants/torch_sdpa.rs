//! LibTorch's `scaled_dot_product_attention`, called directly: what a user would pick instead.
//!
//! It knows scale and causality from the top left; what else hides is given as a mask, [1, 1, Sq, Sk] of 0 and −∞ in the type of
//! the inputs, made beforehand and not timed. It knows no softcap. Only forward: its training would be LibTorch's own autograd.

// Burn drops its LibTorch backend in 0.23; until then it is measured.
#![allow(deprecated)]

use std::sync::Arc;

use anyhow::{Result, anyhow};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend as BurnBackend, Dispatch, ExtensionType, LibTorch, backend_extension};
use burn::tensor::{Tensor, TensorData};

use super::{Contestant, Operands, call};
use crate::backend::{Backend, burn_dtype};
use crate::shapes::{Shape, Suite};

/// The name among the peers.
const NAME: &str = "torch-sdpa";

/// A mask that may be absent.
#[derive(Clone, ExtensionType)]
enum MaybeMask<B: BurnBackend> {
    Absent,
    Given(FloatTensor<B>),
}

/// What goes in.
#[derive(Clone, ExtensionType)]
struct Call<B: BurnBackend> {
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    #[extension_type]
    mask: MaybeMask<B>,
    causal: bool,
    scale: Option<f64>,
}

/// What comes out.
#[derive(Clone, ExtensionType)]
enum Answer<B: BurnBackend> {
    Out(FloatTensor<B>),
    Failed(String),
}

/// The way to LibTorch's tensors.
#[backend_extension(LibTorch: cfg(feature = "tch"))]
trait Sdpa: BurnBackend {
    fn torch_sdpa(#[extension_type] call: Call<Self>) -> Answer<Self>;
}

impl Sdpa for LibTorch {
    fn torch_sdpa(call: Call<Self>) -> Answer<Self> {
        let mask = match &call.mask {
            MaybeMask::Given(mask) => Some(mask),
            MaybeMask::Absent => None,
        };
        match attn_tch::torch_sdpa(&call.query, &call.key, &call.value, mask, call.causal, call.scale) {
            Ok(out) => Answer::Out(out),
            Err(error) => Answer::Failed(error.to_string()),
        }
    }
}

/// Whether it can do the shape.
pub fn can(shape: &Shape) -> bool {
    shape.suite != Suite::Train && shape.softcap.is_none()
}

/// Sets LibTorch's operation up.
pub fn enter(shape: &Shape, operands: Arc<Operands>) -> Contestant {
    let shape = *shape;
    let backend = Backend::LibTorch;
    let device = backend.device();
    // One query that sees all keys needs no mask; causality is LibTorch's own where both alignments are one.
    let hides = (0..shape.query_len).any(|i| shape.visible_keys(i).len() < shape.key_len);
    let own = shape.causal && shape.window.is_none() && shape.query_len == shape.key_len;
    let mask = (hides && !own).then(|| {
        let numbers = (0..shape.query_len).flat_map(|i| {
            let keys = shape.visible_keys(i);
            (0..shape.key_len).map(move |j| if keys.contains(&j) { 0.0 } else { f32::NEG_INFINITY })
        });
        let data = TensorData::new(numbers.collect::<Vec<f32>>(), [1, 1, shape.query_len, shape.key_len]);
        Tensor::<4>::from_data(data, (&device, burn_dtype(shape.dtype)))
    });
    let run = move || {
        call(&shape, &operands, |query, key, value| {
            let mask = mask.clone().map_or(MaybeMask::Absent, |mask| MaybeMask::Given(mask.into_dispatch()));
            let answer = <Dispatch as Sdpa>::torch_sdpa(Call {
                query: query.into_dispatch(),
                key: key.into_dispatch(),
                value: value.into_dispatch(),
                mask,
                causal: own,
                scale: shape.scale,
            });
            taken(answer)
        })
    };
    Contestant { name: NAME, backend, planned: None, device: backend.device(), call: Box::new(run) }
}

fn taken(answer: Answer<Dispatch>) -> Result<Tensor<4>> {
    match answer {
        Answer::Out(out) => Ok(Tensor::from_dispatch(out)),
        Answer::Failed(why) => Err(anyhow!("LibTorch: {why}")),
    }
}
