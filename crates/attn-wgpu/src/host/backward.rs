//! A backward pass: which launches it takes for the gradients that are wanted.

mod numbers;
mod pass;

use std::hash::Hash;

use attn_core::{Gradients, Problem, Upstream, Wanted};
use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType, FloatDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::ir::AddressType;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use crate::device::backward::{STATISTICS, SUMS};
use crate::host::arguments::has_bands;
use crate::host::launch::Operands;
use crate::host::taken::Launches;
use crate::host::tiles::{BackwardTiles, runs};
use pass::Pass;

pub use numbers::{of_bias, of_table};

/// Units of a cube of the kernels that have no tiles.
pub const UNITS: usize = 64;

/// The gradients that are wanted, of what is there.
pub fn backward(
    problem: &Problem,
    operands: &Operands,
    upstream: Upstream<CubeBackend>,
    wanted: Wanted,
    tiles: &BackwardTiles,
    launches: &Launches,
) -> Gradients<CubeBackend> {
    let mut made = outputs(problem, operands, wanted);
    if upstream.grad_out.is_none() && upstream.grad_lse.is_none() {
        return zeros(made);
    }
    if upstream.grad_out.is_none() {
        made.value = made.value.as_ref().map(zero);
    }
    let rows = [problem.batch, problem.heads, problem.query_len];
    let pass = Pass::new(problem, operands, upstream, &made, launches);
    pass.refine(&tiles.rows);
    let is_summed = made.alibi_slopes.is_some() || made.relative_bias.is_some();
    let sums = is_summed.then(|| empty(operands, &[&rows[..], &[SUMS]].concat(), DType::F32));
    pass.by_rows(&tiles.rows, made.query.as_ref(), sums.as_ref());
    pass.by_keys(&tiles.keys, made.key.as_ref(), made.value.as_ref());
    if let Some(bias) = &made.bias {
        pass.bias(bias);
    }
    if let Some(sinks) = &made.sinks {
        pass.sinks(sinks);
    }
    if let (Some(slopes), Some(sums)) = (&made.alibi_slopes, &sums) {
        pass.slopes(slopes, sums);
    }
    if let (Some(table), Some(sums)) = (&made.relative_bias, &sums) {
        pass.table(table, sums);
    }
    made
}

/// Bytes of a backward pass for all gradients, beside inputs and outputs on the device: the rows' statistics and sums, and the parts of
/// gradients by pairs.
pub fn bytes(problem: &Problem) -> u64 {
    let rows = (problem.batch * problem.heads * problem.query_len) as u64;
    let sums = if problem.alibi || problem.relative_bias.is_some() { SUMS as u64 } else { 0 };
    let parts = [of_bias(problem), of_table(problem)].into_iter().flatten().map(|[numbers, pairs]| {
        let (runs, _) = runs(numbers, pairs);
        if runs > 1 { (runs * numbers) as u64 } else { 0 }
    });
    4 * (rows * (STATISTICS as u64 + sums) + parts.sum::<u64>())
}

/// What kernels are compiled for besides tiles: addresses, and whether gradients by pairs, of bias and table, are made in parts.
pub fn compiled(problem: &Problem) -> impl Hash + use<> {
    let is_split = |made: Option<[usize; 2]>| made.map(|[numbers, pairs]| runs(numbers, pairs).0 > 1);
    let rows = problem.batch * problem.heads * problem.query_len;
    let addresses = addresses(problem).max(AddressType::from_len(rows * STATISTICS));
    (addresses, [of_bias(problem), of_table(problem)].map(is_split))
}

/// Buffers of its largest launch: query, key, value, dOut, statistics, a gradient, shapes, the rows' sums, and what else is given.
pub fn bindings(problem: &Problem) -> u32 {
    let sums = problem.alibi || problem.relative_bias.is_some();
    7 + u32::from(sums) + options(problem)
}

/// Buffers of what else is given, a table of bands among it. Sinks are bound where no gradient is.
fn options(problem: &Problem) -> u32 {
    let given = [problem.mask.is_some(), problem.bias.is_some(), problem.alibi, problem.relative_bias.is_some()];
    given.into_iter().chain([problem.block_mask.is_some(), has_bands(problem)]).map(u32::from).sum()
}

/// The addresses that a backward pass counts with, tensors aside: pairs that read a number.
pub fn addresses(problem: &Problem) -> AddressType {
    let most = [of_bias(problem), of_table(problem)].into_iter().flatten().flatten().max().unwrap_or(0);
    AddressType::from_len(most)
}

fn outputs(problem: &Problem, operands: &Operands, wanted: Wanted) -> Gradients<CubeBackend> {
    let Problem { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim, .. } = *problem;
    let make = |wanted: bool, shape: &[usize]| wanted.then(|| empty(operands, shape, operands.query.dtype));
    Gradients {
        query: make(wanted.query, &[batch, heads, query_len, head_dim]),
        key: make(wanted.key, &[batch, kv_heads, key_len, head_dim]),
        value: make(wanted.value, &[batch, kv_heads, key_len, value_dim]),
        bias: problem.bias.and_then(|shape| make(wanted.bias, &shape)),
        alibi_slopes: make(wanted.alibi_slopes && problem.alibi, &[heads]),
        relative_bias: problem.relative_bias.and_then(|shape| make(wanted.relative_bias, &shape)),
        sinks: make(wanted.sinks && problem.sinks, &[heads]),
    }
}

/// A tensor beside the inputs.
fn empty(operands: &Operands, shape: &[usize], dtype: DType) -> CubeTensor {
    let like = &operands.query;
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(shape.to_vec()), dtype)
}

fn zero(like: &CubeTensor) -> CubeTensor {
    let dtype = match like.dtype {
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        _ => FloatDType::F32,
    };
    CubeBackend::float_zeros(like.meta.shape().clone(), &like.device, dtype)
}

fn zeros(made: Gradients<CubeBackend>) -> Gradients<CubeBackend> {
    let zero = |gradient: Option<CubeTensor>| gradient.as_ref().map(zero);
    Gradients {
        query: zero(made.query),
        key: zero(made.key),
        value: zero(made.value),
        bias: zero(made.bias),
        alibi_slopes: zero(made.alibi_slopes),
        relative_bias: zero(made.relative_bias),
        sinks: zero(made.sinks),
    }
}

/// The gradients that are there.
pub fn each(made: &Gradients<CubeBackend>) -> impl Iterator<Item = &CubeTensor> + Clone {
    let heads = [&made.alibi_slopes, &made.relative_bias, &made.sinks];
    [&made.query, &made.key, &made.value, &made.bias].into_iter().chain(heads).flatten()
}
