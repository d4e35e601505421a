//! The oracle against itself by other means: repeated keys, central differences, and a plain f32 evaluation.

use super::*;
use crate::inputs::normal;
use crate::shapes::{BiasKind, Extras, MaskKind};

fn small(suite: Suite) -> Shape {
    Shape {
        suite,
        dtype: Dtype::F32,
        batch: 2,
        heads: 4,
        kv_heads: 2,
        query_len: 5,
        key_len: 9,
        head_dim: 6,
        causal: true,
        window: None,
        scale: None,
        softcap: Some(3.0),
        extras: Extras::default(),
    }
}

#[test]
fn equal_values_come_out_as_they_went_in() {
    let shape = small(Suite::Prefill);
    let mut inputs = Inputs::of(&shape);
    inputs.value.fill(0.75);
    for row in Expected::of(&shape, &inputs).rows {
        for number in row.out {
            assert!((number.value - 0.75).abs() < 1e-14);
            assert!(number.tolerance > 0.0 && number.tolerance < 1e-4);
        }
    }
}

#[test]
fn a_query_that_sees_nothing_gives_exact_zeros() {
    let shape = Shape { query_len: 9, key_len: 4, ..small(Suite::Prefill) };
    let expected = Expected::of(&shape, &Inputs::of(&shape));
    let first = &expected.rows[0];
    assert_eq!(first.query, 0);
    assert!(first.out.iter().all(|n| *n == Bounded::default()));
    assert_eq!(first.out[0].error_share(0.0), 0.0);
    assert_eq!(first.out[0].error_share(1e-30), f64::INFINITY);
    assert_eq!(first.out[0].error_share(f32::NAN), f64::INFINITY);
}

/// A plain f32 evaluation in the order of the definition: what the bounds must let pass.
fn plain_f32(shape: &Shape, inputs: &Inputs, row: &Row) -> Vec<f32> {
    let (dim, value_dim) = (shape.head_dim, shape.value_dim());
    let kv = row.batch * shape.kv_heads + row.head * shape.kv_heads / shape.heads;
    let q_at = ((row.batch * shape.heads + row.head) * shape.query_len + row.query) * dim;
    let scores: Vec<f32> = shape
        .visible_keys(row.batch, row.query)
        .map(|j| {
            let k = &inputs.key[(kv * shape.key_len + j) * dim..][..dim];
            let dot: f32 = inputs.query[q_at..][..dim].iter().zip(k).map(|(a, b)| a * b).sum();
            let score = dot * shape.effective_scale() as f32;
            let score = shape.softcap.map_or(score, |c| c as f32 * (score / c as f32).tanh());
            let offset = (shape.keys_of(row.batch) as i64) - shape.query_len as i64;
            let distance = (j as i64 - (row.query as i64 + offset)).abs() as f32;
            let bias = match shape.extras.bias {
                None => 0.0,
                Some(BiasKind::Heads) => inputs.bias[(row.head * shape.query_len + row.query) * shape.key_len + j],
                Some(BiasKind::Keys) => inputs.bias[j],
            };
            let hidden = shape.is_masked([row.batch, row.head, row.query, j]);
            let alibi = shape.alibi_slopes().map_or(0.0, |slopes| slopes[row.head] * distance);
            if hidden { f32::NEG_INFINITY } else { score - alibi + bias }
        })
        .collect();
    let sink = inputs.sinks.get(row.head).copied();
    let max = scores.iter().copied().chain(sink).fold(f32::MIN, f32::max);
    let total: f32 = scores.iter().copied().chain(sink).map(|s| (s - max).exp()).sum();
    let mut out = vec![0f32; value_dim];
    for (j, score) in shape.visible_keys(row.batch, row.query).zip(&scores) {
        for (e, o) in out.iter_mut().enumerate() {
            *o += (score - max).exp() * inputs.value[(kv * shape.key_len + j) * value_dim + e];
        }
    }
    out.iter().map(|o| if total > 0.0 { o / total } else { 0.0 }).collect()
}

#[test]
fn bounds_pass_an_honest_answer_and_stop_a_wrong_one() {
    let shape = Shape { query_len: 200, key_len: 700, head_dim: 64, ..small(Suite::Prefill) };
    let inputs = Inputs::of(&shape);
    let mut wrong = Shape { softcap: None, ..shape };
    wrong.scale = Some(shape.effective_scale() * 1.01);
    let (mut worst, mut least_wrong) = (0f64, f64::INFINITY);
    for row in Expected::of(&shape, &inputs).rows {
        let share = |shape: &Shape| {
            row.out
                .iter()
                .zip(plain_f32(shape, &inputs, &row))
                .map(|(expected, got)| expected.error_share(got))
                .fold(0f64, f64::max)
        };
        worst = worst.max(share(&shape));
        least_wrong = least_wrong.min(share(&wrong));
    }
    assert!(worst < 1.0, "an honest evaluation is at {worst} of its bound");
    assert!(least_wrong > 10.0, "a wrong one passes with {least_wrong}");
}

