//! LibTorch's own operation as it is, without the contract: what ours is measured against.

use burn_tch::TchTensor;
use tch::{Kind, TchError, Tensor};

/// LibTorch's `scaled_dot_product_attention`: query `[B, H, Sq, D]`, key `[B, G, Sk, D]`, value `[B, G, Sk, E]`, `mask`
/// `[1 or B, 1 or H, Sq, Sk]` added to the scores, causality from the top left, scale `1/√D` unless given.
///
/// This is not attention by the contract of this workspace: rows that see nothing, hidden NaN and alignment are LibTorch's.
///
/// # Errors
/// What LibTorch says, in its own words.
pub fn torch_sdpa(
    query: &TchTensor,
    key: &TchTensor,
    value: &TchTensor,
    mask: Option<&TchTensor>,
    causal: bool,
    scale: Option<f64>,
) -> Result<TchTensor, TchError> {
    let qkv = [&query.tensor, &key.tensor, &value.tensor];
    Ok(TchTensor::new(call(qkv, mask.map(|mask| &mask.tensor), causal, scale)?))
}

/// The output and the gradients of query, key and value of `Σ grad_out · out`, by LibTorch's own autograd through
/// [`torch_sdpa`]; `grad_out` is `[B, H, Sq, E]`, the rest as there.
///
/// # Errors
/// What LibTorch says, in its own words.
pub fn torch_sdpa_train(
    query: &TchTensor,
    key: &TchTensor,
    value: &TchTensor,
    mask: Option<&TchTensor>,
    causal: bool,
    scale: Option<f64>,
    grad_out: &TchTensor,
) -> Result<[TchTensor; 4], TchError> {
    let leaf = |tensor: &TchTensor| tensor.tensor.f_detach()?.f_set_requires_grad(true);
    let leaves = [leaf(query)?, leaf(key)?, leaf(value)?];
    let out = call(leaves.each_ref(), mask.map(|mask| &mask.tensor), causal, scale)?;
    let loss = out.f_mul(&grad_out.tensor)?.f_sum(None::<Kind>)?;
    let mut gradients = Tensor::f_run_backward(&[loss], &leaves, false, false)?.into_iter().map(TchTensor::new);
    let mut next = || gradients.next().ok_or_else(|| TchError::Kind("a gradient is missing".to_string()));
    Ok([TchTensor::new(out.f_detach()?), next()?, next()?, next()?])
}

fn call(qkv: [&Tensor; 3], mask: Option<&Tensor>, causal: bool, scale: Option<f64>) -> Result<Tensor, TchError> {
    let [query, key, value] = qkv;
    let grouped = query.size().get(1) != key.size().get(1);
    Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale, grouped)
}
