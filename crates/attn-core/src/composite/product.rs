//! Matrix products in f32 where a backend's own are not: Burn's CUDA backend multiplies f32 on tensor cores, which read TF32, 11 bits of
//! f32's 24.
//!
//! There each factor is cut in two, `x = hi + lo`, of 11 and at most 13 bits, and
//!
//! ```text
//! a·b = hi_a·hi_b + lo_a·hi_b + hi_a·lo_b
//! ```
//!
//! What is left out, `lo_a·lo_b`, and what TF32 rounds off `lo`, are 2⁻²⁴ of `|a|·|b|` and less: as much as f32 rounds off. (Fasi, Higham,
//! Lopez, Mary and Mikaitis, "Matrix multiplication in multiword arithmetic", 2023.) The cut is Dekker's (1971): `c = 8193·x`,
//! `hi = c − (c − x)`.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, DType, Scalar, TensorMetadata, get_or_init_device_settings};

use super::ops::fill;

/// Dekker's factor, 2¹³ + 1: it leaves 11 bits.
const CUT: f64 = 8193.0;

/// `lhs · rhs`, `[.., m, k] · [.., k, n]`, in the precision of their type.
pub(super) fn product<B: Backend>(lhs: FloatTensor<B>, rhs: FloatTensor<B>) -> FloatTensor<B> {
    if lhs.dtype() == DType::F32 && B::name(&lhs.device()).contains("cubecl<cuda>") {
        product_in_parts::<B>(lhs, rhs, B::float_matmul)
    } else {
        B::float_matmul(lhs, rhs)
    }
}

/// `lhs · rhs` of f32 in f32's precision, `[.., m, k] · [.., k, n]`, by three products with `multiply`, which may round its factors to
/// 11 bits. Numbers that are not finite, and those above 4·10³⁴, go through `multiply` as they are.
pub fn product_in_parts<B: Backend>(
    lhs: FloatTensor<B>,
    rhs: FloatTensor<B>,
    multiply: impl Fn(FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<B> {
    let (lhs, rhs) = (Parts::<B>::of(lhs), Parts::<B>::of(rhs));
    let small = B::float_add(multiply(lhs.lo, rhs.cleaned.clone()), multiply(lhs.cleaned, rhs.lo));
    B::float_add(multiply(lhs.hi, rhs.hi), small)
}

/// A factor, cut.
struct Parts<B: Backend> {
    /// The first 11 bits; the whole number where it can't be cut.
    hi: FloatTensor<B>,
    /// The same, 0 where it can't be cut: so that 0 · ∞ does not come up.
    cleaned: FloatTensor<B>,
    /// The rest; 0 where it can't be cut.
    lo: FloatTensor<B>,
}

impl<B: Backend> Parts<B> {
    fn of(x: FloatTensor<B>) -> Self {
        let c = B::float_mul_scalar(x.clone(), Scalar::Float(CUT));
        let hi = B::float_sub(c.clone(), B::float_sub(c, x.clone()));
        // ∞ − ∞, of a number or of its multiple.
        let bool_dtype = get_or_init_device_settings::<B>(&x.device()).bool_dtype;
        let whole = B::float_is_nan(hi.clone(), bool_dtype);
        let cleaned = fill::<B>(hi, whole.clone(), 0.0);
        let lo = fill::<B>(B::float_sub(x.clone(), cleaned.clone()), whole.clone(), 0.0);
        let hi = B::float_mask_where(cleaned.clone(), whole, x);
        Self { hi, cleaned, lo }
    }
}
