//! The tensors of one attention, as primitives of a backend, and the tensors it returns.

use std::sync::Arc;

use burn_backend::tensor::{BoolTensor, FloatTensor};
use burn_backend::{Backend, TensorMetadata};

use crate::problem::{ProblemInputs, TensorInfo};
use crate::{AttentionError, AttentionSpec, BlockMask, Mask, Problem, ScoreMod};

/// What goes in. Axes: B batch, H query heads, G key/value heads (H a multiple of G; query head `h` reads head `h / (H/G)`),
/// Sq/Sk query/key length, D head dimension, E value dimension. All float tensors share one element type.
#[derive(Debug, Clone)]
pub struct AttentionInputs<B: Backend> {
    /// `[B, H, Sq, D]`.
    pub query: FloatTensor<B>,
    /// `[B, G, Sk, D]`.
    pub key: FloatTensor<B>,
    /// `[B, G, Sk, E]`.
    pub value: FloatTensor<B>,
    /// Broadcastable to `[B, H, Sq, Sk]`.
    pub mask: Option<Mask<BoolTensor<B>>>,
    /// Broadcastable to `[B, H, Sq, Sk]`; added to the scores; `−inf` hides.
    pub bias: Option<FloatTensor<B>>,
    /// `[H]`; `score −= slope · |j − p|` (ALiBi, Press et al. 2022).
    pub alibi_slopes: Option<FloatTensor<B>>,
    /// `[H or 1, 2·R + 1]`; `score += table[h, R + clamp(j − p, −R, R)]` (Shaw et al. 2018 in its bias form; T5's buckets, Raffel et
    /// al. 2020, are one such table); `−inf` hides.
    pub relative_bias: Option<FloatTensor<B>>,
    /// `[H]`; one extra logit a head that takes weight and gives no value (Xiao et al. 2023; gpt-oss 2025).
    pub sinks: Option<FloatTensor<B>>,
    /// One length a batch entry: keys at and past it are hidden, and bottom-right alignment ends there. On the host, since they
    /// shape the work.
    pub kv_lens: Option<Vec<usize>>,
    /// Which blocks of the scores can be skipped, and which pairs of the others are seen. On the host, as the lengths.
    pub block_mask: Option<Arc<BlockMask>>,
    /// What becomes of each score before anything is hidden. On the host.
    pub score_mod: Option<ScoreMod>,
}

impl<B: Backend> AttentionInputs<B> {
    /// Plain attention's inputs: no mask, biases, slopes, sinks, lengths, block mask or function of the scores.
    pub fn new(query: FloatTensor<B>, key: FloatTensor<B>, value: FloatTensor<B>) -> Self {
        Self {
            query,
            key,
            value,
            mask: None,
            bias: None,
            alibi_slopes: None,
            relative_bias: None,
            sinks: None,
            kv_lens: None,
            block_mask: None,
            score_mod: None,
        }
    }

    /// Checks these inputs against each other and the spec.
    ///
    /// # Errors
    /// An [`AttentionError`] that names the argument at fault: shapes, element types, devices, or values of the spec.
    pub fn problem(&self, spec: &AttentionSpec) -> Result<Problem, AttentionError> {
        self.check_devices()?;
        Problem::new(
            spec,
            &ProblemInputs {
                query: info(&self.query),
                key: info(&self.key),
                value: info(&self.value),
                mask: self.mask.as_ref().map(|mask| info(mask.tensor())),
                bias: self.bias.as_ref().map(info),
                alibi_slopes: self.alibi_slopes.as_ref().map(info),
                relative_bias: self.relative_bias.as_ref().map(info),
                sinks: self.sinks.as_ref().map(info),
                kv_lens: self.kv_lens.as_deref(),
                block_mask: self.block_mask.as_ref(),
                score_mod: self.score_mod.as_ref(),
            },
        )
    }

