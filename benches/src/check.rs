//! Whether an answer is right, before anyone times how fast it comes.

use anyhow::{Context, Result, ensure};
use burn::tensor::Tensor;

use crate::contestants::Outcome;
use crate::oracle::{Bounded, Expected, Gradients};
use crate::shapes::{Dtype, Shape, Suite};

/// How many times its bound a peer's gradient of a half type may be off: LibTorch's backward pass adds up gradients in the type itself, block
/// by block, and Burn's keeps scores in it. It is no peer of ours in accuracy then, but one in time.
const PEERS_HALVES: f64 = 4.0;

/// Compares an outcome with what is expected: the largest error as a share of its bound. A peer may answer what it likes for a query
/// that sees nothing, and outside the rows that are expected; its gradients of half types may be off by four bounds.
///
/// # Errors
/// Where a number is off by more than its bound or is no finite number, the tensor, place, and both numbers.
pub fn check(shape: &Shape, expected: &Expected, outcome: &Outcome, ours: bool) -> Result<f64> {
    let tensors = if shape.suite == Suite::Train { 4 } else { 1 };
    ensure!(outcome.len() == tensors, "{} tensors came back, {tensors} were expected", outcome.len());
    let [query_dims, key_dims, value_dims, out_dims] = shape.dims();
    let numbers = |name, tensor, dims| numbers(name, tensor, dims, ours);
    let out = numbers("output", &outcome[0], out_dims)?;
    let mut worst = 0f64;
    for row in expected.rows.iter().filter(|row| ours || row.sees) {
        let index = (row.batch * shape.heads + row.head) * shape.query_len + row.query;
        worst = worst.max(compare("output", &row.out, &out, index * shape.value_dim(), 1.0)?);
    }
    if shape.suite == Suite::Train {
        let dq = numbers("query gradient", &outcome[1], query_dims)?;
        let dk = numbers("key gradient", &outcome[2], key_dims)?;
        let dv = numbers("value gradient", &outcome[3], value_dims)?;
        let most = if ours || shape.dtype == Dtype::F32 { 1.0 } else { PEERS_HALVES };
        for gradients in &expected.gradients {
            worst = worst.max(check_gradients(shape, gradients, [&dq, &dk, &dv], most)?);
        }
    }
    Ok(worst)
}

fn check_gradients(shape: &Shape, expected: &Gradients, got: [&[f32]; 3], most: f64) -> Result<f64> {
    let group = shape.heads / shape.kv_heads;
    let kv = expected.batch * shape.kv_heads + expected.kv_head;
    let query_at = kv * group * shape.query_len * shape.head_dim;
    let key_at = kv * shape.key_len * shape.head_dim;
    let value_at = kv * shape.key_len * shape.value_dim();
    let dq = compare("query gradient", &expected.query, got[0], query_at, most)?;
    let dk = compare("key gradient", &expected.key, got[1], key_at, most)?;
    let dv = compare("value gradient", &expected.value, got[2], value_at, most)?;
    Ok(dq.max(dk).max(dv))
}

/// The tensor's numbers on the host, in f32, all of them finite where that is demanded.
fn numbers(name: &str, tensor: &Tensor<4>, dims: [usize; 4], finite: bool) -> Result<Vec<f32>> {
    ensure!(tensor.dims() == dims, "the {name} has shape {:?}, {dims:?} was expected", tensor.dims());
    let numbers = tensor.clone().try_into_vec_as::<f32>().with_context(|| format!("reading the {name}"))?;
    if let Some(at) = numbers.iter().position(|x| finite && !x.is_finite()) {
        anyhow::bail!("the {name} has {} at element {at}", numbers[at]);
    }
    Ok(numbers)
}

/// The largest share of its bound that an error takes, over `expected` and the numbers of `got` from `at` on; an error where one takes more
/// than `most`.
fn compare(name: &str, expected: &[Bounded], got: &[f32], at: usize, most: f64) -> Result<f64> {
    let mut worst = 0f64;
    for (n, (number, &got)) in expected.iter().zip(&got[at..]).enumerate() {
        let share = number.error_share(got);
        ensure!(
            share <= most,
            "the {name} is wrong at element {}: {got}, expected {} ± {:.1e} ({share:.2} of the bound)",
            at + n,
            number.value,
            number.tolerance
        );
        worst = worst.max(share);
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_past_its_bound_is_an_error_with_its_place() {
        let expected = [Bounded { value: 1.0, tolerance: 0.1 }; 3];
        let share = compare("output", &expected, &[0.0, 1.05, 1.0, 0.95], 1, 1.0);
        assert!((share.expect("all are within") - 0.5).abs() < 1e-6);
        let error = compare("output", &expected, &[1.0, 1.0, 1.2], 0, 1.0).expect_err("1.2 is not");
        assert!(error.to_string().contains("element 2"), "{error}");
        assert!(compare("output", &expected, &[1.0, 1.0, 1.2], 0, 4.0).is_ok());
        assert!(compare("output", &expected, &[f32::NAN; 3], 0, 4.0).is_err());
    }
}
