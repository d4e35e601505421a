//! Checks that the layers share: sizes of a config, shapes of an input, shapes of the weights.

use attn_core::{AttentionError, Mask};
use burn::module::Param;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Bool, Device, Tensor};

use crate::attention::{check_devices, check_dtypes};

/// Length of the axis to which two broadcastable axes expand.
pub(super) fn broadcast(a: usize, b: usize) -> usize {
    if a == 1 { b } else { a }
}

/// A size that must be at least 1.
pub(super) fn positive(argument: &'static str, size: usize) -> Result<usize, AttentionError> {
    match size {
        0 => Err(AttentionError::value(argument, "at least 1", 0)),
        size => Ok(size),
    }
}

/// `count` heads of `dim` features side by side, or as many rows of a table.
pub(super) fn features(argument: &'static str, count: usize, dim: usize) -> Result<usize, AttentionError> {
    let error = || AttentionError::value(argument, "a product that fits in memory", format!("{count} · {dim}"));
    count.checked_mul(dim).ok_or_else(error)
}

/// A dropout probability, in `[0, 1)`.
pub(super) fn probability(argument: &'static str, probability: f64) -> Result<f64, AttentionError> {
    match (0.0..1.0).contains(&probability) {
        true => Ok(probability),
        false => Err(AttentionError::value(argument, "a probability in [0, 1)", probability)),
    }
}

/// The epsilon of a layer norm: finite and not negative.
pub(super) fn epsilon(argument: &'static str, epsilon: f64) -> Result<f64, AttentionError> {
    match epsilon.is_finite() && epsilon >= 0.0 {
        true => Ok(epsilon),
        false => Err(AttentionError::value(argument, "a finite number that is not negative", epsilon)),
    }
}

/// A factor, base or count of turns: finite and above 0.
pub(super) fn finite_positive(argument: &'static str, number: f64) -> Result<f64, AttentionError> {
    match number.is_finite() && number > 0.0 {
        true => Ok(number),
        false => Err(AttentionError::value(argument, "a positive finite number", number)),
    }
}

/// A parameter beside the projections: of this shape, and of the projections' device and type.
pub(super) fn parameter<const N: usize>(
    argument: &'static str,
    param: &Param<Tensor<N>>,
    expected: [usize; N],
    weight: &Tensor<2>,
) -> Result<(), AttentionError> {
    let tensor = param.val();
    if tensor.dims() != expected {
        return Err(AttentionError::shape(argument, format!("{expected:?} (the layer's parameter)"), &tensor.dims()));
    }
    check_devices(&weight.device(), &[(argument, Some(tensor.device()))])?;
    check_dtypes(argument, weight.dtype(), &[(argument, tensor.dtype())])
}

/// A projection whose weights must have this shape, whatever was loaded or set into the layer.
pub(super) fn linear(
    argument: &'static str,
    linear: &Linear,
    d_in: Option<usize>,
    d_out: Option<usize>,
) -> Result<[usize; 2], AttentionError> {
    let found = linear.weight.val().dims();
    let wanted = [d_in.unwrap_or(found[0]), d_out.unwrap_or(found[1])];
    if found != wanted {
        return Err(AttentionError::shape(argument, format!("{wanted:?} (the layer's weight)"), &found));
    }
    match linear.bias.as_ref().map(|bias| bias.val().dims()) {
        Some(bias) if bias != [found[1]] => {
            Err(AttentionError::shape(argument, format!("[{}] (the layer's bias)", found[1]), &bias))
        }
        _ => Ok(found),
    }
}

/// A layer norm over `d_model` features.
pub(super) fn norm(argument: &'static str, norm: &LayerNorm, d_model: usize) -> Result<(), AttentionError> {
    let beta = norm.beta.as_ref().map(|beta| beta.val().dims());
    match [Some(norm.gamma.val().dims()), beta].into_iter().flatten().find(|dims| *dims != [d_model]) {
        Some(found) => Err(AttentionError::shape(argument, format!("[{d_model}] (the layer's weights)"), &found)),
        None => Ok(()),
    }
}

/// An input `[batch, length, features]` that fits a projection; gives batch and length.
pub(super) fn sequence(
    argument: &'static str,
    tensor: &Tensor<3>,
    features: usize,
    weight: &Tensor<2>,
) -> Result<[usize; 2], AttentionError> {
    let [batch, length, found] = tensor.dims();
    if found != features {
        return Err(AttentionError::shape(argument, format!("[batch, length, {features}]"), &tensor.dims()));
    }
    // Errors of these two name what came second: the input.
    check_devices(&weight.device(), &[(argument, Some(tensor.device()))])?;
    check_dtypes(argument, weight.dtype(), &[(argument, tensor.dtype())])?;
    Ok([batch, length])
}

/// The device of a layer, which its inputs must share.
pub(super) fn device(linear: &Linear) -> Device {
    linear.weight.val().device()
}

/// The error of an inner call under the names that the caller gave the arguments, `(inner, outer)` each.
pub(super) fn renamed(error: AttentionError, names: &[(&str, &'static str)]) -> AttentionError {
    let outer = |name: &'static str| names.iter().find(|(inner, _)| *inner == name).map_or(name, |(_, outer)| outer);
    match error {
        AttentionError::Shape { argument, expected, found } => {
            AttentionError::Shape { argument: outer(argument), expected, found }
        }
        AttentionError::Value { argument, expected, found } => {
            AttentionError::Value { argument: outer(argument), expected, found }
        }
        AttentionError::DType { argument, expected, found } => {
            AttentionError::DType { argument: outer(argument), expected, found }
        }
        AttentionError::Device { argument, expected, found } => {
            AttentionError::Device { argument: outer(argument), expected, found }
        }
        other => other,
    }
}

/// A padding mask `[batch, length]` on the device of what it masks.
pub(super) fn padding(
    argument: &'static str,
    padding: &Mask<Tensor<2, Bool>>,
    [batch, length]: [usize; 2],
    device: &Device,
) -> Result<(), AttentionError> {
    let found = padding.tensor().dims();
    if found != [batch, length] {
        return Err(AttentionError::shape(argument, format!("[{batch}, {length}] (batch, length)"), &found));
    }
    check_devices(device, &[(argument, Some(padding.tensor().device()))])
}

/// Rows to take of a batch, all of them there.
pub(super) fn rows(argument: &'static str, rows: &[usize], batch: usize) -> Result<(), AttentionError> {
    match rows.iter().find(|&&row| row >= batch) {
        Some(row) => Err(AttentionError::value(argument, format!("rows below {batch}"), row)),
        None => Ok(()),
    }
}

/// `tensor` in another shape of as many elements. Burn's own reshape takes a 0 as "the axis as it is", and so cannot
/// give every shape without elements.
pub(super) fn reshaped<const A: usize, const B: usize>(tensor: Tensor<A>, dims: [usize; B]) -> Tensor<B> {
    if dims.contains(&0) { Tensor::zeros(dims, (&tensor.device(), tensor.dtype())) } else { tensor.reshape(dims) }
}

/// [`reshaped`] of a mask.
pub(super) fn reshaped_mask<const A: usize, const B: usize>(
    mask: Tensor<A, Bool>,
    dims: [usize; B],
) -> Tensor<B, Bool> {
    if dims.contains(&0) { Tensor::full(dims, false, &mask.device()) } else { mask.reshape(dims) }
}
