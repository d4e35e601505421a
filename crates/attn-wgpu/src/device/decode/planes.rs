//! The planes of a cube, each of which has gone over keys of its own, joined through shared memory.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::place::{Place, Reach, Scalars};

/// Writes a cube's outputs and log-sum-exps. `tops` and `sums` `[planes, rows]` are the maxima of the planes' scores and the sums of
/// their weights, `parts` `[planes, rows, E]` those of the weighted values; both sums are `lift` times what they are.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's variables, handed on one by one")]
pub fn join<F: Float, O: Float, W: Size>(
    tops: &Shared<[f32]>,
    sums: &Shared<[f32]>,
    parts: &Shared<[Vector<f32, W>]>,
    place: &Place,
    reach: &Reach,
    scalars: &Scalars,
    batches: usize,
    query_len: usize,
    value_dim: usize,
    sinks: &ComptimeOption<&Tensor<F>>,
    out: &mut Tensor<Vector<O, W>>,
    lse: &mut ComptimeOption<&mut Tensor<f32>>,
    #[comptime] rows: usize,
    #[comptime] out_steps: usize,
    #[comptime] planes: usize,
    #[comptime] lift: u32,
) {
    let neg_inf = scalars.neg_inf;
    let zero = f32::cast_from(0u32);
    let out_width = W::value();
    let first = (place.split * batches + place.batch) * scalars.heads;
    let mut at = UNIT_POS as usize;
    while at < comptime!(rows * out_steps) {
        let r = at / out_steps;
        let e = at % out_steps;
        let row = reach.first_row + r;
        if row < reach.rows {
            let head = place.first_head + row / query_len;
            let mut top = neg_inf;
            #[unroll]
            for p in 0..planes {
                top = max(top, tops[p * rows + r]);
            }
            let mut sum = zero;
            #[comptime]
            if let ComptimeOption::Some(sinks) = sinks {
                let sink = f32::cast_from(sinks[head * sinks.stride(0)]);
                top = max(top, sink);
                sum = select(top == neg_inf, zero, (sink - top).exp() * comptime!(lift as f32));
            }
            let base = select(top == neg_inf, zero, top);
            let mut joined = Vector::<f32, W>::new(0.0f32);
            #[unroll]
            for p in 0..planes {
                let weight = (tops[p * rows + r] - base).exp();
                sum += weight * sums[p * rows + r];
                joined = fma(Vector::new(weight), parts[(p * rows + r) * out_steps + e], joined);
            }
            let empty = sum == zero;
            let inverse = select(empty, zero, f32::cast_from(1u32) / sum);
            let to = (first + head) * query_len + row % query_len;
            out[(to * value_dim + scalars.first_column) / out_width + e] =
                Vector::cast_from(joined * Vector::new(inverse));
            #[comptime]
            if let ComptimeOption::Some(lse) = lse {
                if e == 0 {
                    lse[to] = select(empty, neg_inf, base + (sum * comptime!(1.0 / lift as f32)).ln());
                }
            }
        }
        at += CUBE_DIM as usize;
    }
}
