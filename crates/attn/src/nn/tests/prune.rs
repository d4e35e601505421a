//! Tests of pruned heads and of the importance of heads.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::{assert_close, elements, gradients, noise, reference_device, restored, shaken};
use crate::nn::{
    AlibiSlopes, AttentionOptions, DistanceRule, HeadImportance, MultiHeadAttention, MultiHeadAttentionConfig,
    QkNormConfig, QkNormKind, RotaryConfig, RotaryLayout,
};

fn config(heads: usize, kv_heads: usize) -> MultiHeadAttentionConfig {
    MultiHeadAttentionConfig::new(6, heads)
        .with_kv_heads(Some(kv_heads))
        .with_head_dim(Some(4))
        .with_value_dim(Some(3))
        .with_d_out(Some(5))
}

fn options_of_every_kind(heads: usize, kv_heads: usize) -> MultiHeadAttentionConfig {
    config(heads, kv_heads)
        .with_qk_norm(Some(QkNormConfig::new(QkNormKind::Layer)))
        .with_rotary(Some(RotaryConfig::new(4, RotaryLayout::Half)))
        .with_alibi(Some(AlibiSlopes::Geometric))
        .with_relative_bias(Some(DistanceRule::Clipped { max_distance: 2 }))
        .with_sinks(Some(Initializer::Zeros))
}

fn layer(config: &MultiHeadAttentionConfig, device: &Device) -> MultiHeadAttention {
    shaken(config.init(device).unwrap())
}

fn out(layer: &MultiHeadAttention, hidden: &Tensor<3>, options: &AttentionOptions) -> Tensor<3> {
    layer.self_attention(hidden.clone(), options).unwrap().out
}

/// 1 for heads that stay.
fn mask(heads: usize, pruned: &[usize], device: &Device) -> Tensor<1> {
    let mask: Vec<f32> = (0..heads).map(|head| if pruned.contains(&head) { 0.0 } else { 1.0 }).collect();
    Tensor::from_data(mask.as_slice(), device)
}

#[test]
fn a_pruned_layer_is_the_old_one_with_those_heads_silent() {
    let device = reference_device();
    let hidden = noise([2, 5, 6], 1, &device);
    let cases: [(usize, usize, &[usize], usize, usize); 7] = [
        (4, 4, &[1, 3], 2, 2),
        (4, 4, &[2, 0, 1, 1], 1, 1),
        (4, 4, &[], 4, 4),
        // One group goes.
        (6, 3, &[2, 3], 4, 2),
        // A head of each group.
        (6, 3, &[0, 3, 5], 3, 3),
        // A group, and a head of each that stays.
        (6, 3, &[1, 2, 3, 4], 2, 2),
        (4, 1, &[0, 2, 3], 1, 1),
    ];
    for (heads, kv_heads, pruned, left, kv_left) in cases {
        for config in [config(heads, kv_heads), options_of_every_kind(heads, kv_heads)] {
            let old = layer(&config, &device);
            let new = old.prune_heads(pruned).unwrap();
            assert_eq!((new.heads(), new.kv_heads()), (left, kv_left));
            assert_eq!(new.query.weight.dims(), [6, left * 4]);
            assert_eq!(new.key.weight.dims(), [6, kv_left * 4]);
            assert_eq!(new.value.as_ref().unwrap().weight.dims(), [6, kv_left * 3]);
            assert_eq!(new.output.weight.dims(), [left * 3, 5]);
            let silent = AttentionOptions::new().head_mask(mask(heads, pruned, &device));
            assert_close(out(&new, &hidden, &AttentionOptions::new()), out(&old, &hidden, &silent), 1e-6);
        }
    }
}

#[test]
fn a_pruned_layer_learns_as_the_old_one_saves_loads_and_is_pruned_again() {
    let device = reference_device().autodiff();
    let hidden = noise([2, 5, 6], 1, &device);
    let old = layer(&options_of_every_kind(4, 2), &device);
    let new = old.prune_heads(&[0, 3]).unwrap();
    let silent = AttentionOptions::new().head_mask(mask(4, &[0, 3], &device));
    let weight = noise([2, 5, 5], 2, &device);
    let greatest = |layer: &MultiHeadAttention, options| {
        gradients(layer, &(out(layer, &hidden, &options) * weight.clone()).sum().backward())
    };
    for ((path, new), (_, old)) in greatest(&new, AttentionOptions::new()).into_iter().zip(greatest(&old, silent)) {
        // What was pruned had no gradient, so the greatest is the same.
        let (new, old) = (new.expect(&path), old.expect(&path));
        assert!((new - old).abs() <= 1e-5 * old.max(1.0), "{path}: {new} in place of {old}");
    }
    let slopes = new.alibi_slopes().unwrap().to_vec();
    assert_eq!(slopes, old.alibi_slopes().unwrap()[1..3]);
    let smaller = options_of_every_kind(2, 2).with_alibi(Some(AlibiSlopes::Given { slopes }));
    let loaded = restored(&new, smaller.init(&device).unwrap());
    let plain = AttentionOptions::new();
    assert_close(out(&loaded, &hidden, &plain).inner(), out(&new, &hidden, &plain).inner(), 0.0);
    let once = old.prune_heads(&[0, 3]).unwrap().prune_heads(&[0]).unwrap();
    let silent = AttentionOptions::new().head_mask(mask(4, &[0, 1, 3], &device));
    assert_close(out(&once, &hidden, &plain).inner(), out(&old, &hidden, &silent).inner(), 1e-6);
}

