//! Tests of the transformer decoder and its cache.

use attn_core::{Alignment, AttentionError, AttentionSpec, Mask};
use burn::module::{Initializer, Module};
use burn::tensor::activation::{gelu, relu};
use burn::tensor::{Bool, Device, Tensor};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, gradients, heads, joined, noise, plain,
    reference_device, restored, shaken,
};
use crate::Selection;
use crate::nn::{
    Activation, AlibiSlopes, AttentionOptions, DecoderOptions, DistanceRule, MultiHeadAttention, NormPlacement,
    QkNormConfig, QkNormKind, RotaryConfig, RotaryLayout, RotaryScaling, TransformerDecoder, TransformerDecoderConfig,
    TransformerDecoderLayer, TransformerDecoderLayerConfig,
};

fn config() -> TransformerDecoderLayerConfig {
    TransformerDecoderLayerConfig::new(8, 4, 12).with_kv_heads(Some(2))
}

fn decoder(config: TransformerDecoderLayerConfig, device: &Device) -> TransformerDecoder {
    shaken(TransformerDecoderConfig::new(config, 2).init(device).unwrap())
}

/// Hides, of a square of scores, what is later than the query.
fn later(length: usize, device: &Device) -> Tensor<4, Bool> {
    bools([1, 1, length, length], |i| i % length > i / length, device)
}

fn attended(
    layer: &MultiHeadAttention,
    query: Tensor<3>,
    memory: Tensor<3>,
    hidden: Option<Tensor<4, Bool>>,
) -> Tensor<3> {
    let (query, key, value) =
        (layer.query.forward(query), layer.key.forward(memory.clone()), layer.value.as_ref().unwrap().forward(memory));
    let (h, g) = (layer.heads(), layer.kv_heads());
    layer.output.forward(joined(plain(heads(query, h), heads(key, g), heads(value, g), hidden)))
}

/// The layer by the formulas of its documentation.
fn expected(
    layer: &TransformerDecoderLayer,
    x: Tensor<3>,
    memory: Option<Tensor<3>>,
    pre: bool,
    activation: fn(Tensor<3>) -> Tensor<3>,
) -> Tensor<3> {
    let later = later(x.dims()[1], &x.device());
    let own = |x: Tensor<3>| attended(&layer.attention, x.clone(), x, Some(later));
    let cross = |x: Tensor<3>| attended(layer.cross_attention.as_ref().unwrap(), x, memory.clone().unwrap(), None);
    let fed = |x| layer.linear_outer.forward(activation(layer.linear_inner.forward(x)));
    let (norm_a, norm_c, norm_f) =
        (&layer.attention_norm, layer.cross_attention_norm.as_ref(), &layer.feed_forward_norm);
    if pre {
        let y = x.clone() + own(norm_a.forward(x));
        let z = norm_c.map_or(y.clone(), |norm| y.clone() + cross(norm.forward(y)));
        z.clone() + fed(norm_f.forward(z))
    } else {
        let y = norm_a.forward(x.clone() + own(x));
        let z = norm_c.map_or(y.clone(), |norm| norm.forward(y.clone() + cross(y)));
        norm_f.forward(z.clone() + fed(z))
    }
}

#[test]
fn every_form_of_the_block_follows_its_formula() {
    let device = reference_device();
    let (x, memory) = (noise([2, 5, 8], 1, &device), noise([2, 7, 6], 2, &device));
    for placement in [NormPlacement::Pre, NormPlacement::Post] {
        for (activation, function) in [(Activation::Gelu, gelu as fn(_) -> _), (Activation::Relu, relu)] {
            for (crosses, memory) in [(true, Some(memory.clone())), (false, None)] {
                let config = config().with_d_memory(Some(6)).with_cross_attention(crosses);
                let layer = shaken(config.with_norm(placement).with_activation(activation).init(&device).unwrap());
                let found = layer.forward(x.clone(), memory.clone(), &DecoderOptions::new()).unwrap().hidden;
                let wanted = expected(&layer, x.clone(), memory, placement == NormPlacement::Pre, function);
                assert_close(found, wanted, 1e-5);
            }
        }
    }
}

