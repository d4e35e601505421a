//! The plain reference: the contract's formulas in f64 on the host, one pair of query and key at a time.
//!
//! This is the specification in code. It uses no kernel and no tensor library, holds whole score rows, and is never fast. Kernels
//! are judged by it; it is judged by the shared cases and by central differences.

use crate::{AttentionError, Polarity, Problem};

/// A tensor on the host that broadcasts to `[B, H, Sq, Sk]`, row-major over its own shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Broadcast<T> {
    /// Each axis 1 or full.
    pub shape: [usize; 4],
    /// Elements, the last axis fastest.
    pub data: Vec<T>,
}

impl<T: Copy> Broadcast<T> {
    fn index(&self, index: [usize; 4]) -> usize {
        (0..4).fold(0, |at, axis| at * self.shape[axis] + if self.shape[axis] == 1 { 0 } else { index[axis] })
    }

    fn at(&self, index: [usize; 4]) -> T {
        self.data[self.index(index)]
    }
}

/// Inputs on the host, row-major, in the axes of [`AttentionInputs`](crate::AttentionInputs).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostInputs {
    /// `[B, H, Sq, D]`.
    pub query: Vec<f64>,
    /// `[B, G, Sk, D]`.
    pub key: Vec<f64>,
    /// `[B, G, Sk, E]`.
    pub value: Vec<f64>,
    /// What is seen.
    pub mask: Option<(Broadcast<bool>, Polarity)>,
    /// Added to the scores.
    pub bias: Option<Broadcast<f64>>,
    /// `[H]`.
    pub alibi_slopes: Option<Vec<f64>>,
    /// `[1, H or 1, 1, 2·R + 1]`: the table, `[H or 1, 2·R + 1]`, in four axes.
    pub relative_bias: Option<Broadcast<f64>>,
    /// `[H]`.
    pub sinks: Option<Vec<f64>>,
}

/// Outputs on the host, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostOutputs {
    /// `[B, H, Sq, E]`.
    pub out: Vec<f64>,
    /// `[B, H, Sq]`.
    pub lse: Vec<f64>,
    /// `[B, H, Sq, Sk]`.
    pub weights: Vec<f64>,
}

/// Gradients on the host, each in its input's layout.
#[derive(Debug, Clone, PartialEq)]
pub struct HostGradients {
    /// `[B, H, Sq, D]`.
    pub query: Vec<f64>,
    /// `[B, G, Sk, D]`.
    pub key: Vec<f64>,
    /// `[B, G, Sk, E]`.
    pub value: Vec<f64>,
    /// In the bias's own shape.
    pub bias: Option<Vec<f64>>,
    /// `[H]`.
    pub alibi_slopes: Option<Vec<f64>>,
    /// `[H or 1, 2·R + 1]`.
    pub relative_bias: Option<Vec<f64>>,
    /// `[H]`.
    pub sinks: Option<Vec<f64>>,
}

/// Offsets of one row's data.
struct Row {
    batch: usize,
    head: usize,
    row: usize,
    /// Of the row in `query`, in units of rows.
    query: usize,
    /// Of key 0 in `key` and `value`, in units of rows.
    keys: usize,
}

/// The score of a visible pair, and the slopes of the caller's function and of the softcap there.
struct Score {
    value: f64,
    own_slope: f64,
    softcap_slope: f64,
}

/// Computes outputs, LSE and all weights by the contract's formulas.
///
/// # Errors
/// Names the argument whose data does not have the problem's number of elements.
pub fn forward(problem: &Problem, inputs: &HostInputs) -> Result<HostOutputs, AttentionError> {
    check(problem, inputs)?;
    let mut outputs = HostOutputs { out: Vec::new(), lse: Vec::new(), weights: Vec::new() };
    for row in rows(problem) {
        let scores = scores(problem, inputs, &row);
        let (lse, weights) = softmax(&scores, inputs.sinks.as_ref().map(|sinks| sinks[row.head]));
        let mut out = vec![0.0; problem.value_dim];
        for (j, weight) in weights.iter().enumerate().filter(|(j, _)| scores[*j].is_some()) {
            let value = &inputs.value[(row.keys + j) * problem.value_dim..][..problem.value_dim];
            let weight = weight * problem.dropout_factor([row.batch, row.head, row.row, j]);
            out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
        }
        outputs.out.extend(out);
        outputs.lse.push(lse);
        outputs.weights.extend(weights);
    }
    Ok(outputs)
}

