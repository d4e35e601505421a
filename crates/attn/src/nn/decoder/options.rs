//! What one call of a decoder asks of its two attentions.

use attn_core::{Alignment, AttentionError, Mask};
use burn::tensor::{Bool, Tensor};

use crate::nn::AttentionOptions;

/// Options of one call of a decoder: those of its self-attention and those of its cross-attention.
///
/// The default is a causal self-attention and a cross-attention that sees the whole memory.
///
/// In self-attention token `i` of the target stands at position `i`, whatever the lengths: the alignments `BottomRight`
/// and `TopLeft` are the same here, and `Offset(n)` adds `n`.
#[derive(Debug, Clone)]
pub struct DecoderOptions {
    causal: bool,
    own: AttentionOptions,
    cross: AttentionOptions,
}

impl Default for DecoderOptions {
    fn default() -> Self {
        Self { causal: true, own: AttentionOptions::default(), cross: AttentionOptions::default() }
    }
}

impl DecoderOptions {
    /// Causal self-attention, the whole memory; the same as `default()`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether a token sees none after itself; `false` for decoders that make all tokens at once (Carion et al.
    /// 2020).
    pub fn causal(mut self, causal: bool) -> Self {
        self.causal = causal;
        self
    }

    /// Sets the options of the self-attention. It stays causal unless [`causal`](Self::causal) says otherwise.
    pub fn self_attention(mut self, options: AttentionOptions) -> Self {
        self.own = options;
        self
    }

    /// Sets the options of the cross-attention.
    pub fn cross_attention(mut self, options: AttentionOptions) -> Self {
        self.cross = options;
        self
    }

    /// Hides tokens of the target that are padding, `[batch, target_len]`, from the others.
    pub fn target_padding(mut self, mask: Mask<Tensor<2, Bool>>) -> Self {
        self.own = self.own.key_padding(mask);
        self
    }

    /// Hides positions of the memory that are padding, `[batch, memory_len]`.
    pub fn memory_padding(mut self, mask: Mask<Tensor<2, Bool>>) -> Self {
        self.cross = self.cross.key_padding(mask);
        self
    }

    /// Those of the self-attention, where the first token of the call stands at `position`.
    pub(super) fn own_at(&self, position: usize) -> AttentionOptions {
        let mut spec = self.own.spec_now();
        spec.causal |= self.causal;
        spec.alignment = moved(spec.alignment, position).unwrap_or(Alignment::Offset(position as i64));
        self.own.clone().spec(spec)
    }

    /// Those of the cross-attention.
    pub(super) fn cross(&self) -> &AttentionOptions {
        &self.cross
    }

    /// Those of the cross-attention, where the first token of the call stands at `position`.
    ///
    /// # Errors
    /// Names `cross_attention` where positions matter and are counted from the end of the target, which is not known.
    pub(super) fn cross_at(&self, position: usize) -> Result<AttentionOptions, AttentionError> {
        let mut spec = self.cross.spec_now();
        let window = spec.window.left.is_some() || spec.window.right.is_some();
        if !spec.causal && !window && !self.cross.has_alibi() {
            return Ok(self.cross.clone());
        }
        let expected = "an alignment that does not count from the target's end (TopLeft, Offset)";
        spec.alignment = moved(spec.alignment, position)
            .ok_or_else(|| AttentionError::value("cross_attention", expected, "BottomRight"))?;
        Ok(self.cross.clone().spec(spec))
    }
}

/// An alignment for queries that stand `position` further; none for the one that counts from the end.
fn moved(alignment: Alignment, position: usize) -> Option<Alignment> {
    match alignment {
        Alignment::BottomRight => None,
        Alignment::TopLeft => Some(Alignment::Offset(position as i64)),
        Alignment::Offset(offset) => Some(Alignment::Offset(offset.saturating_add(position as i64))),
    }
}
