//! Keys and values that a decoder keeps between calls.

use attn_core::{AttentionError, Mask};
use burn::tensor::{Bool, Device, Int, Tensor};

use crate::nn::check;
use crate::nn::options::seen;

/// What a [`TransformerDecoder`](super::TransformerDecoder) has seen: of each layer the keys and values of the tokens
/// so far, `[batch, kv_heads, len, head_dim]`, and those of the memory, projected once.
///
/// It is a value: a clone goes its own way, and a call that fails leaves it as it was. Keys and values stand in buffers
/// that double when they are full, unless [`with_capacity`](Self::with_capacity) has made room; where nobody else holds
/// a buffer (no clone, no autodiff graph), the backend may write new tokens in place.
#[derive(Debug, Clone)]
pub struct DecoderCache {
    pub(super) layers: Vec<LayerCache>,
    pub(super) batch: usize,
    pub(super) len: usize,
    pub(super) reserved: usize,
    /// True = seen, `[batch, len]`; none: all are.
    pub(super) padding: Option<Tensor<2, Bool>>,
    pub(super) memory_padding: Option<Mask<Tensor<2, Bool>>>,
    /// The entry of the first batch whose memory each row reads.
    pub(super) sources: Vec<usize>,
}

/// What one layer has seen.
#[derive(Debug, Clone, Default)]
pub(super) struct LayerCache {
    pub(super) key: Buffer,
    pub(super) value: Buffer,
    pub(super) memory: Option<[Tensor<4>; 2]>,
}

impl DecoderCache {
    /// Makes room for this many tokens in all, so that no buffer grows before. Takes effect with the next call.
    pub fn with_capacity(mut self, tokens: usize) -> Self {
        self.reserved = self.reserved.max(tokens);
        self
    }

    /// Tokens seen so far: the position of the next one.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token has been seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Makes row `i` of the batch what row `rows[i]` was: beams that go on, repeated or dropped. Any number of rows may
    /// come out. The memory is copied only where a row comes to read another one.
    ///
    /// # Errors
    /// Names `rows` where one does not exist.
    pub fn reorder(&mut self, rows: &[usize]) -> Result<(), AttentionError> {
        check::rows("rows", rows, self.batch)?;
        if rows.iter().copied().eq(0..self.batch) {
            return Ok(());
        }
        let sources: Vec<usize> = rows.iter().map(|&row| self.sources[row]).collect();
        for layer in &mut self.layers {
            layer.key.reorder(rows);
            layer.value.reorder(rows);
            if sources != self.sources {
                layer.memory = layer.memory.take().map(|pair| pair.map(|tensor| picked(tensor, rows)));
            }
        }
        self.padding = self.padding.take().map(|padding| picked_bool(padding, rows));
        if sources != self.sources {
            self.memory_padding = self.memory_padding.take().map(|mask| mask.map(|padding| picked_bool(padding, rows)));
        }
        (self.batch, self.sources) = (rows.len(), sources);
        Ok(())
    }

    /// Forgets all but the first `len` tokens, as where a guess at several tokens is taken back. With no more than
    /// `len` in the cache, nothing happens.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            self.padding = self.padding.take().filter(|_| len > 0).map(|padding| padding.narrow(1, 0, len));
        }
    }

    /// The padding of all tokens, where `new` of them come with that of theirs.
    pub(super) fn padded(&self, new: Option<&Mask<Tensor<2, Bool>>>, count: usize) -> Option<Tensor<2, Bool>> {
        if self.padding.is_none() && new.is_none() {
            return None;
        }
        // Through integers, since bools of two element types cannot be joined: see `picked_bool`.
        let new = new.cloned().map(|mask| seen(mask).int().bool());
        let device = self.padding.as_ref().or(new.as_ref()).map(Tensor::device)?;
        let ones = |length| Tensor::<2, Bool>::full([self.batch, length], true, &device);
        let old = self.padding.clone().unwrap_or_else(|| ones(self.len));
        let new = new.unwrap_or_else(|| ones(count));
        if self.batch == 0 {
            // Burn's CubeCL backend joins nothing without elements.
            return Some(ones(self.len + count));
        }
        Some(match (self.len, count) {
            (0, _) => new,
            (_, 0) => old,
            _ => Tensor::cat(vec![old, new], 1),
        })
    }
}

/// Keys or values of the tokens so far, at the front of a tensor with room for more: `[batch, heads, capacity, dim]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffer {
    tensor: Option<Tensor<4>>,
}

impl Buffer {
    /// Writes `new` after the first `len` tokens and gives all of them, as a view.
    pub(super) fn extend(&mut self, len: usize, reserved: usize, new: Tensor<4>) -> Tensor<4> {
        let [batch, heads, count, dim] = new.dims();
        let total = len + count;
        let held = match self.tensor.take() {
            Some(tensor) if tensor.dims()[2] >= total => tensor,
            tensor => grown(tensor, len, total.max(2 * len).max(reserved), &new),
        };
        let held = match new.shape().num_elements() {
            0 => held,
            _ if held.dims()[2] == count => new.clone(),
            _ => held.slice_assign([0..batch, 0..heads, len..total, 0..dim], new.clone()),
        };
        self.tensor = Some(held.clone());
        match held.dims()[2] == total {
            true => held,
            false if total == 0 => new,
            false => held.narrow(2, 0, total),
        }
    }

    /// All that is kept, room included; none before the first token.
    pub(super) fn tensor(&self) -> Option<&Tensor<4>> {
        self.tensor.as_ref()
    }

    fn reorder(&mut self, rows: &[usize]) {
        self.tensor = self.tensor.take().map(|tensor| picked(tensor, rows));
    }
}

/// The first `len` tokens of `tensor` with room for `capacity`, of the shape, type and device of `like`.
fn grown(tensor: Option<Tensor<4>>, len: usize, capacity: usize, like: &Tensor<4>) -> Tensor<4> {
    let [batch, heads, _, dim] = like.dims();
    let room = |count| Tensor::zeros([batch, heads, count, dim], (&like.device(), like.dtype()));
    match tensor {
        Some(tensor) if len > 0 && batch > 0 => Tensor::cat(vec![tensor.narrow(2, 0, len), room(capacity - len)], 2),
        _ => room(capacity),
    }
}

/// Rows of a tensor's first axis.
pub(in crate::nn) fn picked<const D: usize>(tensor: Tensor<D>, rows: &[usize]) -> Tensor<D> {
    let mut dims = tensor.dims();
    dims[0] = rows.len();
    if dims.contains(&0) {
        return Tensor::zeros(dims, (&tensor.device(), tensor.dtype()));
    }
    let index = indices(rows, &tensor.device());
    tensor.select(0, index)
}

/// Rows of a mask.
pub(in crate::nn) fn picked_bool(mask: Tensor<2, Bool>, rows: &[usize]) -> Tensor<2, Bool> {
    let [_, length] = mask.dims();
    if rows.is_empty() || length == 0 {
        return Tensor::full([rows.len(), length], false, &mask.device());
    }
    let index = indices(rows, &mask.device());
    // Through integers: what Flex selects of bools has an element type that it cannot concatenate with its own.
    mask.int().select(0, index).bool()
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    Tensor::from_data(rows.as_slice(), device)
}
