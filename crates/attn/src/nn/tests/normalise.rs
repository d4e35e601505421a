//! Tests of weights from scores.

use attn_core::{AttentionError, Mask};
use burn::tensor::{Bool, DType, Tensor, TensorData};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, noise, reference_device, wide_device,
};
use crate::nn::{Normaliser, entmax15, quiet_softmax, sparsemax};

const ALL: [Normaliser; 4] =
    [Normaliser::Softmax, Normaliser::QuietSoftmax, Normaliser::Sparsemax, Normaliser::Entmax15];

/// A row's weights in f64: the formulas of [`Normaliser`], τ by bisection. `−inf` is hidden.
fn expected(normaliser: Normaliser, row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return vec![0.0; row.len()];
    }
    let of_tau = |tau: f64| -> Vec<f64> {
        let margin = |s: f64| match normaliser {
            Normaliser::Entmax15 => (s / 2.0 - tau).max(0.0).powi(2),
            _ => (s - tau).max(0.0),
        };
        row.iter().map(|&s| margin(s)).collect()
    };
    match normaliser {
        Normaliser::Softmax | Normaliser::QuietSoftmax => {
            let one = if normaliser == Normaliser::QuietSoftmax { (-max).exp() } else { 0.0 };
            let sum: f64 = row.iter().map(|s| (s - max).exp()).sum();
            row.iter().map(|s| (s - max).exp() / (one + sum)).collect()
        }
        Normaliser::Sparsemax | Normaliser::Entmax15 => {
            let top = if normaliser == Normaliser::Entmax15 { max / 2.0 } else { max };
            let (mut low, mut high) = (top - 1.0, top);
            for _ in 0..200 {
                let middle = f64::midpoint(low, high);
                if of_tau(middle).iter().sum::<f64>() > 1.0 { low = middle } else { high = middle }
            }
            of_tau(low)
        }
    }
}

fn rows<const N: usize>(normaliser: Normaliser, scores: Tensor<N>) -> Tensor<N> {
    let (dims, device) = (scores.dims(), scores.device());
    let made: Vec<f64> = elements(scores).chunks(dims[N - 1]).flat_map(|row| expected(normaliser, row)).collect();
    Tensor::from_data(TensorData::new(made, dims), (&device, DType::F64))
}

fn doubled<const N: usize>(tensor: Tensor<N>) -> Tensor<N> {
    tensor.cast(burn::tensor::FloatDType::F64)
}

#[test]
fn weights_follow_their_formulas() {
    let Some(device) = wide_device() else { return };
    for normaliser in ALL {
        for (keys, spread) in [(1, 1.0), (2, 3.0), (7, 0.1), (7, 1.0), (7, 30.0), (300, 0.5), (300, 8.0), (1025, 1e-3)]
        {
            let scores = noise([2, 3, keys], keys, &device).mul_scalar(spread);
            let wanted = rows(normaliser, scores.clone());
            // Rounding of a score of this size, and of a sum over the keys.
            let tolerance = f64::from(f32::EPSILON) * (2.0 * spread + 8.0 + (keys as f64).sqrt());
            assert_close(normaliser.apply(scores.clone(), None).unwrap(), wanted.clone(), tolerance);
            let double = normaliser.apply(doubled(scores), None).unwrap();
            assert_eq!(double.dtype(), DType::F64);
            assert_close(double, wanted, 1e-13);
        }
    }
}

#[test]
fn the_threshold_is_found_where_steps_to_it_are_many() {
    let device = reference_device();
    // Scores that crowd towards the greatest: each step of Newton's method drops few of them.
    let crowded = |i: usize, keys: usize| match i % 3 {
        0 => -(0.5f64.powi((i / 16) as i32)),
        1 => -((i as f64) / keys as f64).powi(6),
        _ => -1.0 / (1.0 + i as f64),
    };
    // Groups at even distances, each half as large as the one below it: each step drops one group.
    let halving = |i: usize, keys: usize| -f64::from((i + 1).ilog2()) / f64::from(keys.ilog2() + 1);
    type Scores<'a> = &'a dyn Fn(usize, usize) -> f64;
    for (keys, score) in
        [(3, &crowded as Scores), (64, &crowded), (2000, &crowded), (40_000, &halving), (300, &halving)]
    {
        let data: Vec<f64> = (0..keys).map(|i| score(i, keys)).collect();
        let scores = Tensor::<1>::from_data(TensorData::new(data, [keys]), (&device, DType::F64));
        for normaliser in [Normaliser::Sparsemax, Normaliser::Entmax15] {
            let found = normaliser.apply(scores.clone(), None).unwrap();
            assert_close(found, rows(normaliser, scores.clone()), 1e-13);
        }
    }
}

