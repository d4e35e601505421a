//! Beam search: the most probable sequences among those that stay probable.

use attn_core::AttentionError;
use burn::config::Config;

use super::{Hypothesis, StepModel, best};
use crate::nn::check::positive;

/// What a sequence's log-probability is divided by, so that short ones have no advantage. The length counts the end
/// token.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum LengthPenalty {
    /// 1.
    None,
    /// `length^alpha`; 1 is the mean log-probability.
    Power {
        /// Not negative.
        alpha: f64,
    },
    /// `((5 + length) / 6)^alpha` (Wu et al. 2016).
    Wu {
        /// Not negative; 0.6 to 0.7 in the paper.
        alpha: f64,
    },
}

impl LengthPenalty {
    fn score(self, log_prob: f64, length: usize) -> f64 {
        match self {
            Self::None => log_prob,
            Self::Power { alpha } => log_prob / (length as f64).powf(alpha),
            Self::Wu { alpha } => log_prob / ((5.0 + length as f64) / 6.0).powf(alpha),
        }
    }

    fn check(self) -> Result<(), AttentionError> {
        match self {
            Self::Power { alpha } | Self::Wu { alpha } if !(alpha.is_finite() && alpha >= 0.0) => {
                Err(AttentionError::value("penalty", "a finite alpha that is not negative", alpha))
            }
            _ => Ok(()),
        }
    }
}

/// Beam search.
///
/// ```text
/// at every step, of each row of the model, over all its live beams b and tokens t:
///   candidates (b, t) by log_prob(b) + log p(t | b), best first
///   an end token among the first `beams` finishes its hypothesis; the first `beams` others live on
/// until `beams` hypotheses have finished, or nothing lives, or `max_length`
/// ```
///
/// Finished hypotheses are ranked by their score, `log_prob / penalty(length)`; those that reach `max_length` without
/// the end token are ranked among them. With one beam this is [`GreedySearch`](super::GreedySearch); with as many as
/// there are sequences it finds the best of all. Each row is searched by itself: what one finds does not depend on the
/// others, which only share steps. A step runs all live beams of all rows and reads back `beams + 1` candidates of
/// each.
#[derive(Config, Debug)]
pub struct BeamSearch {
    /// Ends a sequence.
    pub end_token: usize,
    /// Tokens after which a sequence ends anyway, the end token counted.
    pub max_length: usize,
    /// Beams that live at a time, for each row of the model.
    pub beams: usize,
    /// Normalisation by length.
    #[config(default = "LengthPenalty::None")]
    pub penalty: LengthPenalty,
    /// Hypotheses to give back for each row, at most `beams`.
    #[config(default = 1)]
    pub hypotheses: usize,
    /// Whether a row is done once `beams` hypotheses have finished. Otherwise it goes on while a live beam could still
    /// beat the worst of them: longer, and never worse in score.
    #[config(default = true)]
    pub early_stopping: bool,
}

/// A sequence that goes on.
#[derive(Debug, Clone)]
struct Beam {
    tokens: Vec<usize>,
    log_prob: f64,
}

/// The search of one row of the model.
#[derive(Debug, Clone)]
struct Search {
    live: Vec<Beam>,
    finished: Vec<Hypothesis>,
}

impl BeamSearch {
    /// The best hypotheses of each row of the model, best first; none where every sequence is impossible.
    ///
    /// # Errors
    /// Names an option without a meaning, `end_token` or `log_probs`, or is the model's.
    pub fn run<M: StepModel>(&self, model: &M) -> Result<Vec<Vec<Hypothesis>>, AttentionError> {
        self.check()?;
        let (mut tokens, mut state) = model.start()?;
        let first = Search { live: vec![Beam { tokens: vec![], log_prob: 0.0 }], finished: vec![] };
        let mut searches = vec![first; tokens.len()];
        for _ in 0..self.max_length {
            if tokens.is_empty() {
                break;
            }
            let (log_probs, next) = model.step(&tokens, state)?;
            let found = best(log_probs, tokens.len(), self.beams.saturating_add(1), self.end_token)?;
            let (mut rows, mut row) = (vec![], 0);
            tokens.clear();
            for search in &mut searches {
                let count = search.live.len();
                for (beam, token) in self.advance(search, &found[row..row + count]) {
                    rows.push(row + beam);
                    tokens.push(token);
                }
                row += count;
            }
            state = model.reorder(next, &rows)?;
        }
        Ok(searches.into_iter().map(|search| self.ranked(search)).collect())
    }

    /// One step of one row; gives for each live beam the one that it continues and the token by which it does.
    fn advance(&self, search: &mut Search, found: &[Vec<(usize, f64)>]) -> Vec<(usize, usize)> {
        let beams = std::mem::take(&mut search.live);
        let mut candidates: Vec<(f64, usize, usize)> = vec![];
        for (at, (beam, next)) in beams.iter().zip(found).enumerate() {
            candidates.extend(next.iter().map(|&(token, log_prob)| (beam.log_prob + log_prob, at, token)));
        }
        candidates.retain(|&(log_prob, ..)| log_prob > f64::NEG_INFINITY);
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));

        let mut taken = vec![];
        for (rank, &(log_prob, at, token)) in candidates.iter().enumerate() {
            if taken.len() == self.beams {
                break;
            }
            let ends = token == self.end_token;
            if ends && rank >= self.beams {
                continue;
            }
            let mut tokens = beams[at].tokens.clone();
            tokens.push(token);
            if ends {
                search.finished.push(self.hypothesis(tokens, log_prob, true));
            } else {
                search.live.push(Beam { tokens, log_prob });
                taken.push((at, token));
            }
        }
        if self.is_done(search) {
            search.live.clear();
            taken.clear();
        }
        taken
    }

    /// Keeps the best finished hypotheses; says whether no live beam is to go on.
    fn is_done(&self, search: &mut Search) -> bool {
        search.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        search.finished.truncate(self.beams);
        let (Some(worst), Some(beam)) = (search.finished.last(), search.live.first()) else { return false };
        // A log-probability only falls, and the penalty is greatest at the greatest length.
        let attainable = self.penalty.score(beam.log_prob, self.max_length);
        search.finished.len() == self.beams && (self.early_stopping || attainable <= worst.score)
    }

    /// The hypotheses to give back, those that still live counted as they are.
    fn ranked(&self, search: Search) -> Vec<Hypothesis> {
        let mut made = search.finished;
        made.extend(search.live.into_iter().map(|beam| self.hypothesis(beam.tokens, beam.log_prob, false)));
        made.sort_by(|a, b| b.score.total_cmp(&a.score));
        made.truncate(self.hypotheses);
        made
    }

    fn hypothesis(&self, tokens: Vec<usize>, log_prob: f64, ended: bool) -> Hypothesis {
        let score = self.penalty.score(log_prob, tokens.len());
        Hypothesis { tokens, log_prob, score, ended }
    }

    fn check(&self) -> Result<(), AttentionError> {
        positive("max_length", self.max_length)?;
        positive("beams", self.beams)?;
        positive("hypotheses", self.hypotheses)?;
        if self.hypotheses > self.beams {
            let expected = format!("at most the {} beams", self.beams);
            return Err(AttentionError::value("hypotheses", expected, self.hypotheses));
        }
        self.penalty.check()
    }
}
