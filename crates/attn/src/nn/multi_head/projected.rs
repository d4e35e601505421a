//! Multi-head attention in three steps, so that projected keys and values can be kept between calls.

use attn_core::AttentionError;
use burn::tensor::Tensor;

use super::{MultiHeadAttention, MultiHeadAttentionOutput, Projected};
use crate::attention::{check_devices, check_dtypes};
use crate::nn::AttentionOptions;

impl MultiHeadAttention {
    /// The heads of `query` `[B, Sq, d_query]`: `[B, H, Sq, D]`, normalised where the layer does so, not yet turned by their positions.
    ///
    /// # Errors
    /// Names `query` or a parameter whose shape, type or device does not fit.
    pub fn project_query(&self, query: Tensor<3>) -> Result<Tensor<4>, AttentionError> {
        self.check_parameters()?;
        self.check_query(&query)?;
        Ok(self.query_heads(query))
    }

    /// The heads of `key` `[B, Sk, d_key]` and `value` `[B, Sk, d_value]`: `[B, G, Sk, D]`, normalised where the layer does so, not yet
    /// turned by their positions, and `[B, G, Sk, E]`.
    ///
    /// # Errors
    /// Names `key`, `value` or a parameter whose shape, type or device does not fit.
    pub fn project_key_value(
        &self,
        key: Tensor<3>,
        value: Tensor<3>,
    ) -> Result<(Tensor<4>, Tensor<4>), AttentionError> {
        self.check_parameters()?;
        self.check_key_value(&key, &value, key.dims()[0])?;
        Ok(self.key_value_heads(key, Some(value)))
    }

    /// Attends from `query` `[B, H, Sq, D]` to `key` `[B, G, Sk, D]` and `value` `[B, G, Sk, E]`, and projects out.
    ///
    /// With what [`project_query`](Self::project_query) and [`project_key_value`](Self::project_key_value) give this is
    /// [`forward`](Self::forward). Keys and values may come from earlier calls, too: with the default alignment the last query
    /// stands at the last key. Rotary positions turn all keys in each call, since some scalings depend on how long the sequence has
    /// become; that reads and writes the keys once more.
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
        let sizes = [batch, query_len, key_len];
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
        self.check_call(options, sizes)?;
        let [of_query, of_key] = options.positions_of(query_len, key_len);
        let options = self.with_own(options, [&of_query, &of_key], sizes)?;
        let grown = of_query.end(query_len).max(of_key.end(key_len));
        let (query, key) = (self.rotated(query, &of_query, grown)?, self.rotated(key, &of_key, grown)?);
        self.attend(Projected { query, key, value, options })
    }

    /// Shapes of projected query, key and value.
    pub(in crate::nn) fn shapes(&self, batch: usize, query_len: usize, key_len: usize) -> [[usize; 4]; 3] {
        [
            [batch, self.heads, query_len, self.head_dim],
            [batch, self.kv_heads, key_len, self.head_dim],
            [batch, self.kv_heads, key_len, self.value_dim],
        ]
    }

    /// The parameters, and the options of a call of these sizes: batch, query length, key length.
    pub(in crate::nn) fn check_call(
        &self,
        options: &AttentionOptions,
        sizes: [usize; 3],
    ) -> Result<(), AttentionError> {
        self.check_parameters()?;
        self.check_options(options, sizes)
    }
}
