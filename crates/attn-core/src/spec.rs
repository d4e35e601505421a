//! The numbers and switches of one attention: scale, softcap, causal, window, alignment, dropout.

use crate::Dropout;

/// How an attention computes and hides its scores, apart from any tensor.
///
/// For query `i` at absolute position `p = i + offset` and key `j`:
///
/// ```text
/// score(i, j) = scale · q_i·k_j                            then  softcap · tanh(score / softcap)
///               − slope · |j − p|  + bias(i, j)            (ALiBi, bias: tensors, see `AttentionInputs`)
/// seen(i, j)  = (not causal or j ≤ p)  and  p − left ≤ j ≤ p + right
/// ```
///
/// The default is plain scaled dot-product attention (Vaswani et al. 2017): scale `1/√head_dim`, everything seen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct AttentionSpec {
    /// Multiplies `q·k`; `None` means `1/√head_dim`. Finite; zero and negative values are allowed.
    pub scale: Option<f64>,
    /// Caps scores smoothly at ±softcap, after the scale and before all that follows (Gemma 2, 2024). Positive and finite.
    pub softcap: Option<f64>,
    /// Hides keys after the query's position: `j > p`.
    pub causal: bool,
    /// Hides keys outside a band around the query's position (Longformer, Beltagy et al. 2020).
    pub window: Window,
    /// Where query 0 stands among the keys.
    pub alignment: Alignment,
    /// Drops weights as they multiply values, after the softmax; for training.
    pub dropout: Option<Dropout>,
}

/// A sliding window: query at position `p` sees keys `p − left ..= p + right`. `None` leaves that side open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// How many keys before `p` are seen.
    pub left: Option<usize>,
    /// How many keys after `p` are seen.
    pub right: Option<usize>,
}

/// The absolute position of query 0, the `offset` in `p = i + offset`. It matters to causal, window and ALiBi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alignment {
    /// The last query stands at the last key: `offset = key_len − query_len`, with `kv_lens[b]` in place of `key_len` where
    /// given (FlashAttention 2.1). The default.
    #[default]
    BottomRight,
    /// Query 0 stands at key 0: `offset = 0`.
    TopLeft,
    /// Query 0 stands at this key: the number of positions that a cache already holds. May be negative.
    Offset(i64),
}

impl Alignment {
    /// Position of query 0 of a batch entry that has `keys` keys: the `offset` in `p = i + offset`.
    pub fn offset(self, query_len: usize, keys: usize) -> i64 {
        match self {
            Self::BottomRight => keys as i64 - query_len as i64,
            Self::TopLeft => 0,
            Self::Offset(offset) => offset,
        }
    }
}

impl AttentionSpec {
    /// Plain attention; the same as `default()`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the factor of `q·k`.
    pub fn with_scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Sets the soft cap.
    pub fn with_softcap(mut self, softcap: f64) -> Self {
        self.softcap = Some(softcap);
        self
    }

    /// Sets whether keys after the query's position are hidden.
    pub fn with_causal(mut self, causal: bool) -> Self {
        self.causal = causal;
        self
    }

    /// Sets the sliding window, in keys before and after the query's position.
    pub fn with_window(mut self, left: Option<usize>, right: Option<usize>) -> Self {
        self.window = Window { left, right };
        self
    }

    /// Sets where query 0 stands.
    pub fn with_alignment(mut self, alignment: Alignment) -> Self {
        self.alignment = alignment;
        self
    }

    /// Drops weights with a probability in `[0, 1)`; the seed tells which.
    pub fn with_dropout(mut self, probability: f64, seed: u64) -> Self {
        self.dropout = Some(Dropout::new(probability, seed));
        self
    }
}
