//! LibTorch's `scaled_dot_product_attention`, called directly: what a user would pick instead.
//!
//! It knows scale and causality from the top left; what else hides or is added is given as a mask of numbers in the type of
//! the inputs, made beforehand and not timed. It knows neither softcap nor sinks. Training is LibTorch's own autograd through it, of the same loss as
//! everyone's.

// Burn drops its LibTorch backend in 0.23; until then it is measured.
#![allow(deprecated)]

use std::sync::Arc;

use anyhow::{Result, anyhow};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend as BurnBackend, Dispatch, ExtensionType, LibTorch, backend_extension};
use burn::tensor::Tensor;

use super::extras::added_and_hidden;
use super::{Contestant, Operands, Outcome};
use crate::backend::Backend;
use crate::inputs::Inputs;
use crate::shapes::{Shape, Suite};

/// The name among the peers.
const NAME: &str = "torch-sdpa";

/// A tensor that may be absent.
#[derive(Clone, ExtensionType)]
enum Maybe<B: BurnBackend> {
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
    mask: Maybe<B>,
    /// In training.
    #[extension_type]
    grad_out: Maybe<B>,
    causal: bool,
    scale: Option<f64>,
}

/// What comes out.
#[derive(Clone, ExtensionType)]
enum Answer<B: BurnBackend> {
    Out(FloatTensor<B>),
    Trained { out: FloatTensor<B>, query: FloatTensor<B>, key: FloatTensor<B>, value: FloatTensor<B> },
    Failed(String),
}

/// The way to LibTorch's tensors.
#[backend_extension(LibTorch: cfg(feature = "tch"))]
trait Sdpa: BurnBackend {
    fn torch_sdpa(#[extension_type] call: Call<Self>) -> Answer<Self>;
}

impl Sdpa for LibTorch {
    fn torch_sdpa(call: Call<Self>) -> Answer<Self> {
        let Call { query, key, value, mask, grad_out, causal, scale } = &call;
        let mask = match mask {
            Maybe::Given(mask) => Some(mask),
            Maybe::Absent => None,
        };
        let answer = match grad_out {
            Maybe::Absent => attn_tch::torch_sdpa(query, key, value, mask, *causal, *scale).map(Answer::Out),
            Maybe::Given(grad_out) => attn_tch::torch_sdpa_train(query, key, value, mask, *causal, *scale, grad_out)
                .map(|[out, query, key, value]| Answer::Trained { out, query, key, value }),
        };
        answer.unwrap_or_else(|error| Answer::Failed(error.to_string()))
    }
}

/// Whether it can do the shape.
pub fn can(shape: &Shape) -> bool {
    shape.softcap.is_none() && !shape.extras.sinks
}

/// Sets LibTorch's operation up.
pub fn enter(shape: &Shape, inputs: &Inputs, operands: Arc<Operands>) -> Contestant {
    let shape = *shape;
    let backend = Backend::LibTorch;
    let device = backend.device();
    // One query that sees all keys needs no mask; causality is LibTorch's own where both alignments are one.
    let some_hidden = |batch| (0..shape.query_len).any(|i| shape.visible_keys(batch, i).len() < shape.key_len);
    let extras = &shape.extras;
    let given = extras.mask.is_some() || extras.bias.is_some() || extras.alibi;
    let hides = given || (0..if extras.ragged { shape.batch } else { 1 }).any(some_hidden);
    let own = shape.causal && shape.window.is_none() && shape.query_len == shape.key_len && !given && !extras.ragged;
    let mask = (hides && !own).then(|| added_and_hidden(&shape, inputs, &device));
    let train = shape.suite == Suite::Train;
    let run = move || {
        let (query, key, value) = operands.next();
        // Tensors that Burn's autodiff follows are followed by LibTorch's here.
        let plain = |tensor: Tensor<4>| if train { tensor.inner().into_dispatch() } else { tensor.into_dispatch() };
        let maybe =
            |tensor: Option<Tensor<4>>| tensor.map_or(Maybe::Absent, |tensor| Maybe::Given(tensor.into_dispatch()));
        let grad_out = if train { Some(operands.grad_out()?.inner()) } else { None };
        taken(<Dispatch as Sdpa>::torch_sdpa(Call {
            query: plain(query),
            key: plain(key),
            value: plain(value),
            mask: maybe(mask.clone()),
            grad_out: maybe(grad_out),
            causal: own,
            scale: shape.scale,
        }))
    };
    Contestant { name: NAME, backend, planned: None, device: backend.device(), call: Box::new(run) }
}

fn taken(answer: Answer<Dispatch>) -> Result<Outcome> {
    match answer {
        Answer::Out(out) => Ok(vec![Tensor::from_dispatch(out)]),
        Answer::Trained { out, query, key, value } => {
            Ok([out, query, key, value].into_iter().map(Tensor::from_dispatch).collect())
        }
        Answer::Failed(why) => Err(anyhow!("LibTorch: {why}")),
    }
}