#[test]
fn pruned_parameters_are_new_ones_and_what_was_frozen_stays_frozen() {
    let device = reference_device().autodiff();
    let mut old = layer(&config(4, 4), &device);
    old.key = old.key.freeze();
    let new = old.prune_heads(&[1]).unwrap();
    assert_ne!(new.query.weight.id, old.query.weight.id);
    assert!(new.query.weight.val().is_require_grad());
    assert!(!new.key.weight.val().is_require_grad());
    let trained = new.valid().train();
    assert!(trained.query.weight.val().is_require_grad() && !trained.key.weight.val().is_require_grad());
    let shared = layer(&config(4, 4).with_value_dim(None).with_shared_key_value(Some(true)), &device);
    assert!(shared.prune_heads(&[1]).unwrap().value.is_none());
}

#[test]
fn importance_is_the_gradient_of_a_mask_of_ones() {
    let device = reference_device().autodiff();
    let layer = layer(&options_of_every_kind(4, 2), &device);
    let mut importance = HeadImportance::new();
    let mut expected = vec![0.0; 4];
    let loss = |out: Tensor<3>, seed| (out.clone() * out * noise([1, 5, 5], seed, &device)).sum();
    for seed in 1..4 {
        let hidden = noise([1, 5, 6], seed, &device);
        let gradients = loss(out(&layer, &hidden, &AttentionOptions::new()), seed).backward();
        importance.update(&layer, &gradients).unwrap();

        let ones = Tensor::<1>::ones([4], &device).require_grad();
        let masked = AttentionOptions::new().head_mask(ones.clone());
        let gradients = loss(out(&layer, &hidden, &masked), seed).backward();
        let gradient = elements(ones.grad(&gradients).unwrap());
        expected.iter_mut().zip(gradient).for_each(|(sum, gradient)| *sum += gradient.abs() / 3.0);
    }
    assert_eq!(importance.batches(), 3);
    let wanted = |values: &[f64]| Tensor::<1>::from_data(values, (&device.clone().inner(), burn::tensor::DType::F32));
    assert_close(importance.scores().unwrap(), wanted(&expected), 1e-4);
    let norm = expected.iter().map(|score| score * score).sum::<f64>().sqrt();
    let normalised: Vec<f64> = expected.iter().map(|score| score / norm).collect();
    assert_close(importance.normalised().unwrap(), wanted(&normalised), 1e-5);
    let ranked = importance.ranked().unwrap();
    let mut order: Vec<usize> = (0..4).collect();
    order.sort_by(|&a, &b| expected[a].total_cmp(&expected[b]));
    assert_eq!(ranked.iter().map(|(head, _)| *head).collect::<Vec<_>>(), order);
}

#[test]
fn a_head_that_nobody_reads_matters_least() {
    let device = reference_device().autodiff();
    let mut layer = layer(&config(4, 4), &device);
    let unread = mask(4, &[2], &device).reshape([4, 1]).expand::<2, _>([4, 3]).reshape([12, 1]);
    layer.output.weight = Param::from_tensor((layer.output.weight.val() * unread).detach());
    let hidden = noise([2, 5, 6], 1, &device);
    let mut importance = HeadImportance::new();
    importance.update(&layer, &out(&layer, &hidden, &AttentionOptions::new()).sum().backward()).unwrap();
    let (least, score) = importance.ranked().unwrap()[0];
    assert_eq!((least, score), (2, 0.0));
    let pruned = layer.prune_heads(&[least]).unwrap();
    let plain = AttentionOptions::new();
    assert_close(out(&pruned, &hidden, &plain).inner(), out(&layer, &hidden, &plain).inner(), 1e-6);
}

#[test]
fn what_cannot_be_pruned_or_judged_names_the_argument() {
    let device = reference_device().autodiff();
    let layer = layer(&config(6, 3), &device);
    // Not there; all of them; one of one group alone; different numbers.
    for heads in [&[6][..], &[0, 1, 2, 3, 4, 5], &[0], &[0, 1, 2]] {
        assert_eq!(layer.prune_heads(heads).map(|_| ()).unwrap_err().argument(), Some("heads"), "{heads:?}");
    }
    let mut importance = HeadImportance::new();
    assert_eq!(importance.scores().map(|_| ()).unwrap_err().argument(), Some("batches"));
    assert_eq!(importance.ranked().unwrap_err().argument(), Some("batches"));
    let hidden = noise([2, 5, 6], 1, &device);
    let loss = |layer: &MultiHeadAttention| out(layer, &hidden, &AttentionOptions::new()).sum().backward();
    let mut frozen = layer.clone();
    frozen.output = frozen.output.freeze();
    assert_eq!(importance.update(&frozen, &loss(&frozen)).unwrap_err().argument(), Some("gradients"));
    importance.update(&layer, &loss(&layer)).unwrap();
    let pruned = layer.prune_heads(&[0, 1]).unwrap();
    assert_eq!(importance.update(&pruned, &loss(&pruned)).unwrap_err().argument(), Some("layer"));
    assert_eq!(importance.batches(), 1);
}
