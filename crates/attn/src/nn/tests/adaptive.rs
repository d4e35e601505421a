//! Tests of adaptive spans.

use attn_core::{AttentionSpec, Mask};
use burn::module::Param;
use burn::tensor::{Device, Tensor};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, gradients, heads, joined, noise,
    reference_device, restored, shaken,
};
use crate::Attention;
use crate::nn::{AdaptiveSpanAttention, AdaptiveSpanAttentionConfig};

fn config(causal: bool) -> AdaptiveSpanAttentionConfig {
    AdaptiveSpanAttentionConfig::new(6, 3, 20).with_ramp(4).with_causal(causal)
}

/// Spans of 0, 6.6 and 11 positions.
fn layer(causal: bool, device: &Device) -> AdaptiveSpanAttention {
    spanned(shaken(config(causal).init(device).unwrap()), [0.0, 0.33, 0.55])
}

fn spanned(mut layer: AdaptiveSpanAttention, spans: [f32; 3]) -> AdaptiveSpanAttention {
    let span = Tensor::from_data(spans, &layer.span.val().device());
    layer.span = Param::from_tensor(span);
    layer
}

/// The formula, weight by weight, in f64.
fn by_hand(layer: &AdaptiveSpanAttention, hidden: Tensor<3>, causal: bool, kept: impl Fn(usize) -> bool) -> Tensor<3> {
    let [batch, length, _] = hidden.dims();
    let (count, dim, ramp) = (3, 2, 4.0);
    let [q, k, v] =
        [&layer.query, &layer.key, &layer.value].map(|linear| elements(heads(linear.forward(hidden.clone()), count)));
    let spans = elements(layer.span.val());
    let mut out = vec![0.0_f32; batch * count * length * dim];
    for (row, out) in out.chunks_mut(dim).enumerate() {
        let (head, i) = (row / length, row % length);
        let mass = |j: usize| {
            let score = (0..dim).map(|d| q[row * dim + d] * k[(head * length + j) * dim + d]).sum::<f64>();
            let z = 20.0 * spans[head % count].clamp(0.0, 1.0);
            let mask = ((ramp + z - i.abs_diff(j) as f64) / ramp).clamp(0.0, 1.0);
            if causal && j > i || !kept(head / count * length + j) {
                0.0
            } else {
                mask * (score / (dim as f64).sqrt()).exp()
            }
        };
        let masses: Vec<f64> = (0..length).map(mass).collect();
        let sum: f64 = masses.iter().sum();
        for (j, mass) in masses.into_iter().enumerate().filter(|_| sum > 0.0) {
            (0..dim).for_each(|d| out[d] += (mass / sum * v[(head * length + j) * dim + d]) as f32);
        }
    }
    let out = burn::tensor::TensorData::new(out, [batch, count, length, dim]);
    layer.output.forward(joined(Tensor::from_data(out, &hidden.device())))
}

#[test]
fn spans_multiply_the_weights_by_their_ramp() {
    let device = reference_device();
    for causal in [true, false] {
        let layer = layer(causal, &device);
        for length in [1, 2, 5, 30] {
            let hidden = noise([2, length, 6], 1, &device);
            let wanted = by_hand(&layer, hidden.clone(), causal, |_| true);
            assert_close(layer.forward(hidden, None).unwrap(), wanted, 1e-5);
        }
    }
}

#[test]
fn long_sequences_have_no_seam() {
    let device = reference_device();
    for causal in [true, false] {
        let layer = layer(causal, &device);
        for length in [256, 257, 512] {
            let hidden = noise([1, length, 6], 1, &device);
            let wanted = by_hand(&layer, hidden.clone(), causal, |_| true);
            assert_close(layer.forward(hidden, None).unwrap(), wanted, 1e-5);
        }
    }
}

#[test]
fn a_span_of_everything_is_full_attention() {
    let device = reference_device();
    for causal in [true, false] {
        let layer = spanned(layer(causal, &device), [1.0, 1.0, 1.0]);
        // max_span is 20: no distance is greater.
        let hidden = noise([2, 21, 6], 1, &device);
        let [q, k, v] = [&layer.query, &layer.key, &layer.value].map(|linear| heads(linear.forward(hidden.clone()), 3));
        let spec = AttentionSpec::new().with_causal(causal);
        let full = Attention::new(q, k, v).spec(spec).forward().unwrap().out;
        assert_close(layer.forward(hidden, None).unwrap(), layer.output.forward(joined(full)), 1e-5);
    }
}

