//! What a shape's answer must be, evaluated in f64 from the definition, and how far from it an honest f32 one may be.
//!
//! Forward rows are drawn from all over the output: every head (up to a number), first, last and random queries. In
//! training, the gradients of whole key/value heads are evaluated besides: dk and dv need every query.
//!
//! # How far
//! Each answer comes with its own bound, carried along to first order. With u the unit roundoff of the accumulation
//! (2⁻²⁴), a sum of n rounded terms errs by no more than λ·√n·u·Σ|terms|, except with a probability of 2·exp(−λ²/2)
//! (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019); λ = 8 makes that 10⁻¹⁴. Then
//!   score      |δs| ≤ λ√D·u·scale·Σ|q||k| + 8u|s|
//!   weight     |δp|/p ≤ r = |δs| + u|s − max| + 8u        (exp to within 8 units)
//!   output     |δo| ≤ Σ p·r·|v − o| + λ√n·u·(Σ p|v| + |o|) + rounding of o
//! and likewise for the gradients. Half types may round p too: λ·uₕ·√Σ p²v².

use rayon::prelude::*;

use crate::inputs::Inputs;
use crate::shapes::{Dtype, Shape, Suite};

mod backward;

pub use backward::Gradients;

/// Unit roundoff of the accumulation, which is f32 for all three types.
const U: f64 = 1.0 / (1u64 << 24) as f64;
/// How many deviations a sum of rounding errors is allowed.
const LAMBDA: f64 = 8.0;
/// Units that an elementary function (exp, tanh) may be off.
const FUNCTION_UNITS: f64 = 8.0;
/// Forward rows that are drawn.
const ROWS: usize = 192;

/// An expected number and how far from it an answer may be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounded {
    /// The exact number, to f64.
    pub value: f64,
    /// The largest honest error.
    pub tolerance: f64,
}

impl Bounded {
    /// The error of `got` as a share of the tolerance; infinite if it is no number.
    pub fn error_share(&self, got: f32) -> f64 {
        let error = (f64::from(got) - self.value).abs();
        if error.is_nan() {
            f64::INFINITY
        } else if error == 0.0 {
            0.0
        } else {
            error / self.tolerance
        }
    }
}

/// One row of the output.
pub struct Row {
    /// Batch entry.
    pub batch: usize,
    /// Query head.
    pub head: usize,
    /// Query.
    pub query: usize,
    /// The row, `[E]`.
    pub out: Vec<Bounded>,
    /// Whether the query sees any key.
    pub sees: bool,
}

/// What is expected of a shape.
pub struct Expected {
    /// Rows of the output.
    pub rows: Vec<Row>,
    /// Gradients of some key/value heads; empty outside training.
    pub gradients: Vec<Gradients>,
}

impl Expected {
    /// Evaluates `shape` on `inputs`.
    pub fn of(shape: &Shape, inputs: &Inputs) -> Self {
        let rows = sampled_rows(shape)
            .into_par_iter()
            .map(|[batch, head, query]| {
                let weights = Weights::of(shape, inputs, batch, head, query);
                let sees = weights.probability.iter().any(|&p| p > 0.0);
                Row { batch, head, query, out: weights.output(shape, inputs), sees }
            })
            .collect();
        let gradients = match shape.suite {
            Suite::Prefill | Suite::Decode | Suite::Sweep => Vec::new(),
            Suite::Train => {
                let last = (shape.batch - 1, shape.kv_heads - 1);
                let mut heads = vec![(0, 0), last];
                heads.dedup();
                heads.into_iter().map(|(batch, kv_head)| Gradients::of(shape, inputs, batch, kv_head)).collect()
            }
        };
        Self { rows, gradients }
    }
}