#[test]
fn bounds_pass_an_honest_answer_with_all_that_a_shape_may_have() {
    let all = Extras { value_dim: Some(24), ragged: true, alibi: true, sinks: true, ..Extras::default() };
    let masks = [MaskKind::Padding, MaskKind::Documents(60), MaskKind::Pairs];
    for (mask, bias) in masks.into_iter().zip([BiasKind::Heads, BiasKind::Keys, BiasKind::Heads]) {
        let extras = Extras { mask: Some(mask), bias: Some(bias), ..all };
        let shape = Shape { query_len: 90, key_len: 300, extras, ..small(Suite::Sweep) };
        let inputs = Inputs::of(&shape);
        let without = |change: fn(&mut Extras)| {
            let mut wrong = shape;
            change(&mut wrong.extras);
            wrong
        };
        let wrong = [without(|e| e.ragged = false), without(|e| e.mask = None), without(|e| e.bias = None)];
        let wrong = wrong.into_iter().chain([without(|e| e.alibi = false)]);
        let share = |of: &Shape, rows: &[Row]| {
            let numbers = rows.iter().flat_map(|row| row.out.iter().zip(plain_f32(of, &inputs, row)));
            numbers.map(|(expected, got)| expected.error_share(got)).fold(0f64, f64::max)
        };
        let rows = Expected::of(&shape, &inputs).rows;
        assert!(share(&shape, &rows) < 1.0, "{shape}: an honest evaluation is past its bound");
        for wrong in wrong {
            assert!(share(&wrong, &rows) > 10.0, "{shape} answered as {wrong} passes");
        }
        let no_sinks = Inputs { sinks: Vec::new(), ..Inputs::of(&shape) };
        let got = rows.iter().flat_map(|row| row.out.iter().zip(plain_f32(&shape, &no_sinks, row)));
        assert!(got.map(|(e, got)| e.error_share(got)).fold(0f64, f64::max) > 10.0, "{shape}: sinks do not count");
    }
}

/// Σ out·grad_out over everything, in f64.
fn loss(shape: &Shape, inputs: &Inputs) -> f64 {
    let mut total = 0.0;
    for batch in 0..shape.batch {
        for head in 0..shape.heads {
            for query in 0..shape.query_len {
                let out = Weights::of(shape, inputs, batch, head, query).output(shape, inputs);
                let at = ((batch * shape.heads + head) * shape.query_len + query) * shape.head_dim;
                for (e, number) in out.iter().enumerate() {
                    total += number.value * f64::from(inputs.grad_out[at + e]);
                }
            }
        }
    }
    total
}

/// The central difference of the loss in one input number. The step is a power of two, so that f32 inputs take it exactly.
fn difference(shape: &Shape, inputs: &mut Inputs, pick: fn(&mut Inputs) -> &mut Vec<f32>, at: usize) -> f64 {
    let step = 2f32.powi(-10);
    let original = (pick(inputs)[at] * 1024.0).round() / 1024.0;
    pick(inputs)[at] = original + step;
    let above = loss(shape, inputs);
    pick(inputs)[at] = original - step;
    let below = loss(shape, inputs);
    pick(inputs)[at] = original;
    (above - below) / (2.0 * f64::from(step))
}

#[test]
fn gradients_are_those_of_central_differences() {
    let shape = small(Suite::Train);
    let mut inputs = Inputs::of(&shape);
    for numbers in [&mut inputs.query, &mut inputs.key, &mut inputs.value] {
        for x in numbers.iter_mut() {
            *x = (*x * 1024.0).round() / 1024.0;
        }
    }
    inputs.grad_out = normal(9, inputs.grad_out.len(), Dtype::F32);
    let expected = Expected::of(&shape, &inputs);
    assert_eq!(expected.gradients.len(), 2);
    for gradient in &expected.gradients {
        let dim = shape.head_dim;
        let q_at = (gradient.batch * shape.heads + gradient.kv_head * 2) * shape.query_len * dim;
        let kv_at = (gradient.batch * shape.kv_heads + gradient.kv_head) * shape.key_len * dim;
        for n in [0, 7, 31, 53] {
            let dq = difference(&shape, &mut inputs, |i| &mut i.query, q_at + n);
            let dk = difference(&shape, &mut inputs, |i| &mut i.key, kv_at + n);
            let dv = difference(&shape, &mut inputs, |i| &mut i.value, kv_at + n);
            for (told, found) in [(gradient.query[n], dq), (gradient.key[n], dk), (gradient.value[n], dv)] {
                // The difference itself errs by step²/6 times a third derivative of order 1.
                assert!((told.value - found).abs() < 2e-6, "{told:?}, differences give {found}");
                assert!(told.tolerance < 1e-3, "{told:?}");
            }
        }
    }
}