    fn check_devices(&self) -> Result<(), AttentionError> {
        let expected = self.query.device();
        let found = [
            ("key", Some(self.key.device())),
            ("value", Some(self.value.device())),
            ("mask", self.mask.as_ref().map(|mask| mask.tensor().device())),
            ("bias", self.bias.as_ref().map(TensorMetadata::device)),
            ("alibi_slopes", self.alibi_slopes.as_ref().map(TensorMetadata::device)),
            ("relative_bias", self.relative_bias.as_ref().map(TensorMetadata::device)),
            ("sinks", self.sinks.as_ref().map(TensorMetadata::device)),
        ];
        for (argument, device) in found {
            if let Some(device) = device
                && device != expected
            {
                return Err(AttentionError::Device {
                    argument,
                    expected: format!("{expected:?}"),
                    found: format!("{device:?}"),
                });
            }
        }
        Ok(())
    }
}

fn info<T: TensorMetadata>(tensor: &T) -> TensorInfo {
    TensorInfo { shape: tensor.shape(), dtype: tensor.dtype() }
}

/// What a forward pass gives.
#[derive(Debug, Clone)]
pub struct AttentionOutputs<B: Backend> {
    /// `[B, H, Sq, E]`, in the inputs' element type.
    pub out: FloatTensor<B>,
    /// `[B, H, Sq]`, natural logarithm, in the accumulation type; there if it was asked for.
    pub lse: Option<FloatTensor<B>>,
}

/// What a backward pass starts from: the forward's outputs and the gradients that came from above.
#[derive(Debug, Clone)]
pub struct Upstream<B: Backend> {
    /// The forward's output, `[B, H, Sq, E]`.
    pub out: FloatTensor<B>,
    /// The forward's LSE, `[B, H, Sq]`, in the accumulation type.
    pub lse: FloatTensor<B>,
    /// Gradient of the loss by `out`, `[B, H, Sq, E]`; `None` is zero.
    pub grad_out: Option<FloatTensor<B>>,
    /// Gradient of the loss by `lse`, `[B, H, Sq]`; `None` is zero.
    pub grad_lse: Option<FloatTensor<B>>,
}

/// Which gradients a backward pass shall make; the others cost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Wanted {
    /// By `query`.
    pub query: bool,
    /// By `key`.
    pub key: bool,
    /// By `value`.
    pub value: bool,
    /// By `bias`.
    pub bias: bool,
    /// By `alibi_slopes`.
    pub alibi_slopes: bool,
    /// By `relative_bias`.
    pub relative_bias: bool,
    /// By `sinks`.
    pub sinks: bool,
}

impl Wanted {
    /// The gradients of every input that is there.
    pub fn all<B: Backend>(inputs: &AttentionInputs<B>) -> Self {
        Self {
            query: true,
            key: true,
            value: true,
            bias: inputs.bias.is_some(),
            alibi_slopes: inputs.alibi_slopes.is_some(),
            relative_bias: inputs.relative_bias.is_some(),
            sinks: inputs.sinks.is_some(),
        }
    }
}

/// Gradients of the loss by each input that was wanted, in that input's shape and element type.
#[derive(Debug, Clone)]
pub struct Gradients<B: Backend> {
    /// `[B, H, Sq, D]`.
    pub query: Option<FloatTensor<B>>,
    /// `[B, G, Sk, D]`, summed over the query heads of a group.
    pub key: Option<FloatTensor<B>>,
    /// `[B, G, Sk, E]`, summed over the query heads of a group.
    pub value: Option<FloatTensor<B>>,
    /// The bias's own shape, summed over the axes along which it was broadcast.
    pub bias: Option<FloatTensor<B>>,
    /// `[H]`.
    pub alibi_slopes: Option<FloatTensor<B>>,
    /// The table's own shape.
    pub relative_bias: Option<FloatTensor<B>>,
    /// `[H]`.
    pub sinks: Option<FloatTensor<B>>,
}
