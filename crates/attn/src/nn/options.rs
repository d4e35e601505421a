//! What one call of a layer asks of its attention, apart from the sequences.

use std::sync::Arc;

use attn_core::{
    Alignment, AttentionError, AttentionSpec, BlockMask, Dropout, KernelChoice, Mask, MaskExpr, Polarity, ScoreMod,
    TensorInfo,
};
use burn::tensor::{Bool, Device, Tensor};

use super::check::{broadcast, reshaped_mask};
use super::position::Positions;
use crate::attention::{Sparse, info, sparse_problem};
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
    relative_bias: Option<Tensor<2>>,
    sinks: Option<Tensor<1>>,
    kv_lens: Option<Vec<usize>>,
    sparse: Option<Sparse>,
    score_mod: Option<ScoreMod>,
    head_mask: Option<Tensor<1>>,
    positions: Option<[Positions; 2]>,
    choice: KernelChoice,
    lse: bool,
    weights: Option<Selection>,
}

/// What a layer adds to the options of a call.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub scale: Option<f64>,
    pub alibi_slopes: Option<Tensor<1>>,
    pub sinks: Option<Tensor<1>>,
    pub bias: Option<Tensor<4>>,
    pub relative_bias: Option<Tensor<2>>,
}

impl AttentionOptions {
    /// Plain attention; the same as `default()`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets scale, softcap, causal, window, alignment and dropout.
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