#[test]
fn a_stack_is_its_layers_in_turn_and_shows_both_attentions() {
    let device = reference_device();
    let (x, memory) = (noise([2, 5, 8], 1, &device), noise([2, 7, 8], 2, &device));
    for (placement, ends_with_norm) in [(NormPlacement::Pre, true), (NormPlacement::Post, false)] {
        let decoder = decoder(config().with_norm(placement), &device);
        assert_eq!(decoder.norm.is_some(), ends_with_norm);
        let shown = || AttentionOptions::new().with_weights(Selection::all()).with_lse();
        let options = DecoderOptions::new().self_attention(shown()).cross_attention(shown());
        let output = decoder.forward(x.clone(), Some(memory.clone()), &options).unwrap();
        let mut hidden = x.clone();
        for (at, layer) in decoder.layers.iter().enumerate() {
            let made = layer.forward(hidden, Some(memory.clone()), &options).unwrap();
            assert_close(output.weights[at].clone(), made.weights.unwrap(), 0.0);
            assert_close(output.cross_weights[at].clone(), made.cross_weights.unwrap(), 0.0);
            assert_eq!(output.weights[at].dims(), [2, 4, 5, 5]);
            assert_eq!(output.cross_weights[at].dims(), [2, 4, 5, 7]);
            hidden = made.hidden;
        }
        assert_eq!((output.lse.len(), output.cross_lse.len()), (2, 2));
        assert_close(output.hidden, decoder.norm.iter().fold(hidden, |hidden, norm| norm.forward(hidden)), 0.0);
        let seen_later = output.weights[0].clone().mask_fill(later(5, &device).bool_not().expand([2, 4, 5, 5]), 0.0);
        assert_close(seen_later.abs().max(), Tensor::zeros([1], &device), 0.0);
    }
}

/// The target in chunks through a cache, and the outputs side by side.
fn in_chunks(
    decoder: &TransformerDecoder,
    target: &Tensor<3>,
    memory: Option<Tensor<3>>,
    chunks: &[usize],
    capacity: usize,
    options: &DecoderOptions,
) -> Tensor<3> {
    let cache = match memory {
        Some(memory) => decoder.cache_with_memory(memory, None),
        None => decoder.cache(target.dims()[0]),
    };
    let mut cache = cache.unwrap().with_capacity(capacity);
    let mut made = vec![];
    for &count in chunks {
        let new = target.clone().narrow(1, cache.len(), count);
        made.push(decoder.forward_cached(new, &mut cache, options).unwrap().hidden);
    }
    Tensor::cat(made, 1)
}

#[test]
fn the_cache_gives_token_by_token_and_in_chunks_what_the_whole_pass_gives() {
    let device = reference_device();
    let (x, memory) = (noise([2, 7, 8], 1, &device), noise([2, 5, 8], 2, &device));
    for placement in [NormPlacement::Pre, NormPlacement::Post] {
        for (crosses, memory) in [(true, Some(memory.clone())), (false, None)] {
            let decoder = decoder(config().with_norm(placement).with_cross_attention(crosses), &device);
            let window = AttentionSpec::new().with_window(Some(2), None);
            let aligned = AttentionSpec::new().with_window(Some(3), Some(1)).with_alignment(Alignment::TopLeft);
            let slopes = Tensor::from_data([0.5f32, 0.25, 0.125, 0.0625], &device);
            let calls = [
                DecoderOptions::new(),
                DecoderOptions::new()
                    .self_attention(AttentionOptions::new().spec(window).alibi_slopes(slopes))
                    .cross_attention(AttentionOptions::new().spec(aligned)),
            ];
            for options in calls {
                let whole = decoder.forward(x.clone(), memory.clone(), &options).unwrap().hidden;
                for (chunks, capacity) in [(&[1; 7][..], 0), (&[3, 1, 3], 0), (&[7], 0), (&[1; 7], 10), (&[2, 5], 7)] {
                    let found = in_chunks(&decoder, &x, memory.clone(), chunks, capacity, &options);
                    assert_close(found, whole.clone(), 1e-5);
                }
            }
        }
    }
}

