//! LibTorch's fused kernels, called for one part of a problem.
//!
//! | device | forward | backward |
//! | --- | --- | --- |
//! | CPU | `_scaled_dot_product_flash_attention_for_cpu`, which gives the LSE too | its `_backward` |
//! | CUDA, no LSE | `scaled_dot_product_attention`, which picks the fastest that serves | – |
//! | CUDA, with LSE | `_scaled_dot_product_efficient_attention` | – |
//!
//! What they mean by their arguments, against the contract: a mask is added (−∞ hides); causal counts from the top left; the last
//! axis must be contiguous, any other stride is served; query, key and value have one head dimension; a row that sees nothing gives
//! output 0 and the LSE 0 in place of −∞; a hidden value of NaN makes the output NaN.

use tch::{Device, Kind, TchError, Tensor};

use crate::heads::Heads;
use crate::mask;

/// One call. Shapes with the axes B batch, H heads, G key/value heads, S rows, K keys, D head dimension.
pub struct Call<'a> {
    /// `[B, H, S, D]`.
    pub query: &'a Tensor,
    /// `[B, G, K, D]`.
    pub key: &'a Tensor,
    /// `[B, G, K, D]`.
    pub value: &'a Tensor,
    /// `[1 or B, 1 or H, 1 or S, 1 or K]`, added to the scores.
    pub added: Option<&'a Tensor>,
    /// Row `r` sees the first `r + 1` keys.
    pub causal: bool,
    /// Factor of `q·k`.
    pub scale: f64,
    /// How the heads are handed over.
    pub heads: Heads,
}

/// A call's tensors as the kernels take them.
struct Operands {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    added: Option<Tensor>,
}

impl Call<'_> {
    fn operands(&self) -> Result<Operands, TchError> {
        let (_, heads, _, _) = self.query.size4()?;
        Ok(Operands {
            query: rows(self.heads.of_query(self.query)?)?,
            key: rows(self.heads.of_key(self.key, heads)?)?,
            value: rows(self.heads.of_key(self.value, heads)?)?,
            added: self.added.map(|added| self.heads.of_mask(added)).transpose()?,
        })
    }

    /// The output `[B, H, S, D]` and, if wanted, the LSE `[B, H, S]`.
    pub fn forward(&self, lse: bool) -> Result<(Tensor, Option<Tensor>), TchError> {
        let (batch, heads, rows, _) = self.query.size4()?;
        let operands = self.operands()?;
        let (out, found) = match (self.query.device(), lse) {
            (Device::Cpu, _) => self.cpu(&operands).map(|(out, lse)| (out, Some(lse)))?,
            (_, false) => (self.picked(&operands)?, None),
            (_, true) => self.efficient(&operands, rows).map(|(out, lse)| (out, Some(lse)))?,
        };
        let out = self.heads.query_of(out, batch, heads)?;
        let Some(found) = found.filter(|_| lse) else { return Ok((out, None)) };
        let mut found = self.heads.lse_of(found, batch, heads)?;
        if let Some(added) = self.added {
            let (_, _, keys, _) = self.key.size4()?;
            let blind = mask::blind(added, self.causal, rows, keys)?;
            found = found.f_masked_fill(&blind, f64::NEG_INFINITY)?;
        }
        Ok((out, Some(found)))
    }

    fn cpu(&self, operands: &Operands) -> Result<(Tensor, Tensor), TchError> {
        let Operands { query, key, value, added } = operands;
        Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu(
            query,
            key,
            value,
            0.0,
            self.causal,
            added.as_ref(),
            self.scale,
        )
    }

    fn picked(&self, operands: &Operands) -> Result<Tensor, TchError> {
        let Operands { query, key, value, added } = operands;
        Tensor::f_scaled_dot_product_attention(query, key, value, added.as_ref(), 0.0, self.causal, self.scale, false)
    }

    fn efficient(&self, operands: &Operands, rows: i64) -> Result<(Tensor, Tensor), TchError> {
        let Operands { query, key, value, added } = operands;
        let (out, lse, _, _) = Tensor::f_internal_scaled_dot_product_efficient_attention(
            query,
            key,
            value,
            added.as_ref(),
            true,
            0.0,
            self.causal,
            self.scale,
        )?;
        // The kernel rounds the rows up to whole tiles.
        let lse = lse.f_narrow(2, 0, if matches!(self.heads, Heads::Rows { .. }) { query.size4()?.2 } else { rows })?;
        Ok((out, lse))
    }

    /// The gradients by query `[B, H, S, D]`, key and value `[B, G, K, D]`, given the whole problem's output, LSE (finite) and
    /// gradient of the output, each for these rows. CPU alone.
    pub fn backward(&self, grad_out: &Tensor, out: &Tensor, lse: &Tensor) -> Result<[Tensor; 3], TchError> {
        let (batch, heads, _, _) = self.query.size4()?;
        let Operands { query, key, value, added } = self.operands()?;
        let (by_query, by_key, by_value) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
            &rows(self.heads.of_query(grad_out)?)?,
            &query,
            &key,
            &value,
            &rows(self.heads.of_query(out)?)?,
            &self.heads.of_lse(lse)?,
            0.0,
            self.causal,
            added.as_ref(),
            self.scale,
        )?;
        let wide = lse.f_kind()?;
        Ok([
            self.heads.query_of(by_query, batch, heads)?,
            self.heads.key_gradient(by_key, batch, wide)?,
            self.heads.key_gradient(by_value, batch, wide)?,
        ])
    }
}

/// A tensor whose last axis is contiguous, copied only if it is not.
fn rows(tensor: Tensor) -> Result<Tensor, TchError> {
    match (tensor.size().last(), tensor.stride().last()) {
        (Some(&length), Some(&stride)) if length > 1 && stride != 1 => tensor.f_contiguous(),
        _ => Ok(tensor),
    }
}

/// Whether a tensor holds neither NaN nor infinity. A finite sum says so; a sum of large numbers may say no for nothing, which costs
/// time and changes no answer.
pub fn is_finite(tensor: &Tensor) -> Result<bool, TchError> {
    let wide = if tensor.f_kind()? == Kind::Double { Kind::Double } else { Kind::Float };
    Ok(tensor.f_sum(wide)?.f_double_value(&[])?.is_finite())
}
