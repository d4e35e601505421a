//! The gradients of one key/value head, in f64, with their bounds.
//!
//! For each query head h that reads it and each query i, with o = Σ p·v and g the upstream gradient:
//!   dp_j = g·v_j      Δ = g·o      ds_j = p_j · (dp_j − Δ) · slope_j
//!   dq = scale · Σ_j ds_j·k_j      dk_j += scale · ds_j·q      dv_j += p_j·g
//!
//! Half types may round p and ds as they are multiplied: λ·uₕ·√Σ terms² of each sum, as in the forward pass.

use rayon::prelude::*;

use super::{Bounded, FUNCTION_UNITS, LAMBDA, U, Weights};
use crate::inputs::Inputs;
use crate::shapes::{Dtype, Shape};

/// The gradients of one key/value head of one batch entry, and of the queries that read it.
pub struct Gradients {
    /// Batch entry.
    pub batch: usize,
    /// Key/value head.
    pub kv_head: usize,
    /// [H/G, Sq, D]: heads `kv_head`·H/G and those after it.
    pub query: Vec<Bounded>,
    /// [Sk, D].
    pub key: Vec<Bounded>,
    /// [Sk, E].
    pub value: Vec<Bounded>,
}

impl Gradients {
    /// Evaluates every query that reads `kv_head`.
    pub fn of(shape: &Shape, inputs: &Inputs, batch: usize, kv_head: usize) -> Self {
        let group = shape.heads / shape.kv_heads;
        let rows: Vec<(usize, usize)> =
            (0..group).flat_map(|h| (0..shape.query_len).map(move |i| (kv_head * group + h, i))).collect();
        let piece = rows.len().div_ceil(rayon::current_num_threads()).max(1);
        let parts: Vec<Part> = rows
            .par_chunks(piece)
            .map(|rows| {
                let mut part = Part::new(shape);
                for &(head, query) in rows {
                    part.add_row(shape, inputs, [batch, head, query]);
                }
                part
            })
            .collect();
        let mut query = Vec::new();
        let Part { mut key, mut value, mut key_squares, mut value_squares, .. } = Part::new(shape);
        for part in parts {
            query.extend(part.query);
            add(&mut key, &part.key);
            add(&mut value, &part.value);
            key_squares.iter_mut().zip(&part.key_squares).for_each(|(a, b)| *a += b);
            value_squares.iter_mut().zip(&part.value_squares).for_each(|(a, b)| *a += b);
        }
        allow_halves(shape, &mut key, &key_squares);
        allow_halves(shape, &mut value, &value_squares);
        // The last rounding, to the stored type.
        let stored = shape.dtype.unit_roundoff();
        for gradient in [&mut query, &mut key, &mut value] {
            for number in gradient {
                number.tolerance += (stored + FUNCTION_UNITS * U) * number.value.abs();
            }
        }
        Self { batch, kv_head, query, key, value }
    }
}

/// Adds what rounding the terms to a half type may cost their sums, of which the terms' squares add up to `squares`.
fn allow_halves(shape: &Shape, sums: &mut [Bounded], squares: &[f64]) {
    if shape.dtype == Dtype::F32 {
        return;
    }
    for (sum, square) in sums.iter_mut().zip(squares) {
        sum.tolerance += LAMBDA * shape.dtype.unit_roundoff() * square.sqrt();
    }
}

fn add(sum: &mut [Bounded], part: &[Bounded]) {
    for (a, b) in sum.iter_mut().zip(part) {
        a.value += b.value;
        a.tolerance += b.tolerance;
    }
}

/// The share of some queries in the gradients.
struct Part {
    query: Vec<Bounded>,
    key: Vec<Bounded>,
    value: Vec<Bounded>,
    /// Sums of the squares of their terms.
    key_squares: Vec<f64>,
    value_squares: Vec<f64>,
    /// λ√n·u for sums over keys, and over the queries that read a key.
    over_keys: f64,
    over_queries: f64,
}

