//! Generating sequences, token by token: greedy and beam search over any model that makes steps.
//!
//! A model is a [`StepModel`]: a first token and a state for each row of a batch, a step from tokens to
//! log-probabilities, and a reordering of rows. [`TransformerSteps`] makes one of a
//! [`TransformerDecoder`](super::TransformerDecoder) and its cache, [`RecurrentSteps`] of an
//! [`AttendingDecoder`](super::seq2seq::AttendingDecoder).
//!
//! ```
//! use attn::nn::generate::{BeamSearch, LengthPenalty, TransformerSteps};
//! use attn::nn::{TransformerDecoderConfig, TransformerDecoderLayerConfig};
//! use burn::nn::{EmbeddingConfig, LinearConfig};
//! use burn::tensor::Device;
//!
//! # fn main() -> Result<(), attn::AttentionError> {
//! let device = Device::default();
//! let layer = TransformerDecoderLayerConfig::new(16, 2, 32).with_cross_attention(false);
//! let decoder = TransformerDecoderConfig::new(layer, 2).init(&device)?;
//! let (tokens, positions) = (EmbeddingConfig::new(10, 16).init(&device), EmbeddingConfig::new(20, 16).init(&device));
//! let logits = LinearConfig::new(16, 10).init(&device);
//!
//! // Two sequences that begin with token 0; token 1 ends one.
//! let model = TransformerSteps::new(
//!     &decoder,
//!     decoder.cache(2)?,
//!     vec![0, 0],
//!     |ids, position| tokens.forward(ids) + positions.weight.val().narrow(0, position, 1).unsqueeze(),
//!     |hidden| logits.forward(hidden),
//! )?;
//! let search = BeamSearch::new(1, 12, 4).with_penalty(LengthPenalty::Wu { alpha: 0.6 }).with_hypotheses(2);
//! for best in search.run(&model)? {
//!     println!("{:?} {}", best[0].tokens, best[0].score);
//! }
//! # Ok(())
//! # }
//! ```

mod beam;
mod greedy;
mod steps;

use attn_core::AttentionError;
use burn::tensor::{FloatDType, Tensor, Transaction};

pub use beam::{BeamSearch, LengthPenalty};
pub use greedy::GreedySearch;
pub use steps::{RecurrentSteps, TransformerSteps};

/// A model that generates, for a batch of rows that know nothing of each other.
pub trait StepModel {
    /// What is known of every row: caches, recurrent states.
    type State;

    /// The first token of each row, which is not part of what is generated, and the state before it.
    ///
    /// # Errors
    /// What the model cannot do.
    fn start(&self) -> Result<(Vec<usize>, Self::State), AttentionError>;

    /// Takes a token a row and gives the log-probabilities of the next, `[rows, vocabulary]`: at most 0, −inf where
    /// impossible.
    ///
    /// # Errors
    /// What the model cannot do.
    fn step(&self, tokens: &[usize], state: Self::State) -> Result<(Tensor<2>, Self::State), AttentionError>;

    /// The state in which row `i` is what row `rows[i]` was; rows may be repeated and dropped.
    ///
    /// # Errors
    /// Names `rows` where one does not exist.
    fn reorder(&self, state: Self::State, rows: &[usize]) -> Result<Self::State, AttentionError>;
}

/// A generated sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// What was generated, the end token included where it came.
    pub tokens: Vec<usize>,
    /// The sum of the tokens' log-probabilities.
    pub log_prob: f64,
    /// `log_prob` after normalisation by length; without, the same.
    pub score: f64,
    /// Whether it ended by the end token, and not by its length.
    pub ended: bool,
}

/// The `count` most probable next tokens of each row with their log-probabilities, best first. This reads from the
/// device, once a step.
fn best(
    log_probs: Tensor<2>,
    rows: usize,
    count: usize,
    end_token: usize,
) -> Result<Vec<Vec<(usize, f64)>>, AttentionError> {
    let [found, vocabulary] = log_probs.dims();
    if found != rows || vocabulary == 0 {
        let expected = format!("[{rows}, vocabulary]");
        return Err(AttentionError::shape("log_probs", expected, &log_probs.dims()));
    }
    if end_token >= vocabulary {
        return Err(AttentionError::value("end_token", format!("a token below {vocabulary}"), end_token));
    }
    let log_probs = log_probs.inner();
    let count = count.min(vocabulary);
    let least = FloatDType::from(log_probs.dtype()).finfo().min;
    let (values, indices) = log_probs.clone().topk_with_indices(count, 1);
    let read = Transaction::default().register(values).register(indices).register(log_probs.is_nan().any());
    let failed = |reason: String| AttentionError::Execution { kernel: "log_probs".into(), reason };
    let data = read.try_execute().map_err(|error| failed(error.to_string()))?;
    let [values, indices, poisoned]: [_; 3] =
        data.try_into().map_err(|_| failed("fewer tensors came back than were asked for".into()))?;
    if poisoned.iter::<bool>().any(|poisoned| poisoned) {
        return Err(AttentionError::value("log_probs", "numbers", f64::NAN));
    }
    // Where a backend sorts from its least number on, that stands for −inf.
    let values = values.iter::<f64>().map(|value| if value <= least { f64::NEG_INFINITY } else { value });
    let pairs: Vec<(usize, f64)> = indices.iter::<i64>().map(|at| at as usize).zip(values).collect();
    Ok(pairs.chunks(count).map(<[_]>::to_vec).collect())
}
