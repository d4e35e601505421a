//! Transformer decoder: a stack of blocks over a whole target, or over new tokens with a cache of the earlier ones.

pub(super) mod cache;
mod layer;
mod options;

use attn_core::{AttentionError, Mask};
use burn::config::Config;
use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::{Bool, Device, Tensor};

pub use cache::DecoderCache;
use cache::LayerCache;
pub use layer::{DecoderLayerOutput, TransformerDecoderLayer, TransformerDecoderLayerConfig};
pub use options::DecoderOptions;

use super::check::{self, positive};
use super::encoder::{NormPlacement, normalise};
use crate::attention::{check_devices, check_dtypes};

/// Sizes and choices of a [`TransformerDecoder`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct TransformerDecoderConfig {
    /// Every block is made alike.
    pub layer: TransformerDecoderLayerConfig,
    /// Number of blocks.
    pub layers: usize,
    /// Whether one more layer norm ends the stack; `None`: with pre-norm yes, with post-norm no, as in their papers.
    pub final_norm: Option<bool>,
}

impl TransformerDecoderConfig {
    /// Makes the stack on a device.
    ///
    /// # Errors
    /// As [`TransformerDecoderLayerConfig::init`], and a value error that names `layers` if there are none.
    pub fn init(&self, device: &Device) -> Result<TransformerDecoder, AttentionError> {
        let layers =
            (0..positive("layers", self.layers)?).map(|_| self.layer.init(device)).collect::<Result<_, _>>()?;
        let ends_with_norm = self.final_norm.unwrap_or(self.layer.norm == NormPlacement::Pre);
        let norm = LayerNormConfig::new(self.layer.d_model).with_epsilon(self.layer.layer_norm_epsilon);
        Ok(TransformerDecoder { layers, norm: ends_with_norm.then(|| norm.init(device)) })
    }
}

/// A stack of [`TransformerDecoderLayer`]s, and a last layer norm where the config asks for one.
///
/// Shapes: `[batch, target_len, d_model]` in and out; the memory `[batch, memory_len, d_memory]` is the same for every
/// block, and so are the options.
///
/// [`forward`](Self::forward) takes a whole target, as in training. [`forward_cached`](Self::forward_cached) takes the
/// next tokens and a [`DecoderCache`] of those before: what it gives for them is what `forward` gives at their
/// positions, and a token costs time in `len + memory_len` in place of its square.
#[derive(Module, Debug)]
pub struct TransformerDecoder {
    /// The blocks, first to last.
    pub layers: Vec<TransformerDecoderLayer>,
    /// Ends the stack.
    pub norm: Option<LayerNorm>,
}

/// What a [`TransformerDecoder`] gives. Keys of a cached call are all tokens so far.
#[derive(Debug, Clone)]
pub struct DecoderOutput {
    /// `[batch, target_len, d_model]`.
    pub hidden: Tensor<3>,
    /// The LSE of each block's self-attention, `[batch, heads, target_len]`; empty unless asked for.
    pub lse: Vec<Tensor<3>>,
    /// The weights of each block's self-attention, `[batch, selected heads, selected rows, keys]`; empty unless asked
    /// for.
    pub weights: Vec<Tensor<4>>,
    /// The LSE of each block's cross-attention; empty unless asked for.
    pub cross_lse: Vec<Tensor<3>>,
    /// The weights of each block's cross-attention, `[batch, selected heads, selected rows, memory_len]`; empty unless
    /// asked for.
    pub cross_weights: Vec<Tensor<4>>,
}

impl DecoderOutput {
    fn new(hidden: Tensor<3>) -> Self {
        Self { hidden, lse: vec![], weights: vec![], cross_lse: vec![], cross_weights: vec![] }
    }

    fn take(&mut self, made: DecoderLayerOutput) {
        self.hidden = made.hidden;
        self.lse.extend(made.lse);
        self.weights.extend(made.weights);
        self.cross_lse.extend(made.cross_lse);
        self.cross_weights.extend(made.cross_weights);
    }
}

impl TransformerDecoder {
    /// Carries `target` `[batch, target_len, d_model]` through all blocks, which attend to `memory`
    /// `[batch, memory_len, d_memory]` where they have cross-attention.
    ///
    /// # Errors
    /// As [`TransformerDecoderLayer::forward`].
    pub fn forward(
        &self,
        target: Tensor<3>,
        memory: Option<Tensor<3>>,
        options: &DecoderOptions,
    ) -> Result<DecoderOutput, AttentionError> {
        let mut output = DecoderOutput::new(target);
        for layer in &self.layers {
            let made = layer.forward(output.hidden.clone(), memory.clone(), options)?;
            output.take(made);
        }
        self.finish(output)
    }

    /// An empty cache for a batch of this size, of a decoder that attends to no memory.
    ///
    /// # Errors
    /// Names `memory` where a block attends to one.
    pub fn cache(&self, batch: usize) -> Result<DecoderCache, AttentionError> {
        self.cache_of(batch, None, None)
    }