/// Whatever the self-attention knows of positions, and whatever else it has: the cache's tokens stand where the whole pass has them.
#[test]
fn the_cache_knows_every_option_of_the_attention() {
    let device = reference_device();
    let (x, memory) = (noise([2, 7, 8], 1, &device), noise([2, 5, 8], 2, &device));
    let plain = config().attention_config();
    let rotary = RotaryConfig::new(2, RotaryLayout::Half);
    let dynamic = RotaryConfig::new(4, RotaryLayout::Half)
        .with_scaling(Some(RotaryScaling::DynamicNtk { factor: 2.0, original_length: 4 }));
    let attentions = [
        plain.clone().with_rotary(Some(rotary.clone())),
        plain.clone().with_alibi(Some(AlibiSlopes::Geometric)),
        plain.clone().with_relative_bias(Some(DistanceRule::Clipped { max_distance: 3 })),
        plain
            .with_rotary(Some(rotary))
            .with_qk_norm(Some(QkNormConfig::new(QkNormKind::Rms)))
            .with_sinks(Some(Initializer::Ones)),
    ];
    for attention in attentions {
        let decoder = decoder(config().with_attention(Some(attention)), &device);
        let options = DecoderOptions::new();
        let whole = decoder.forward(x.clone(), Some(memory.clone()), &options).unwrap().hidden;
        for (chunks, capacity) in [(&[1; 7][..], 0), (&[3, 1, 3], 9)] {
            let found = in_chunks(&decoder, &x, Some(memory.clone()), chunks, capacity, &options);
            assert_close(found, whole.clone(), 1e-5);
        }
    }
    // A scaling by the length that the sequence has reached turns all keys anew: one block then sees what the whole pass over what
    // there is sees. (A second one would not: it keeps what the first made of shorter sequences.)
    let attention = config().attention_config().with_head_dim(Some(4)).with_rotary(Some(dynamic));
    let layer = config().with_attention(Some(attention));
    let decoder = shaken(TransformerDecoderConfig::new(layer, 1).init(&device).unwrap());
    let mut cache = decoder.cache_with_memory(memory.clone(), None).unwrap();
    for at in 0..7 {
        let new =
            decoder.forward_cached(x.clone().narrow(1, at, 1), &mut cache, &DecoderOptions::new()).unwrap().hidden;
        let so_far = decoder.forward(x.clone().narrow(1, 0, at + 1), Some(memory.clone()), &DecoderOptions::new());
        assert_close(new, so_far.unwrap().hidden.narrow(1, at, 1), 1e-5);
    }
}