/// Which (batch, head, query) are evaluated: all if they are few, else first, last and scattered queries of many heads.
fn sampled_rows(shape: &Shape) -> Vec<[usize; 3]> {
    let heads = shape.batch * shape.heads;
    let total = heads * shape.query_len;
    let mut rows: Vec<[usize; 3]> = (0..ROWS.min(total))
        .map(|n| {
            if total <= ROWS {
                let (head, query) = (n / shape.query_len, n % shape.query_len);
                return [head / shape.heads, head % shape.heads, query];
            }
            let head = (n * heads / ROWS + n % heads) % heads;
            let query = match n % 8 {
                0 => 0,
                1 => shape.query_len - 1,
                // A multiplicative scatter: 2654435761 is 2³² over the golden ratio.
                _ => n * 2_654_435_761 % shape.query_len,
            };
            [head / shape.heads, head % shape.heads, query]
        })
        .collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// The softmax of one query's scores.
struct Weights {
    /// The first visible key; the vectors run from it.
    first: usize,
    /// The key/value head's first row among all keys.
    kv_row: usize,
    /// p; 0 of a key that the mask hides.
    probability: Vec<f64>,
    /// r, the relative error that p may have.
    error: Vec<f64>,
    /// Derivative of the softcap at the score, 1 without one.
    slope: Vec<f64>,
    /// |δs|, the error that the score may have.
    score_error: Vec<f64>,
}

impl Weights {
    fn of(shape: &Shape, inputs: &Inputs, batch: usize, head: usize, query: usize) -> Self {
        let dim = shape.head_dim;
        let keys = shape.visible_keys(batch, query);
        let kv_head = head / (shape.heads / shape.kv_heads);
        let kv_row = (batch * shape.kv_heads + kv_head) * shape.key_len;
        let q_offset = ((batch * shape.heads + head) * shape.query_len + query) * dim;
        let q = &inputs.query[q_offset..q_offset + dim];
        let mut weights = Self {
            first: keys.start,
            kv_row,
            probability: Vec::with_capacity(keys.len()),
            error: Vec::with_capacity(keys.len()),
            slope: Vec::with_capacity(keys.len()),
            score_error: Vec::with_capacity(keys.len()),
        };
        let slope = shape.alibi_slopes().map_or(0.0, |slopes| f64::from(slopes[head]));
        for j in keys {
            let at = (kv_row + j) * dim;
            if shape.is_masked([batch, head, query, j]) {
                weights.push_hidden();
                continue;
            }
            let bias = inputs.bias.get(shape.bias_at([head, query, j])).map_or(0.0, |&bias| f64::from(bias));
            let distance = (j as i64 - shape.position(batch, query)).abs() as f64;
            weights.push_score(shape, q, &inputs.key[at..at + dim], [bias, -slope * distance]);
        }
        weights.normalise(inputs.sinks.get(head).map(|&sink| f64::from(sink)));
        weights
    }

    /// Adds a key that the mask hides.
    fn push_hidden(&mut self) {
        self.probability.push(f64::NEG_INFINITY);
        self.slope.push(0.0);
        self.score_error.push(0.0);
    }

    /// Adds a key's score (to `probability`, until it is normalised), its slope and its error; `added` are bias and ALiBi.
    fn push_score(&mut self, shape: &Shape, q: &[f32], k: &[f32], added: [f64; 2]) {
        let scale = shape.effective_scale();
        let (mut dot, mut magnitude) = (0f64, 0f64);
        for (&a, &b) in q.iter().zip(k) {
            let product = f64::from(a) * f64::from(b);
            dot += product;
            magnitude += product.abs();
        }
        let (mut score, mut slope) = (scale * dot, 1.0);
        if let Some(cap) = shape.softcap {
            let tanh = (score / cap).tanh();
            (score, slope) = (cap * tanh, 1.0 - tanh * tanh);
        }
        let sum_error = LAMBDA * (q.len() as f64).sqrt() * U * scale.abs() * magnitude;
        // Peers are given both summands as one, rounded to the shape's type where it is no f32.
        let rounding = if shape.dtype == Dtype::F32 { U } else { shape.dtype.unit_roundoff() };
        let added_error = if added[1] == 0.0 { U } else { rounding } * (added[0].abs() + added[1].abs());
        self.slope.push(slope);
        self.score_error.push(sum_error + FUNCTION_UNITS * U * score.abs() + added_error);
        self.probability.push(score + added[0] + added[1]);
    }

    fn normalise(&mut self, sink: Option<f64>) {
        let max = self.probability.iter().copied().chain(sink).fold(f64::MIN, f64::max);
        let mut total = sink.map_or(0.0, |sink| (sink - max).exp());
        for (p, score_error) in self.probability.iter_mut().zip(&self.score_error) {
            let below = *p - max;
            *p = below.exp();
            total += *p;
            self.error.push(if *p == 0.0 { 0.0 } else { score_error + U * below.abs() + FUNCTION_UNITS * U });
        }
        if total > 0.0 {
            for p in &mut self.probability {
                *p /= total;
            }
        }
    }

    /// Σ p·v with its bound, [E]; zeros, exactly, where nothing is seen.
    fn output(&self, shape: &Shape, inputs: &Inputs) -> Vec<Bounded> {
        let dim = shape.value_dim();
        let value = |j: usize| {
            let at = (self.kv_row + self.first + j) * dim;
            &inputs.value[at..at + dim]
        };
        let (mut out, mut magnitude, mut square) = (vec![0f64; dim], vec![0f64; dim], vec![0f64; dim]);
        for (j, &p) in self.probability.iter().enumerate() {
            for (e, &v) in value(j).iter().enumerate() {
                let term = p * f64::from(v);
                out[e] += term;
                magnitude[e] += term.abs();
                square[e] += term * term;
            }
        }
        let mut spread = vec![0f64; dim];
        for (j, (&p, &r)) in self.probability.iter().zip(&self.error).enumerate() {
            for (e, &v) in value(j).iter().enumerate() {
                spread[e] += p * r * (f64::from(v) - out[e]).abs();
            }
        }
        let sum_error = LAMBDA * (self.probability.len() as f64).sqrt() * U;
        let stored = shape.dtype.unit_roundoff();
        let halved = if shape.dtype == Dtype::F32 { 0.0 } else { stored };
        (0..dim)
            .map(|e| Bounded {
                value: out[e],
                tolerance: spread[e]
                    + sum_error * (magnitude[e] + out[e].abs())
                    + LAMBDA * halved * square[e].sqrt()
                    + (stored + FUNCTION_UNITS * U) * out[e].abs(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