    /// An empty cache that holds the keys and values of `memory` `[batch, memory_len, d_memory]`, of which `padding`
    /// `[batch, memory_len]` hides a part.
    ///
    /// # Errors
    /// Names `memory` where no block attends to one or it does not fit, and `memory_padding`.
    pub fn cache_with_memory(
        &self,
        memory: Tensor<3>,
        padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<DecoderCache, AttentionError> {
        let [batch, length, _] = memory.dims();
        if let Some(padding) = &padding {
            check::padding("memory_padding", padding, [batch, length], &memory.device())?;
        }
        self.cache_of(batch, Some(&memory), padding)
    }

    fn cache_of(
        &self,
        batch: usize,
        memory: Option<&Tensor<3>>,
        memory_padding: Option<Mask<Tensor<2, Bool>>>,
    ) -> Result<DecoderCache, AttentionError> {
        for layer in &self.layers {
            if let Some(memory) = layer.expect_memory(memory)? {
                layer.check_memory(memory, None)?;
            }
        }
        let project = |layer: &TransformerDecoderLayer| {
            Ok(LayerCache { memory: layer.project_memory(memory)?, ..LayerCache::default() })
        };
        let layers = self.layers.iter().map(project).collect::<Result<_, AttentionError>>()?;
        let sources = (0..batch).collect();
        Ok(DecoderCache { layers, batch, len: 0, reserved: 0, padding: None, memory_padding, sources })
    }

    /// Carries the next tokens, `target` `[batch, new, d_model]`, through all blocks and adds them to the cache. Masks,
    /// biases and weights of the self-attention have `new` rows and a column for every token so far; its padding is
    /// that of the new tokens alone, `[batch, new]`, and is kept. A memory's padding comes from the cache, unless the
    /// options hold one.
    ///
    /// # Errors
    /// Names `target`, the option at fault, or `cache` where it was made for another decoder. The cache is then as it
    /// was.
    pub fn forward_cached(
        &self,
        target: Tensor<3>,
        cache: &mut DecoderCache,
        options: &DecoderOptions,
    ) -> Result<DecoderOutput, AttentionError> {
        let (own, cross, padding) = self.check_cached(&target, cache, options)?;
        let [_, count, _] = target.dims();
        let (len, reserved) = (cache.len, cache.reserved);
        let mut output = DecoderOutput::new(target);
        for (layer, kept) in self.layers.iter().zip(&mut cache.layers) {
            let made = layer.forward_cached(output.hidden.clone(), kept, len, reserved, &own, &cross)?;
            output.take(made);
        }
        let output = self.finish(output)?;
        // Until here only room after the first `len` tokens was written to.
        cache.len = len + count;
        cache.padding = padding;
        Ok(output)
    }

    /// All that can be wrong with a cached call; gives the options of both attentions and the padding of all tokens.
    #[allow(clippy::type_complexity, reason = "used once, taken apart at once")]
    fn check_cached(
        &self,
        target: &Tensor<3>,
        cache: &DecoderCache,
        options: &DecoderOptions,
    ) -> Result<(super::AttentionOptions, super::AttentionOptions, Option<Tensor<2, Bool>>), AttentionError> {
        if self.layers.len() != cache.layers.len() {
            let expected = format!("one of {} layers", self.layers.len());
            return Err(AttentionError::value("cache", expected, cache.layers.len()));
        }
        let [batch, count, d_model] = target.dims();
        if batch != cache.batch {
            let expected = format!("[{}, {count}, {d_model}] (the cache's batch, new tokens, features)", cache.batch);
            return Err(AttentionError::shape("target", expected, &target.dims()));
        }
        for layer in &self.layers {
            layer.check(target)?;
        }
        let mut own = options.own_at(cache.len);
        if let Some(padding) = own.padding() {
            check::padding("target_padding", padding, [batch, count], &target.device())?;
        }
        let padding = cache.padded(own.padding(), count);
        if let Some(padding) = padding.clone() {
            own = own.key_padding(Mask::keep(padding));
        }
        let mut cross = options.cross_at(cache.len)?;
        if let (None, Some(padding)) = (cross.padding(), &cache.memory_padding) {
            cross = cross.key_padding(padding.clone());
        }
        for (layer, kept) in self.layers.iter().zip(&cache.layers) {
            fits(layer, kept, batch)?;
            layer.check_own(batch, count, cache.len + count, &own)?;
            if let Some([key, _]) = &kept.memory {
                layer.check_cross(batch, count, key.dims()[2], &cross)?;
            }
        }
        Ok((own, cross, padding))
    }

    fn finish(&self, mut output: DecoderOutput) -> Result<DecoderOutput, AttentionError> {
        if let Some(norm) = &self.norm {
            let [_, _, d_model] = output.hidden.dims();
            check::norm("norm", norm, d_model)?;
            output.hidden = normalise(norm, output.hidden);
        }
        Ok(output)
    }
}

/// What was kept has the layer's heads, element type and device.
fn fits(layer: &TransformerDecoderLayer, kept: &LayerCache, batch: usize) -> Result<(), AttentionError> {
    let weight = layer.linear_inner.weight.val();
    let fits = |found: &Tensor<4>, wanted: [usize; 4]| {
        if found.dims() != wanted {
            let expected = format!("{wanted:?} (batch, kv_heads, capacity, features)");
            return Err(AttentionError::shape("cache", expected, &found.dims()));
        }
        check_devices(&weight.device(), &[("cache", Some(found.device()))])?;
        check_dtypes("cache", weight.dtype(), &[("cache", found.dtype())])
    };
    if let (Some(key), Some(value)) = (kept.key.tensor(), kept.value.tensor()) {
        let [_, of_key, of_value] = layer.attention.shapes(batch, 0, key.dims()[2]);
        fits(key, of_key)?;
        fits(value, of_value)?;
    }
    let Some(cross) = &layer.cross_attention else {
        return match kept.memory {
            Some(_) => Err(AttentionError::value("cache", "one without a memory", "one with a memory")),
            None => Ok(()),
        };
    };
    let Some(pair) = &kept.memory else {
        return Err(AttentionError::value("cache", "one made with a memory", "one without"));
    };
    let [_, of_key, of_value] = cross.shapes(batch, 0, pair[0].dims()[2]);
    fits(&pair[0], of_key)?;
    fits(&pair[1], of_value)
}
