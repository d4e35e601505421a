//! Feeding a decoder its own tokens while training.

use attn_core::AttentionError;
use burn::config::Config;
use burn::tensor::{Distribution, Int, Tensor};

use super::decoder::{AttendingDecoder, AttendingState, stacked};
use crate::nn::check;

/// How often, while training, a decoder gets its own token in place of the true one (Bengio et al. 2015). Raise the
/// probability as training goes on; at 0 it is teacher forcing.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct ScheduledSampling {
    /// Probability of the own token, drawn for each row and step; in `[0, 1]`.
    pub probability: f64,
    /// Whether the own token is drawn from the decoder's distribution; otherwise it is the most probable one.
    #[config(default = true)]
    pub sample: bool,
}

/// What a target run gives under [`ScheduledSampling`].
#[derive(Debug, Clone)]
pub struct SampledOutput {
    /// `[batch, target_len, vocabulary]`.
    pub logits: Tensor<3>,
    /// The tokens that went in, `[batch, target_len]`.
    pub fed: Tensor<2, Int>,
    /// The alignment, `[batch, target_len, memory_len]`; there if the state asks for weights.
    pub weights: Option<Tensor<3>>,
}

impl AttendingDecoder {
    /// Runs a target of `tokens` `[batch, target_len]`, the true ones one step late, in some places replaced by the
    /// decoder's own.
    ///
    /// ```text
    /// fed_0 = tokens_0       fed_t = own(logits_{t−1}) with the probability, else tokens_t
    /// logits_t = project(step(embed(fed_t)))
    /// ```
    ///
    /// `embed` turns tokens `[batch, steps]` into `[batch, steps, d_input]`, `project` outputs `[batch, steps, d_out]`
    /// into logits `[batch, steps, vocabulary]`. The choice of a token has no gradient. Draws follow the device's seed.
    ///
    /// # Errors
    /// Names `probability`, or `input` or `logits` where what the functions give does not fit.
    pub fn forward_sampled(
        &self,
        tokens: Tensor<2, Int>,
        embed: impl Fn(Tensor<2, Int>) -> Tensor<3>,
        project: impl Fn(Tensor<3>) -> Tensor<3>,
        sampling: &ScheduledSampling,
        state: &mut AttendingState,
    ) -> Result<SampledOutput, AttentionError> {
        let [batch, length] = tokens.dims();
        if !(0.0..=1.0).contains(&sampling.probability) {
            return Err(AttentionError::value("probability", "a probability in [0, 1]", sampling.probability));
        }
        if sampling.probability == 0.0 || batch * length == 0 {
            let output = self.forward(embed(tokens.clone()), state)?;
            let logits = checked(project(output.out), [batch, length])?;
            return Ok(SampledOutput { logits, fed: tokens, weights: output.weights });
        }
        let mut next = state.clone();
        let (mut logits, mut fed, mut weights): (Vec<Tensor<3>>, Vec<_>, Vec<_>) = (vec![], vec![], vec![]);
        for at in 0..length {
            let given = tokens.clone().narrow(1, at, 1);
            let token = match logits.last() {
                Some(last) => chosen(given, last.clone(), sampling),
                None => given,
            };
            let input = embed(token.clone());
            self.check_call(&input, &next)?;
            if input.dims()[1] != 1 {
                return Err(AttentionError::shape("input", "[batch, 1, d_input] of one token a row", &input.dims()));
            }
            let made = self.advance(input.reshape([batch, self.d_input()]), &mut next)?;
            logits.push(checked(project(made.out.reshape([batch, 1, self.d_out()])), [batch, 1])?);
            fed.push(token);
            weights.extend(made.weights);
        }
        *state = next;
        let weights = (!weights.is_empty()).then(|| stacked(weights));
        Ok(SampledOutput { logits: Tensor::cat(logits, 1), fed: Tensor::cat(fed, 1), weights })
    }
}

/// The true tokens `[batch, 1]`, or by chance the own ones of the logits `[batch, 1, vocabulary]`.
fn chosen(given: Tensor<2, Int>, logits: Tensor<3>, sampling: &ScheduledSampling) -> Tensor<2, Int> {
    let (tracked, dtype) = (given.is_autodiff(), given.dtype());
    let (given, mut logits) = (given.inner(), logits.inner());
    let [batch, _, _] = logits.dims();
    if sampling.sample {
        // The greatest of logits with Gumbel noise is a draw from their softmax.
        let uniform = logits.random_like(Distribution::Uniform(0.0, 1.0));
        logits = logits - uniform.log().neg().log();
    }
    let own = logits.argmax(2).reshape([batch, 1]);
    let own = if own.dtype() == dtype { own } else { own.cast(burn::tensor::IntDType::from(dtype)) };
    let coin = Tensor::<2>::random([batch, 1], Distribution::Uniform(0.0, 1.0), &given.device());
    let token = given.mask_where(coin.lower_scalar(sampling.probability), own);
    if tracked { token.autodiff() } else { token }
}

/// Logits of these steps, of a vocabulary that is not empty.
fn checked(logits: Tensor<3>, [batch, length]: [usize; 2]) -> Result<Tensor<3>, AttentionError> {
    let [found_batch, found_length, vocabulary] = logits.dims();
    if [found_batch, found_length] != [batch, length] {
        let expected = format!("[{batch}, {length}, vocabulary]");
        return Err(AttentionError::shape("logits", expected, &logits.dims()));
    }
    check::positive("logits", vocabulary)?;
    Ok(logits)
}
