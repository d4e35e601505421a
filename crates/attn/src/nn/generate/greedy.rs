//! Greedy search: the most probable token at every step.

use attn_core::AttentionError;
use burn::config::Config;

use super::{Hypothesis, StepModel, best};
use crate::nn::check::positive;

/// Takes the most probable token at every step until the end token or the greatest length.
#[derive(Config, Debug)]
pub struct GreedySearch {
    /// Ends a sequence.
    pub end_token: usize,
    /// Tokens after which a sequence ends anyway, the end token counted.
    pub max_length: usize,
}

impl GreedySearch {
    /// A sequence for each row of the model; its score is its log-probability. Rows that have ended take no further
    /// part.
    ///
    /// # Errors
    /// Names `max_length`, `end_token` or `log_probs`, or is the model's.
    pub fn run<M: StepModel>(&self, model: &M) -> Result<Vec<Hypothesis>, AttentionError> {
        positive("max_length", self.max_length)?;
        let (mut tokens, mut state) = model.start()?;
        let empty = Hypothesis { tokens: vec![], log_prob: 0.0, score: 0.0, ended: false };
        let mut made = vec![empty; tokens.len()];
        let mut live: Vec<usize> = (0..tokens.len()).collect();
        for _ in 0..self.max_length {
            if live.is_empty() {
                break;
            }
            let (log_probs, next) = model.step(&tokens, state)?;
            let found = best(log_probs, live.len(), 1, self.end_token)?;
            let mut rows = vec![];
            tokens.clear();
            for (row, candidates) in found.iter().enumerate() {
                let (token, log_prob) = candidates[0];
                if log_prob == f64::NEG_INFINITY {
                    continue;
                }
                let hypothesis = &mut made[live[row]];
                hypothesis.tokens.push(token);
                hypothesis.log_prob += log_prob;
                hypothesis.score = hypothesis.log_prob;
                hypothesis.ended = token == self.end_token;
                if !hypothesis.ended {
                    rows.push(row);
                    tokens.push(token);
                }
            }
            live = rows.iter().map(|&row| live[row]).collect();
            state = if rows.len() == found.len() { next } else { model.reorder(next, &rows)? };
        }
        Ok(made)
    }
}
