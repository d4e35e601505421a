//! Heads taken out of a layer.

use attn_core::AttentionError;
use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{Int, Tensor};

use super::MultiHeadAttention;

impl MultiHeadAttention {
    /// The layer without these query heads (Michel et al. 2019), smaller by what they take: their columns of `W_q` and `b_q`, their
    /// rows of `W_o`, their sinks, slopes and columns of a relative bias, and a key/value head once none of its query heads is left.
    /// Its output is that of this layer with those heads' outputs set to 0, as a [head mask](super::AttentionOptions::head_mask)
    /// does it. [`HeadImportance`](super::HeadImportance) says which to take.
    ///
    /// The kernels serve groups of one size: query head h reads key/value head `h / (H/G)`. So with grouped heads, whole groups may
    /// go, and as many heads from each group that stays. With H = G any heads may go, and with G = 1 too.
    ///
    /// Parameters are new ones, with the values of the old: an optimiser begins anew with them. What was frozen stays frozen; a
    /// reparameterised weight (LoRA) is pruned as the dense weight that it stands for. A config that makes a layer of the same shape,
    /// to load a record into, gives `heads`, `kv_heads`, `head_dim` and `value_dim`, and `alibi` by
    /// [`AlibiSlopes::Given`](crate::nn::AlibiSlopes::Given).
    ///
    /// # Errors
    /// A value error that names `heads`: one that is not there, all of them, or different numbers from groups that stay; or one that
    /// names a parameter that does not fit the layer.
    pub fn prune_heads(&self, heads: &[usize]) -> Result<Self, AttentionError> {
        self.check_parameters()?;
        let (kept, groups) = self.kept(heads)?;
        if kept.len() == self.heads {
            return Ok(self.clone());
        }
        let queries = features(&kept, self.head_dim);
        let keys = features(&groups, self.head_dim);
        let values = features(&groups, self.value_dim);
        let attended = features(&kept, self.value_dim);
        Ok(Self {
            query: outputs(&self.query, &queries),
            key: outputs(&self.key, &keys),
            value: self.value.as_ref().map(|value| outputs(value, &values)),
            output: Linear { weight: rows(&self.output.weight, 0, &attended), bias: self.output.bias.clone() },
            relative_bias: self.relative_bias.as_ref().map(|bias| bias.with_heads(|weight| rows(weight, 1, &kept))),
            sinks: self.sinks.as_ref().map(|sinks| rows(sinks, 0, &kept)),
            alibi: self.alibi.as_ref().map(|slopes| kept.iter().map(|&head| slopes[head]).collect()),
            heads: kept.len(),
            kv_heads: groups.len(),
            ..self.clone()
        })
    }

    /// The query heads and the key/value heads that stay, in their order.
    fn kept(&self, pruned: &[usize]) -> Result<(Vec<usize>, Vec<usize>), AttentionError> {
        if let Some(head) = pruned.iter().find(|head| **head >= self.heads) {
            return Err(AttentionError::value("heads", format!("heads below {}", self.heads), head));
        }
        let group = self.heads / self.kv_heads;
        let kept: Vec<usize> = (0..self.heads).filter(|head| !pruned.contains(head)).collect();
        let left = |kv_head: usize| kept.iter().filter(|&&head| head / group == kv_head).count();
        let groups: Vec<usize> = (0..self.kv_heads).filter(|&kv_head| left(kv_head) > 0).collect();
        let Some(&first) = groups.first() else {
            return Err(AttentionError::value("heads", "at least one head that stays", format!("{pruned:?}")));
        };
        match groups.iter().find(|&&kv_head| left(kv_head) != left(first)) {
            Some(&other) => {
                let found = format!("{} of group {first} and {} of group {other}", left(first), left(other));
                Err(AttentionError::value("heads", "as many heads left of each key/value head that stays", found))
            }
            None => Ok((kept, groups)),
        }
    }
}

/// The indices of heads of `dim` features, side by side.
fn features(heads: &[usize], dim: usize) -> Vec<usize> {
    heads.iter().flat_map(|head| head * dim..(head + 1) * dim).collect()
}

/// A projection to the chosen outputs alone.
fn outputs(linear: &Linear, chosen: &[usize]) -> Linear {
    Linear { weight: rows(&linear.weight, 1, chosen), bias: linear.bias.as_ref().map(|bias| rows(bias, 0, chosen)) }
}

/// A new parameter of the chosen indices of an axis, trained or frozen as the old.
fn rows<const N: usize>(param: &Param<Tensor<N>>, axis: usize, chosen: &[usize]) -> Param<Tensor<N>> {
    let chosen: Vec<i64> = chosen.iter().map(|&index| index as i64).collect();
    let mut made = param.clone().materialize().map(|tensor| {
        let chosen = Tensor::<1, Int>::from_data(chosen.as_slice(), &tensor.device().without_autodiff());
        let trained = tensor.is_require_grad();
        let made = tensor.select(axis, chosen).detach();
        if trained { made.require_grad() } else { made }
    });
    made.id = ParamId::new();
    made
}
