//! Joins the partial results of several runs of keys by their log-sum-exp.
//!
//! ```text
//! m = max lse_s,  w_s = exp(lse_s − m),  out = Σ w_s·out_s / Σ w_s,  lse = m + ln Σ w_s
//! ```
//!
//! A sink takes part as one more run that has weight and gives nothing.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// The kernel, a unit for each vector of the output. `parts` `[splits, rows, E]` and `lses` `[splits, rows]` in f32, contiguous;
/// rows are those of `[B, H, Sq]`.
#[cube(launch, address_type = "dynamic")]
pub fn attention_merge<F: Float, O: Float, W: Size>(
    parts: &Tensor<Vector<f32, W>>,
    lses: &Tensor<f32>,
    sinks: ComptimeOption<&Tensor<F>>,
    out: &mut Tensor<Vector<O, W>>,
    lse: ComptimeOption<&mut Tensor<f32>>,
    splits: usize,
    rows: usize,
    vectors: usize,
    query_len: usize,
    heads: usize,
    neg_inf: f32,
    #[define(F)] _element: ElemType,
    #[define(O)] _out_element: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < rows * vectors {
        let row = at / vectors;
        let zero = f32::cast_from(0u32);
        let mut m = neg_inf;
        for s in 0..splits {
            m = max(m, lses[s * rows + row]);
        }
        let mut sum = zero;
        #[comptime]
        if let ComptimeOption::Some(sinks) = &sinks {
            let sink = f32::cast_from(sinks[((row / query_len) % heads) * sinks.stride(0)]);
            m = max(m, sink);
            sum = select(m == neg_inf, zero, (sink - m).exp());
        }
        let base = select(m == neg_inf, zero, m);
        let mut acc = Vector::<f32, W>::new(0.0f32);
        for s in 0..splits {
            let weight = (lses[s * rows + row] - base).exp();
            sum += weight;
            acc = fma(Vector::new(weight), parts[s * rows * vectors + at], acc);
        }
        let empty = sum == zero;
        let inverse = select(empty, zero, f32::cast_from(1u32) / sum);
        out[at] = Vector::cast_from(acc * Vector::new(inverse));
        #[comptime]
        if let ComptimeOption::Some(lse) = lse {
            if at % vectors == 0 {
                lse[row] = select(empty, neg_inf, base + sum.ln());
            }
        }
    }
}
