//! What a backend computes for the composite: here, because the core crate depends on none.

use attn_core::composite::product_in_parts;
use burn_backend::ops::FloatTensorOps;
use burn_backend::{Shape, TensorData};
use burn_flex::{Flex, FlexDevice, FlexTensor};

const M: usize = 5;
const K: usize = 67;
const N: usize = 9;

fn tensor(numbers: &[f32], shape: [usize; 2]) -> FlexTensor {
    Flex::float_from_data(TensorData::new(numbers.to_vec(), Shape::from(shape)), &FlexDevice)
}

fn numbers(tensor: FlexTensor) -> Vec<f32> {
    let data = burn_backend::read_sync(Flex::float_into_data(tensor)).expect("it was computed");
    data.try_to_vec().expect("it is f32")
}

/// The first 11 bits, the last of them rounded.
fn tf32(x: f32) -> f32 {
    if x.is_finite() { f32::from_bits((x.to_bits() + 0x1000) & 0xffff_e000) } else { x }
}

/// Products as tensor cores make them, of factors rounded to TF32.
fn narrow(lhs: FlexTensor, rhs: FlexTensor) -> FlexTensor {
    let rounded = |x: FlexTensor, shape| tensor(&numbers(x).into_iter().map(tf32).collect::<Vec<_>>(), shape);
    Flex::float_matmul(rounded(lhs, [M, K]), rounded(rhs, [K, N]))
}

/// Numbers of many sizes, without a pattern.
fn drawn(count: usize, seed: u32) -> Vec<f32> {
    let number = |at: u32| {
        let x = (at + 1).wrapping_mul(0x9e37_79b9).wrapping_add(seed.wrapping_mul(0x85eb_ca6b));
        let x = (x ^ (x >> 15)).wrapping_mul(0x2c1b_3c6d);
        let x = x ^ (x >> 12);
        ((x >> 8) as f32 / (1 << 23) as f32 - 1.0) * 2f32.powi((x % 7) as i32 - 3)
    };
    (0..count as u32).map(number).collect()
}

/// The largest error, as a share of `Σ |a||b|`.
fn error(found: &[f32], lhs: &[f32], rhs: &[f32]) -> f64 {
    let share = |(at, &found): (usize, &f32)| {
        let pairs = (0..K).map(|k| (f64::from(lhs[at / N * K + k]), f64::from(rhs[k * N + at % N])));
        let (sum, size) = pairs.fold((0.0, 0.0), |(sum, size), (a, b)| (sum + a * b, size + (a * b).abs()));
        (f64::from(found) - sum).abs() / size
    };
    found.iter().enumerate().map(share).fold(0.0, f64::max)
}

#[test]
fn products_in_parts_have_the_bits_of_f32() {
    let (lhs, rhs) = (drawn(M * K, 1), drawn(K * N, 2));
    let (a, b) = (tensor(&lhs, [M, K]), tensor(&rhs, [K, N]));
    let by_tf32 = error(&numbers(narrow(a.clone(), b.clone())), &lhs, &rhs);
    let in_parts = error(&numbers(product_in_parts::<Flex>(a.clone(), b.clone(), narrow)), &lhs, &rhs);
    let plain = error(&numbers(Flex::float_matmul(a, b)), &lhs, &rhs);
    assert!(by_tf32 > 1e-5 && plain < 3e-7, "{by_tf32:e} {plain:e}");
    assert!(in_parts < 4e-7, "{in_parts:e}, where TF32 alone is off by {by_tf32:e}");
}

/// Also where a part is not finite, and where a number is too large to be cut.
#[test]
fn numbers_that_cannot_be_cut_go_through_as_they_are() {
    let (mut lhs, mut rhs) = (vec![1.0 + 2f32.powi(-20); M * K], vec![1.0f32; K * N]);
    lhs[0] = f32::INFINITY;
    lhs[K] = f32::NAN;
    lhs[2 * K] = 2f32.powi(120);
    rhs[0] = 0.0;
    rhs[1] = -1.0;
    let (a, b) = (tensor(&lhs, [M, K]), tensor(&rhs, [K, N]));
    let plain = numbers(Flex::float_matmul(a.clone(), b.clone()));
    let found = numbers(product_in_parts::<Flex>(a, b, narrow));
    for (at, (&found, &plain)) in found.iter().zip(&plain).enumerate() {
        let same = found == plain || found.is_nan() && plain.is_nan();
        assert!(same || (found - plain).abs() <= 2f32.powi(-20) * plain.abs(), "{at}: {found}, not {plain}");
    }
    assert!(plain[0].is_nan() && plain[1] == f32::NEG_INFINITY && plain[2] == f32::INFINITY);
    assert!(plain[N].is_nan() && plain[2 * N + 2] > 1e36 && plain[3 * N].is_finite());
}
