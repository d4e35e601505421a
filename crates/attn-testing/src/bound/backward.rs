//! Gradients with a bound of each one's error.

use attn_core::reference::HostGradients;

use super::forward::{Pair, Row};
use super::{Bounded, Units, times};
use crate::host::{HostProblem, HostUpstream, position_in};

/// Sums of a gradient's elements: value, error so far, sum of magnitudes, number of terms.
struct Sum {
    value: Vec<f64>,
    error: Vec<f64>,
    magnitude: Vec<f64>,
    terms: Vec<usize>,
}

impl Sum {
    fn new(len: usize) -> Self {
        Self { value: vec![0.0; len], error: vec![0.0; len], magnitude: vec![0.0; len], terms: vec![0; len] }
    }

    fn add(&mut self, at: usize, term: Bounded) {
        self.value[at] += term.value;
        self.error[at] += term.error;
        self.magnitude[at] += term.value.abs();
        self.terms[at] += 1;
    }

    /// Adds `factor · vector` to the elements from `at` on.
    fn add_row(&mut self, at: usize, factor: Bounded, vector: &[f64]) {
        for (offset, element) in vector.iter().enumerate() {
            let term = Bounded { value: factor.value * element, error: factor.error * element.abs() };
            self.add(at + offset, term);
        }
    }

    fn finish(self, units: &Units) -> (Vec<f64>, Vec<f64>) {
        let error = |at: usize| {
            // Gradients may leave the range in which f16 and f32 have their relative precision; then the floor counts.
            units.store(self.value[at], self.error[at] + units.sum(self.terms[at], self.magnitude[at]))
        };
        let errors = (0..self.value.len()).map(error).collect();
        (self.value, errors)
    }
}

/// Sums of all gradients by one output.
pub(super) struct Sums<'a> {
    output: Output<'a>,
    query: Sum,
    key: Sum,
    value: Sum,
    bias: Option<Sum>,
    alibi_slopes: Option<Sum>,
    relative_bias: Option<Sum>,
    sinks: Option<Sum>,
}

