//! Scores, weights, LSE and output of one row, each with a bound of its error.

use super::{Bounded, Units, times};
use crate::host::{HostProblem, position_in};

/// A visible pair of query and key.
pub(super) struct Pair {
    /// Which key.
    pub key: usize,
    /// Its score, after softcap, ALiBi and biases.
    pub score: Bounded,
    /// Slope of the softcap at the score, 1 without one.
    pub slope: Bounded,
    /// Slope of the function of the scores, 1 without one.
    pub own_slope: f64,
    /// `exp(score − lse)`.
    pub weight: Bounded,
    /// What the weight is multiplied by as it multiplies a value: 1 without dropout.
    pub kept: Bounded,
}

impl Pair {
    /// The weight as it multiplies a value.
    pub fn dropped(&self, units: &Units) -> Bounded {
        times(units, self.weight, self.kept)
    }
}

/// A row of the score matrix.
pub(super) struct Row {
    /// Batch entry, query head, query.
    pub index: [usize; 3],
    /// What it sees.
    pub pairs: Vec<Pair>,
    /// Log-sum-exp; `−inf` where it sees nothing and has no sink.
    pub lse: Bounded,
    /// Weight of the sink.
    pub sink: Bounded,
}

impl Row {
    /// Evaluates a row.
    pub fn new(problem: &HostProblem, units: &Units, index: [usize; 3]) -> Self {
        let [batch, head, row] = index;
        let seen = (0..problem.dims.key_len).filter(|&key| problem.sees([batch, head, row, key]));
        let mut pairs: Vec<Pair> = seen.map(|key| pair(problem, units, [batch, head, row, key])).collect();
        let sink = problem.inputs.sinks.as_ref().map(|sinks| Bounded { value: sinks[head], error: 0.0 });
        let scores: Vec<Bounded> = pairs.iter().map(|pair| pair.score).chain(sink).collect();
        let lse = lse(units, &scores);
        let weight = |score: Bounded| weight(units, score, lse);
        for pair in &mut pairs {
            pair.weight = weight(pair.score);
        }
        Self { index, pairs, lse, sink: sink.map(weight).unwrap_or_default() }
    }

    /// `Σ w·v`, as stored.
    pub fn out(&self, problem: &HostProblem, units: &Units) -> Vec<Bounded> {
        let dim = problem.dims.value_dim;
        let mut out = vec![(Bounded::default(), 0.0); dim];
        for pair in &self.pairs {
            let value = &problem.inputs.value[self.key(problem, pair) * dim..][..dim];
            let weight = pair.dropped(units);
            for ((out, magnitude), value) in out.iter_mut().zip(value) {
                out.value += weight.value * value;
                out.error += weight.error * value.abs();
                *magnitude += weight.value * value.abs();
            }
        }
        let stored = |(out, magnitude): (Bounded, f64)| Bounded {
            error: units
                .store(out.value, out.error + units.sum(self.pairs.len(), magnitude) + units.weights * magnitude),
            ..out
        };
        out.into_iter().map(stored).collect()
    }

    /// Row of the key in `key` and `value`.
    pub fn key(&self, problem: &HostProblem, pair: &Pair) -> usize {
        let [batch, head, _] = self.index;
        (batch * problem.dims.kv_heads + problem.kv_head(head)) * problem.dims.key_len + pair.key
    }

    /// Row of the query in `query`, and of the output.
    pub fn query(&self, problem: &HostProblem) -> usize {
        let [batch, head, row] = self.index;
        (batch * problem.dims.heads + head) * problem.dims.query_len + row
    }
}

