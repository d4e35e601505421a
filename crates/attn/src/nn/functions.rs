//! Functions of each element whose values and gradients are exact in the tensor's own type on every backend. Burn's sigmoid takes a way
//! through f32 on some, and its GELU's gradient is that of the tanh approximation. Tensors without elements come back as they are.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::tensor::Tensor;

fn is_empty<const D: usize>(x: &Tensor<D>) -> bool {
    x.shape().num_elements() == 0
}

/// `σ(x) = 1 / (1 + exp(−x)) = (tanh(x/2) + 1) / 2`.
pub(super) fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if is_empty(&x) { x } else { x.mul_scalar(0.5).tanh().mul_scalar(0.5).add_scalar(0.5) }
}

/// `x · Φ(x) = x · (erf(x/√2) + 1) / 2` (Hendrycks & Gimpel 2016).
pub(super) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if is_empty(&x) { x } else { x.clone().mul_scalar(FRAC_1_SQRT_2).erf().add_scalar(1.0).mul_scalar(0.5) * x }
}

/// `x · σ(x)`.
pub(super) fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if is_empty(&x) { x } else { x.clone() * sigmoid(x) }
}

/// `a · σ(b)` for the halves a and b of the last axis, which is even (Dauphin et al. 2017).
pub(super) fn glu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let half = x.dims()[D - 1] / 2;
    x.clone().narrow(D - 1, 0, half) * sigmoid(x.narrow(D - 1, half, half))
}
