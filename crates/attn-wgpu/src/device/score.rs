//! What becomes of q·k before the softmax: the contract's order, scale, softcap, ALiBi, bias.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// What a score goes through, known when the kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    /// c·tanh(s/c).
    pub softcap: bool,
    /// −slope·|j − p|.
    pub alibi: bool,
    /// A mask is given.
    pub mask: bool,
    /// A bias is given, whose −∞ hides.
    pub bias: bool,
    /// What is true in the mask is seen.
    pub keep: bool,
    /// A mask by blocks is given.
    pub blocks: bool,
    /// A bias by relative position is given, whose −∞ hides.
    pub relative: bool,
    /// Weights are dropped.
    pub dropout: bool,
    /// Products are rounded before anything is added to them, by an instruction of CUDA's: its compilers else do both at once in one
    /// kernel and not in the next, and scores of thousands come out 10⁻⁴ apart.
    pub apart: bool,
    /// Which tensors are given, [one bit each](crate::host::arguments::given), of those that nothing above tells.
    pub given: u32,
}

/// Whether keys may be hidden that the band shows.
pub fn hides(options: Options) -> bool {
    options.mask || options.bias || options.relative
}

/// A row's part of the score.
#[derive(CubeType, Clone, Copy)]
pub struct Score {
    /// Where the row begins in the mask.
    pub mask_at: usize,
    /// Where the row begins in the bias.
    pub bias_at: usize,
    /// The head's ALiBi slope.
    pub slope: f32,
    /// p, the absolute position.
    pub position: i32,
    /// The first key that the band shows.
    pub first: i32,
    /// The last key that the band shows.
    pub last: i32,
    /// Factor of q·k.
    pub scale: f32,
    /// c.
    pub softcap: f32,
    /// −∞.
    pub neg_inf: f32,
}

/// The score of key `j`, which lies at `key_at`, from its product `dot`.
#[cube]
pub fn score<F: Float>(
    dot: f32,
    key_at: usize,
    j: i32,
    row: &Score,
    bias: &ComptimeOption<&Tensor<F>>,
    #[comptime] options: Options,
) -> f32 {
    biased::<F>(capped(dot, row, options), key_at, j, row, bias, options)
}

/// The product `dot` after scale and softcap.
#[cube]
pub fn capped(dot: f32, row: &Score, #[comptime] options: Options) -> f32 {
    let mut s = product(&dot, &row.scale, options);
    if comptime!(options.softcap) {
        s = product(&row.softcap, &tanh(s / row.softcap), options);
    }
    s
}

/// A product, rounded by itself where that is asked for.
#[cube]
fn product(a: &f32, b: &f32, #[comptime] options: Options) -> f32 {
    if comptime!(options.apart) {
        let rounded: f32;
        gpu_asm!("mul.rn.f32 {c}, {a}, {b};", c = out(_) rounded, a = in(_) *a, b = in(_) *b, options(pure, nomem));
        rounded
    } else {
        *a * *b
    }
}

/// The softcap's slope where it gave `s`, 1 − tanh²; 1 without one.
#[cube]
pub fn cap_slope(s: f32, row: &Score, #[comptime] options: Options) -> f32 {
    let one = f32::cast_from(1u32);
    if comptime!(options.softcap) {
        let tanh = s / row.softcap;
        one - tanh * tanh
    } else {
        one
    }
}

/// What [`capped`] gave, after ALiBi and bias.
#[cube]
pub fn biased<F: Float>(
    capped: f32,
    key_at: usize,
    j: i32,
    row: &Score,
    bias: &ComptimeOption<&Tensor<F>>,
    #[comptime] options: Options,
) -> f32 {
    let mut s = capped;
    if comptime!(options.alibi) {
        let distance = j - row.position;
        s -= product(&row.slope, &f32::cast_from(max(distance, -distance)), options);
    }
    #[comptime]
    if let ComptimeOption::Some(bias) = bias {
        // −∞ hides whatever the product is, NaN too.
        let b = f32::cast_from(bias[row.bias_at + key_at * bias.stride(3)]);
        s = select(b == row.neg_inf, row.neg_inf, s + b);
    }
    s
}

/// A score after the bias by relative position, whose row begins at `table_at`; as it is where there is none.
///
/// Last, though the contract has it before the bias: sums commute. −∞ of either hides whatever the rest is, NaN too.
#[cube]
pub fn relative_bias<F: Float>(
    s: f32,
    j: i32,
    row: &Score,
    table_at: usize,
    table: &ComptimeOption<&Tensor<F>>,
) -> f32 {
    #[comptime]
    match table {
        ComptimeOption::Some(table) => {
            let reach = (table.shape(1) / 2) as i32;
            let column = min(max(j - row.position, -reach), reach) + reach;
            let bias = f32::cast_from(table[table_at + column as usize * table.stride(1)]);
            select(bias == row.neg_inf || s == row.neg_inf, row.neg_inf, s + bias)
        }
        ComptimeOption::None => s,
    }
}

/// tanh, as exact for small numbers as for others: drivers make it of exponentials, whose rounding is absolute, and a softcap of 30 times
/// that is seen in the LSE.
#[cube]
fn tanh(x: f32) -> f32 {
    let square = x * x;
    // The series of x up to x¹¹: off by 10⁻⁸ of tanh x where |x| < 0.35.
    let mut series = fma(square, -0.008863235f32, 0.021869488f32);
    series = fma(square, series, -0.053968254f32);
    series = fma(square, series, 0.13333333f32);
    series = fma(square, series, -0.33333334f32);
    series = fma(square * x, series, x);
    select(square < 0.1225f32, series, x.tanh())
}

/// Whether key `j`, which lies at `key_at`, is seen: the band and the mask; a bias hides by its −∞.
#[cube]
pub fn seen<M: Numeric>(
    key_at: usize,
    j: i32,
    end: i32,
    row: &Score,
    mask: &ComptimeOption<&Tensor<M>>,
    #[comptime] options: Options,
) -> bool {
    let mut seen = j >= row.first && j <= row.last && j < end;
    #[comptime]
    if let ComptimeOption::Some(mask) = mask {
        let given = mask[row.mask_at + key_at * mask.stride(3)] != M::from_int(0);
        if comptime!(options.keep) {
            seen = seen && given;
        } else {
            seen = seen && !given;
        }
    }
    seen
}