fn pair(problem: &HostProblem, units: &Units, index: [usize; 4]) -> Pair {
    let [batch, head, row, key] = index;
    let (dims, inputs, u) = (&problem.dims, &problem.inputs, units.accumulation);
    let d = dims.head_dim;
    let query = &inputs.query[((batch * dims.heads + head) * dims.query_len + row) * d..][..d];
    let at_key = (batch * dims.kv_heads + problem.kv_head(head)) * dims.key_len + key;
    let terms = || query.iter().zip(&inputs.key[at_key * d..][..d]).map(|(q, k)| q * k);
    let scale = problem.spec.scale.unwrap_or(1.0 / (d as f64).sqrt());
    let mut score =
        Bounded { value: scale * terms().sum::<f64>(), error: scale.abs() * units.sum(d, terms().map(f64::abs).sum()) };
    score.error += 2.0 * u * score.value.abs();
    let mut slope = Bounded { value: 1.0, error: 0.0 };
    if let Some(cap) = problem.spec.softcap {
        (score, slope) = softcap(units, score, cap);
    }
    if let Some(slopes) = &inputs.alibi_slopes {
        let penalty = slopes[head] * problem.distance(index);
        score.value -= penalty;
        score.error += u * (3.0 * penalty.abs() + score.value.abs());
    }
    if let Some(bias) = problem.relative_bias(index) {
        score.value += bias;
        // It may be added to a bias before it comes to the score.
        score.error += u * (score.value.abs() + bias.abs());
    }
    if let Some(bias) = &inputs.bias {
        score.value += bias.data[position_in(bias.shape, index)];
        score.error += u * score.value.abs();
    }
    let mut own_slope = 1.0;
    if let Some(function) = problem.score_mod {
        let pair = problem.pair(index);
        own_slope = function.factor(pair);
        score.value = own_slope * score.value + function.term(pair);
        score.error = own_slope.abs() * score.error + u * score.value.abs();
    }
    let kept = problem.spec.dropout.map_or(1.0, |dropout| if dropout.keeps(index) { dropout.scale() } else { 0.0 });
    // 1 / (1 − p) comes rounded.
    let kept = Bounded { value: kept, error: if kept == 1.0 { 0.0 } else { u * kept } };
    Pair { key, score, slope, own_slope, weight: Bounded::default(), kept }
}

/// `cap·tanh(s/cap)` and its slope `1 − tanh²`.
fn softcap(units: &Units, score: Bounded, cap: f64) -> (Bounded, Bounded) {
    let u = units.accumulation;
    let x = Bounded { value: score.value / cap, error: score.error / cap + 2.0 * u * (score.value / cap).abs() };
    let tanh = x.value.tanh();
    // The steepest slope within reach of the error.
    let steepest = (x.value.abs() - x.error).max(0.0).cosh().powi(-2);
    let error = steepest * x.error + 4.0 * u * tanh.abs();
    (
        Bounded { value: cap * tanh, error: cap * (error + 2.0 * u * tanh.abs()) },
        Bounded { value: 1.0 - tanh * tanh, error: 2.0 * tanh.abs() * error + 4.0 * u },
    )
}

fn lse(units: &Units, scores: &[Bounded]) -> Bounded {
    let max = scores.iter().map(|score| score.value).fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return Bounded { value: max, error: 0.0 };
    }
    let powers = || scores.iter().map(|score| (score.value - max).exp());
    let sum: f64 = powers().sum();
    let value = max + sum.ln();
    let relative: f64 = scores
        .iter()
        .zip(powers())
        .map(|(score, power)| power / sum * relative_error(units, *score, score.value - max).exp_m1())
        .sum();
    let rounding = 2.0 * units.accumulation * (max.abs() + value.abs() + sum.ln().abs());
    Bounded { value, error: relative + units.sum(scores.len(), 1.0) + rounding }
}

/// Relative error of `exp(s − m)`, given `s − m`.
fn relative_error(units: &Units, score: Bounded, exponent: f64) -> f64 {
    score.error + units.accumulation * (score.value.abs() + 2.0 * exponent.abs() + 4.0)
}

/// `exp(s − lse)`, whether made from the LSE or from the row's maximum and sum.
fn weight(units: &Units, score: Bounded, lse: Bounded) -> Bounded {
    let value = (score.value - lse.value).exp();
    let relative = relative_error(units, score, score.value - lse.value) + lse.error;
    Bounded { value, error: value * relative.exp_m1() + 1e-37 }
}
