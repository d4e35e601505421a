//! Products in which a hidden pair has no influence, whatever its partner holds.

use burn_backend::tensor::{BoolTensor, FloatTensor};
use burn_backend::{Backend, BoolDType, Scalar, TensorMetadata, get_or_init_device_settings, try_read_sync};

use super::ops::fill;
use super::product::product;

/// Whether a tensor is known to hold neither NaN nor infinity. Reads one number back from the device; where that cannot be done
/// without waiting (a browser), the answer is no, which costs time and changes nothing else.
pub(super) fn all_finite<B: Backend>(tensor: &FloatTensor<B>) -> bool {
    match try_read_sync(B::bool_into_data(B::bool_any(non_finite::<B>(tensor.clone())))) {
        Some(Ok(data)) => data.iter::<bool>().all(|any| !any),
        Some(Err(_)) | None => false,
    }
}

/// A tensor that enters products with the weights of visible and hidden pairs.
pub(super) enum Factor<B: Backend> {
    /// Every element is finite, or nothing is hidden: a plain product.
    Plain(FloatTensor<B>),
    /// Some elements are NaN or infinite and some pairs hidden.
    Poisoned(FloatTensor<B>),
}

impl<B: Backend> Factor<B> {
    /// Judges a tensor, given whether the problem may hide anything.
    pub(super) fn judge(tensor: FloatTensor<B>, may_hide: bool) -> Self {
        if !may_hide || all_finite::<B>(&tensor) { Self::Plain(tensor) } else { Self::Poisoned(tensor) }
    }

    /// Whether products need the indicator of visible pairs.
    pub(super) fn is_poisoned(&self) -> bool {
        matches!(self, Self::Poisoned(_))
    }

    /// The tensor as it came.
    pub(super) fn raw(&self) -> &FloatTensor<B> {
        match self {
            Self::Plain(tensor) | Self::Poisoned(tensor) => tensor,
        }
    }

    /// The same judgement over a part of the tensor.
    pub(super) fn map(&self, f: impl FnOnce(&FloatTensor<B>) -> FloatTensor<B>) -> Self {
        match self {
            Self::Plain(tensor) => Self::Plain(f(tensor)),
            Self::Poisoned(tensor) => Self::Poisoned(f(tensor)),
        }
    }

    /// The tensor with 0 in place of NaN and infinity where it is poisoned.
    pub(super) fn cleaned(&self) -> FloatTensor<B> {
        match self {
            Self::Plain(tensor) => tensor.clone(),
            Self::Poisoned(tensor) => clean::<B>(tensor.clone()),
        }
    }

    /// `weights · factor`, `[.., m, k] · [.., k, n]`, where `visible` (1 or 0, shaped as the weights) tells which pairs count.
    pub(super) fn product(&self, weights: FloatTensor<B>, visible: Option<FloatTensor<B>>) -> FloatTensor<B> {
        let product = product::<B>(weights, self.cleaned());
        match (self, visible) {
            (Self::Poisoned(tensor), Some(visible)) => add_poison::<B>(product, visible, tensor.clone()),
            _ => product,
        }
    }
}

fn bool_dtype<B: Backend>(tensor: &FloatTensor<B>) -> BoolDType {
    get_or_init_device_settings::<B>(&tensor.device()).bool_dtype
}

/// Where a tensor is NaN or infinite. By the backend's tests, not by x − x or 0·x: where operations are fused into one kernel, a
/// driver's compiler folds those to 0.
fn non_finite<B: Backend>(tensor: FloatTensor<B>) -> BoolTensor<B> {
    let dtype = bool_dtype::<B>(&tensor);
    B::bool_or(B::float_is_nan(tensor.clone(), dtype), B::float_is_inf(tensor, dtype))
}

fn clean<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let bad = non_finite::<B>(tensor.clone());
    fill::<B>(tensor, bad, 0.0)
}

/// Adds `+inf` where a visible partner is `+inf` or NaN and `−inf` where one is `−inf` or NaN, so that NaN gives both: NaN.
fn add_poison<B: Backend>(product: FloatTensor<B>, visible: FloatTensor<B>, tensor: FloatTensor<B>) -> FloatTensor<B> {
    [f64::INFINITY, f64::NEG_INFINITY].into_iter().fold(product, |product, sign| {
        let dtype = bool_dtype::<B>(&tensor);
        let is_sign = B::float_equal_elem(tensor.clone(), Scalar::Float(sign), dtype);
        let is_nan = B::float_is_nan(tensor.clone(), dtype);
        let zeros = B::float_mul_scalar(clean::<B>(tensor.clone()), Scalar::Float(0.0));
        let indicator = fill::<B>(fill::<B>(zeros, is_sign, 1.0), is_nan, 1.0);
        let count = B::float_matmul(visible.clone(), indicator);
        let reached = B::float_greater_elem(count, Scalar::Float(0.5), dtype);
        let nothing = B::float_mul_scalar(clean::<B>(product.clone()), Scalar::Float(0.0));
        B::float_add(product, fill::<B>(nothing, reached, sign))
    })
}
