//! Masks and biases as LibTorch's fused kernels take them: one tensor that is added to the scores, −∞ where hidden.

use attn_core::{AttentionInputs, Polarity, Problem};
use burn_tch::{LibTorch, TchTensor};
use tch::{Kind, TchError, Tensor};

/// Whether mask and bias together are no larger than the larger of them, so that adding one to the other expands neither.
///
/// # Errors
/// Says that they are.
pub fn check(problem: &Problem) -> Result<(), String> {
    let (Some(mask), Some(bias)) = (problem.mask, problem.bias) else { return Ok(()) };
    let elements = |shape: [usize; 4]| shape.iter().product::<usize>();
    let joint = elements(std::array::from_fn(|axis| mask[axis].max(bias[axis])));
    if joint > elements(mask).max(elements(bias)) {
        return Err(
            "mask and bias broadcast along different axes, and LibTorch would need their sum expanded".to_string()
        );
    }
    Ok(())
}

/// What is added to the scores, `[1 or B, 1 or H, 1 or Sq, 1 or Sk]`.
pub fn added(inputs: &AttentionInputs<LibTorch>) -> Result<Option<Tensor>, TchError> {
    let query = &inputs.query.tensor;
    let hide = inputs.mask.as_ref().map(|mask| {
        let TchTensor { tensor, .. } = mask.tensor();
        match mask.polarity() {
            Polarity::Hide => Ok(tensor.shallow_clone()),
            Polarity::Keep => tensor.f_logical_not(),
        }
    });
    let bias = inputs.bias.as_ref().map(|bias| &bias.tensor);
    match (bias, hide.transpose()?) {
        (None, None) => Ok(None),
        (Some(bias), None) => Ok(Some(bias.shallow_clone())),
        (Some(bias), Some(hide)) => Ok(Some(bias.f_masked_fill(&hide, f64::NEG_INFINITY)?)),
        (None, Some(hide)) => {
            let mut added = Tensor::f_zeros(hide.size(), (query.f_kind()?, query.device()))?;
            Ok(Some(added.f_masked_fill_(&hide, f64::NEG_INFINITY)?))
        }
    }
}

/// The part of a broadcast tensor that belongs to a range of an axis.
pub fn narrowed(tensor: &Tensor, axis: i64, start: usize, length: usize) -> Result<Tensor, TchError> {
    match tensor.size().get(axis as usize) {
        Some(1) => Ok(tensor.shallow_clone()),
        _ => tensor.f_narrow(axis, start as i64, length as i64),
    }
}

/// The rows that see nothing of a part, `[1 or B, 1 or H, 1 or S]`, `true` = nothing: LibTorch gives those the LSE 0, as if
/// they saw one key with a score of 0.
pub fn blind(added: &Tensor, causal: bool, rows: i64, keys: i64) -> Result<Tensor, TchError> {
    let hidden = added.f_isneginf()?;
    let (_, _, mask_rows, mask_keys) = hidden.size4()?;
    if !causal || mask_keys == 1 {
        return hidden.f_all_dim(3, false);
    }
    if mask_rows > 1 {
        let above = Tensor::f_ones([rows, keys], (Kind::Bool, hidden.device()))?.f_triu(1)?;
        return hidden.f_logical_or(&above)?.f_all_dim(3, false);
    }
    // The same keys for every row: row r is blind where the first key that is seen lies past it.
    let first = hidden.f_logical_not()?.f_to_kind(Kind::Uint8)?.f_argmax(3, false)?;
    let at = Tensor::f_arange(rows, (Kind::Int64, hidden.device()))?;
    at.f_lt_tensor(&first)?.f_logical_or(&hidden.f_all_dim(3, false)?)
}
