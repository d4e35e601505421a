//! The recommender: attention whose values are probabilities, so that what it gives is one, too.

use attn::nn::{DistanceRule, RelativeBias, RelativeBiasConfig, alibi_slopes};
use attn::{Attention, AttentionError, Selection};
use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, activation};

/// Sizes of a [`Recommender`].
#[derive(Config, Debug)]
pub struct RecommenderConfig {
    /// Items there are.
    pub items: usize,
    /// The longest session.
    pub length: usize,
    /// Whether a head has a number for each age, in place of one slope.
    pub table: bool,
    /// Heads: as many reasons as are told apart.
    #[config(default = 2)]
    pub heads: usize,
    /// Features of an item.
    #[config(default = 48)]
    pub d_model: usize,
    /// Features of a head's queries and keys.
    #[config(default = 8)]
    pub head_dim: usize,
}

impl RecommenderConfig {
    /// Makes the model. Slopes begin far apart, so that the heads take to different habits: as the steepest and the flattest of ALiBi's
    /// eight heads, 1/2 and 1/256, and those between; a table begins with their lines.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<Recommender, AttentionError> {
        let (d_model, heads) = (self.d_model, self.heads);
        let slopes: Vec<f32> = begin(heads).into_iter().map(|slope| slope as f32).collect();
        let slopes = Tensor::<1>::from_data(slopes.as_slice(), device);
        let recency = if self.table {
            let rule = DistanceRule::Clipped { max_distance: self.length };
            let mut table = RelativeBiasConfig::new(heads, rule).init(device)?;
            // A row for each distance from −length to length.
            let ages =
                Tensor::<1, Int>::arange(0..rule.rows() as i64, device).float().sub_scalar(self.length as f64).abs();
            table.weight = Param::from_tensor((ages.unsqueeze_dim::<2>(1) * slopes.unsqueeze()).neg());
            Recency::Table(table)
        } else {
            Recency::Slopes(Param::from_tensor(slopes))
        };
        Ok(Recommender {
            items: EmbeddingConfig::new(self.items, d_model).init(device),
            query: LinearConfig::new(d_model, heads * self.head_dim).init(device),
            key: LinearConfig::new(d_model, heads * self.head_dim).init(device),
            followers: LinearConfig::new(d_model, heads * self.items).init(device),
            shares: Param::from_tensor(Tensor::zeros([heads], device)),
            recency,
        })
    }
}

/// The slopes of some heads at first, of ALiBi's sequence for at least eight, spread over all of it.
fn begin(heads: usize) -> Vec<f64> {
    let all = alibi_slopes(heads.max(8));
    (0..heads).map(|head| all[head * (all.len() - 1) / (heads - 1).max(1)]).collect()
}

/// Past items to the probability of the next: a mixture of transitions (Raftery 1985) whose weights are attention's.
///
/// ```text
/// e = embedding of each item                             q, k = W_q · e + b_q, W_k · e + b_k
/// followers_h(i) = softmax over items of (W_h · e_i + b_h)        what comes after item i, in the eyes of head h
/// weights_h(t, i) = softmax over i ≤ t of (q_t · k_i / √D + bias_h(t − i))
/// bias_h(age) = −slope_h · age, a learned slope (ALiBi, Press et al. 2022), or a table of learned numbers
/// P(next) = Σ_h softmax(shares)_h · Σ_i weights_h(t, i) · followers_h(i)
/// ```
/// The inner sum is attention with probabilities for values.
#[derive(Module, Debug)]
pub struct Recommender {
    items: Embedding,
    query: Linear,
    key: Linear,
    followers: Linear,
    shares: Param<Tensor<1>>,
    recency: Recency,
}

/// What makes older items count for less.
#[derive(Module, Debug)]
pub enum Recency {
    /// A slope a head, `[heads]`.
    Slopes(Param<Tensor<1>>),
    /// A number a head for each age.
    Table(RelativeBias),
}

/// What the model says of some sessions.
#[derive(Debug, Clone)]
pub struct Read {
    /// `[batch, length, items]`: how probable each item is after the past up to each place.
    pub probabilities: Tensor<3>,
    /// `[batch, heads, length, length]`: what each head read there.
    pub weights: Option<Tensor<4>>,
}

impl Recommender {
    /// `[batch, length]` of items to the probabilities of the next, with the weights if they are asked for.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn read(&self, sessions: Tensor<2, Int>, with_weights: bool) -> Result<Read, AttentionError> {
        let ([batch, length], [heads]) = (sessions.dims(), self.shares.dims());
        let hidden = self.items.forward(sessions);
        let split = |features: Tensor<3>| {
            let [_, _, all] = features.dims();
            features.reshape([batch, length, heads, all / heads]).swap_dims(1, 2)
        };
        let (query, key) = (split(self.query.forward(hidden.clone())), split(self.key.forward(hidden.clone())));
        let followers = activation::softmax(split(self.followers.forward(hidden)), 3);

