//! What one call of a layer asks of its attention, apart from the sequences.

use attn_core::{AttentionError, AttentionSpec, KernelChoice, Mask, Polarity, TensorInfo};
use burn::tensor::{Bool, Device, Tensor};

use super::check::{broadcast, reshaped_mask};
use crate::{Attention, Selection};

/// Spec, masks, biases and outputs of one call; axes as in [`Attention`]: B batch, H heads, Sq/Sk query/key length.
///
/// The default is plain attention in which everything sees everything.
#[derive(Debug, Clone, Default)]
pub struct AttentionOptions {
    spec: AttentionSpec,
    mask: Option<Mask<Tensor<4, Bool>>>,
    key_padding: Option<Mask<Tensor<2, Bool>>>,
    bias: Option<Tensor<4>>,
    alibi_slopes: Option<Tensor<1>>,
    sinks: Option<Tensor<1>>,
    kv_lens: Option<Vec<usize>>,
    choice: KernelChoice,
    lse: bool,
    weights: Option<Selection>,
}

impl AttentionOptions {
    /// Plain attention; the same as `default()`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets scale, softcap, causal, window and alignment.
    pub fn spec(mut self, spec: AttentionSpec) -> Self {
        self.spec = spec;
        self
    }

    /// Hides what the mask hides; broadcastable to `[B, H, Sq, Sk]`.
    pub fn mask(mut self, mask: Mask<Tensor<4, Bool>>) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Hides the keys that are padding, `[B, Sk]`: the attention mask of a tokeniser is `Mask::keep`, a padding mask in Burn's
    /// sense `Mask::hide`. With [`mask`](Self::mask) too, a key is seen where both show it.
    pub fn key_padding(mut self, mask: Mask<Tensor<2, Bool>>) -> Self {
        self.key_padding = Some(mask);
        self
    }