#[test]
fn padding_of_target_and_memory_is_kept_in_the_cache_even_where_it_holds_nan() {
    let device = reference_device();
    let decoder = decoder(config().with_norm(NormPlacement::Pre), &device);
    // The first entry's prompt begins with two tokens of padding; the second's memory ends with one.
    let target = noise([2, 6, 8], 1, &device);
    let target_padding = bools([2, 6], |i| i < 2, &device);
    let poison = bools([2, 5, 1], |i| i == 9, &device).expand::<3, _>([2, 5, 8]);
    let memory = noise([2, 5, 8], 2, &device).mask_fill(poison, f32::NAN);
    let memory_padding = bools([2, 5], |i| i == 9, &device);
    let options = DecoderOptions::new()
        .target_padding(Mask::hide(target_padding.clone()))
        .memory_padding(Mask::hide(memory_padding.clone()));
    let whole = decoder.forward(target.clone(), Some(memory.clone()), &options).unwrap().hidden;
    assert!(elements_are_finite(whole.clone()));

    let mut cache = decoder.cache_with_memory(memory, Some(Mask::hide(memory_padding))).unwrap();
    let prompt = DecoderOptions::new().target_padding(Mask::keep(target_padding.narrow(1, 0, 3).bool_not()));
    let mut made = vec![decoder.forward_cached(target.clone().narrow(1, 0, 3), &mut cache, &prompt).unwrap().hidden];
    for at in 3..6 {
        let new = target.clone().narrow(1, at, 1);
        made.push(decoder.forward_cached(new, &mut cache, &DecoderOptions::new()).unwrap().hidden);
    }
    assert_close(Tensor::cat(made, 1), whole.clone(), 1e-5);

    // A token behind two of padding is the token of the shorter prompt: nothing here tells positions apart.
    let short = target.clone().narrow(0, 0, 1).narrow(1, 2, 4);
    let alone = decoder
        .forward(short, Some(noise([2, 5, 8], 2, &device).narrow(0, 0, 1)), &DecoderOptions::new())
        .unwrap()
        .hidden;
    assert_close(whole.narrow(0, 0, 1).narrow(1, 2, 4), alone, 1e-5);
}

fn elements_are_finite(tensor: Tensor<3>) -> bool {
    super::elements(tensor).into_iter().all(f64::is_finite)
}

#[test]
fn a_reordered_cache_goes_on_from_the_rows_it_was_told() {
    let device = reference_device();
    let decoder = decoder(config(), &device);
    let (x, memory) = (noise([2, 4, 8], 1, &device), noise([2, 3, 8], 2, &device));
    let padding = Mask::keep(bools([2, 3], |i| i != 2, &device));
    let options = DecoderOptions::new();
    for rows in [vec![1, 0], vec![1, 1, 0], vec![0], vec![0, 1], vec![]] {
        let picked = |tensor: Tensor<3>| {
            let taken: Vec<_> = rows.iter().map(|&row| tensor.clone().narrow(0, row, 1)).collect();
            let [_, length, width] = tensor.dims();
            if taken.is_empty() { Tensor::zeros([0, length, width], &device) } else { Tensor::cat(taken, 0) }
        };
        let mut cache = decoder.cache_with_memory(memory.clone(), Some(padding.clone())).unwrap().with_capacity(9);
        let marked = DecoderOptions::new().target_padding(Mask::hide(bools([2, 3], |i| i == 1, &device)));
        decoder.forward_cached(x.clone().narrow(1, 0, 3), &mut cache, &marked).unwrap();
        let kept = cache.clone();
        cache.reorder(&rows).unwrap();
        assert_eq!((cache.batch(), cache.len()), (rows.len(), 3));
        let next = x.clone().narrow(1, 3, 1);
        let found = decoder.forward_cached(picked(next.clone()), &mut cache, &options).unwrap().hidden;
        let mut apart = kept;
        let wanted = decoder.forward_cached(next, &mut apart, &options).unwrap().hidden;
        assert_close(found, picked(wanted), 1e-6);
    }
    // Beams of one entry change places: the memory stays, the tokens do not.
    let mut cache = decoder.cache_with_memory(memory.narrow(0, 0, 1), None).unwrap();
    cache.reorder(&[0, 0]).unwrap();
    decoder.forward_cached(x.clone().narrow(1, 0, 1), &mut cache, &options).unwrap();
    let mut swapped = cache.clone();
    swapped.reorder(&[1, 0]).unwrap();
    let next = Tensor::cat(vec![x.clone().narrow(0, 0, 1).narrow(1, 1, 1); 2], 0);
    let [a, b] =
        [&mut cache, &mut swapped].map(|cache| decoder.forward_cached(next.clone(), cache, &options).unwrap().hidden);
    assert_close(a.clone(), b.clone().flip([0]), 1e-6);
    assert!((a - b).abs().max().into_scalar::<f32>() > 1e-3);
}