        let mut attention = Attention::new(query, key, followers).causal(true);
        attention = match &self.recency {
            Recency::Slopes(slopes) => attention.alibi_slopes(slopes.val()),
            Recency::Table(table) => attention.bias(table.forward(length, length, 0)?),
        };
        if with_weights {
            attention = attention.with_weights(Selection::all());
        }
        let output = attention.forward()?;
        let shares = activation::softmax(self.shares.val(), 0).reshape([1, heads, 1, 1]);
        Ok(Read { probabilities: (output.out * shares).sum_dim(1).squeeze_dim(1), weights: output.weights })
    }

    /// The mean surprise `−ln P(next)` of sessions `[batch, length + 1]`, over every item but the first.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn loss(&self, sessions: Tensor<2, Int>) -> Result<Tensor<1>, AttentionError> {
        let [batch, length] = sessions.dims();
        let next = sessions.clone().narrow(1, 1, length - 1).reshape([batch, length - 1, 1]);
        let read = self.read(sessions.narrow(1, 0, length - 1), false)?;
        Ok(read.probabilities.gather(2, next).clamp_min(1e-9).log().mean().neg())
    }

    /// How probable each head thinks each item to come after each, `[heads, items, items]`.
    pub fn followers(&self) -> Tensor<3> {
        let embeddings = self.items.weight.val();
        let ([items, _], [heads]) = (embeddings.dims(), self.shares.dims());
        let scores = self.followers.forward(embeddings).reshape([items, heads, items]);
        activation::softmax(scores.swap_dims(0, 1), 2)
    }

    /// The bias by age, `[heads, ages]`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn bias(&self, ages: usize) -> Result<Tensor<2>, AttentionError> {
        let [heads] = self.shares.dims();
        match &self.recency {
            Recency::Slopes(slopes) => {
                let slopes = slopes.val().reshape([heads, 1]);
                let ages = Tensor::<1, Int>::arange(0..ages as i64, &slopes.device()).float();
                Ok((slopes * ages.unsqueeze()).neg())
            }
            // The last query's row, its youngest key first.
            Recency::Table(table) => Ok(table.forward(1, ages, ages as i64 - 1)?.reshape([heads, ages]).flip([1])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, TensorData};

    fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
        tensor.into_data().iter::<f64>().collect()
    }

    fn sessions(values: &[i64], batch: usize) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(values.to_vec(), [batch, values.len() / batch]), &Device::default())
    }

    #[test]
    fn probabilities_sum_to_one_and_know_nothing_of_what_comes() {
        for table in [false, true] {
            let model = RecommenderConfig::new(7, 4, table).init(&Device::default()).unwrap();
            let read = model.read(sessions(&[1, 2, 3, 4, 1, 2, 6, 0], 2), true).unwrap();
            assert_eq!(read.weights.unwrap().dims(), [2, 2, 4, 4]);
            for sum in numbers(read.probabilities.clone().sum_dim(2)) {
                assert!((sum - 1.0).abs() < 1e-5, "{sum}");
            }
            // The two sessions are the same up to their second item.
            let found = numbers(read.probabilities);
            assert_eq!(found[..14], found[28..42]);
            assert_ne!(found[14..21], found[42..49]);
        }
    }

    #[test]
    fn the_loss_is_the_surprise_at_the_next_items() {
        let model = RecommenderConfig::new(7, 4, false).init(&Device::default()).unwrap();
        let found = numbers(model.read(sessions(&[1, 2], 1), false).unwrap().probabilities);
        let loss = numbers(model.loss(sessions(&[1, 2, 5], 1)).unwrap())[0];
        assert!((loss + (found[2].ln() + found[7 + 5].ln()) / 2.0).abs() < 1e-5);
    }

    #[test]
    fn the_bias_by_age_is_that_of_the_slopes_or_the_table() {
        let device = Device::default();
        let of_slopes = RecommenderConfig::new(7, 4, false).init(&device).unwrap();
        let expected =
            [0.5f64, 1.0 / 256.0].into_iter().flat_map(|slope| (0..3).map(move |age| -slope * f64::from(age)));
        for (found, expected) in numbers(of_slopes.bias(3).unwrap()).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6);
        }
        let mut of_table = RecommenderConfig::new(7, 4, true).init(&device).unwrap();
        assert_eq!(numbers(of_table.bias(3).unwrap()), numbers(of_slopes.bias(3).unwrap()), "the same at first");
        let Recency::Table(table) = &mut of_table.recency else { panic!("slopes in place of a table") };
        table.weight = Param::from_tensor(Tensor::random([9, 2], Distribution::Default, &device));
        let weight = numbers(table.weight.val());
        let found = numbers(of_table.bias(3).unwrap());
        // Row 4 of the table is distance 0, row 3 the key before.
        for (age, head) in (0..3).flat_map(|age| (0..2).map(move |head| (age, head))) {
            assert_eq!(found[head * 3 + age], weight[(4 - age) * 2 + head]);
        }
    }
}
