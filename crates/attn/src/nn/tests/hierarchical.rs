//! Tests of hierarchical attention and its pooling.

use attn_core::Mask;
use burn::tensor::{Device, Tensor};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, gradients, noise, reference_device,
    restored, shaken,
};
use crate::nn::{
    AttentionPool, AttentionPoolConfig, HierarchicalAttention, HierarchicalAttentionConfig, NormPlacement,
    SequenceEncoder, SequenceEncoderConfig, TransformerEncoderConfig, TransformerEncoderLayerConfig,
};

fn pool(heads: usize, device: &Device) -> AttentionPool {
    shaken(AttentionPoolConfig::new(5, 4).with_heads(heads).init(device).unwrap())
}

#[test]
fn pooling_is_its_formula_whatever_stands_at_padding() {
    let device = reference_device();
    let (batch, length, features, width, heads) = (2, 4, 5, 4, 3);
    let pool = pool(heads, &device);
    let hidden = noise([batch, length, features], 1, &device);
    let (w, b) = (elements(pool.projection.weight.val()), elements(pool.projection.bias.clone().unwrap().val()));
    let (c, h) = (elements(pool.context.val()), elements(hidden.clone()));
    // The second sequence has 4 − 1 positions.
    let there = |n: usize, t: usize| !(n == 1 && t == 3);
    let (mut pooled, mut weights) = (vec![], vec![]);
    for n in 0..batch {
        for head in 0..heads {
            let score = |t: usize| {
                let u = |a: usize| {
                    let product = |f: usize| h[(n * length + t) * features + f] * w[f * width + a];
                    ((0..features).map(product).sum::<f64>() + b[a]).tanh()
                };
                (0..width).map(|a| u(a) * c[head * width + a]).sum::<f64>().exp()
            };
            let masses: Vec<f64> = (0..length).map(|t| if there(n, t) { score(t) } else { 0.0 }).collect();
            let sum: f64 = masses.iter().sum();
            let of = |f: usize| (0..length).map(|t| masses[t] / sum * h[(n * length + t) * features + f]).sum::<f64>();
            pooled.extend((0..features).map(of));
            weights.extend(masses.iter().map(|mass| mass / sum));
        }
    }
    let nan = bools([batch, length, features], |i| i / features == 7, &device);
    let padding = Mask::keep(bools([batch, length], |i| i != 7, &device));
    let output = pool.forward(hidden.mask_fill(nan, f32::NAN), Some(padding)).unwrap();
    for (found, expected) in elements(output.pooled).into_iter().zip(pooled) {
        assert!((found - expected).abs() < 1e-5, "{found} in place of {expected}");
    }
    for (found, expected) in elements(output.weights).into_iter().zip(weights) {
        assert!((found - expected).abs() < 1e-6, "{found} in place of {expected}");
    }
}

fn config() -> HierarchicalAttentionConfig {
    HierarchicalAttentionConfig::gru(3, 2, 3)
}

fn transformer(d_model: usize) -> SequenceEncoderConfig {
    let layer = TransformerEncoderLayerConfig::new(d_model, 1, 6).with_norm(NormPlacement::Pre);
    SequenceEncoderConfig::Transformer(Box::new(TransformerEncoderConfig::new(layer, 1)))
}

fn with_transformers() -> HierarchicalAttentionConfig {
    let pool = |d_input| AttentionPoolConfig::new(d_input, 3).with_heads(2);
    HierarchicalAttentionConfig::new(transformer(3), pool(3), transformer(6), pool(6))
}

/// Words of each sentence of each document; an empty one stands among them.
const LENGTHS: [[usize; 3]; 2] = [[4, 0, 2], [1, 3, 0]];

/// Each sentence by itself, without any padding.
fn by_hand(network: &HierarchicalAttention, words: &Tensor<4>) -> Tensor<2> {
    let encode = |encoder: &SequenceEncoder, input| encoder.forward(input, None).unwrap();
    let document = |(at, lengths): (usize, [usize; 3])| {
        let sentence = |line: usize| {
            let words = words.clone().narrow(0, at, 1).narrow(1, line, 1).squeeze_dim::<3>(1);
            let words = words.narrow(1, 0, lengths[line]);
            network.word_pool.forward(encode(&network.word_encoder, words), None).unwrap().pooled
        };
        let there: Vec<_> = (0..3).filter(|&line| lengths[line] > 0).map(sentence).collect();
        // The recurrence passes over an empty sentence, and attention does not see it.
        let sentences = Tensor::stack::<3>(there, 1);
        network.sentence_pool.forward(encode(&network.sentence_encoder, sentences), None).unwrap().pooled
    };
    Tensor::cat(LENGTHS.into_iter().enumerate().map(document).collect(), 0)
}