/// Computes the gradients of `Σ out · grad_out + Σ lse · grad_lse` by every input.
///
/// With `w` the weights, `k` their factors by dropout and `s` the scores: `dV = (k ∘ w)ᵀ·dOut`, `ds = w ∘ (k ∘ dOut·Vᵀ − Σ_e
/// dOut·out + dLse)`, and from `ds` through the chain of the contract, backwards. `grad_out` is `[B, H, Sq, E]`, `grad_lse` `[B, H, Sq]`.
///
/// # Errors
/// As [`forward`]; also names `grad_out` and `grad_lse`, and `score_mod` where it has no slope.
pub fn backward(
    problem: &Problem,
    inputs: &HostInputs,
    grad_out: &[f64],
    grad_lse: Option<&[f64]>,
) -> Result<HostGradients, AttentionError> {
    check(problem, inputs)?;
    problem.check_differentiable()?;
    let row_count = problem.batch * problem.heads * problem.query_len;
    check_len("grad_out", grad_out.len(), row_count * problem.value_dim)?;
    check_len("grad_lse", grad_lse.map_or(row_count, <[f64]>::len), row_count)?;
    let mut gradients = HostGradients {
        query: vec![0.0; inputs.query.len()],
        key: vec![0.0; inputs.key.len()],
        value: vec![0.0; inputs.value.len()],
        bias: inputs.bias.as_ref().map(|bias| vec![0.0; bias.data.len()]),
        alibi_slopes: inputs.alibi_slopes.as_ref().map(|slopes| vec![0.0; slopes.len()]),
        relative_bias: inputs.relative_bias.as_ref().map(|table| vec![0.0; table.data.len()]),
        sinks: inputs.sinks.as_ref().map(|sinks| vec![0.0; sinks.len()]),
    };
    for row in rows(problem) {
        let grad_out = &grad_out[row.query * problem.value_dim..][..problem.value_dim];
        let grad_lse = grad_lse.map_or(0.0, |grad| grad[row.query]);
        backward_row(problem, inputs, &row, grad_out, grad_lse, &mut gradients);
    }
    Ok(gradients)
}

fn backward_row(
    problem: &Problem,
    inputs: &HostInputs,
    row: &Row,
    grad_out: &[f64],
    grad_lse: f64,
    gradients: &mut HostGradients,
) {
    let (d, e) = (problem.head_dim, problem.value_dim);
    let scores = scores(problem, inputs, row);
    let sink = inputs.sinks.as_ref().map(|sinks| sinks[row.head]);
    let (lse, weights) = softmax(&scores, sink);
    let visible = || scores.iter().enumerate().filter_map(|(j, score)| Some((j, score.as_ref()?)));
    let factor = |j: usize| problem.dropout_factor([row.batch, row.head, row.row, j]);
    let by_weight = |j: usize| factor(j) * dot(grad_out, &inputs.value[(row.keys + j) * e..][..e]);
    let delta: f64 = visible().map(|(j, _)| weights[j] * by_weight(j)).sum();
    for (j, score) in visible() {
        let key = row.keys + j;
        axpy(&mut gradients.value[key * e..][..e], factor(j) * weights[j], grad_out);
        let mut grad = weights[j] * (by_weight(j) - delta + grad_lse) * score.own_slope;
        if let (Some(bias), Some(grad_bias)) = (&inputs.bias, &mut gradients.bias) {
            grad_bias[bias.index([row.batch, row.head, row.row, j])] += grad;
        }
        if let Some(slopes) = &mut gradients.alibi_slopes {
            slopes[row.head] -= grad * distance(problem, row, j);
        }
        if let (Some(table), Some(grad_table)) = (&inputs.relative_bias, &mut gradients.relative_bias) {
            grad_table[table.index(in_table(problem, row, j))] += grad;
        }
        grad *= score.softcap_slope * problem.scale;
        axpy(&mut gradients.query[row.query * d..][..d], grad, &inputs.key[key * d..][..d]);
        axpy(&mut gradients.key[key * d..][..d], grad, &inputs.query[row.query * d..][..d]);
    }
    if let (Some(sink), Some(sinks)) = (sink, &mut gradients.sinks)
        && lse > f64::NEG_INFINITY
    {
        sinks[row.head] += (sink - lse).exp() * (grad_lse - delta);
    }
}

fn rows(problem: &Problem) -> impl Iterator<Item = Row> + use<> {
    let (heads, query_len, key_len) = (problem.heads, problem.query_len, problem.key_len);
    let (kv_heads, group, count) = (problem.kv_heads, problem.group(), problem.batch * heads * query_len);
    (0..count).map(move |query| {
        let (batch, head) = (query / (heads * query_len), query / query_len % heads);
        Row { batch, head, row: query % query_len, query, keys: (batch * kv_heads + head / group) * key_len }
    })
}

/// The scores of a row; `None` where hidden.
fn scores(problem: &Problem, inputs: &HostInputs, row: &Row) -> Vec<Option<Score>> {
    let score = |j| seen(problem, inputs, row, j).then(|| score(problem, inputs, row, j));
    // The caller's function hides by −inf.
    let hides = |score: &Score| problem.score_mod.is_some() && score.value == f64::NEG_INFINITY;
    (0..problem.key_len).map(|j| score(j).filter(|score| !hides(score))).collect()
}

