//! The numbers that a shape is run on: drawn from a normal distribution, the same at every run.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::shapes::{Dtype, Shape, Suite};

/// Host copies of a shape's inputs, contiguous, already rounded to the shape's type.
pub struct Inputs {
    /// [B, H, Sq, D].
    pub query: Vec<f32>,
    /// [B, G, Sk, D].
    pub key: Vec<f32>,
    /// [B, G, Sk, E].
    pub value: Vec<f32>,
    /// [B, H, Sq, E], the upstream gradient; empty outside training.
    pub grad_out: Vec<f32>,
    /// The shape's bias, on its own axes; empty if it has none.
    pub bias: Vec<f32>,
    /// `[H]`; empty if it has none.
    pub sinks: Vec<f32>,
}

impl Inputs {
    /// The inputs of `shape`.
    pub fn of(shape: &Shape) -> Self {
        let [query, key, value, out] = shape.elements();
        let grad_out = match shape.suite {
            Suite::Train => normal(4, out, shape.dtype),
            Suite::Prefill | Suite::Decode | Suite::Sweep => Vec::new(),
        };
        Self {
            query: normal(1, query, shape.dtype),
            key: normal(2, key, shape.dtype),
            value: normal(3, value, shape.dtype),
            grad_out,
            bias: shape.bias_dims().map_or(Vec::new(), |dims| normal(5, dims.iter().product(), shape.dtype)),
            sinks: if shape.extras.sinks { normal(6, shape.heads, shape.dtype) } else { Vec::new() },
        }
    }
}

/// Numbers that one generator draws; the next piece has a generator of its own, so that pieces can be drawn at once.
const PIECE: usize = 1 << 20;

/// `length` numbers of mean 0 and variance 1, rounded to `dtype`; the same whatever the number of threads.
pub fn normal(seed: u64, length: usize, dtype: Dtype) -> Vec<f32> {
    let mut numbers = vec![0f32; length];
    numbers.par_chunks_mut(PIECE).enumerate().for_each(|(n, piece)| {
        draw(&mut StdRng::seed_from_u64(seed ^ ((n as u64) << 32)), piece, dtype);
    });
    numbers
}

/// Fills `numbers` by Box and Muller's pairs.
fn draw(random: &mut StdRng, numbers: &mut [f32], dtype: Dtype) {
    for pair in numbers.chunks_mut(2) {
        let radius = (-2.0 * (1.0 - random.random::<f32>()).ln()).sqrt();
        let (sin, cos) = (random.random::<f32>() * std::f32::consts::TAU).sin_cos();
        for (number, side) in pair.iter_mut().zip([sin, cos]) {
            *number = dtype.round(radius * side);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normal_repeatable_and_of_the_type() {
        let numbers = normal(7, 100_001, Dtype::Bf16);
        assert_eq!(numbers.len(), 100_001);
        assert_eq!(numbers, normal(7, 100_001, Dtype::Bf16));
        let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / 100_001.0;
        let square = numbers.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 100_001.0;
        // Standard errors are 0.0032 and 0.0045: five of each.
        assert!(mean.abs() < 0.016, "{mean}");
        assert!((square - 1.0).abs() < 0.025, "{square}");
        assert!(numbers.iter().all(|&x| Dtype::Bf16.round(x) == x));
    }

    #[test]
    fn pieces_differ_and_do_not_hang_on_what_comes_after() {
        let numbers = normal(7, 2 * PIECE + 3, Dtype::F32);
        assert_eq!(numbers[..PIECE + 5], normal(7, PIECE + 5, Dtype::F32));
        let alike = numbers[..PIECE].iter().zip(&numbers[PIECE..]).filter(|(a, b)| a == b).count();
        assert!(alike < PIECE / 1000, "{alike} of two pieces are equal");
    }
}
