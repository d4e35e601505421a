//! The same blocks made of Burn's own modules and its attention, to compare. Burn's attention knows no groups, so keys and values are
//! repeated for it.

use attn::AttentionError;
use burn::config::Config;
use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, RotaryEncoding, RotaryEncodingConfig};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor, activation};

/// Sizes of a [`BurnDecoder`].
#[derive(Config, Debug)]
pub struct BurnDecoderConfig {
    /// Features of a position.
    pub d_model: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Features between the two linear layers.
    pub d_ff: usize,
    /// Blocks.
    pub layers: usize,
    /// The longest text.
    pub context: usize,
}

impl BurnDecoderConfig {
    /// Makes the stack.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<BurnDecoder, AttentionError> {
        let sizes = [("heads", self.d_model, self.heads), ("kv_heads", self.heads, self.kv_heads)];
        for (name, whole, part) in sizes {
            if part == 0 || !whole.is_multiple_of(part) {
                return Err(AttentionError::value(name, format!("a divisor of {whole}"), part));
            }
        }
        let head_dim = self.d_model / self.heads;
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(AttentionError::value("head_dim", "an even number above 0", head_dim));
        }
        let blocks = (0..self.layers).map(|_| self.block(head_dim, device)).collect();
        let norm = LayerNormConfig::new(self.d_model).init(device);
        let rotary = RotaryEncodingConfig::new(self.context.max(1), head_dim).init(device);
        Ok(BurnDecoder { blocks, norm, rotary, context: self.context })
    }

    fn block(&self, head_dim: usize, device: &Device) -> Block {
        let linear = |from, to| LinearConfig::new(from, to).with_bias(false).init(device);
        let norm = || LayerNormConfig::new(self.d_model).init(device);
        Block {
            attention_norm: norm(),
            query: linear(self.d_model, self.d_model),
            key: linear(self.d_model, self.kv_heads * head_dim),
            value: linear(self.d_model, self.kv_heads * head_dim),
            output: linear(self.d_model, self.d_model),
            feed_forward_norm: norm(),
            inner: linear(self.d_model, self.d_ff),
            outer: linear(self.d_ff, self.d_model),
            heads: self.heads,
            kv_heads: self.kv_heads,
        }
    }
}

/// A stack of pre-norm blocks with causal self-attention and rotary positions.
#[derive(Module, Debug)]
pub struct BurnDecoder {
    blocks: Vec<Block>,
    norm: LayerNorm,
    rotary: RotaryEncoding,
    context: usize,
}

/// A block of a [`BurnDecoder`].
#[derive(Module, Debug)]
pub struct Block {
    attention_norm: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    feed_forward_norm: LayerNorm,
    inner: Linear,
    outer: Linear,
    heads: usize,
    kv_heads: usize,
}

impl BurnDecoder {
    /// `[batch, length, d_model]` in and out.
    ///
    /// # Errors
    /// If it is longer than the context.
    pub fn forward(&self, hidden: Tensor<3>) -> Result<Tensor<3>, AttentionError> {
        let [_, length, _] = hidden.dims();
        if length > self.context {
            return Err(AttentionError::value("text", format!("at most {} tokens", self.context), length));
        }
        let hidden = self.blocks.iter().fold(hidden, |hidden, block| block.forward(hidden, &self.rotary));
        Ok(self.norm.forward(hidden))
    }
}

impl Block {
    fn forward(&self, hidden: Tensor<3>, rotary: &RotaryEncoding) -> Tensor<3> {
        let normal = self.attention_norm.forward(hidden.clone());
        let query = rotary.forward(split(self.query.forward(normal.clone()), self.heads));
        let key = rotary.forward(split(self.key.forward(normal.clone()), self.kv_heads));
        let value = split(self.value.forward(normal), self.kv_heads);
        let [key, value] = [key, value].map(|heads| repeated(heads, self.heads / self.kv_heads));
        let options = AttentionModuleOptions { is_causal: true, ..AttentionModuleOptions::default() };
        let read = attention(query, key, value, None, None, options);
        let [batch, heads, length, dim] = read.dims();
        let hidden = hidden + self.output.forward(read.swap_dims(1, 2).reshape([batch, length, heads * dim]));
        let normal = self.feed_forward_norm.forward(hidden.clone());
        hidden + self.outer.forward(activation::gelu(self.inner.forward(normal)))
    }
}

/// `[batch, length, heads · dim]` as `[batch, heads, length, dim]`.
fn split(features: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, length, all] = features.dims();
    features.reshape([batch, length, heads, all / heads]).swap_dims(1, 2)
}

/// Each head so many times, one after another.
fn repeated(heads: Tensor<4>, times: usize) -> Tensor<4> {
    let [batch, groups, length, dim] = heads.dims();
    heads.unsqueeze_dim::<5>(2).repeat_dim(2, times).reshape([batch, groups * times, length, dim])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_without_a_meaning_are_named() {
        let device = Device::default();
        let named = |heads, kv_heads, name: &str| {
            let error = BurnDecoderConfig::new(12, heads, kv_heads, 24, 1, 8).init(&device).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        };
        named(0, 1, "heads");
        named(5, 1, "heads");
        named(4, 3, "kv_heads");
        named(4, 0, "kv_heads");
        named(4, 2, "head_dim");
        let decoder = BurnDecoderConfig::new(12, 3, 1, 24, 1, 8).init(&device).unwrap();
        let error = decoder.forward(Tensor::zeros([1, 9, 12], &device)).unwrap_err().to_string();
        assert!(error.contains("at most 8 tokens"), "{error}");
    }
}