#[test]
fn known_values_and_limits() {
    let device = reference_device();
    let scores = Tensor::<1>::from_floats([1.0, 0.5, -1.0], &device);
    assert_close(sparsemax(scores.clone(), None).unwrap(), Tensor::from_floats([0.75, 0.25, 0.0], &device), 0.0);
    // 1.5-entmax of two scores t apart, t ≤ 2: p = (1 ± t/2·√(2 − t²/4)) / 2 (from p = (z − τ)² with Σ p = 1).
    let t = 0.8f64;
    let half = t / 4.0 * (2.0 - t * t / 4.0).sqrt();
    let pair = entmax15(Tensor::<1>::from_floats([0.8, 0.0], &device), None).unwrap();
    assert_close(pair, Tensor::from_floats([0.5 + half as f32, 0.5 - half as f32], &device), 1e-6);
    // All equal: even. Far apart: the greatest alone, exactly.
    for normaliser in [Normaliser::Sparsemax, Normaliser::Entmax15] {
        let even = normaliser.apply(Tensor::<2>::full([1, 5], 3.0, &device), None).unwrap();
        assert_close(even, Tensor::full([1, 5], 0.2, &device), 1e-7);
        let alone = normaliser.apply(Tensor::<1>::from_floats([-40.0, 7.0, 4.9], &device), None).unwrap();
        assert_close(alone, Tensor::from_floats([0.0, 1.0, 0.0], &device), 0.0);
    }
    // Quiet softmax of scores far below 0 is nothing, of scores far above it softmax.
    let low = quiet_softmax(Tensor::<1>::from_floats([-100.0, -90.0], &device), None).unwrap();
    assert_close(low, Tensor::zeros([2], &device), 1e-30);
    let high = Tensor::<1>::from_floats([100.0, 101.0], &device);
    let softmax = Normaliser::Softmax.apply(high.clone(), None).unwrap();
    assert_close(quiet_softmax(high, None).unwrap(), softmax, 1e-7);
}

#[test]
fn what_is_hidden_weighs_exactly_nothing_even_nan() {
    let device = reference_device();
    let keep = |i: usize| i % 3 != 1 && i / 6 != 2;
    let seen = bools([4, 6], keep, &device);
    let clean = noise([4, 6], 3, &device);
    let hidden = clean.clone().mask_fill(seen.clone().bool_not(), f32::NEG_INFINITY);
    let poisoned = clean.clone().mask_fill(seen.clone().bool_not(), f32::NAN);
    for normaliser in ALL {
        let wanted = rows(normaliser, hidden.clone());
        let masks = [Mask::keep(seen.clone()), Mask::hide(seen.clone().bool_not())];
        for (scores, mask) in [(clean.clone(), &masks[0]), (poisoned.clone(), &masks[1]), (poisoned.clone(), &masks[0])]
        {
            let found = normaliser.apply(scores, Some(mask.clone())).unwrap();
            assert_close(found.clone(), wanted.clone(), 1e-6);
            for (i, weight) in elements(found).into_iter().enumerate() {
                assert!(keep(i) || weight == 0.0, "key {i} of {normaliser:?}: {weight}");
            }
        }
        assert_close(normaliser.apply(hidden.clone(), None).unwrap(), wanted.clone(), 1e-6);
        // A mask of one row holds for all.
        let column = bools([1, 6], |i| i != 2, &device);
        let all = column.clone().expand::<2, _>([4, 6]);
        let [one, whole] = [column, all].map(|mask| normaliser.apply(clean.clone(), Some(Mask::keep(mask))).unwrap());
        assert_close(one, whole, 0.0);
    }
    // NaN that is seen is not swallowed.
    for normaliser in ALL {
        let found = elements(normaliser.apply(Tensor::<1>::from_floats([0.1, f32::NAN, 0.2], &device), None).unwrap());
        assert!(found.iter().any(|weight| weight.is_nan()), "{normaliser:?}: {found:?}");
    }
}

