//! Sums over rows, and over runs of pairs: numbers that many rows have a share in.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use crate::device::backward::{FACTOR, SHIFT, STATISTICS};

/// Units of a cube: each adds up every 64th number, and one of them adds up those sums.
pub const UNITS: usize = 64;

/// Which rows are added up, and where the sums go.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub struct Totals {
    /// Sums: cubes.
    pub sums: usize,
    /// H.
    pub heads: usize,
    /// Heads of a sum.
    pub own_heads: usize,
    /// Sq.
    pub query_len: usize,
    /// Rows of a sum.
    pub count: usize,
    /// Numbers of a row.
    pub width: usize,
    /// Which of them.
    pub which: usize,
    /// Numbers from one sum to the next.
    pub step: usize,
    /// Where the first goes.
    pub first: usize,
}

/// The kernel, a cube for each sum over `[own heads, B, Sq]`: of a number of each row, `numbers` being `[B, H, Sq, width]`, or, where
/// sinks `[H]` are given and the numbers are statistics, of `exp(sink − lse)·(dLse − δ)`.
#[cube(launch, address_type = "dynamic")]
pub fn attention_backward_totals<F: Float>(
    numbers: &Tensor<f32>,
    sinks: ComptimeOption<&Tensor<F>>,
    out: &mut Tensor<F>,
    totals: Totals,
    #[define(F)] _element: ElemType,
) {
    let cube = CUBE_POS;
    if cube < totals.sums {
        let mut parts = Shared::<[f32]>::new_slice(UNITS);
        let mut sum = f32::cast_from(0u32);
        let of_head = totals.count / totals.own_heads;
        let mut at = UNIT_POS as usize;
        while at < totals.count {
            let head = cube * totals.own_heads + at / of_head;
            let rest = at % of_head;
            let row = (rest / totals.query_len * totals.heads + head) * totals.query_len + rest % totals.query_len;
            #[comptime]
            match &sinks {
                ComptimeOption::Some(sinks) => {
                    let sink = f32::cast_from(sinks[head * sinks.stride(0)]);
                    let weight = (sink - numbers[row * STATISTICS]).exp() * numbers[row * STATISTICS + FACTOR];
                    sum -= weight * numbers[row * STATISTICS + SHIFT];
                }
                ComptimeOption::None => {
                    sum += numbers[row * totals.width + totals.which];
                }
            }
            at += UNITS;
        }
        parts[UNIT_POS as usize] = sum;
        sync_cube();
        if UNIT_POS == 0 {
            let mut total = f32::cast_from(0u32);
            for unit in 0..UNITS {
                total += parts[unit];
            }
            out[cube * totals.step + totals.first] = F::cast_from(total);
        }
    }
}

/// Where the numbers that units found go: rows of `own` numbers into rows of `whole`, from `first` on.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
pub struct Target {
    /// Numbers of a row that are made.
    pub own: usize,
    /// Numbers of a row.
    pub whole: usize,
    /// The first that is made.
    pub first: usize,
}

/// Where number `at` goes.
#[cube]
pub fn place_of(at: usize, target: &Target) -> usize {
    at / target.own * target.whole + target.first + at % target.own
}

/// Joins runs of pairs, a unit for each number: `parts` is `[runs, numbers]`.
#[cube(launch, address_type = "dynamic")]
pub fn attention_backward_join<F: Float>(
    parts: &Tensor<f32>,
    out: &mut Tensor<F>,
    target: Target,
    runs: usize,
    numbers: usize,
    #[define(F)] _element: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < numbers {
        let mut sum = f32::cast_from(0u32);
        for run in 0..runs {
            sum += parts[run * numbers + at];
        }
        out[place_of(at, &target)] = F::cast_from(sum);
    }
}