#[test]
fn padding_has_no_influence_even_where_it_holds_nan() {
    let device = reference_device().autodiff();
    let kept = |i: usize| i % 7 != 3;
    for causal in [true, false] {
        let layer = layer(causal, &device);
        let hidden = noise([2, 15, 6], 1, &device);
        let wanted = by_hand(&layer, hidden.clone(), causal, kept);
        let nan = bools([2, 15, 6], |i| !kept(i / 6), &device);
        let padding = Mask::keep(bools([2, 15], kept, &device));
        let found = layer.forward(hidden.mask_fill(nan.clone(), f32::NAN), Some(padding)).unwrap();
        let there = |out: Tensor<3>| out.mask_fill(nan.clone(), 0.0);
        assert_close(there(found.clone()).inner(), there(wanted).inner(), 1e-5);
        for (path, grad) in gradients(&layer, &there(found).sum().backward()) {
            assert!(grad.is_none_or(f32::is_finite), "{path}: {grad:?}");
        }
    }
}

#[test]
fn gradients_are_central_differences_those_of_the_spans_too() {
    let device = reference_device();
    for causal in [true, false] {
        // No span at a kink: 0 and the ends of a ramp are.
        let layer = spanned(layer(causal, &device), [0.013, 0.33, 0.512]);
        assert_gradients((layer, Input::new(noise([1, 18, 6], 1, &device))), |(layer, hidden)| {
            let out = layer.forward(hidden.value(), None).unwrap();
            (out.clone() * out).sum() + layer.span_penalty().mul_scalar(0.3)
        });
    }
    let learning = device.autodiff();
    let layer = spanned(layer(true, &learning), [0.013, 0.33, 0.512]);
    let out = layer.forward(noise([1, 18, 6], 1, &learning), None).unwrap();
    let spans = layer.span.val().grad(&(out.clone() * out).sum().backward()).unwrap();
    assert!(elements(spans.abs()).into_iter().all(|grad| grad > 1e-4));
}

#[test]
fn the_penalty_is_the_mean_span_and_clamping_puts_spans_back() {
    let device = reference_device().autodiff();
    let layer = spanned(layer(true, &device), [-0.5, 0.25, 1.5]);
    assert_close(layer.spans().inner(), Tensor::from_data([0.0, 5.0, 20.0], &device.clone().inner()), 1e-6);
    assert!((elements(layer.span_penalty())[0] - 25.0 / 3.0).abs() < 1e-5);
    let clamped = layer.clone().clamped();
    assert_close(clamped.span.val().inner(), Tensor::from_data([0.0, 0.25, 1.0], &device.clone().inner()), 0.0);
    assert!(clamped.span.val().is_require_grad());
    assert_eq!(clamped.span.id, layer.span.id);
}

#[test]
fn every_backend_gives_the_same_and_a_record_carries_every_parameter() {
    for causal in [true, false] {
        assert_agreement(1e-5, |device| layer(causal, device).forward(noise([2, 30, 6], 1, device), None).unwrap());
    }
    let device = reference_device();
    let first = layer(true, &device);
    let second = restored(&first, config(true).init(&device).unwrap());
    let [a, b] = [first, second].map(|layer| layer.forward(noise([1, 9, 6], 1, &device), None).unwrap());
    assert_close(b, a, 0.0);
}

#[test]
fn wrong_input_and_wrong_configs_name_the_argument() {
    let device = reference_device();
    let layer = layer(true, &device);
    for shape in [[0, 3, 6], [2, 0, 6]] {
        assert_eq!(layer.forward(Tensor::zeros(shape, &device), None).unwrap().dims(), shape);
    }
    let error = layer.forward(Tensor::zeros([2, 3, 5], &device), None).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("hidden"));
    let padding = Mask::keep(bools([2, 4], |_| true, &device));
    let error = layer.forward(Tensor::zeros([2, 3, 6], &device), Some(padding)).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("padding"));
    let broken = spanned(layer, [0.1, f32::NAN, 0.2]);
    let error = broken.forward(Tensor::zeros([2, 3, 6], &device), None).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("span"));
    let sizes = |d_model, heads, max_span| AdaptiveSpanAttentionConfig::new(d_model, heads, max_span);
    for (argument, config) in [
        ("d_model", sizes(0, 3, 20)),
        ("heads", sizes(6, 4, 20)),
        ("max_span", sizes(6, 3, 0)),
        ("ramp", sizes(6, 3, 20).with_ramp(0)),
        ("initial_span", sizes(6, 3, 20).with_initial_span(1.1)),
        ("initial_span", sizes(6, 3, 20).with_initial_span(f64::NAN)),
        ("head_dim", sizes(6, 3, 20).with_head_dim(Some(0))),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
