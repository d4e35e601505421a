//! Weights from scores: softmax, quiet softmax, sparsemax, 1.5-entmax.

use attn_core::{AttentionError, Mask, Polarity};
use burn::config::Config;
use burn::tensor::{Bool, DType, Tensor};

use crate::attention::{check_devices, check_dtypes};

/// How the scores `s` of a row become its weights `p`.
///
/// ```text
/// softmax         p_j = exp(s_j) / Σ exp(s)
/// quiet softmax   p_j = exp(s_j) / (1 + Σ exp(s))
/// sparsemax       p_j = max(s_j − τ, 0)                     τ so that Σ p = 1
/// 1.5-entmax      p_j = max(s_j / 2 − τ, 0)²                τ so that Σ p = 1
/// ```
///
/// Hidden keys and scores of `−inf` weigh exactly 0; a row that sees nothing has weights 0.
///
/// The last two give weights of exactly 0 to keys that score far below the greatest, the more so the further they are
/// on the way from softmax (entmax of α = 1) to sparsemax (α = 2). They are the argmax of `p·s + H(p)` over the
/// simplex, with H the Tsallis entropy of α.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Normaliser {
    /// Softmax.
    Softmax,
    /// Softmax with one more logit of 0 that takes weight and gives nothing ("softmax off by one", Miller 2023): a sink
    /// of 0.
    QuietSoftmax,
    /// The Euclidean projection onto the simplex (Martins & Astudillo 2016).
    Sparsemax,
    /// Entmax of α = 1.5 (Peters et al. 2019).
    Entmax15,
}

impl Normaliser {
    /// The weights of scores `[.., keys]`, along the last axis: in f64 for f64, else in f32, in which they are
    /// computed.
    ///
    /// The mask broadcasts to the scores. Time and memory are linear in the number of scores. Nothing is read back.
    ///
    /// # Errors
    /// Names `scores` or `mask` where its shape, type or device does not fit.
    pub fn apply<const D: usize>(
        self,
        scores: Tensor<D>,
        mask: Option<Mask<Tensor<D, Bool>>>,
    ) -> Result<Tensor<D>, AttentionError> {
        let dims = scores.dims();
        if D == 0 {
            return Err(AttentionError::shape("scores", "[.., keys]", &dims));
        }
        check_dtypes("scores", scores.dtype(), &[])?;
        let scores = wide(scores);
        let Some(mask) = mask else { return Ok(self.weights(scores)) };
        let found = mask.tensor().dims();
        if found.iter().zip(dims).any(|(&axis, full)| axis != 1 && axis != full) {
            return Err(AttentionError::shape("mask", format!("broadcastable to {dims:?}, as the scores"), &found));
        }
        check_devices(&scores.device(), &[("mask", Some(mask.tensor().device()))])?;
        let hidden = match mask.into_parts() {
            (tensor, Polarity::Hide) => tensor,
            (tensor, Polarity::Keep) => tensor.bool_not(),
        };
        Ok(self.weights(scores.mask_fill(hidden.expand::<D, _>(dims), f64::NEG_INFINITY)))
    }

    /// The weights of scores that are in the accumulation type and `−inf` where hidden.
    pub(super) fn weights<const D: usize>(self, scores: Tensor<D>) -> Tensor<D> {
        if scores.shape().num_elements() == 0 {
            return scores;
        }
        match self {
            Self::Softmax | Self::QuietSoftmax => self.exponentials(scores),
            Self::Sparsemax | Self::Entmax15 => self.projection(scores),
        }
    }

    fn exponentials<const D: usize>(self, scores: Tensor<D>) -> Tensor<D> {
        let quiet = self == Self::QuietSoftmax;
        let hidden = hidden(&scores);
        let max = greatest(&scores);
        let max = if quiet { max.clamp_min(0.0) } else { max };
        let weights = (scores - max.clone()).exp().mask_fill(hidden, 0.0);
        let mut sum = weights.clone().sum_dim(D - 1);
        if quiet {
            sum = sum + max.neg().exp();
        }
        let nothing = sum.clone().inner().equal_elem(0.0);
        weights / sum.mask_fill(nothing, 1.0)
    }

    /// The threshold's support is found without gradients; the closed form on it is what differentiates: its Jacobian
    /// is that of the projection wherever that has one.
    fn projection<const D: usize>(self, scores: Tensor<D>) -> Tensor<D> {
        let hidden = hidden(&scores);
        let max = greatest(&scores);
        let z = scores - max;
        let z = if self == Self::Entmax15 { z.mul_scalar(0.5) } else { z };
        // The greatest z is 0 and τ at least −1: what is at −2 is never in the support. A row that sees nothing is made
        // even, so that all of it stays finite.
        let nothing = hidden.clone().int().sum_dim(D - 1).equal_elem(z.dims()[D - 1] as i64);
        let z = z.mask_fill(hidden.clone(), -2.0).mask_fill(nothing, 0.0);
        let outside = z.clone().inner().lower_equal(self.threshold(z.clone().inner()));
        let margin = z.clone() - self.closed_form(z, outside.clone());
        let outside = outside.bool_or(margin.clone().inner().lower_equal_elem(0.0));
        let margin = margin.mask_fill(outside, 0.0);
        let weights = if self == Self::Entmax15 { margin.clone() * margin } else { margin };
        weights.mask_fill(hidden, 0.0)
    }