#[test]
fn a_cache_is_a_value_that_errors_leave_alone_and_that_forgets() {
    let device = reference_device();
    let decoder = decoder(config().with_cross_attention(false), &device);
    let x = noise([1, 5, 8], 1, &device);
    let options = DecoderOptions::new();
    let whole = decoder.forward(x.clone(), None, &options).unwrap().hidden;
    let mut cache = decoder.cache(1).unwrap().with_capacity(8);
    assert!(cache.is_empty());
    decoder.forward_cached(x.clone().narrow(1, 0, 2), &mut cache, &options).unwrap();
    let mut clone = cache.clone();
    decoder.forward_cached(noise([1, 3, 8], 7, &device), &mut clone, &options).unwrap();
    assert_eq!((cache.len(), clone.len()), (2, 5));

    let wrong = DecoderOptions::new().self_attention(AttentionOptions::new().sinks(Tensor::zeros([3], &device)));
    let next = x.clone().narrow(1, 2, 3);
    assert!(decoder.forward_cached(next.clone(), &mut cache, &wrong).is_err());
    assert!(decoder.forward_cached(noise([1, 1, 7], 1, &device), &mut cache, &options).is_err());
    assert!(cache.reorder(&[1]).is_err());
    assert_eq!((cache.len(), cache.batch()), (2, 1));
    assert_close(
        decoder.forward_cached(next.clone(), &mut cache, &options).unwrap().hidden,
        whole.clone().narrow(1, 2, 3),
        1e-5,
    );
    clone.truncate(9);
    clone.truncate(2);
    assert_close(
        decoder.forward_cached(next, &mut clone, &options).unwrap().hidden,
        whole.clone().narrow(1, 2, 3),
        1e-5,
    );
    clone.truncate(0);
    assert_close(decoder.forward_cached(x, &mut clone, &options).unwrap().hidden, whole, 1e-5);
}

#[test]
fn gradients_are_central_differences_and_reach_everything() {
    let device = reference_device();
    for placement in [NormPlacement::Pre, NormPlacement::Post] {
        let small = TransformerDecoderLayerConfig::new(4, 2, 5).with_kv_heads(Some(1)).with_norm(placement);
        let layer = shaken(small.init(&device).unwrap());
        let inputs = (Input::new(noise([2, 3, 4], 1, &device)), Input::new(noise([2, 2, 4], 2, &device)));
        assert_gradients((layer, inputs), |(layer, (target, memory))| {
            let out = layer.forward(target.value(), Some(memory.value()), &DecoderOptions::new()).unwrap().hidden;
            (out.clone() * out.clone() * out).sum()
        });
    }
    let device = device.autodiff();
    let layer = decoder(config().with_dropout(0.1).with_attention_dropout(0.1), &device);
    let out = layer.forward(noise([2, 5, 8], 1, &device), Some(noise([2, 3, 8], 2, &device)), &DecoderOptions::new());
    let found = gradients(&layer, &(out.unwrap().hidden * noise([2, 5, 8], 3, &device)).sum().backward());
    assert_eq!(found.len(), 2 * 26);
    assert!(found.iter().all(|(path, grad)| grad.expect(path) > 1e-6 || path.ends_with("key.bias")), "{found:?}");
}

#[test]
fn gradients_through_the_cache_are_those_of_the_whole_pass() {
    let device = reference_device().autodiff();
    let decoder = decoder(config(), &device);
    let (x, memory) = (noise([2, 5, 8], 1, &device), noise([2, 3, 8], 2, &device));
    let weight = noise([2, 5, 8], 3, &device);
    let whole = decoder.forward(x.clone(), Some(memory.clone()), &DecoderOptions::new()).unwrap().hidden;
    let chunked = in_chunks(&decoder, &x, Some(memory), &[2, 1, 2], 6, &DecoderOptions::new());
    let [a, b] = [whole, chunked].map(|out| gradients(&decoder, &(out * weight.clone()).sum().backward()));
    for ((path, a), (_, b)) in a.into_iter().zip(b) {
        let (a, b) = (a.expect(&path), b.expect(&path));
        assert!((a - b).abs() <= 1e-4 * a.max(1.0), "{path}: {b} in place of {a}");
    }
}

