//! Grouped heads as LibTorch's fused kernels take them: as many key/value heads as query heads, by views alone.
//!
//! | problem | query | key, value |
//! | --- | --- | --- |
//! | H = G | `[B, H, S, D]` | `[B, G, Sk, D]` |
//! | one row (decoding): a group's heads are rows | `[B, G, H/G, D]` | `[B, G, Sk, D]` |
//! | else: a key/value head is a batch entry whose one head is seen H/G times, at stride 0 | `[B·G, H/G, S, D]` | `[B·G, H/G, Sk, D]` |
//!
//! The output is copied into the order of the heads, since LibTorch lays heads innermost.

use tch::{Kind, TchError, Tensor};

/// How the heads of one call are laid out. Row counts are of the call, not of the problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// As they are.
    Plain,
    /// Heads of a group as rows.
    Rows {
        /// G.
        kv_heads: i64,
    },
    /// Key/value heads as batch entries.
    Batch {
        /// G.
        kv_heads: i64,
    },
}

impl Heads {
    /// The layout for `rows` queries of `heads` heads on `kv_heads`.
    pub fn of(heads: usize, kv_heads: usize, rows: usize) -> Self {
        let groups = kv_heads as i64;
        match (heads == kv_heads, rows) {
            (true, _) => Self::Plain,
            (false, 1) => Self::Rows { kv_heads: groups },
            (false, _) => Self::Batch { kv_heads: groups },
        }
    }

    /// Whether a tensor with these axes of heads can be viewed in this layout, whatever its batch.
    pub fn is_view(self, tensor: &Tensor, heads: i64) -> bool {
        match (self, tensor.size().first(), tensor.stride().get(..2)) {
            // Batch and heads become one axis.
            (Self::Batch { .. }, Some(&batch), Some(&[outer, inner])) => batch <= 1 || outer == heads * inner,
            _ => true,
        }
    }

    /// `[B, H, S, X]` (query, output, its gradient) as the call takes it.
    pub fn of_query(self, query: &Tensor) -> Result<Tensor, TchError> {
        let (batch, heads, rows, dim) = query.size4()?;
        match self {
            Self::Plain => Ok(query.shallow_clone()),
            Self::Rows { kv_heads } => query.f_reshape([batch, kv_heads, heads / kv_heads, dim]),
            Self::Batch { kv_heads } => query.f_reshape([batch * kv_heads, heads / kv_heads, rows, dim]),
        }
    }

    /// `[B, H, S]` (LSE) as the call takes it.
    pub fn of_lse(self, lse: &Tensor) -> Result<Tensor, TchError> {
        self.of_query(&lse.f_unsqueeze(3)?)?.f_squeeze_dim(3)
    }

    /// `[B, G, Sk, X]` (key, value) as the call takes it.
    pub fn of_key(self, key: &Tensor, heads: i64) -> Result<Tensor, TchError> {
        let (batch, kv_heads, keys, dim) = key.size4()?;
        match self {
            Self::Plain | Self::Rows { .. } => Ok(key.shallow_clone()),
            Self::Batch { .. } => {
                let apart = key.f_reshape([batch * kv_heads, 1, keys, dim])?;
                apart.f_expand([batch * kv_heads, heads / kv_heads, keys, dim], false)
            }
        }
    }

    /// A mask `[1 or B, 1 or H, 1 or S, 1 or Sk]` as the call takes it. For [`Heads::Batch`] it must be that of one batch entry.
    pub fn of_mask(self, mask: &Tensor) -> Result<Tensor, TchError> {
        let (batch, heads, rows, keys) = mask.size4()?;
        match self {
            Self::Rows { kv_heads } if heads > 1 => mask.f_reshape([batch, kv_heads, heads / kv_heads, keys]),
            Self::Batch { kv_heads } if heads > 1 => mask.f_reshape([kv_heads, heads / kv_heads, rows, keys]),
            _ => Ok(mask.shallow_clone()),
        }
    }

    /// The inverse of [`of_query`](Self::of_query), for `batch` entries of `heads` heads.
    pub fn query_of(self, query: Tensor, batch: i64, heads: i64) -> Result<Tensor, TchError> {
        let (_, _, rows, dim) = query.size4()?;
        match self {
            Self::Plain => Ok(query),
            Self::Rows { .. } => query.f_reshape([batch, heads, 1, dim]),
            Self::Batch { .. } => query.f_reshape([batch, heads, rows, dim]),
        }
    }

    /// The inverse of [`of_lse`](Self::of_lse).
    pub fn lse_of(self, lse: Tensor, batch: i64, heads: i64) -> Result<Tensor, TchError> {
        if self == Self::Plain {
            return Ok(lse);
        }
        self.query_of(lse.f_unsqueeze(3)?, batch, heads)?.f_squeeze_dim(3)
    }

    /// A key's or value's gradient, summed over the query heads of a group: `[B, G, Sk, X]`. `wide` is the type of the sum.
    pub fn key_gradient(self, grad: Tensor, batch: i64, wide: Kind) -> Result<Tensor, TchError> {
        match self {
            Self::Plain | Self::Rows { .. } => Ok(grad),
            Self::Batch { kv_heads } => {
                let (_, _, keys, dim) = grad.size4()?;
                let sum = grad.f_sum_dim_intlist(&[1][..], false, wide)?.f_to_kind(grad.f_kind()?)?;
                sum.f_reshape([batch, kv_heads, keys, dim])
            }
        }
    }
}