    /// τ of each row, by Newton's method on `f(τ) = Σ p − 1` from τ = −1, where f is not negative.
    ///
    /// f is convex and falls, so that the steps come to the root from the left, and `f·|f′|` falls to a quarter with
    /// each: from n² (2n² for entmax) to less than ε times the slope at the root, which is at least 1 (2), in `log₂ n +
    /// ½ log₂ 1/ε` steps. On a piecewise linear f, sparsemax's, each step also drops a key or ends, so that n steps do
    /// (Michelot 1986).
    fn threshold<const D: usize>(self, z: Tensor<D>) -> Tensor<D> {
        let keys = z.dims()[D - 1];
        let half_bits = if z.dtype() == DType::F64 { 27 } else { 12 };
        let steps = (usize::BITS - keys.leading_zeros()) as usize + half_bits;
        let steps = if self == Self::Sparsemax { steps.min(keys) } else { steps };
        let mut row = z.dims();
        row[D - 1] = 1;
        let mut tau = Tensor::<D>::full(row, -1.0, (&z.device(), z.dtype()));
        for _ in 0..steps {
            let gap = (z.clone() - tau.clone()).clamp_min(0.0);
            let (sum, slope) = match self {
                Self::Entmax15 => ((gap.clone() * gap.clone()).sum_dim(D - 1), gap.sum_dim(D - 1).mul_scalar(2.0)),
                _ => (gap.clone().sum_dim(D - 1), gap.sign().sum_dim(D - 1)),
            };
            tau = tau + sum.sub_scalar(1.0) / slope;
        }
        tau
    }

    /// τ from the support's elements alone.
    fn closed_form<const D: usize>(self, z: Tensor<D>, outside: Tensor<D, Bool>) -> Tensor<D> {
        let of_support = |x: Tensor<D>| x.mask_fill(outside.clone(), 0.0);
        let count = of_support(z.clone().inner().ones_like()).sum_dim(D - 1);
        let sum = of_support(z.clone()).sum_dim(D - 1);
        if self == Self::Sparsemax {
            return sum.sub_scalar(1.0) / count;
        }
        let mean = sum / count.clone();
        let deviation = of_support(z - mean.clone());
        let squares = (deviation.clone() * deviation).sum_dim(D - 1);
        // The root is mean − τ, which is at least 1/count.
        mean - (squares.neg().add_scalar(1.0) / count).sqrt()
    }
}

/// Where scores are hidden.
pub(super) fn hidden<const D: usize>(scores: &Tensor<D>) -> Tensor<D, Bool> {
    scores.clone().inner().equal_elem(f64::NEG_INFINITY)
}

/// The greatest score of each row, without gradients; 0 where the row sees nothing.
pub(super) fn greatest<const D: usize>(scores: &Tensor<D>) -> Tensor<D> {
    let max = scores.clone().inner().max_dim(D - 1);
    let nothing = max.clone().equal_elem(f64::NEG_INFINITY);
    max.mask_fill(nothing, 0.0)
}

/// In the accumulation type: f64 for f64, else f32.
pub(super) fn wide<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::F64 | DType::F32 => tensor,
        _ => tensor.cast(burn::tensor::FloatDType::F32),
    }
}

/// Quiet softmax along the last axis, `exp(s) / (1 + Σ exp(s))`; see [`Normaliser`].
///
/// # Errors
/// As [`Normaliser::apply`].
pub fn quiet_softmax<const D: usize>(
    scores: Tensor<D>,
    mask: Option<Mask<Tensor<D, Bool>>>,
) -> Result<Tensor<D>, AttentionError> {
    Normaliser::QuietSoftmax.apply(scores, mask)
}

/// Sparsemax along the last axis (Martins & Astudillo 2016), exact; see [`Normaliser`].
///
/// ```
/// use attn::nn::sparsemax;
/// use burn::tensor::{Device, Tensor};
///
/// # fn main() -> Result<(), attn::AttentionError> {
/// let scores = Tensor::<1>::from_floats([1.0, 0.5, -1.0], &Device::default());
/// let weights = sparsemax(scores, None)?; // 0.75, 0.25, 0
/// assert_eq!(weights.into_data().to_vec::<f32>().unwrap(), [0.75, 0.25, 0.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`Normaliser::apply`].
pub fn sparsemax<const D: usize>(
    scores: Tensor<D>,
    mask: Option<Mask<Tensor<D, Bool>>>,
) -> Result<Tensor<D>, AttentionError> {
    Normaliser::Sparsemax.apply(scores, mask)
}

/// 1.5-entmax along the last axis (Peters et al. 2019), exact; see [`Normaliser`].
///
/// # Errors
/// As [`Normaliser::apply`].
pub fn entmax15<const D: usize>(
    scores: Tensor<D>,
    mask: Option<Mask<Tensor<D, Bool>>>,
) -> Result<Tensor<D>, AttentionError> {
    Normaliser::Entmax15.apply(scores, mask)
}

/// Back in the inputs' type.
pub(super) fn narrowed<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(burn::tensor::FloatDType::from(dtype)) }
}