fn score(problem: &Problem, inputs: &HostInputs, row: &Row, j: usize) -> Score {
    let d = problem.head_dim;
    let mut value = problem.scale * dot(&inputs.query[row.query * d..][..d], &inputs.key[(row.keys + j) * d..][..d]);
    let mut softcap_slope = 1.0;
    if let Some(cap) = problem.softcap {
        let tanh = (value / cap).tanh();
        (value, softcap_slope) = (cap * tanh, 1.0 - tanh * tanh);
    }
    if let Some(slopes) = &inputs.alibi_slopes {
        value -= slopes[row.head] * distance(problem, row, j);
    }
    if let Some(table) = &inputs.relative_bias {
        value += table.at(in_table(problem, row, j));
    }
    if let Some(bias) = &inputs.bias {
        value += bias.at([row.batch, row.head, row.row, j]);
    }
    let mut own_slope = 1.0;
    if let Some(function) = &problem.score_mod {
        let pair = problem.pair([row.batch, row.head, row.row, j]);
        // Without a slope there is no gradient; `backward` refuses that.
        own_slope = function.slope(value, pair).unwrap_or(f64::NAN);
        value = function.apply(value, pair);
    }
    Score { value, own_slope, softcap_slope }
}

fn distance(problem: &Problem, row: &Row, j: usize) -> f64 {
    (j as f64 - (row.row as f64 + problem.bands[row.batch].offset as f64)).abs()
}

/// Where the bias by relative position of key `j` stands in its table.
fn in_table(problem: &Problem, row: &Row, j: usize) -> [usize; 4] {
    let distance = (j as i64 - row.row as i64).saturating_sub(problem.bands[row.batch].offset);
    [0, row.head, 0, problem.relative_column(distance)]
}

fn seen(problem: &Problem, inputs: &HostInputs, row: &Row, j: usize) -> bool {
    let band = &problem.bands[row.batch];
    let relative = j as i128 - (row.row as i128 + i128::from(band.offset));
    let index = [row.batch, row.head, row.row, j];
    j < band.keys
        && band.lower.is_none_or(|lower| relative >= i128::from(lower))
        && band.upper.is_none_or(|upper| relative <= i128::from(upper))
        && problem.block_mask.as_ref().is_none_or(|mask| mask.sees(row.batch, row.head, row.row, j))
        && inputs.mask.as_ref().is_none_or(|(mask, polarity)| mask.at(index) == (*polarity == Polarity::Keep))
        && inputs.bias.as_ref().is_none_or(|bias| bias.at(index) != f64::NEG_INFINITY)
        && inputs.relative_bias.as_ref().is_none_or(|table| table.at(in_table(problem, row, j)) != f64::NEG_INFINITY)
}

/// LSE and weights of a row; hidden scores have weight 0.
fn softmax(scores: &[Option<Score>], sink: Option<f64>) -> (f64, Vec<f64>) {
    let values = || scores.iter().flatten().map(|score| score.value);
    let max = values().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY && !values().any(f64::is_nan) {
        return (max, vec![0.0; scores.len()]);
    }
    let lse = max + values().chain(sink).map(|value| (value - max).exp()).sum::<f64>().ln();
    (lse, scores.iter().map(|score| score.as_ref().map_or(0.0, |score| (score.value - lse).exp())).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn axpy(sum: &mut [f64], factor: f64, term: &[f64]) {
    sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += factor * term);
}

fn check(problem: &Problem, inputs: &HostInputs) -> Result<(), AttentionError> {
    let (rows, keys) =
        (problem.batch * problem.heads * problem.query_len, problem.batch * problem.kv_heads * problem.key_len);
    let volume = |shape: Option<[usize; 4]>| shape.map(|shape| shape.iter().product::<usize>());
    let table = problem.relative_bias.map(|[heads, distances]| [1, heads, 1, distances]);
    let per_head = |given: bool| given.then_some(problem.heads);
    check_len("query", inputs.query.len(), rows * problem.head_dim)?;
    check_len("key", inputs.key.len(), keys * problem.head_dim)?;
    check_len("value", inputs.value.len(), keys * problem.value_dim)?;
    let optional = [
        ("mask", inputs.mask.as_ref().map(|(mask, _)| mask.data.len()), volume(problem.mask)),
        ("bias", inputs.bias.as_ref().map(|bias| bias.data.len()), volume(problem.bias)),
        ("alibi_slopes", inputs.alibi_slopes.as_ref().map(Vec::len), per_head(problem.alibi)),
        ("relative_bias", inputs.relative_bias.as_ref().map(|table| table.data.len()), volume(table)),
        ("sinks", inputs.sinks.as_ref().map(Vec::len), per_head(problem.sinks)),
    ];
    for (argument, found, expected) in optional {
        if found != expected {
            return Err(AttentionError::value(argument, format!("{expected:?} elements"), format!("{found:?}")));
        }
    }
    let shapes = [
        ("mask", inputs.mask.as_ref().map(|(mask, _)| mask.shape), problem.mask),
        ("bias", inputs.bias.as_ref().map(|bias| bias.shape), problem.bias),
        ("relative_bias", inputs.relative_bias.as_ref().map(|table| table.shape), table),
    ];
    for (argument, found, expected) in shapes {
        if found != expected {
            return Err(AttentionError::value(argument, format!("shape {expected:?}"), format!("{found:?}")));
        }
    }
    Ok(())
}

fn check_len(argument: &'static str, found: usize, expected: usize) -> Result<(), AttentionError> {
    if found == expected { Ok(()) } else { Err(AttentionError::value(argument, format!("{expected} elements"), found)) }
}
