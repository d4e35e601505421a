//! How words look at digits: softly, hard, or not at all.

use attn::AttentionError;
use attn::nn::{
    AttentionOptions, GumbelAttention, GumbelAttentionConfig, MultiHeadAttention, MultiHeadAttentionConfig,
};
use burn::config::Config;
use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Tensor};

use crate::read;

/// How words look at digits.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Looks {
    /// Every head takes the mean of all digits, by softmax.
    Soft,
    /// Every head takes one digit and nothing of the others.
    Hard,
    /// Not at all.
    Blind,
}

impl Looks {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft attention",
            Self::Hard => "hard attention",
            Self::Blind => "blind model",
        }
    }

    /// The folder of its checkpoint.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
            Self::Blind => "blind",
        }
    }
}

/// Cross-attention from words to digits.
///
/// Soft, it is multi-head attention. Hard, the same projections lie around a Gumbel-softmax with straight-through gradients (Jang et al.
/// 2017): each head takes one digit, drawn while learning and the best one afterwards. Each head has a sink (Xiao et al. 2024), a logit
/// that takes weight and gives nothing, so that a word may look at no digit: of "is there a three" that is half the answer.
#[derive(Module, Debug)]
pub struct Look {
    norm: LayerNorm,
    attention: MultiHeadAttention,
    gumbel: Option<GumbelAttention>,
}

impl Look {
    /// Makes one; none for the blind.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(looks: Looks, d_model: usize, heads: usize, device: &Device) -> Result<Option<Self>, AttentionError> {
        let gumbel = match looks {
            Looks::Blind => return Ok(None),
            Looks::Soft => None,
            Looks::Hard => Some(GumbelAttentionConfig::new().init()?),
        };
        let attention =
            MultiHeadAttentionConfig::new(d_model, heads).with_sinks(Some(Initializer::Zeros)).init(device)?;
        Ok(Some(Self { norm: LayerNormConfig::new(d_model).init(device), attention, gumbel }))
    }

    /// What words `[batch, length, d_model]` see of digits `[batch, places, d_model]`, and the weights
    /// `[batch, heads, length, places]`, if they are wanted; hard, they are 1 for the digit that is chosen and 0 for the others.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn forward(
        &self,
        words: Tensor<3>,
        digits: Tensor<3>,
        options: &AttentionOptions,
    ) -> Result<(Tensor<3>, Option<Tensor<4>>), AttentionError> {
        let (query, [batch, length, d_model], [_, places, _]) =
            (self.norm.forward(words.clone()), words.dims(), digits.dims());
        let Some(gumbel) = &self.gumbel else {
            let output = self.attention.cross_attention(query, digits, options)?;
            return Ok((output.out, output.weights));
        };
        let query = self.attention.project_query(query)?;
        let (key, value) = self.attention.project_key_value(digits.clone(), digits)?;
        let sinks = self.attention.sinks.as_ref().map(Param::val);
        let options = sinks.map_or(options.clone(), |sinks| options.clone().sinks(sinks));
        let output = gumbel.forward(query, key, value, &options)?;
        let chosen = output.weights.map(|_| read::chosen(output.indices, places));
        let joined = output.out.swap_dims(1, 2).reshape([batch, length, d_model]);
        Ok((self.attention.output.forward(joined), chosen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn::{Mask, Selection};
    use burn::tensor::Distribution;

    #[test]
    fn a_hard_look_takes_one_digit_a_head_or_none_and_the_best_of_the_soft_one() {
        let device = Device::default();
        let hard = Look::init(Looks::Hard, 8, 2, &device).unwrap().unwrap().valid();
        let soft = Look { gumbel: None, ..hard.clone() };
        let [words, digits] = [3, 4].map(|length| Tensor::random([2, length, 8], Distribution::Default, &device));
        let keep = Tensor::from_data([[true, true, true, false], [true, true, true, true]], &device);
        let options = AttentionOptions::new().key_padding(Mask::keep(keep)).with_weights(Selection::all());
        let weights = |look: &Look| {
            let (_, weights) = look.forward(words.clone(), digits.clone(), &options).unwrap();
            weights.unwrap().into_data().iter::<f64>().collect::<Vec<f64>>()
        };
        for (hard, soft) in weights(&hard).chunks(4).zip(weights(&soft).chunks(4)) {
            let sink = 1.0 - soft.iter().sum::<f64>();
            let most = soft.iter().fold(sink, |most, &weight| most.max(weight));
            let best: Vec<f64> = soft.iter().map(|&weight| f64::from(weight == most)).collect();
            assert_eq!(hard, best, "{soft:?}");
        }
    }
}
