//! Joins the partial results of several runs of keys by their log-sum-exp.
//!
//! ```text
//! m = max lse_s,  w_s = exp(lse_s − m),  out = Σ w_s·out_s / Σ w_s,  lse = m + ln Σ w_s
//! ```
//!
//! A sink takes part as one more run that has weight and gives nothing.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// What is known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Units of a cube.
    pub units: usize,
    /// Units that share a vector of the output.
    pub lanes: usize,
    /// Which of sinks and LSE are given, [one bit each](crate::host::arguments::given).
    pub given: u32,
}

/// Runs whose numbers a unit loads together.
pub const AT_ONCE: usize = 4;

/// The kernel. Units of a cube share `cube / lanes` vectors of the output: each goes over every `lanes`-th run, so that few of its loads
/// wait for each other. `parts` `[splits, rows, E]` and `lses` `[splits, rows]` in f32, contiguous; rows are those of `[B, H, Sq]`.
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
    #[comptime] config: Config,
    #[define(F)] _element: ElemType,
    #[define(O)] _out_element: ElemType,
) {
    let lanes = comptime!(config.lanes);
    let own = comptime!(config.units / config.lanes);
    let lane = UNIT_POS as usize / own;
    let seat = UNIT_POS as usize % own;
    let asked = CUBE_POS * own + seat;
    // A vector that is not there is the last one again, and is not stored: all units meet at the barriers.
    let at = min(asked, rows * vectors - 1);
    let row = at / vectors;
    let zero = f32::cast_from(0u32);

    let mut m = neg_inf;
    let mut s = lane;
    while s < splits {
        #[unroll]
        for step in 0..AT_ONCE {
            m = max(m, lses[min(s + step * lanes, splits - 1) * rows + row]);
        }
        s += comptime!(AT_ONCE * lanes);
    }
    if comptime!(lanes > 1) {
        let mut tops = Shared::<[f32]>::new_slice(comptime!(config.units));
        tops[UNIT_POS as usize] = m;
        sync_cube();
        #[unroll]
        for other in 0..lanes {
            m = max(m, tops[other * own + seat]);
        }
    }
    let mut sink = neg_inf;
    #[comptime]
    if let ComptimeOption::Some(sinks) = &sinks {
        sink = f32::cast_from(sinks[((row / query_len) % heads) * sinks.stride(0)]);
        m = max(m, sink);
    }
    let base = select(m == neg_inf, zero, m);

    let mut sum = zero;
    let mut acc = Vector::<f32, W>::new(0.0f32);
    let mut s = lane;
    while s < splits {
        #[unroll]
        for step in 0..AT_ONCE {
            let run = s + step * lanes;
            let there = min(run, splits - 1);
            let weight = select(run < splits, (lses[there * rows + row] - base).exp(), zero);
            let part = parts[there * rows * vectors + at];
            sum += weight;
            // The last run once more is not taken: 0 times infinity would be NaN.
            acc = fma(Vector::new(weight), select(run < splits, part, Vector::new(0.0f32)), acc);
        }
        s += comptime!(AT_ONCE * lanes);
    }
    if comptime!(lanes > 1) {
        let mut sums = Shared::<[f32]>::new_slice(comptime!(config.units));
        let mut accs = Shared::<[Vector<f32, W>]>::new_slice(comptime!(config.units));
        sums[UNIT_POS as usize] = sum;
        accs[UNIT_POS as usize] = acc;
        sync_cube();
        sum = zero;
        acc = Vector::new(0.0f32);
        #[unroll]
        for other in 0..lanes {
            sum += sums[other * own + seat];
            acc += accs[other * own + seat];
        }
    }
    if lane == 0 && asked < rows * vectors {
        sum += select(sink == neg_inf, zero, (sink - base).exp());
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