#[test]
fn every_backend_gives_the_same_and_a_record_carries_everything() {
    assert_agreement(1e-5, |device| {
        let decoder = decoder(config(), device);
        let x = noise([2, 5, 8], 1, device);
        in_chunks(&decoder, &x, Some(noise([2, 3, 8], 2, device)), &[2, 3], 8, &DecoderOptions::new())
    });
    let device = reference_device();
    let config = TransformerDecoderConfig::new(config(), 2).with_final_norm(Some(true));
    let first = shaken(config.init(&device).unwrap());
    let second = restored(&first, config.init(&device).unwrap());
    let [a, b] = [first, second].map(|decoder| {
        let memory = noise([1, 3, 8], 2, &device);
        decoder.forward(noise([1, 5, 8], 1, &device), Some(memory), &DecoderOptions::new()).unwrap().hidden
    });
    assert_close(b, a, 0.0);
}

#[test]
fn dropout_acts_in_training_alone_and_a_decoder_need_not_be_causal() {
    let device = reference_device().autodiff();
    let layer = shaken(config().with_dropout(0.5).init(&device).unwrap());
    let (x, memory) = (noise([2, 5, 8], 1, &device), noise([2, 3, 8], 2, &device));
    let trained = layer.forward(x.clone(), Some(memory.clone()), &DecoderOptions::new()).unwrap().hidden.inner();
    let (x, memory) = (x.inner(), memory.inner());
    let layer = layer.valid();
    let resting = layer.forward(x.clone(), Some(memory.clone()), &DecoderOptions::new()).unwrap().hidden;
    assert!((trained - resting.clone()).abs().max().into_scalar::<f32>() > 1e-2);

    // Without the triangle an early token learns of a late one.
    let moved = Tensor::cat(vec![x.clone().narrow(1, 0, 4), noise([2, 1, 8], 9, &x.device())], 1);
    let first = |options: &DecoderOptions, x: Tensor<3>| {
        layer.forward(x, Some(memory.clone()), options).unwrap().hidden.narrow(1, 0, 4)
    };
    let (causal, free) = (DecoderOptions::new(), DecoderOptions::new().causal(false));
    assert_close(first(&causal, moved.clone()), first(&causal, x.clone()), 0.0);
    assert!((first(&free, moved) - first(&free, x)).abs().max().into_scalar::<f32>() > 1e-3);
}

#[test]
fn empty_batches_targets_and_memories_have_their_answers() {
    let device = reference_device();
    let decoder = decoder(config().with_norm(NormPlacement::Pre), &device);
    let options = DecoderOptions::new();
    for (batch, length, memory_len) in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)] {
        let (x, memory) = (noise([batch, length, 8], 1, &device), noise([batch, memory_len, 8], 2, &device));
        let whole = decoder.forward(x.clone(), Some(memory.clone()), &options).unwrap().hidden;
        assert_eq!(whole.dims(), [batch, length, 8]);
        let mask = |length| Mask::keep(bools([batch, length], |_| true, &device));
        let padded = DecoderOptions::new().target_padding(mask(length)).memory_padding(mask(memory_len));
        assert_close(decoder.forward(x.clone(), Some(memory.clone()), &padded).unwrap().hidden, whole.clone(), 1e-6);
        let mut cache = decoder.cache_with_memory(memory, Some(mask(memory_len))).unwrap();
        let nothing = noise([batch, 0, 8], 1, &device);
        assert_eq!(decoder.forward_cached(nothing, &mut cache, &options).unwrap().hidden.dims(), [batch, 0, 8]);
        assert_close(decoder.forward_cached(x, &mut cache, &options).unwrap().hidden, whole, 1e-5);
        assert_eq!(cache.len(), length);
    }
}

