//! How names and layouts in a file become those of a module.

use burn::store::burn_pack::Tensor as PackTensor;
use burn::store::{FloatCastAdapter, IdentityAdapter, ModuleAdapter, PyTorchToBurnAdapter};
use burn::tensor::{Bytes, DType, Shape};
use regex::Regex;

use super::{LoadError, one_line};

/// How names and layouts in a file become those of a module.
///
/// Names are the paths of fields, joined by dots: `layers.0.attention.query.weight`. Rules are regular expressions and apply in
/// order, each to what the one before made; `$1` in a replacement is the first group.
#[derive(Debug, Clone)]
pub struct Mapping {
    splits: Vec<(Regex, Vec<String>)>,
    rules: Vec<(Regex, String)>,
    ignored: Vec<Regex>,
    pytorch: bool,
}

impl Mapping {
    /// For files that PyTorch models were saved to: weights of linear layers lie as `[d_out, d_in]` and are transposed; layer norms
    /// may call their parameters `weight` and `bias`.
    pub fn pytorch() -> Self {
        Self { splits: Vec::new(), rules: Vec::new(), ignored: Vec::new(), pytorch: true }
    }

    /// For files that Burn wrote: everything lies as the module holds it.
    pub fn burn() -> Self {
        Self { pytorch: false, ..Self::pytorch() }
    }

    /// For one `torch.nn.MultiheadAttention`, into a [`MultiHeadAttention`](crate::nn::MultiHeadAttention); whether its three projections
    /// are one tensor (`in_proj_weight`) or, with widths of their own, three. Its `bias_k` and `bias_v` have no place and are named.
    ///
    /// # Errors
    /// As [`rename`](Self::rename), of which it is made.
    pub fn torch_attention() -> Result<Self, LoadError> {
        Self::torch(&[])
    }

    /// For a `torch.nn.TransformerEncoderLayer`, into a [`TransformerEncoderLayer`](crate::nn::TransformerEncoderLayer), or for a
    /// `TransformerEncoder` of them, into a [`TransformerEncoder`](crate::nn::TransformerEncoder).
    ///
    /// # Errors
    /// As [`rename`](Self::rename), of which it is made.
    pub fn torch_encoder() -> Result<Self, LoadError> {
        Self::torch(&[("norm1", "attention_norm"), ("norm2", "feed_forward_norm")])
    }

    /// For a `torch.nn.TransformerDecoderLayer`, into a [`TransformerDecoderLayer`](crate::nn::TransformerDecoderLayer), or for a
    /// `TransformerDecoder` of them, into a [`TransformerDecoder`](crate::nn::TransformerDecoder).
    ///
    /// # Errors
    /// As [`rename`](Self::rename), of which it is made.
    pub fn torch_decoder() -> Result<Self, LoadError> {
        Self::torch(&[("norm1", "attention_norm"), ("norm2", "cross_attention_norm"), ("norm3", "feed_forward_norm")])
    }

    /// PyTorch's names of an attention and of what stands around it in a transformer's layer.
    fn torch(norms: &[(&str, &str)]) -> Result<Self, LoadError> {
        let names = [
            (r"(^|\.)([qkv])_proj_weight$", "${1}${2}_projection.weight"),
            (r"(^|\.)q_projection\.", "${1}query."),
            (r"(^|\.)k_projection\.", "${1}key."),
            (r"(^|\.)v_projection\.", "${1}value."),
            (r"(^|\.)out_proj\.", "${1}output."),
            (r"(^|\.)self_attn\.", "${1}attention."),
            (r"(^|\.)multihead_attn\.", "${1}cross_attention."),
            (r"(^|\.)linear1\.", "${1}linear_inner."),
            (r"(^|\.)linear2\.", "${1}linear_outer."),
        ];
        let fused = ["${1}query.$2", "${1}key.$2", "${1}value.$2"];
        let split = Self::pytorch().split(r"(^|.*\.)in_proj_(weight|bias)$", &fused)?;
        let named = names.iter().try_fold(split, |mapping, (old, new)| mapping.rename(old, new))?;
        norms
            .iter()
            .try_fold(named, |mapping, (old, new)| mapping.rename(&format!(r"(^|\.){old}\."), &format!("${{1}}{new}.")))
    }

    /// Cuts each tensor whose name matches `pattern` into as many equal parts along its first axis as there are `names`, before any
    /// [`rename`](Self::rename): projections that a file holds as one, `[query; key; value]`. `$1` in a name is the first group; the
    /// first pattern that matches counts.
    ///
    /// # Errors
    /// As [`rename`](Self::rename).
    pub fn split(mut self, pattern: &str, names: &[&str]) -> Result<Self, LoadError> {
        self.splits.push((compile(pattern)?, names.iter().map(ToString::to_string).collect()));
        Ok(self)
    }

    /// Replaces every match of `pattern` in a name.
    ///
    /// # Errors
    /// [`LoadError::Pattern`] if it is not a regular expression.
    pub fn rename(mut self, pattern: &str, replacement: &str) -> Result<Self, LoadError> {
        self.rules.push((compile(pattern)?, replacement.to_string()));
        Ok(self)
    }

    /// Passes over the tensors of the file whose own names match: they need no place in the module.
    ///
    /// # Errors
    /// As [`rename`](Self::rename).
    pub fn ignore(mut self, pattern: &str) -> Result<Self, LoadError> {
        self.ignored.push(compile(pattern)?);
        Ok(self)
    }

    pub(super) fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|rule| rule.is_match(name))
    }

    pub(super) fn rules(&self) -> &[(Regex, String)] {
        &self.rules
    }

    /// The parts into which a tensor is cut; the tensor itself where no pattern matches.
    pub(super) fn parts(&self, tensor: &PackTensor) -> Result<Vec<PackTensor>, String> {
        let Some((pattern, names)) = self.splits.iter().find(|(pattern, _)| pattern.is_match(&tensor.name)) else {
            return Ok(vec![tensor.clone()]);
        };
        let mut shape = tensor.shape.to_vec();
        let rows = shape.first().copied().unwrap_or(0);
        if names.is_empty() || rows == 0 || rows % names.len() != 0 {
            let expected = format!("expected {} equal parts along the first axis", names.len());
            return Err(format!("{expected}, found shape {shape:?}"));
        }
        let bytes = tensor.clone().into_bytes().map_err(|error| one_line(&error.to_string()))?;
        let length = bytes.len() / names.len();
        shape[0] = rows / names.len();
        let part = |(at, name): (usize, &String)| {
            let name = pattern.replace(&tensor.name, name.as_str()).into_owned();
            let bytes = Bytes::from_bytes_vec(bytes[at * length..(at + 1) * length].to_vec());
            PackTensor::new(name, tensor.dtype, Shape::from(shape.clone()), None, bytes)
        };
        Ok(names.iter().enumerate().map(part).collect())
    }

    pub(super) fn adapter(&self, dtype: Option<DType>) -> Box<dyn ModuleAdapter> {
        let cast = dtype.map(FloatCastAdapter::to);
        match (self.pytorch, cast) {
            (true, Some(cast)) => Box::new(PyTorchToBurnAdapter.chain(cast)),
            (true, None) => Box::new(PyTorchToBurnAdapter),
            (false, Some(cast)) => Box::new(cast),
            (false, None) => Box::new(IdentityAdapter),
        }
    }
}

fn compile(pattern: &str) -> Result<Regex, LoadError> {
    Regex::new(pattern)
        .map_err(|error| LoadError::Pattern { pattern: pattern.to_string(), reason: one_line(&error.to_string()) })
}
