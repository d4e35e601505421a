//! A shape's masks, lengths and biases as tensors: as ours takes them, and as one mask and one bias for peers that know no others.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::backend::burn_dtype;
use crate::inputs::Inputs;
use crate::shapes::{BiasKind, Dtype, MaskKind, Shape, Suite};

/// Numbers in the shape's type, of which they already are: nothing is rounded.
pub fn data<const D: usize>(numbers: &[f32], dims: [usize; D], dtype: Dtype) -> TensorData {
    match dtype {
        Dtype::F32 => TensorData::new(numbers.to_vec(), dims),
        Dtype::Bf16 => TensorData::new(numbers.par_iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>(), dims),
        Dtype::F16 => TensorData::new(numbers.par_iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>(), dims),
    }
}

/// Adds a shape's extras to ours; the tensors are made once and shared by all calls.
pub struct Extras {
    mask: Option<Tensor<4, Bool>>,
    bias: Option<Tensor<4>>,
    slopes: Option<Tensor<1>>,
    sinks: Option<Tensor<1>>,
    kv_lens: Option<Vec<usize>>,
}

impl Extras {
    /// The extras of `shape` on `device`.
    pub fn new(shape: &Shape, inputs: &Inputs, device: &Device) -> Self {
        let mask = shape.mask_dims().map(|dims| {
            let seen = each(dims, |place| !shape.is_masked(place));
            Tensor::from_data(TensorData::new(seen, dims), device)
        });
        let vector = |numbers: &[f32]| {
            let data = data(numbers, [numbers.len()], shape.dtype);
            Tensor::<1>::from_data(data, (device, burn_dtype(shape.dtype)))
        };
        let bias = shape.bias_dims().map(|dims| {
            Tensor::<4>::from_data(data(&inputs.bias, dims, shape.dtype), (device, burn_dtype(shape.dtype)))
        });
        Self {
            mask,
            bias,
            slopes: shape.alibi_slopes().map(|slopes| vector(&slopes)),
            sinks: shape.extras.sinks.then(|| vector(&inputs.sinks)),
            kv_lens: shape.kv_lens(),
        }
    }

    /// The attention with them.
    pub fn on(&self, mut attention: attn::Attention) -> attn::Attention {
        if let Some(mask) = &self.mask {
            attention = attention.mask(attn::Mask::keep(mask.clone()));
        }
        if let Some(bias) = &self.bias {
            attention = attention.bias(bias.clone());
        }
        if let Some(slopes) = &self.slopes {
            attention = attention.alibi_slopes(slopes.clone());
        }
        if let Some(sinks) = &self.sinks {
            attention = attention.sinks(sinks.clone());
        }
        if let Some(lens) = &self.kv_lens {
            attention = attention.kv_lens(lens.clone());
        }
        attention
    }
}

/// What [batch, head, i, j] is, for every place of `dims`.
fn each<T: Send>(dims: [usize; 4], of: impl Fn([usize; 4]) -> T + Sync) -> Vec<T> {
    let [batch, heads, queries, keys] = dims;
    let rows = (0..batch * heads * queries).into_par_iter();
    let row = |row: usize| {
        let (head, i) = (row / queries, row % queries);
        (0..keys).map(|j| of([head / heads, head % heads, i, j])).collect::<Vec<T>>()
    };
    rows.flat_map_iter(row).collect()
}

/// The least axes on which all that a peer is to hide differs: its mask, and with `band` causality, window and lengths too.
fn hidden_dims(shape: &Shape, band: bool) -> [usize; 4] {
    let by_batch = shape.extras.mask == Some(MaskKind::Padding) || band && shape.extras.ragged;
    let by_head = shape.extras.mask == Some(MaskKind::Pairs);
    [if by_batch { shape.batch } else { 1 }, if by_head { shape.heads } else { 1 }, shape.query_len, shape.key_len]
}

/// The same for all that is to be added to the scores; none if nothing is.
fn added_dims(shape: &Shape) -> Option<[usize; 4]> {
    let (alibi, bias) = (shape.extras.alibi, shape.extras.bias);
    if !alibi && bias.is_none() {
        return None;
    }
    let by_batch = alibi && shape.extras.ragged;
    let by_head = alibi || bias == Some(BiasKind::Heads);
    let queries = if by_head { shape.query_len } else { 1 };
    Some([if by_batch { shape.batch } else { 1 }, if by_head { shape.heads } else { 1 }, queries, shape.key_len])
}

/// Bias and ALiBi at one place.
fn added<'a>(shape: &'a Shape, inputs: &'a Inputs) -> impl Fn([usize; 4]) -> f32 + Sync + 'a {
    let slopes = shape.alibi_slopes();
    move |[batch, head, i, j]| {
        let bias = if shape.extras.bias.is_some() { inputs.bias[shape.bias_at([head, i, j])] } else { 0.0 };
        let distance = (j as i64 - shape.position(batch, i)).abs() as f32;
        bias - slopes.as_ref().map_or(0.0, |slopes| slopes[head] * distance)
    }
}

/// True where a pair is hidden, by the mask and, with `band`, by causality, window and lengths; none if nothing is to be hidden.
pub fn hidden(shape: &Shape, band: bool, device: &Device) -> Option<Tensor<4, Bool>> {
    if !band && shape.extras.mask.is_none() {
        return None;
    }
    let dims = hidden_dims(shape, band);
    let hides = each(dims, |place| if band { !shape.sees(place) } else { shape.is_masked(place) });
    let device = if shape.suite == Suite::Train { device.clone().autodiff() } else { device.clone() };
    Some(Tensor::from_data(TensorData::new(hides, dims), &device))
}

/// Bias and ALiBi as one bias; none if there is neither.
pub fn bias(shape: &Shape, inputs: &Inputs, device: &Device) -> Option<Tensor<4>> {
    let dims = added_dims(shape)?;
    let numbers = each(dims, added(shape, inputs));
    Some(Tensor::from_data(data(&rounded(numbers, shape.dtype), dims, shape.dtype), (device, burn_dtype(shape.dtype))))
}

/// Bias, ALiBi and all that hides (as −∞) as one tensor to add, for LibTorch.
#[cfg(feature = "tch")]
pub fn added_and_hidden(shape: &Shape, inputs: &Inputs, device: &Device) -> Tensor<4> {
    let (hide, add) = (hidden_dims(shape, true), added_dims(shape).unwrap_or([1; 4]));
    let dims: [usize; 4] = std::array::from_fn(|axis| hide[axis].max(add[axis]));
    let added = added(shape, inputs);
    let numbers = each(dims, |place| if shape.sees(place) { added(place) } else { f32::NEG_INFINITY });
    let data = data(&rounded(numbers, shape.dtype), dims, shape.dtype);
    Tensor::from_data(data, (device, burn_dtype(shape.dtype)))
}

fn rounded(mut numbers: Vec<f32>, dtype: Dtype) -> Vec<f32> {
    numbers.par_iter_mut().for_each(|number| *number = dtype.round(*number));
    numbers
}
