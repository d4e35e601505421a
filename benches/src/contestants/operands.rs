//! A shape's inputs as tensors on one device.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::{Context, Result};
use burn::tensor::Tensor;

use super::extras::data;
use crate::backend::{Backend, Memory, burn_dtype};
use crate::inputs::Inputs;
use crate::shapes::{Shape, Suite};

/// Bytes of keys and values that decoding goes through before it comes back to the same ones. A model's layers each have
/// their own cache, so a step finds none of it in the CPU's caches; a single cache, read again and again, would be.
const DECODE_ROTATION: u64 = 1 << 30;
/// No more copies than this, however small they are.
const MOST_COPIES: u64 = 128;

/// Query, key, value and what else a shape needs, on a device.
pub struct Operands {
    query: Tensor<4>,
    /// Copies of key and value in different memory, taken by turns.
    caches: Vec<(Tensor<4>, Tensor<4>)>,
    turn: AtomicUsize,
    grad_out: Option<Tensor<4>>,
}

impl Operands {
    /// Moves the inputs to the backend's device.
    pub fn new(shape: &Shape, inputs: &Inputs, backend: Backend) -> Self {
        let train = shape.suite == Suite::Train;
        let device = if train { backend.device().autodiff() } else { backend.device() };
        let leaf = |numbers: &[f32], dims: [usize; 4]| {
            let tensor = Tensor::<4>::from_data(data(numbers, dims, shape.dtype), (&device, burn_dtype(shape.dtype)));
            if train { tensor.require_grad() } else { tensor }
        };
        let [query_dims, key_dims, value_dims, out_dims] = shape.dims();
        let mut caches = vec![(leaf(&inputs.key, key_dims), leaf(&inputs.value, value_dims))];
        for _ in 1..copies(shape) {
            caches.push(match (backend.memory(), &caches[0]) {
                // A device copies faster than the host sends; a product with 1 is exact, and memory of its own.
                (Memory::Device, (key, value)) => (key.clone() * 1.0, value.clone() * 1.0),
                _ => (leaf(&inputs.key, key_dims), leaf(&inputs.value, value_dims)),
            });
        }
        let grad_out = train.then(|| {
            let data = data(&inputs.grad_out, out_dims, shape.dtype);
            Tensor::from_data(data, (&device, burn_dtype(shape.dtype)))
        });
        Self { query: leaf(&inputs.query, query_dims), caches, turn: AtomicUsize::new(0), grad_out }
    }

    /// Query, key and value for the next call.
    pub fn next(&self) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let turn = self.turn.fetch_add(1, Relaxed) % self.caches.len();
        let (key, value) = &self.caches[turn];
        (self.query.clone(), key.clone(), value.clone())
    }

    /// The upstream gradient.
    pub fn grad_out(&self) -> Result<Tensor<4>> {
        self.grad_out.clone().context("an upstream gradient was asked for outside training")
    }
}

/// How many copies of the keys and values are taken by turns.
pub fn copies(shape: &Shape) -> u64 {
    if shape.suite != Suite::Decode {
        return 1;
    }
    let room = crate::machine::available_memory().map_or(DECODE_ROTATION, |free| free / 8);
    (DECODE_ROTATION.min(room) / shape.kv_bytes().max(1)).clamp(1, MOST_COPIES)
}
