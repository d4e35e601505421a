//! What a decoder attends to.

use attn_core::{AttentionError, Mask};
use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::attention::{check_devices, check_dtypes};
use crate::nn::check;
use crate::nn::options::seen;

/// A sequence to attend to: keys, values, and which positions are padding.
#[derive(Debug, Clone)]
pub struct Memory {
    pub(super) key: Tensor<3>,
    pub(super) value: Tensor<3>,
    pub(super) padding: Option<Mask<Tensor<2, Bool>>>,
}

impl Memory {
    /// Keys and values are the same, `[batch, length, features]`.
    pub fn new(hidden: Tensor<3>) -> Self {
        Self { key: hidden.clone(), value: hidden, padding: None }
    }

    /// Keys `[batch, length, d_key]` that are compared, values `[batch, length, d_value]` that are summed.
    pub fn with_values(key: Tensor<3>, value: Tensor<3>) -> Self {
        Self { key, value, padding: None }
    }

    /// Hides positions that are padding, `[batch, length]`.
    pub fn padding(mut self, mask: Option<Mask<Tensor<2, Bool>>>) -> Self {
        self.padding = mask;
        self
    }

    /// What is compared, `[batch, length, d_key]`.
    pub fn key(&self) -> Tensor<3> {
        self.key.clone()
    }

    /// What is summed, `[batch, length, d_value]`.
    pub fn value(&self) -> Tensor<3> {
        self.value.clone()
    }

    /// Keys, values and padding against the features and weights of a decoder; gives batch and length.
    pub(super) fn check(&self, d_key: usize, d_value: usize, weight: &Tensor<2>) -> Result<[usize; 2], AttentionError> {
        let [batch, length, _] = self.key.dims();
        for (tensor, features) in [(&self.key, d_key), (&self.value, d_value)] {
            if tensor.dims() != [batch, length, features] {
                let expected = format!("[{batch}, {length}, {features}] (batch, length, features)");
                return Err(AttentionError::shape("memory", expected, &tensor.dims()));
            }
            check_devices(&weight.device(), &[("memory", Some(tensor.device()))])?;
            check_dtypes("memory", weight.dtype(), &[("memory", tensor.dtype())])?;
        }
        if let Some(padding) = &self.padding {
            check::padding("memory_padding", padding, [batch, length], &weight.device())?;
        }
        Ok([batch, length])
    }
}

/// The padding mask `[batch, length]` of sequences that end early: entry `b` has `lengths[b]` positions.
///
/// # Errors
/// Names `lengths` where one is greater than `length`.
pub fn length_padding(
    lengths: &[usize],
    length: usize,
    device: &Device,
) -> Result<Mask<Tensor<2, Bool>>, AttentionError> {
    if let Some(found) = lengths.iter().find(|&&found| found > length) {
        return Err(AttentionError::value("lengths", format!("at most {length}"), found));
    }
    let kept: Vec<bool> = lengths.iter().flat_map(|&count| (0..length).map(move |at| at < count)).collect();
    Ok(Mask::keep(Tensor::from_data(TensorData::new(kept, [lengths.len(), length]), device)))
}

/// True where a position is hidden, spread over the features: `[batch, length, features]`.
pub(super) fn hidden_features(padding: &Mask<Tensor<2, Bool>>, features: usize) -> Tensor<3, Bool> {
    let kept = seen(padding.clone());
    let [batch, length] = kept.dims();
    kept.bool_not().reshape([batch, length, 1]).expand([batch, length, features])
}

/// 0 where a position is hidden, whatever stood there.
pub(super) fn cleaned(tensor: Tensor<3>, padding: Option<&Mask<Tensor<2, Bool>>>) -> Tensor<3> {
    let [batch, length, features] = tensor.dims();
    match padding {
        Some(padding) if batch * length * features > 0 => tensor.mask_fill(hidden_features(padding, features), 0.0),
        _ => tensor,
    }
}