#[test]
fn wrong_input_names_the_argument() {
    let device = reference_device();
    let layers = decoder(config(), &device);
    let alone = decoder(config().with_cross_attention(false), &device);
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &device);
    let name = |result: Result<(), AttentionError>| result.unwrap_err().argument().unwrap();
    let run = |target, memory: Option<[usize; 3]>, options: DecoderOptions| {
        name(layers.forward(zeros(target), memory.map(zeros), &options).map(|_| ()))
    };
    let (good, memory, plain) = ([2, 3, 8], Some([2, 5, 8]), DecoderOptions::new);
    assert_eq!(run([2, 3, 7], memory, plain()), "target");
    assert_eq!(run(good, Some([2, 5, 7]), plain()), "memory");
    assert_eq!(run(good, Some([1, 5, 8]), plain()), "memory");
    assert_eq!(run(good, None, plain()), "memory");
    assert_eq!(name(alone.forward(zeros(good), Some(zeros(good)), &plain()).map(|_| ())), "memory");
    let mask = |length| Mask::keep(bools([2, length], |_| true, &device));
    assert_eq!(run(good, memory, plain().target_padding(mask(5))), "target_padding");
    assert_eq!(run(good, memory, plain().memory_padding(mask(3))), "memory_padding");
    let softcap = AttentionOptions::new().spec(AttentionSpec::new().with_softcap(0.0));
    assert_eq!(run(good, memory, plain().cross_attention(softcap)), "softcap");

    assert_eq!(name(layers.cache(2).map(|_| ())), "memory");
    assert_eq!(name(alone.cache_with_memory(zeros(good), None).map(|_| ())), "memory");
    assert_eq!(name(layers.cache_with_memory(zeros([2, 5, 7]), None).map(|_| ())), "memory");
    assert_eq!(name(layers.cache_with_memory(zeros([2, 5, 8]), Some(mask(3))).map(|_| ())), "memory_padding");
    let step = |decoder: &TransformerDecoder, shape, options: DecoderOptions| {
        let mut cache = layers.cache_with_memory(zeros([2, 5, 8]), None).unwrap();
        layers.forward_cached(zeros(good), &mut cache, &plain()).unwrap();
        name(decoder.forward_cached(zeros(shape), &mut cache, &options).map(|_| ()))
    };
    assert_eq!(step(&layers, [1, 1, 8], plain()), "target");
    assert_eq!(step(&layers, [2, 1, 8], plain().target_padding(mask(4))), "target_padding");
    assert_eq!(step(&alone, [2, 1, 8], plain()), "cache");
    assert_eq!(step(&decoder(config().with_kv_heads(None), &device), [2, 1, 8], plain()), "cache");
    let counted = AttentionOptions::new().spec(AttentionSpec::new().with_window(Some(1), None));
    assert_eq!(step(&layers, [2, 1, 8], plain().cross_attention(counted)), "cross_attention");
    let three = TransformerDecoderConfig::new(config(), 3).init(&device).unwrap();
    assert_eq!(step(&three, [2, 1, 8], plain()), "cache");
}

#[test]
fn a_config_without_a_meaning_names_the_size() {
    let device = reference_device();
    let cases = [
        ("d_model", TransformerDecoderLayerConfig::new(0, 1, 4)),
        ("heads", TransformerDecoderLayerConfig::new(8, 3, 4)),
        ("d_ff", TransformerDecoderLayerConfig::new(8, 2, 0)),
        ("kv_heads", config().with_kv_heads(Some(3))),
        ("d_memory", config().with_d_memory(Some(0))),
        ("dropout", config().with_dropout(-0.1)),
        ("attention_dropout", config().with_attention_dropout(1.5)),
        ("layer_norm_epsilon", config().with_layer_norm_epsilon(f64::INFINITY)),
    ];
    for (argument, config) in cases {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
    let none = TransformerDecoderConfig::new(config(), 0).init(&device).map(|_| ());
    assert_eq!(none.unwrap_err().argument(), Some("layers"));
}