    /// Adds to the scores; broadcastable to `[B, H, Sq, Sk]`; `−inf` hides.
    pub fn bias(mut self, bias: Tensor<4>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// `score −= slope · |j − p|`, one slope a query head, `[H]` (ALiBi, Press et al. 2022).
    pub fn alibi_slopes(mut self, slopes: Tensor<1>) -> Self {
        self.alibi_slopes = Some(slopes);
        self
    }

    /// One extra logit a query head, `[H]`, that takes weight and gives no value (Xiao et al. 2024).
    pub fn sinks(mut self, sinks: Tensor<1>) -> Self {
        self.sinks = Some(sinks);
        self
    }

    /// Number of keys of each batch entry, `[B]`: keys at and past it are hidden.
    pub fn kv_lens(mut self, kv_lens: impl Into<Vec<usize>>) -> Self {
        self.kv_lens = Some(kv_lens.into());
        self
    }

    /// Asks for the LSE.
    pub fn with_lse(mut self) -> Self {
        self.lse = true;
        self
    }

    /// Asks for the weights of the selected heads and rows.
    pub fn with_weights(mut self, selection: Selection) -> Self {
        self.weights = Some(selection);
        self
    }

    /// Demands kernels by name; where one cannot serve, that is an error.
    pub fn kernels(mut self, choice: KernelChoice) -> Self {
        self.choice = choice;
        self
    }

    pub(super) fn spec_now(&self) -> AttentionSpec {
        self.spec
    }

    pub(super) fn has_alibi(&self) -> bool {
        self.alibi_slopes.is_some()
    }

    pub(super) fn padding(&self) -> Option<&Mask<Tensor<2, Bool>>> {
        self.key_padding.as_ref()
    }

    /// The heads and rows whose weights were asked for.
    pub(super) fn selection(&self) -> Option<&Selection> {
        self.weights.as_ref()
    }

    pub(super) fn wants_lse(&self) -> bool {
        self.lse
    }

    /// The attention over projected heads that these options describe.
    pub(super) fn attention(&self, query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Attention {
        let mut attention = Attention::new(query, key, value).spec(self.spec);
        if let Some(mask) = self.joined_mask() {
            attention = attention.mask(mask);
        }
        if let Some(bias) = self.bias.clone() {
            attention = attention.bias(bias);
        }
        if let Some(slopes) = self.alibi_slopes.clone() {
            attention = attention.alibi_slopes(slopes);
        }
        if let Some(sinks) = self.sinks.clone() {
            attention = attention.sinks(sinks);
        }
        if let Some(kv_lens) = self.kv_lens.clone() {
            attention = attention.kv_lens(kv_lens);
        }
        if let Some(kernel) = &self.choice.forward {
            attention = attention.kernel(kernel.clone());
        }
        if let Some(kernel) = &self.choice.backward {
            attention = attention.backward_kernel(kernel.clone());
        }
        attention
    }

    /// Mask and key padding as one mask. Their shapes must have been checked.
    fn joined_mask(&self) -> Option<Mask<Tensor<4, Bool>>> {
        let padding = self.key_padding.clone().map(|padding| {
            padding.map(|tensor| {
                let [batch, key_len] = tensor.dims();
                reshaped_mask(tensor, [batch, 1, 1, key_len])
            })
        });
        match (self.mask.clone(), padding) {
            (Some(mask), Some(padding)) => {
                let (mask, padding) = (seen(mask), seen(padding));
                let shape = std::array::from_fn(|axis| broadcast(mask.dims()[axis], padding.dims()[axis]));
                Some(Mask::keep(mask.expand::<4, _>(shape).bool_and(padding.expand::<4, _>(shape))))
            }
            (mask, padding) => mask.or(padding),
        }
    }

    /// Checks all that the options hold against the projected shapes, so that no work starts on wrong input.
    ///
    /// # Errors
    /// Names the option at fault.
    pub(super) fn check(
        &self,
        device: &Device,
        query: TensorInfo,
        key: TensorInfo,
        value: TensorInfo,
    ) -> Result<(), AttentionError> {
        use attn_core::{Problem, ProblemInputs};

        crate::attention::check_devices(
            device,
            &[
                ("mask", self.mask.as_ref().map(|mask| mask.tensor().device())),
                ("key_padding", self.key_padding.as_ref().map(|mask| mask.tensor().device())),
                ("bias", self.bias.as_ref().map(Tensor::device)),
                ("alibi_slopes", self.alibi_slopes.as_ref().map(Tensor::device)),
                ("sinks", self.sinks.as_ref().map(Tensor::device)),
            ],
        )?;
        if let Some(padding) = &self.key_padding {
            let (found, expected) = (padding.tensor().dims(), [query.shape[0], key.shape[2]]);
            if found != expected {
                return Err(AttentionError::shape("key_padding", format!("{expected:?} (batch, key_len)"), &found));
            }
        }
        let vector = |tensor: &Tensor<1>| TensorInfo { shape: tensor.dims().to_vec(), dtype: tensor.dtype() };
        let mask = self.mask.as_ref().map(|mask| mask.tensor());
        let problem = Problem::new(
            &self.spec,
            &ProblemInputs {
                query,
                key,
                value,
                mask: mask.map(|mask| TensorInfo { shape: mask.dims().to_vec(), dtype: mask.dtype() }),
                bias: self.bias.as_ref().map(|bias| TensorInfo { shape: bias.dims().to_vec(), dtype: bias.dtype() }),
                alibi_slopes: self.alibi_slopes.as_ref().map(vector),
                sinks: self.sinks.as_ref().map(vector),
                kv_lens: self.kv_lens.as_deref(),
            },
        )?;
        self.weights.iter().try_for_each(|selection| selection.check(&problem))
    }
}

/// The mask's elements with true = seen.
pub(super) fn seen<const D: usize>(mask: Mask<Tensor<D, Bool>>) -> Tensor<D, Bool> {
    match mask.into_parts() {
        (tensor, Polarity::Keep) => tensor,
        (tensor, Polarity::Hide) => tensor.bool_not(),
    }
}