/// An output and the loss's gradient by it.
#[derive(Clone, Copy)]
enum Output<'a> {
    Out(&'a [f64]),
    Lse(&'a [f64]),
}

impl<'a> Sums<'a> {
    /// The sums by each output that the loss takes in.
    pub fn of(problem: &HostProblem, upstream: &'a HostUpstream) -> Vec<Self> {
        let by_lse = upstream.grad_lse.as_deref().map(Output::Lse);
        let outputs = std::iter::once(Output::Out(&upstream.grad_out)).chain(by_lse);
        outputs.map(|output| Self::new(problem, output)).collect()
    }

    fn new(problem: &HostProblem, output: Output<'a>) -> Self {
        let inputs = &problem.inputs;
        let per_head = |data: &Option<Vec<f64>>| data.as_ref().map(|data| Sum::new(data.len()));
        Self {
            output,
            query: Sum::new(inputs.query.len()),
            key: Sum::new(inputs.key.len()),
            value: Sum::new(inputs.value.len()),
            bias: inputs.bias.as_ref().map(|bias| Sum::new(bias.data.len())),
            alibi_slopes: per_head(&inputs.alibi_slopes),
            relative_bias: inputs.relative_bias.as_ref().map(|table| Sum::new(table.data.len())),
            sinks: per_head(&inputs.sinks),
        }
    }

    /// Adds what one row gives.
    pub fn add(&mut self, problem: &HostProblem, units: &Units, row: &Row, out: &[Bounded]) {
        if row.lse.value == f64::NEG_INFINITY {
            return;
        }
        match self.output {
            Output::Out(grad) => self.add_by_out(problem, units, row, out, grad),
            Output::Lse(grad) => {
                let grad = Bounded { value: grad[row.query(problem)], error: 0.0 };
                for pair in &row.pairs {
                    self.add_pair(problem, units, row, pair, times(units, pair.weight, grad));
                }
                if let Some(sinks) = &mut self.sinks {
                    sinks.add(row.index[1], times(units, row.sink, grad));
                }
            }
        }
    }

    fn add_by_out(&mut self, problem: &HostProblem, units: &Units, row: &Row, out: &[Bounded], grad_out: &[f64]) {
        let dim = problem.dims.value_dim;
        let grad_out = &grad_out[row.query(problem) * dim..][..dim];
        let delta = delta(units, grad_out, out);
        for pair in &row.pairs {
            let key = row.key(problem, pair);
            // `w·dOut`, where the output's gradient is stored in the tensors' type, and the weight is rounded where it is as it multiplies.
            let (weight, dropped) = (pair.weight, pair.dropped(units));
            let stored = Bounded { error: dropped.error + dropped.value * (units.stored + units.weights), ..dropped };
            self.value.add_row(key * dim, stored, grad_out);
            let by_weight = times(units, dot(units, grad_out, &problem.inputs.value[key * dim..][..dim]), pair.kept);
            self.add_pair(problem, units, row, pair, times(units, weight, minus(units, by_weight, delta)));
        }
        if let Some(sinks) = &mut self.sinks {
            sinks.add(row.index[1], times(units, row.sink, minus(units, Bounded::default(), delta)));
        }
    }

    /// Carries the gradient of a score to biases, slopes, query and key.
    fn add_pair(&mut self, problem: &HostProblem, units: &Units, row: &Row, pair: &Pair, grad: Bounded) {
        let [batch, head, at] = row.index;
        let index = [batch, head, at, pair.key];
        let grad = match pair.own_slope {
            1.0 => grad,
            slope => times(units, grad, Bounded { value: slope, error: 0.0 }),
        };
        if let (Some(sum), Some(bias)) = (&mut self.bias, &problem.inputs.bias) {
            sum.add(position_in(bias.shape, index), grad);
        }
        if let Some(slopes) = &mut self.alibi_slopes {
            slopes.add(head, times(units, grad, Bounded { value: -problem.distance(index), error: 0.0 }));
        }
        if let (Some(sum), Some(at)) = (&mut self.relative_bias, problem.in_table(index)) {
            sum.add(at, grad);
        }
        let (d, u) = (problem.dims.head_dim, units.accumulation);
        let scale = problem.spec.scale.unwrap_or(1.0 / (d as f64).sqrt());
        let scale = Bounded { value: scale, error: u * scale.abs() };
        let grad = times(units, times(units, grad, pair.slope), scale);
        // Where weights are rounded as they multiply values, so are these as they multiply queries and keys.
        let grad = Bounded { error: grad.error + units.weights * grad.value.abs(), ..grad };
        let (query, key) = (row.query(problem) * d, row.key(problem, pair) * d);
        self.query.add_row(query, grad, &problem.inputs.key[key..][..d]);
        self.key.add_row(key, grad, &problem.inputs.query[query..][..d]);
    }

    fn finish(self, units: &Units) -> [Option<(Vec<f64>, Vec<f64>)>; 7] {
        let optional = [self.bias, self.alibi_slopes, self.relative_bias, self.sinks];
        let [bias, alibi_slopes, relative_bias, sinks] = optional.map(|sum| sum.map(|sum| sum.finish(units)));
        let [query, key, value] = [self.query, self.key, self.value].map(|sum| Some(sum.finish(units)));
        [query, key, value, bias, alibi_slopes, relative_bias, sinks]
    }
}

/// Values and bounds of the gradients: the parts by each output, stored, added and stored again. None where there are no parts.
pub(super) fn finish(units: &Units, parts: Vec<Sums<'_>>) -> Option<(HostGradients, HostGradients)> {
    let parts = parts.into_iter().map(|sums| sums.finish(units));
    let [query, key, value, bias, alibi_slopes, relative_bias, sinks] = parts.reduce(|mut a, b| {
        a.iter_mut().zip(&b).for_each(|(a, b)| add_part(units, a, b));
        a
    })?;
    let (query, key, value) = (query?, key?, value?);
    let ((bias, bias_error), (alibi_slopes, alibi_slopes_error), (sinks, sinks_error)) =
        (bias.unzip(), alibi_slopes.unzip(), sinks.unzip());
    let (relative_bias, relative_bias_error) = relative_bias.unzip();
    Some((
        HostGradients { query: query.0, key: key.0, value: value.0, bias, alibi_slopes, relative_bias, sinks },
        HostGradients {
            query: query.1,
            key: key.1,
            value: value.1,
            bias: bias_error,
            alibi_slopes: alibi_slopes_error,
            relative_bias: relative_bias_error,
            sinks: sinks_error,
        },
    ))
}

fn add_part(units: &Units, sum: &mut Option<(Vec<f64>, Vec<f64>)>, part: &Option<(Vec<f64>, Vec<f64>)>) {
    let (Some((values, errors)), Some((part_values, part_errors))) = (sum, part) else { return };
    for at in 0..values.len() {
        values[at] += part_values[at];
        errors[at] += part_errors[at] + units.accumulation * values[at].abs();
        errors[at] = units.store(values[at], errors[at]);
    }
}

/// `Σ dOut·v`, where `dOut` comes stored.
fn dot(units: &Units, grad_out: &[f64], value: &[f64]) -> Bounded {
    let magnitude: f64 = grad_out.iter().zip(value).map(|(a, b)| (a * b).abs()).sum();
    Bounded {
        value: grad_out.iter().zip(value).map(|(a, b)| a * b).sum(),
        error: units.sum(value.len(), magnitude) + units.stored * magnitude,
    }
}

/// `δ = Σ dOut·out`, where both come stored.
fn delta(units: &Units, grad_out: &[f64], out: &[Bounded]) -> Bounded {
    let values: Vec<f64> = out.iter().map(|out| out.value).collect();
    let delta = dot(units, grad_out, &values);
    let stored: f64 = grad_out.iter().zip(out).map(|(grad, out)| grad.abs() * out.error).sum();
    Bounded { error: delta.error + stored, ..delta }
}

/// `x − δ`.
fn minus(units: &Units, x: Bounded, delta: Bounded) -> Bounded {
    let magnitude = x.value.abs() + delta.value.abs();
    Bounded { value: x.value - delta.value, error: x.error + delta.error + 2.0 * units.accumulation * magnitude }
}
