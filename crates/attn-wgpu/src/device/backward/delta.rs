//! What the other kernels need to know of a row: its LSE, `δ = Σ_e dOut·out`, and dLse.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::backward::{FACTOR, GRAD_LSE, SHIFT, STATISTICS};

/// The kernel, a unit for each of `rows` rows of `[B, H, Sq]`. Shapes: out and its gradient `[B, H, Sq, E]`, LSE and its gradient
/// `[B, H, Sq]`; statistics `[B, H, Sq, 4]`, contiguous.
#[cube(launch, address_type = "dynamic")]
pub fn attention_backward_delta<F: Float, W: Size>(
    out: &Tensor<Vector<F, W>>,
    grad_out: ComptimeOption<&Tensor<Vector<F, W>>>,
    lse: &Tensor<f32>,
    grad_lse: ComptimeOption<&Tensor<f32>>,
    statistics: &mut Tensor<f32>,
    rows: usize,
    heads: usize,
    query_len: usize,
    neg_inf: f32,
    #[comptime] value_dim: usize,
    // Which gradients are given, for what it is compiled for.
    #[comptime] _given: u32,
    #[define(F)] _element: ElemType,
) {
    let row = ABSOLUTE_POS;
    if row < rows {
        let width = W::value();
        let i = row % query_len;
        let head = row / query_len % heads;
        let batch = row / query_len / heads;
        let mut delta = f32::cast_from(0u32);
        #[comptime]
        if let ComptimeOption::Some(grad_out) = &grad_out {
            let out_at = (batch * out.stride(0) + head * out.stride(1) + i * out.stride(2)) / width;
            let grad_at = (batch * grad_out.stride(0) + head * grad_out.stride(1) + i * grad_out.stride(2)) / width;
            for e in 0..comptime!(value_dim / width) {
                let a = Vector::<f32, W>::cast_from(out[out_at + e]);
                let b = Vector::<f32, W>::cast_from(grad_out[grad_at + e]);
                #[unroll]
                for c in 0..width {
                    delta = fma(a.extract(c), b.extract(c), delta);
                }
            }
        }
        let mut by_lse = f32::cast_from(0u32);
        #[comptime]
        if let ComptimeOption::Some(grad_lse) = &grad_lse {
            by_lse = grad_lse[batch * grad_lse.stride(0) + head * grad_lse.stride(1) + i * grad_lse.stride(2)];
        }
        let found = lse[batch * lse.stride(0) + head * lse.stride(1) + i * lse.stride(2)];
        statistics[row * STATISTICS] = select(found == neg_inf, f32::cast_from(0u32), found);
        statistics[row * STATISTICS + FACTOR] = f32::cast_from(1u32);
        statistics[row * STATISTICS + SHIFT] = delta - by_lse;
        statistics[row * STATISTICS + GRAD_LSE] = by_lse;
    }
}
