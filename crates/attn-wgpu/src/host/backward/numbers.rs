//! The launches for gradients by numbers that many pairs read: biases, tables, slopes, sinks.

use attn_core::Problem;
use burn_backend::DType;
use burn_cubecl::cubecl::CubeDim;
use burn_cubecl::tensor::CubeTensor;

use crate::device::backward::SUMS;
use crate::device::backward::pairs::{Config, ReadersLaunch, attention_backward_pairs};
use crate::device::backward::totals::{
    TargetLaunch, TotalsLaunch, UNITS as TOTAL_UNITS, attention_backward_join, attention_backward_totals,
};
use crate::host::arguments::element;
use crate::host::backward::pass::{Pass, over_scores};
use crate::host::backward::{UNITS, empty};
use crate::host::tiles::runs;

/// Where a row's sum by the slope is.
const BY_SLOPE: usize = 0;
/// Where that of the keys at the lower end of a table is.
const LOW: usize = 1;
/// And at the upper end.
const HIGH: usize = 2;

/// Numbers of the bias, and pairs that read each.
pub fn of_bias(problem: &Problem) -> Option<[usize; 2]> {
    problem.bias.map(|shape| count(shape, others(problem, shape)))
}

/// Numbers of the table between its ends, and pairs that may read each; none where it has but ends.
pub fn of_table(problem: &Problem) -> Option<[usize; 2]> {
    let (shape, read) = between_ends(problem)?;
    Some(count(shape, read))
}

fn count(shape: [usize; 4], read: [usize; 4]) -> [usize; 2] {
    [shape, read].map(|lengths| lengths.iter().fold(1, |product: usize, &length| product.saturating_mul(length)))
}

/// The lengths of the axes along which a bias is broadcast; 1 for the others.
fn others(problem: &Problem, shape: [usize; 4]) -> [usize; 4] {
    let scores = [problem.batch, problem.heads, problem.query_len, problem.key_len];
    std::array::from_fn(|axis| if shape[axis] == 1 { scores[axis] } else { 1 })
}

/// The numbers of a table between its ends, `[1, H or 1, 1, distances]`, and the pairs that may read each.
fn between_ends(problem: &Problem) -> Option<([usize; 4], [usize; 4])> {
    let [heads, distances] = problem.relative_bias?;
    let between = distances.checked_sub(2)?;
    let all_heads = if heads == 1 { problem.heads } else { 1 };
    Some(([1, heads, 1, between], [problem.batch, all_heads, problem.query_len, 1]))
}

impl Pass<'_> {
    /// The gradient by the bias.
    pub fn bias(&self, grad: &CubeTensor) {
        let Some(shape) = self.problem.bias else { return };
        let [numbers, _] = count(shape, others(self.problem, shape));
        self.pairs(grad, shape, others(self.problem, shape), false, [numbers, numbers, 0]);
    }

    /// The gradient by the table: between its ends by pairs, at the ends from the rows' sums.
    pub fn table(&self, grad: &CubeTensor, sums: &CubeTensor) {
        let Some([heads, distances]) = self.problem.relative_bias else { return };
        if let Some((shape, read)) = between_ends(self.problem) {
            self.pairs(grad, shape, read, true, [distances - 2, distances, 1]);
            self.launches.again(grad);
            self.totals(grad, sums, None, LOW, [heads, distances, 0]);
            self.launches.again(grad);
        }
        self.totals(grad, sums, None, HIGH, [heads, distances, distances - 1]);
    }

    /// The gradient by the slopes.
    pub fn slopes(&self, grad: &CubeTensor, sums: &CubeTensor) {
        self.totals(grad, sums, None, BY_SLOPE, [self.problem.heads, 1, 0]);
    }

    /// The gradient by the sinks.
    pub fn sinks(&self, grad: &CubeTensor) {
        let sinks = self.operands.sinks.clone();
        self.totals(grad, &self.statistics, sinks, 0, [self.problem.heads, 1, 0]);
    }

    /// Sums of number `which` of the rows, one for each head or one for all, at every `step`-th place from `first` on.
    fn totals(
        &self,
        grad: &CubeTensor,
        numbers: &CubeTensor,
        sinks: Option<CubeTensor>,
        which: usize,
        [sums, step, first]: [usize; 3],
    ) {
        let problem = self.problem;
        let own_heads = problem.heads / sums;
        let count = own_heads * problem.batch * problem.query_len;
        let totals =
            TotalsLaunch::new(sums, problem.heads, own_heads, problem.query_len, count, SUMS, which, step, first);
        attention_backward_totals::launch(
            self.client(),
            self.count(sums),
            CubeDim::new_1d(TOTAL_UNITS as u32),
            self.address,
            numbers.clone().into_tensor_arg(),
            sinks.map(CubeTensor::into_tensor_arg).into(),
            grad.clone().into_tensor_arg(),
            totals,
            element(grad),
        );
    }

    /// Gradients by `shape` numbers, each of which `read` pairs read. They go into rows of `[made, whole, first]` numbers.
    fn pairs(&self, grad: &CubeTensor, shape: [usize; 4], read: [usize; 4], table: bool, target: [usize; 3]) {
        let (problem, operands) = (self.problem, self.operands);
        let [numbers, pairs] = count(shape, read);
        let (runs, run) = runs(numbers, pairs);
        let parts = (runs > 1).then(|| empty(operands, &[runs, numbers], DType::F32));
        let into = |[own, whole, first]: [usize; 3]| TargetLaunch::new(own, whole, first);
        let out = parts.as_ref().unwrap_or(grad);
        let config = Config {
            head_dim: problem.head_dim,
            value_dim: problem.value_dim,
            options: self.options(&[]),
            by_out: self.by_out,
            table,
        };
        over_scores!(
            self,
            attention_backward_pairs,
            ((numbers * runs).div_ceil(UNITS), UNITS),
            [],
            out.clone().into_tensor_arg(),
            self.scalars(1, 1, 0),
            ReadersLaunch::new(numbers, runs, run, pairs, shape[1], shape[2], shape[3], read[1], read[2], read[3]),
            if parts.is_some() { into([numbers, numbers, 0]) } else { into(target) },
            config,
            element(&operands.query),
            element(out),
            self.mask_element,
        );
        if let Some(parts) = parts {
            attention_backward_join::launch(
                self.client(),
                self.count(numbers.div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                self.address,
                parts.into_tensor_arg(),
                grad.clone().into_tensor_arg(),
                into(target),
                runs,
                numbers,
                element(grad),
            );
        }
    }
}
