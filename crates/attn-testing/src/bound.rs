//! How far rounding alone can carry a right answer: a bound for every element, derived by running error analysis.
//!
//! The formulas of the contract are evaluated in f64 beside a bound of what each step's rounding adds in the type that a kernel
//! computes in. With `u` the unit roundoff of the accumulation type and `t` that of the tensors (0 where both are one type):
//!
//! ```text
//! a sum of n products        g(n)·u·Σ|a·b|,  g(n) = 4 + min(n, 4√n)       (any order; Higham 2002, Higham and Mary 2019)
//! score s                    that, times |scale|, through softcap's slope, plus u times what each addition carries
//! p = exp(s − m)             relative: error of s + u·(|s| + 2·|s − m|) + 4u
//! l = Σ p                    relative: Σ w·(that of p) + g(n)·u
//! weight, lse, out           from these, weights times the factor of dropout for out; out once more t·|out|, since it is stored, and t·Σ w·|v| where weights are rounded first
//! gradients                  the same rules through the backward's formulas, where the output and its gradient come stored in
//!                            the tensors' type; the parts by out and by lse are stored, added, and stored again
//! ```
//!
//! The constants cover what kernels do differently: scaling the query first, powers of two in place of e, rescaling between tiles,
//! polynomials within a few units in the last place. Nothing here was fitted to any kernel's results.

mod backward;
mod forward;

use attn_core::reference::HostGradients;
use burn::tensor::FloatDType;

use crate::host::{Answer, Ask, HostProblem};

/// Unit roundoffs and the smallest numbers of a type.
#[derive(Debug, Clone, Copy)]
struct Units {
    /// Of the accumulation type, and of the f64 in which the expected answer was computed.
    accumulation: f64,
    /// Of the tensors' type where it is narrower than the accumulation type, else 0.
    stored: f64,
    /// Of the weights as they multiply values, and of their gradients as they multiply queries and keys, where that is not the
    /// accumulation type.
    weights: f64,
    /// What a result near 0 may lose to underflow.
    floor: f64,
}

/// In what weights multiply values, and gradients by scores queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// In the accumulation type.
    Wide,
    /// Each weight rounded to the tensors' type, sums in the accumulation type: what products of pairs of bf16 take.
    Rounded,
    /// Each weight a sum of two numbers of the tensors' type, the first cut and the second rounded: what a GPU's matrices of bf16 take.
    Paired,
}

impl Units {
    fn of(dtype: FloatDType, products: Products) -> Self {
        let (single, double) = (2f64.powi(-24), 2f64.powi(-53));
        let (accumulation, stored, floor) = match dtype {
            FloatDType::F64 => (double, 0.0, 1e-300),
            FloatDType::F32 | FloatDType::Flex32 => (single, 0.0, 1e-36),
            // Half of the smallest subnormal number of f16 is 2⁻²⁵.
            FloatDType::F16 => (single, 2f64.powi(-11), 2f64.powi(-25)),
            FloatDType::BF16 => (single, 2f64.powi(-8), 1e-36),
        };
        let weights = match products {
            Products::Wide => 0.0,
            Products::Rounded => stored,
            // What is cut off is less than twice the roundoff, and is rounded.
            Products::Paired => 2.0 * stored * stored,
        };
        Self { accumulation: accumulation + double, stored, weights, floor }
    }

    /// Bound of a sum of `n` terms whose magnitudes add up to `magnitude`.
    fn sum(&self, n: usize, magnitude: f64) -> f64 {
        let n = n as f64;
        (4.0 + n.min(4.0 * n.sqrt())) * self.accumulation * magnitude
    }

    /// An error with that of storing the result, and its underflow, added.
    fn store(&self, value: f64, error: f64) -> f64 {
        error + self.stored * (value.abs() + error) + self.floor
    }
}

/// A value and a bound of its error.
#[derive(Debug, Clone, Copy, Default)]
struct Bounded {
    value: f64,
    error: f64,
}

/// The product of two numbers.
fn times(units: &Units, a: Bounded, b: Bounded) -> Bounded {
    let value = a.value * b.value;
    let error = a.value.abs() * b.error + b.value.abs() * a.error + a.error * b.error;
    Bounded { value, error: error + 2.0 * units.accumulation * value.abs() }
}

/// Bounds of every element of the answer, each in the place of what it bounds.
///
/// # Panics
/// Where the problem breaks the contract; check it first.
pub fn bounds(problem: &HostProblem, ask: &Ask) -> Answer {
    bounds_with(problem, ask, Products::Wide)
}

/// The bounds for a kernel that multiplies weights with values so.
///
/// # Panics
/// As [`bounds`].
pub fn bounds_with(problem: &HostProblem, ask: &Ask, products: Products) -> Answer {
    evaluate_with(problem, ask, products).1
}

/// The answer, by a second writing of the contract apart from the reference's, and the bounds.
///
/// # Panics
/// As [`bounds`].
pub fn evaluate(problem: &HostProblem, ask: &Ask) -> (Answer, Answer) {
    evaluate_with(problem, ask, Products::Wide)
}

fn evaluate_with(problem: &HostProblem, ask: &Ask, products: Products) -> (Answer, Answer) {
    let units = Units::of(problem.dtype, products);
    let dims = &problem.dims;
    let (mut values, mut errors) = (Parts::default(), Parts::default());
    let mut sums = ask.gradients.iter().flat_map(|upstream| backward::Sums::of(problem, upstream)).collect::<Vec<_>>();
    let [batch, heads, rows] = dims.rows();
    for at in 0..batch * heads * rows {
        let row = forward::Row::new(problem, &units, [at / (heads * rows), at / rows % heads, at % rows]);
        let out = row.out(problem, &units);
        values.push(&row, &out, dims.key_len, |bounded| bounded.value);
        errors.push(&row, &out, dims.key_len, |bounded| bounded.error);
        sums.iter_mut().for_each(|sums| sums.add(problem, &units, &row, &out));
    }
    let (gradients, gradient_errors) = backward::finish(&units, sums).unzip();
    (values.answer(ask, gradients), errors.answer(ask, gradient_errors))
}

/// Outputs, row by row: values or errors.
#[derive(Default)]
struct Parts {
    out: Vec<f64>,
    lse: Vec<f64>,
    weights: Vec<f64>,
}

impl Parts {
    fn push(&mut self, row: &forward::Row, out: &[Bounded], key_len: usize, of: impl Fn(Bounded) -> f64) {
        self.out.extend(out.iter().map(|out| of(*out)));
        self.lse.push(of(row.lse));
        let start = self.weights.len();
        self.weights.resize(start + key_len, 0.0);
        for pair in &row.pairs {
            self.weights[start + pair.key] = of(pair.weight);
        }
    }

    fn answer(self, ask: &Ask, gradients: Option<HostGradients>) -> Answer {
        Answer {
            out: self.out,
            lse: ask.lse.then_some(self.lse),
            weights: ask.weights.then_some(self.weights),
            gradients,
        }
    }
}