#[test]
fn a_document_is_its_sentences_and_these_their_words() {
    let device = reference_device();
    for (config, heads) in [(config(), 1), (with_transformers(), 2)] {
        let network = shaken(config.init(&device).unwrap());
        let words = noise([2, 3, 4, 3], 1, &device);
        let wanted = by_hand(&network, &words);
        let there = |i: usize| i % 4 < LENGTHS[i / 12][i / 4 % 3];
        let nan = bools([2, 3, 4, 3], |i| !there(i / 3), &device);
        let padding = Mask::keep(bools([2, 3, 4], there, &device));
        let output = network.forward(words.mask_fill(nan, f32::NAN), Some(padding)).unwrap();
        assert_close(output.document, wanted, 1e-5);
        assert_eq!(output.word_weights.dims(), [2, 3, heads, 4]);
        assert_eq!(output.sentence_weights.dims(), [2, heads, 3]);
        for head in 0..heads {
            let of_sentences = elements(output.sentence_weights.clone().narrow(1, head, 1));
            for (document, weights) in of_sentences.chunks(3).enumerate() {
                assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-6);
                for (line, &weight) in weights.iter().enumerate() {
                    assert_eq!(weight == 0.0, LENGTHS[document][line] == 0, "{weight}");
                }
            }
            for (at, weight) in elements(output.word_weights.clone().narrow(2, head, 1)).into_iter().enumerate() {
                assert_eq!(weight == 0.0, !there(at), "{weight} at {at}");
            }
        }
    }
}

#[test]
fn gradients_are_central_differences_and_padding_adds_no_nan() {
    let device = reference_device();
    let padding = || Mask::keep(bools([1, 3, 3], |i| i % 3 < [3, 0, 2][i / 3], &device));
    let network = shaken(config().init(&device).unwrap());
    assert_gradients((network, Input::new(noise([1, 3, 3, 3], 1, &device))), |(network, words)| {
        let document = network.forward(words.value(), Some(padding())).unwrap().document;
        (document.clone() * document).sum()
    });
    for config in [config(), with_transformers()] {
        let learning = device.clone().autodiff();
        let network = shaken(config.init(&learning).unwrap());
        let nan = bools([1, 3, 3, 3], |i| i / 3 % 3 >= [3, 0, 2][i / 9], &device);
        let words = noise([1, 3, 3, 3], 1, &learning).mask_fill(nan, f32::NAN);
        let found = network.forward(words, Some(padding())).unwrap().document;
        for (path, grad) in gradients(&network, &found.sum().backward()) {
            assert!(grad.is_none_or(f32::is_finite), "{path}: {grad:?}");
        }
    }
}

#[test]
fn every_backend_gives_the_same() {
    for config in [config(), with_transformers()] {
        assert_agreement(1e-5, |device| {
            let padding = Mask::keep(bools([2, 3, 4], |i| i % 4 < LENGTHS[i / 12][i / 4 % 3], device));
            let network = shaken(config.init(device).unwrap());
            network.forward(noise([2, 3, 4, 3], 1, device), Some(padding)).unwrap().document
        });
    }
}

#[test]
fn a_record_carries_every_parameter() {
    let device = reference_device();
    for config in [config(), with_transformers()] {
        let first = shaken(config.init(&device).unwrap());
        let second = restored(&first, config.init(&device).unwrap());
        let words = noise([2, 3, 4, 3], 1, &device);
        let [a, b] = [first, second].map(|network| network.forward(words.clone(), None).unwrap().document);
        assert_close(b, a, 0.0);
    }
}

#[test]
fn empty_documents_sentences_and_batches_have_their_answers() {
    let device = reference_device();
    for config in [config(), with_transformers()] {
        let network = shaken(config.init(&device).unwrap());
        for [batch, lines, length] in [[0, 2, 3], [2, 0, 3], [2, 2, 0]] {
            let output = network.forward(Tensor::zeros([batch, lines, length, 3], &device), None).unwrap();
            let features = network.sentence_pool.projection.weight.val().dims()[0];
            let [_, heads, _] = output.sentence_weights.dims();
            assert_close(output.document, Tensor::zeros([batch, heads * features], &device), 0.0);
            assert_eq!(output.word_weights.dims()[..2], [batch, lines]);
        }
    }
}

#[test]
fn wrong_input_and_wrong_configs_name_the_argument() {
    let device = reference_device();
    let network = config().init(&device).unwrap();
    let words = |features| Tensor::<4>::zeros([2, 3, 4, features], &device);
    let error = network.forward(words(2), None).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("words"));
    let padding = Mask::keep(bools([2, 3, 5], |_| true, &device));
    assert_eq!(network.forward(words(3), Some(padding)).map(|_| ()).unwrap_err().argument(), Some("padding"));
    let pool = pool(1, &device);
    let error = pool.forward(Tensor::zeros([1, 2, 4], &device), None).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("hidden"));

    let pools = |d_input, d_attention| AttentionPoolConfig::new(d_input, d_attention);
    for (argument, config) in [
        ("d_input", pools(0, 1)),
        ("d_attention", pools(1, 0)),
        ("heads", pools(1, 1).with_heads(0)),
        ("heads", pools(2, 1).with_heads(usize::MAX)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
    for (argument, config) in [
        ("d_input", HierarchicalAttentionConfig::gru(0, 2, 3)),
        ("d_hidden", HierarchicalAttentionConfig::gru(3, 0, 3)),
        ("d_attention", HierarchicalAttentionConfig::gru(3, 2, 0)),
        ("word_pool", HierarchicalAttentionConfig { word_pool: pools(5, 1), ..config() }),
        ("sentence_encoder", HierarchicalAttentionConfig { sentence_encoder: transformer(5), ..config() }),
        ("sentence_pool", HierarchicalAttentionConfig { sentence_pool: pools(5, 1), ..config() }),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