#[test]
fn gradients_are_central_differences_and_stay_off_what_is_hidden() {
    let device = reference_device();
    for normaliser in ALL {
        // No score of these lies within the step of the differences from its row's threshold.
        assert_gradients(Input::new(noise([3, 5], 1, &device).mul_scalar(1.5)), |scores| {
            let mask = bools([3, 5], |i| i % 4 != 2 && i / 5 != 1, &scores.value().device());
            let weights = normaliser.apply(scores.value(), Some(Mask::keep(mask))).unwrap();
            (weights.clone() * weights * doubled(noise([3, 5], 2, &device)).autodiff()).sum()
        });
        let poisoned = Tensor::<1>::from_floats([0.3, f32::NAN, 0.4, -9.0], &device).autodiff().require_grad();
        let mask = Mask::hide(bools([4], |i| i == 1, &device));
        let weights = normaliser.apply(poisoned.clone(), Some(mask)).unwrap();
        let grad = poisoned.grad(&(weights.clone() * weights).sum().backward()).unwrap();
        let grad = elements(grad);
        assert!(grad[1] == 0.0 && grad.iter().all(|grad| grad.is_finite()), "{normaliser:?}: {grad:?}");
    }
}

/// Sparsemax: `diag(s) − s·sᵀ/|S|` with s the support's indicator. 1.5-entmax: `diag(r) − r·rᵀ/Σr` with r = √p.
#[test]
fn the_jacobian_is_that_of_the_support() {
    let Some(device) = wide_device() else { return };
    let (keys, factor) = (6, 2.0);
    for normaliser in [Normaliser::Sparsemax, Normaliser::Entmax15] {
        let scores = doubled(noise([keys], 5, &device).mul_scalar(factor)).autodiff().require_grad();
        let weights = || normaliser.apply(scores.clone(), None).unwrap();
        let p = elements(weights());
        let r: Vec<f64> = p
            .iter()
            .map(|&p| if normaliser == Normaliser::Sparsemax { f64::from(u8::from(p > 0.0)) } else { p.sqrt() })
            .collect();
        assert!(p.contains(&0.0) && p.iter().filter(|&&p| p > 0.0).count() > 1, "{p:?}");
        let sum: f64 = r.iter().sum();
        for i in 0..keys {
            let grad = scores.grad(&weights().narrow(0, i, 1).sum().backward()).unwrap();
            for (j, found) in elements(grad).into_iter().enumerate() {
                let wanted = if i == j { r[i] } else { 0.0 } - r[i] * r[j] / sum;
                assert!((found - wanted).abs() < 1e-12, "{normaliser:?} {i} {j}: {found} in place of {wanted}");
            }
        }
    }
}

#[test]
fn every_backend_gives_the_same() {
    for normaliser in ALL {
        assert_agreement(1e-6, |device| {
            let mask = Mask::keep(bools([2, 1, 9], |i| i % 4 != 3, device));
            normaliser.apply(noise([2, 3, 9], 1, device).mul_scalar(2.0), Some(mask)).unwrap()
        });
    }
}

#[test]
fn empty_and_wrong_input() {
    let device = reference_device();
    let none: Option<Mask<Tensor<2, Bool>>> = None;
    for normaliser in ALL {
        for empty in [[0, 3], [3, 0], [0, 0]] {
            assert_eq!(normaliser.apply(Tensor::zeros(empty, &device), none.clone()).unwrap().dims(), empty);
        }
    }
    let name = |result: Result<Tensor<2>, AttentionError>| result.map(|_| ()).unwrap_err().argument();
    let scores = Tensor::<2>::zeros([2, 3], &device);
    for wrong in [[3, 3], [2, 2]] {
        let mask = Mask::keep(bools(wrong, |_| true, &device));
        assert_eq!(name(sparsemax(scores.clone(), Some(mask))), Some("mask"));
    }
}
