//! Multi-head attention in three steps, so that projected keys and values can be kept between calls.

use attn_core::{AttentionError, TensorInfo};
use burn::nn::Linear;
use burn::tensor::Tensor;

use super::{MultiHeadAttention, MultiHeadAttentionOutput, project};
use crate::attention::{check_devices, check_dtypes};
use crate::nn::AttentionOptions;
use crate::nn::check;

impl MultiHeadAttention {
    /// The heads of `query` `[B, Sq, d_query]`: `[B, H, Sq, D]`.
    ///
    /// # Errors
    /// Names `query` or a weight whose shape, type or device does not fit.
    pub fn project_query(&self, query: Tensor<3>) -> Result<Tensor<4>, AttentionError> {
        checked("query", "query.weight", &self.query, &query, self.heads * self.head_dim)?;
        Ok(heads_of(&self.query, query, self.heads, self.head_dim))
    }

    /// The heads of `key` `[B, Sk, d_key]` and `value` `[B, Sk, d_value]`: `[B, G, Sk, D]` and `[B, G, Sk, E]`.
    ///
    /// # Errors
    /// Names `key`, `value` or a weight whose shape, type or device does not fit.
    pub fn project_key_value(
        &self,
        key: Tensor<3>,
        value: Tensor<3>,
    ) -> Result<(Tensor<4>, Tensor<4>), AttentionError> {
        let (g, d, e) = (self.kv_heads, self.head_dim, self.value_dim);
        let [batch, length] = checked("key", "key.weight", &self.key, &key, g * d)?;
        let found = checked("value", "value.weight", &self.value, &value, g * e)?;
        if found != [batch, length] {
            let expected = format!("[{batch}, {length}, _] (batch, key_len, features)");
            return Err(AttentionError::shape("value", expected, &value.dims()));
        }
        Ok((heads_of(&self.key, key, g, d), heads_of(&self.value, value, g, e)))
    }

    /// Attends from `query` `[B, H, Sq, D]` to `key` `[B, G, Sk, D]` and `value` `[B, G, Sk, E]`, and projects out.
    ///
    /// With what [`project_query`](Self::project_query) and [`project_key_value`](Self::project_key_value) give this is
    /// [`forward`](Self::forward). Keys and values may come from earlier calls, too: with the default alignment the
    /// last query stands at the last key.
    ///
    /// # Errors
    /// Names the tensor or option at fault, before any work starts.
    pub fn attend_projected(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        options: &AttentionOptions,
    ) -> Result<MultiHeadAttentionOutput, AttentionError> {
        let ([batch, _, query_len, _], [_, _, key_len, _]) = (query.dims(), key.dims());
        let [of_query, of_key, of_value] = self.shapes(batch, query_len, key_len);
        let weight = self.output.weight.val();
        for (argument, tensor, wanted) in
            [("query", &query, of_query), ("key", &key, of_key), ("value", &value, of_value)]
        {
            if tensor.dims() != wanted {
                let expected = format!("{wanted:?} (batch, heads, length, features)");
                return Err(AttentionError::shape(argument, expected, &tensor.dims()));
            }
            check_devices(&weight.device(), &[(argument, Some(tensor.device()))])?;
            check_dtypes(argument, weight.dtype(), &[(argument, tensor.dtype())])?;
        }
        self.check_options(batch, query_len, key_len, options)?;
        self.attend_heads(query, key, value, options)
    }

    /// Shapes of projected query, key and value.
    pub(in crate::nn) fn shapes(&self, batch: usize, query_len: usize, key_len: usize) -> [[usize; 4]; 3] {
        [
            [batch, self.heads, query_len, self.head_dim],
            [batch, self.kv_heads, key_len, self.head_dim],
            [batch, self.kv_heads, key_len, self.value_dim],
        ]
    }

    /// The output's weight and the options against a call of these sizes.
    pub(in crate::nn) fn check_options(
        &self,
        batch: usize,
        query_len: usize,
        key_len: usize,
        options: &AttentionOptions,
    ) -> Result<(), AttentionError> {
        check::linear("output.weight", &self.output, Some(self.heads * self.value_dim), None)?;
        let weight = self.output.weight.val();
        let [query, key, value] = self
            .shapes(batch, query_len, key_len)
            .map(|shape| TensorInfo { shape: shape.to_vec(), dtype: weight.dtype() });
        options.check(&weight.device(), query, key, value)
    }
}

/// Batch and length of an input that fits a projection onto `d_output` features.
fn checked(
    argument: &'static str,
    weight: &'static str,
    linear: &Linear,
    input: &Tensor<3>,
    d_output: usize,
) -> Result<[usize; 2], AttentionError> {
    let [features, _] = check::linear(weight, linear, None, Some(d_output))?;
    check::sequence(argument, input, features, &linear.weight.val())
}

/// `[B, S, features]` projected and viewed as heads, `[B, heads, S, dim]`.
fn heads_of(linear: &Linear, input: Tensor<3>, heads: usize, dim: usize) -> Tensor<4> {
    let [batch, length, _] = input.dims();
    project(linear, input).reshape([batch, length, heads, dim]).swap_dims(1, 2)
}
