//! Pieces of composed layers: linear maps and norms of inputs that may be empty, heads, feed-forward, padding.

use attn_core::{AttentionError, Mask, Polarity};
use burn::module::Initializer;
use burn::nn::{LayerNorm, Linear, LinearConfig};
use burn::tensor::{Bool, DType, Device, Tensor};

use super::encoder::Activation;
use crate::attention::{check_devices, check_dtypes};

/// A linear layer of these sizes.
pub(super) fn new_linear(
    d_input: usize,
    d_output: usize,
    bias: bool,
    initializer: &Initializer,
    device: &Device,
) -> Linear {
    LinearConfig::new(d_input, d_output).with_bias(bias).with_initializer(initializer.clone()).init(device)
}

/// `input·W + b` over the last axis, as one product of matrices. Nothing is computed for an input without elements, which not
/// every backend can multiply.
pub(super) fn linear<const N: usize>(linear: &Linear, input: Tensor<N>) -> Tensor<N> {
    let mut shape = input.dims();
    let features = shape[N - 1];
    shape[N - 1] = linear.weight.val().dims()[1];
    let rows: usize = shape[..N - 1].iter().product();
    if rows * features == 0 {
        return Tensor::zeros(shape, (&input.device(), input.dtype()));
    }
    linear.forward(input.reshape([rows, features])).reshape(shape)
}

/// Layer norm over the last axis. An input without elements comes back as it is.
pub(super) fn norm<const N: usize>(norm: &LayerNorm, input: Tensor<N>) -> Tensor<N> {
    if input.shape().num_elements() == 0 { input } else { norm.forward(input) }
}

/// `W_outer · activation(W_inner · x + b) + b`.
pub(super) fn feed_forward<const N: usize>(
    inner: &Linear,
    outer: &Linear,
    activation: Activation,
    input: Tensor<N>,
) -> Tensor<N> {
    if input.shape().num_elements() == 0 {
        return input;
    }
    linear(outer, activation.apply(linear(inner, input)))
}

/// Another shape of as many elements, also where that is none: Burn takes a 0 among the new lengths for one to be kept.
pub(super) fn reshaped<const N: usize, const M: usize>(tensor: Tensor<N>, shape: [usize; M]) -> Tensor<M> {
    if tensor.shape().num_elements() == 0 {
        return Tensor::zeros(shape, (&tensor.device(), tensor.dtype()));
    }
    tensor.reshape(shape)
}

/// `[B, S, H·D]` viewed as `[B, H, S, D]`.
pub(super) fn heads(tensor: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, features] = tensor.dims();
    tensor.reshape([batch, length, heads, features / heads]).swap_dims(1, 2)
}

/// `[B, H, S, D]` as `[B, S, H·D]`.
pub(super) fn joined(tensor: Tensor<4>) -> Tensor<3> {
    let [batch, heads, length, dim] = tensor.dims();
    tensor.swap_dims(1, 2).reshape([batch, length, heads * dim])
}

/// An input whose last axis has `features`, on the device and of the type of a layer's weight.
pub(super) fn check_input<const N: usize>(
    argument: &'static str,
    input: &Tensor<N>,
    axes: &str,
    features: usize,
    weight: &Tensor<2>,
) -> Result<[usize; N], AttentionError> {
    let found = input.dims();
    if found[N - 1] != features {
        return Err(AttentionError::shape(argument, format!("[{axes}, {features}]"), &found));
    }
    check_like(argument, input, weight)?;
    Ok(found)
}

/// A float tensor that must lie where a layer's weight lies and be of its type.
pub(super) fn check_like<const N: usize, const M: usize>(
    argument: &'static str,
    tensor: &Tensor<N>,
    weight: &Tensor<M>,
) -> Result<(), AttentionError> {
    // Errors of these two name what came second: the tensor.
    check_devices(&weight.device(), &[(argument, Some(tensor.device()))])?;
    check_dtypes(argument, weight.dtype(), &[(argument, tensor.dtype())])
}

/// A tensor, such as a loaded parameter, that must have this shape.
pub(super) fn check_shape(argument: &'static str, found: &[usize], expected: &[usize]) -> Result<(), AttentionError> {
    if found == expected { Ok(()) } else { Err(AttentionError::shape(argument, format!("{expected:?}"), found)) }
}

/// What a mask shows, true = seen, once its shape and device are checked.
pub(super) fn check_mask<const N: usize>(
    argument: &'static str,
    mask: Mask<Tensor<N, Bool>>,
    expected: [usize; N],
    device: &Device,
) -> Result<Tensor<N, Bool>, AttentionError> {
    check_shape(argument, &mask.tensor().dims(), &expected)?;
    check_devices(device, &[(argument, Some(mask.tensor().device()))])?;
    Ok(match mask.into_parts() {
        (tensor, Polarity::Keep) => tensor,
        (tensor, Polarity::Hide) => tensor.bool_not(),
    })
}

/// `input` with 0 in place of whatever stands at positions that are not kept: NaN there would reach the gradients of weights,
/// though its own gradient is 0. `keep` has the axes of `input` but the last.
pub(super) fn without_padding<const N: usize, const M: usize>(
    input: Tensor<N>,
    keep: Option<&Tensor<M, Bool>>,
) -> Tensor<N> {
    match keep {
        Some(keep) if input.shape().num_elements() > 0 => {
            let hidden = keep.clone().bool_not().unsqueeze_dim::<N>(M).expand::<N, _>(input.dims());
            input.mask_fill(hidden, 0.0)
        }
        _ => input,
    }
}

/// The type in which sums are kept: f64 for f64, else f32.
pub(super) fn accumulation(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}
