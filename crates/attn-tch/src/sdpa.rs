//! LibTorch's own operation as it is, without the contract: what ours is measured against.

use burn_tch::TchTensor;
use tch::{TchError, Tensor};

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
    let (query, key, value) = (&query.tensor, &key.tensor, &value.tensor);
    let grouped = query.size().get(1) != key.size().get(1);
    let mask = mask.map(|mask| &mask.tensor);
    let out = Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale, grouped)?;
    Ok(TchTensor::new(out))
}