impl Part {
    fn new(shape: &Shape) -> Self {
        let zeros = |dim| vec![Bounded::default(); shape.key_len * dim];
        let readers = shape.query_len * shape.heads / shape.kv_heads;
        Self {
            query: Vec::new(),
            key: zeros(shape.head_dim),
            value: zeros(shape.value_dim()),
            key_squares: vec![0.0; shape.key_len * shape.head_dim],
            value_squares: vec![0.0; shape.key_len * shape.value_dim()],
            over_keys: LAMBDA * (shape.key_len as f64).sqrt() * U,
            over_queries: LAMBDA * (readers as f64).sqrt() * U,
        }
    }

    fn add_row(&mut self, shape: &Shape, inputs: &Inputs, [batch, head, query]: [usize; 3]) {
        let dim = shape.head_dim;
        let weights = Weights::of(shape, inputs, batch, head, query);
        let at = ((batch * shape.heads + head) * shape.query_len + query) * dim;
        let q = &inputs.query[at..at + dim];
        let g_at = at / dim * shape.value_dim();
        let g = &inputs.grad_out[g_at..g_at + shape.value_dim()];
        let p_errors = weights.errors_by_lse(self.over_keys);
        let scores = weights.score_gradients(shape, inputs, g, &p_errors);
        let scale = shape.effective_scale();
        let mut dq = vec![Bounded::default(); dim];
        let mut dq_squares = vec![0.0; dim];
        for (j, ds) in scores.iter().enumerate() {
            let row = weights.first + j;
            let k = &inputs.key[(weights.kv_row + row) * dim..][..dim];
            let (p, r) = (weights.probability[j], p_errors[j]);
            for (e, &g) in g.iter().enumerate() {
                let (g, at) = (f64::from(g), row * shape.value_dim() + e);
                push(&mut self.value[at], p * g, p * r * g.abs(), self.over_queries);
                self.value_squares[at] += (p * g).powi(2);
            }
            for e in 0..dim {
                let (q, k) = (f64::from(q[e]), f64::from(k[e]));
                let sized = scale * ds.value;
                let error = scale * ds.tolerance;
                push(&mut dq[e], sized * k, error * k.abs(), self.over_keys);
                push(&mut self.key[row * dim + e], sized * q, error * q.abs(), self.over_queries);
                dq_squares[e] += (sized * k).powi(2);
                self.key_squares[row * dim + e] += (sized * q).powi(2);
            }
        }
        allow_halves(shape, &mut dq, &dq_squares);
        self.query.extend(dq);
    }
}

/// Adds a term of a sum: its value, its own error, and its share in the error of summing.
fn push(sum: &mut Bounded, term: f64, error: f64, summing: f64) {
    sum.value += term;
    sum.tolerance += error + summing * term.abs();
}

impl Weights {
    /// The relative errors of p where it is made anew from the log-sum-exp, which errs by the mean of the errors.
    fn errors_by_lse(&self, summing: f64) -> Vec<f64> {
        let mean: f64 = self.probability.iter().zip(&self.error).map(|(p, r)| p * r).sum();
        self.error.iter().map(|r| r + mean + summing).collect()
    }

    /// ds, before the factor `scale`, one a visible key.
    fn score_gradients(&self, shape: &Shape, inputs: &Inputs, g: &[f32], p_errors: &[f64]) -> Vec<Bounded> {
        let dim = shape.value_dim();
        let over_dims = LAMBDA * (dim as f64).sqrt() * U;
        let out = self.output(shape, inputs);
        let mut delta = Bounded::default();
        for (o, &g) in out.iter().zip(g) {
            let g = f64::from(g);
            push(&mut delta, o.value * g, o.tolerance * g.abs(), over_dims);
        }
        (0..self.probability.len())
            .map(|j| {
                let at = (self.kv_row + self.first + j) * dim;
                let mut dp = Bounded::default();
                for (&v, &g) in inputs.value[at..at + dim].iter().zip(g) {
                    push(&mut dp, f64::from(v) * f64::from(g), 0.0, over_dims);
                }
                let (p, slope) = (self.probability[j], self.slope[j]);
                let difference = dp.value - delta.value;
                let value = p * difference * slope;
                let slope_error = shape.softcap.map_or(0.0, |cap| 2.0 * self.score_error[j] / cap + FUNCTION_UNITS * U);
                Bounded {
                    value,
                    tolerance: p * slope * (dp.tolerance + delta.tolerance)
                        + value.abs() * (p_errors[j] + 4.0 * U)
                        + p * difference.abs() * slope_error,
                }
            })
            .collect()
    }
}