    /// `score += table[h, R + clamp(j − p, −R, R)]`, `[H or 1, 2·R + 1]`, linear in memory; see
    /// [`Attention::relative_bias`](crate::Attention::relative_bias).
    pub fn relative_bias(mut self, table: Tensor<2>) -> Self {
        self.relative_bias = Some(table);
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

    /// Shows what the expression shows, and skips the blocks of the scores in which it shows nothing; see
    /// [`Attention::mask_expr`](crate::Attention::mask_expr).
    pub fn mask_expr(mut self, expr: MaskExpr) -> Self {
        self.sparse = Some(Sparse::Expr(expr));
        self
    }

    /// Shows what the mask shows, `[B or 1, H or 1, Sq, Sk]`, and skips its empty blocks: an expression compiled once for many calls.
    pub fn block_mask(mut self, mask: impl Into<Arc<BlockMask>>) -> Self {
        self.sparse = Some(Sparse::Blocks(mask.into()));
        self
    }

    /// Sends each score through a function, on the host; see [`Attention::score_mod`](crate::Attention::score_mod).
    pub fn score_mod(mut self, function: ScoreMod) -> Self {
        self.score_mod = Some(function);
        self
    }

    /// Multiplies the output of each query head, `[H]`, before the output projection: 0 takes a head away, and the gradient says
    /// what it does (Michel et al. 2019). LSE and weights do not change.
    pub fn head_mask(mut self, mask: Tensor<1>) -> Self {
        self.head_mask = Some(mask);
        self
    }

    /// Where the tokens of query and key stand, for a layer's rotary positions and relative biases; a layer without either takes
    /// no notice. By default keys stand at `0, 1, …` and queries at the `p` that the spec's alignment gives, as for causal, window
    /// and ALiBi, which count by the alignment in any case.
    pub fn positions(mut self, query: Positions, key: Positions) -> Self {
        self.positions = Some([query, key]);
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

    /// The spec, bias and sinks as they were given.
    pub(super) fn given(&self) -> (AttentionSpec, Option<&Tensor<4>>, Option<&Tensor<1>>) {
        (self.spec, self.bias.as_ref(), self.sinks.as_ref())
    }

    /// The same without demands for kernels.
    pub(super) fn without_kernels(&self) -> Self {
        Self { choice: KernelChoice::default(), ..self.clone() }
    }

    /// Refuses a demanded kernel, and dropout, where no kernel can serve.
    ///
    /// # Errors
    /// Names the kernel and the reason, or `dropout`.
    pub(super) fn refuse_kernels(&self, reason: &str) -> Result<(), AttentionError> {
        if self.spec.dropout.is_some() {
            return Err(AttentionError::value("dropout", "none where no kernel makes the weights", "some"));
        }
        match self.choice.forward.as_ref().or(self.choice.backward.as_ref()) {
            Some(kernel) => Err(AttentionError::Unsupported { kernel: kernel.clone(), reason: reason.to_string() }),
            None => Ok(()),
        }
    }

    pub(super) fn own_head_mask(&self) -> Option<&Tensor<1>> {
        self.head_mask.as_ref()
    }

    /// Whether the call says itself where tokens stand.
    pub(super) fn gives_positions(&self) -> bool {
        self.positions.is_some()
    }

    /// Whether bottom-right alignment puts the queries of a batch entry elsewhere than its keys, of which there are as many.
    pub(super) fn shifts_queries(&self, length: usize) -> bool {
        let shorter = |lens: &Vec<usize>| lens.iter().any(|&len| len != length);
        self.spec.alignment == Alignment::BottomRight && self.kv_lens.as_ref().is_some_and(shorter)
    }

    /// Whether a layer's bias by relative position can be the kernel's own: tokens stand where the alignment says, and the call gives no
    /// other table.
    pub(super) fn takes_table(&self) -> bool {
        self.positions.is_none() && self.relative_bias.is_none()
    }

    /// Positions of queries and keys: those given, or those of the alignment.
    pub(super) fn positions_of(&self, query_len: usize, key_len: usize) -> [Positions; 2] {
        if let Some(given) = &self.positions {
            return given.clone();
        }
        let query = match (self.spec.alignment, &self.kv_lens) {
            (Alignment::TopLeft, _) => Positions::From(0),
            (Alignment::Offset(offset), _) => Positions::From(offset),
            (Alignment::BottomRight, None) => Positions::From(key_len as i64 - query_len as i64),
            (Alignment::BottomRight, Some(lens)) => {
                Positions::FromEach(lens.iter().map(|&len| len as i64 - query_len as i64).collect())
            }
        };
        [query, Positions::From(0)]
    }

    /// Whether the call and the layer both say the same thing.
    ///
    /// # Errors
    /// Names `alibi_slopes` or `sinks` where both have them, and `positions` where they are given to a layer with ALiBi, which counts
    /// by the alignment.
    pub(super) fn check_own(&self, alibi: bool, sinks: bool) -> Result<(), AttentionError> {
        let twice = |argument, own: &str| {
            Err(AttentionError::value(argument, format!("none beside the layer's {own}"), "some"))
        };
        match (alibi, sinks) {
            (true, _) if self.alibi_slopes.is_some() => twice("alibi_slopes", "own"),
            (true, _) if self.positions.is_some() => twice("positions", "ALiBi"),
            (_, true) if self.sinks.is_some() => twice("sinks", "own"),
            _ => Ok(()),
        }
    }

    /// The options with the layer's dropout.
    ///
    /// # Errors
    /// Names `dropout` where the call has its own.
    pub(super) fn dropping(mut self, dropout: Dropout) -> Result<Self, AttentionError> {
        match self.spec.dropout.replace(dropout) {
            Some(_) => Err(AttentionError::value("dropout", "none beside the layer's own", "some")),
            None => Ok(self),
        }
    }

    /// The options with what the layer holds: its scale where the call gives none, its bias added to the call's, its
    /// table where the call has none.
    pub(super) fn with_own(mut self, own: Own) -> Self {
        self.spec.scale = self.spec.scale.or(own.scale);
        self.alibi_slopes = self.alibi_slopes.or(own.alibi_slopes);
        self.sinks = self.sinks.or(own.sinks);
        self.relative_bias = self.relative_bias.or(own.relative_bias);
        self.bias = match (self.bias, own.bias) {
            (Some(given), Some(own)) => Some(given + own),
            (given, own) => given.or(own),
        };
        self
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
        if let Some(table) = self.relative_bias.clone() {
            attention = attention.relative_bias(table);
        }
        if let Some(sinks) = self.sinks.clone() {
            attention = attention.sinks(sinks);
        }
        if let Some(kv_lens) = self.kv_lens.clone() {
            attention = attention.kv_lens(kv_lens);
        }
        match &self.sparse {
            Some(Sparse::Blocks(mask)) => attention = attention.block_mask(mask.clone()),
            Some(Sparse::Expr(expr)) => attention = attention.mask_expr(expr.clone()),
            None => {}
        }
        if let Some(function) = &self.score_mod {
            attention = attention.score_mod(function.clone());
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
        use attn_core::ProblemInputs;

        crate::attention::check_devices(
            device,
            &[
                ("mask", self.mask.as_ref().map(|mask| mask.tensor().device())),
                ("key_padding", self.key_padding.as_ref().map(|mask| mask.tensor().device())),
                ("bias", self.bias.as_ref().map(Tensor::device)),
                ("alibi_slopes", self.alibi_slopes.as_ref().map(Tensor::device)),
                ("relative_bias", self.relative_bias.as_ref().map(Tensor::device)),
                ("sinks", self.sinks.as_ref().map(Tensor::device)),
                ("head_mask", self.head_mask.as_ref().map(Tensor::device)),
            ],
        )?;
        if let Some(mask) = &self.head_mask {
            if mask.dims() != [query.shape[1]] {
                return Err(AttentionError::shape("head_mask", format!("[{}] (heads)", query.shape[1]), &mask.dims()));
            }
            crate::attention::check_dtypes("head_mask", query.dtype, &[("head_mask", mask.dtype())])?;
        }
        if let Some([of_query, of_key]) = &self.positions {
            of_query.check("query_positions", query.shape[0], query.shape[2])?;
            of_key.check("key_positions", query.shape[0], key.shape[2])?;
        }
        if let Some(padding) = &self.key_padding {
            let (found, expected) = (padding.tensor().dims(), [query.shape[0], key.shape[2]]);
            if found != expected {
                return Err(AttentionError::shape("key_padding", format!("{expected:?} (batch, key_len)"), &found));
            }
        }
        let mask = self.mask.as_ref().map(|mask| mask.tensor());
        let problem = sparse_problem(
            &self.spec,
            ProblemInputs {
                query,
                key,
                value,
                mask: mask.map(info),
                bias: self.bias.as_ref().map(info),
                alibi_slopes: self.alibi_slopes.as_ref().map(info),
                relative_bias: self.relative_bias.as_ref().map(info),
                sinks: self.sinks.as_ref().map(info),
                kv_lens: self.kv_lens.as_deref(),
                block_mask: None,
                score_mod: self.score_mod.as_ref(),
            },
            self.sparse.as_ref(),
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
