//! The joining of runs beside the same on the host.

use attn_core::{AttentionSpec, ProblemInputs, TensorInfo};
use burn_backend::TensorData;
use burn_backend::ops::FloatTensorOps;
use burn_cubecl::{CubeBackend, CubeDevice};

use super::*;

const HEADS: usize = 3;
const QUERIES: usize = 2;
const ROWS: usize = HEADS * QUERIES;
/// The row that sees nothing.
const EMPTY: usize = 4;
/// The row that sees all runs; a value of its last one is infinite.
const WHOLE: usize = 3;

fn numbers(tensor: CubeTensor) -> Vec<f32> {
    let (shape, dtype) = (tensor.meta.shape().clone(), tensor.dtype);
    let bytes = tensor.client.read_one(tensor.handle).expect("it is read");
    TensorData::from_bytes(bytes, shape, dtype).try_to_vec().expect("it is f32")
}

/// Parts `[splits, rows, columns]`, their log-sum-exp `[splits, rows]`, sinks `[heads]`.
struct Runs {
    parts: Vec<f32>,
    lses: Vec<f32>,
    sinks: Vec<f32>,
}

impl Runs {
    /// Without a pattern; runs at the end see nothing of most rows.
    fn new(splits: usize, columns: usize) -> Self {
        let number = |at: usize| ((at * 2_654_435_761) % 1009) as f32 / 100.0 - 5.0;
        let is_seen = |at: usize| at % ROWS != EMPTY && (at / ROWS < splits.div_ceil(2) || at % ROWS == WHOLE);
        let lses: Vec<f32> =
            (0..splits * ROWS).map(|at| if is_seen(at) { number(at) * 3.0 } else { f32::NEG_INFINITY }).collect();
        let parts = (0..splits * ROWS * columns).map(|at| if is_seen(at / columns) { number(at) } else { 0.0 });
        let mut parts: Vec<f32> = parts.collect();
        parts[((splits - 1) * ROWS + WHOLE) * columns] = f32::INFINITY;
        Self { parts, lses, sinks: vec![120.0, f32::NEG_INFINITY, -9.0] }
    }

    /// Output and log-sum-exp of a row.
    fn joined(&self, row: usize, columns: usize, has_sinks: bool) -> (Vec<f64>, f64) {
        let of_row = || self.lses.iter().skip(row).step_by(ROWS).map(|&lse| f64::from(lse));
        let sink = if has_sinks { f64::from(self.sinks[row / QUERIES]) } else { f64::NEG_INFINITY };
        let top = of_row().fold(sink, f64::max);
        if top == f64::NEG_INFINITY {
            return (vec![0.0; columns], top);
        }
        let sum = of_row().map(|lse| (lse - top).exp()).sum::<f64>() + (sink - top).exp();
        let part = |run: usize, column: usize| f64::from(self.parts[(run * ROWS + row) * columns + column]);
        let out =
            |column| of_row().enumerate().map(|(run, lse)| (lse - top).exp() * part(run, column)).sum::<f64>() / sum;
        ((0..columns).map(out).collect(), top + sum.ln())
    }
}

#[test]
fn runs_are_joined_by_one_unit_and_by_several() {
    let Some(device) = CubeDevice::enumerate_all().into_iter().next() else {
        println!("skipped: there is no adapter");
        return;
    };
    let tensor = |numbers: &[f32], shape: &[usize]| -> CubeTensor {
        CubeBackend::float_from_data(TensorData::new(numbers.to_vec(), shape.to_vec()), &device)
    };
    // Fewer runs than a unit loads together, as many, more than units, more than all load together.
    for (splits, lanes) in [(2, 1), (4, 1), (5, 8), (32, 8), (33, 8), (70, 8)] {
        for (columns, has_sinks) in [(8, true), (5, false)] {
            let runs = Runs::new(splits, columns);
            let row = TensorInfo { shape: [1, HEADS, QUERIES, columns].into(), dtype: DType::F32 };
            let mut inputs = ProblemInputs::new(row.clone(), row.clone(), row);
            inputs.sinks = has_sinks.then(|| TensorInfo { shape: [HEADS].into(), dtype: DType::F32 });
            let problem = Problem::new(&AttentionSpec::default(), &inputs).expect("it is a problem");
            let like = tensor(&vec![0.0; ROWS * columns], &[1, HEADS, QUERIES, columns]);
            let mut given = attn_core::AttentionInputs::new(like.clone(), like.clone(), like.clone());
            given.sinks = has_sinks.then(|| tensor(&runs.sinks, &[HEADS]));
            let operands = Operands::new(&problem, given);
            let parts = [tensor(&runs.parts, &[splits, ROWS, columns]), tensor(&runs.lses, &[splits, ROWS])];
            let nan = |shape: &[usize]| tensor(&vec![f32::NAN; shape.iter().product()], shape);
            let (out, lse) = (nan(&[ROWS, columns]), nan(&[ROWS]));
            merge(&problem, &operands, (splits, lanes), parts, &out, Some(&lse));
            let (out, lse) = (numbers(out), numbers(lse));
            for row in 0..ROWS {
                let (expected, expected_lse) = runs.joined(row, columns, has_sinks);
                let what = format!("row {row} of {splits} runs by {lanes} units, {columns} columns");
                let is_near = |found: f32, expected: f64| {
                    f64::from(found) == expected || (f64::from(found) - expected).abs() <= 2e-6 * (1.0 + expected.abs())
                };
                assert!(is_near(lse[row], expected_lse), "{what}: an LSE of {}, not {expected_lse}", lse[row]);
                for (&found, &expected) in out[row * columns..].iter().zip(&expected) {
                    assert!(is_near(found, expected), "{what}: {found}, not {expected}");
                }
            }
        }
    }
}
