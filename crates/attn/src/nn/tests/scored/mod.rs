//! Tests of the score functions and of the layer that attends by them.

mod input;
mod learning;

use attn_core::{AttentionError, AttentionSpec, KernelChoice, Mask};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use super::{
    assert_agreement, assert_close, bools, elements, noise, plain, reference_device, restored, shaken, wide_device,
};
use crate::nn::{
    AttentionOptions, Normaliser, ScoreConfig, ScoreFunction, ScoreKind, ScoredAttention, ScoredAttentionConfig,
};
use crate::{AttentionOutput, Selection};

const KINDS: [ScoreKind; 5] = [
    ScoreKind::ScaledDot,
    ScoreKind::Dot,
    ScoreKind::Bilinear,
    ScoreKind::Additive { hidden: 3 },
    ScoreKind::Cosine { initial_scale: 10.0, max_scale: 100.0 },
];
const NORMALISERS: [Normaliser; 4] =
    [Normaliser::Softmax, Normaliser::QuietSoftmax, Normaliser::Sparsemax, Normaliser::Entmax15];
/// Batch, heads, key/value heads, lengths, head dimension, value dimension.
const SIZES: [usize; 7] = [2, 4, 2, 5, 6, 3, 2];

fn config(kind: ScoreKind, normaliser: Normaliser) -> ScoredAttentionConfig {
    let [_, heads, kv_heads, _, _, dim, _] = SIZES;
    let score = ScoreConfig::new(heads, dim).with_kv_heads(Some(kv_heads)).with_kind(kind);
    ScoredAttentionConfig::new(score).with_normaliser(normaliser)
}

fn layer(kind: ScoreKind, normaliser: Normaliser, device: &Device) -> ScoredAttention {
    shaken(config(kind, normaliser).init(device).unwrap())
}

fn inputs(device: &Device) -> [Tensor<4>; 3] {
    let [batch, heads, kv_heads, query_len, key_len, dim, value_dim] = SIZES;
    [
        noise([batch, heads, query_len, dim], 1, device),
        noise([batch, kv_heads, key_len, dim], 2, device),
        noise([batch, kv_heads, key_len, value_dim], 3, device),
    ]
}

fn attend(layer: &ScoredAttention, [query, key, value]: [Tensor<4>; 3], options: &AttentionOptions) -> AttentionOutput {
    layer.forward(query, key, value, options).unwrap()
}

/// One head's vector of a `[.., heads, length, dim]` tensor.
struct Vectors {
    dims: [usize; 4],
    values: Vec<f64>,
}

impl Vectors {
    fn new(tensor: Tensor<4>) -> Self {
        Self { dims: tensor.dims(), values: elements(tensor) }
    }

    fn at(&self, batch: usize, head: usize, row: usize) -> &[f64] {
        let [_, heads, length, dim] = self.dims;
        &self.values[((batch * heads + head) * length + row) * dim..][..dim]
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `score(q, k)` of query head h of group g by its formula.
fn score(function: &ScoreFunction, h: usize, g: usize, q: &[f64], k: &[f64]) -> f64 {
    match function {
        ScoreFunction::Dot(of) if of.scaled => dot(q, k) / (q.len() as f64).sqrt(),
        ScoreFunction::Dot(_) => dot(q, k),
        ScoreFunction::Bilinear(of) => {
            let weight = elements(of.weight.val());
            let at = |i: usize, j: usize| weight[(h * q.len() + i) * k.len() + j];
            (0..q.len()).flat_map(|i| (0..k.len()).map(move |j| (i, j))).map(|(i, j)| q[i] * at(i, j) * k[j]).sum()
        }
        ScoreFunction::Additive(of) => {
            let [w_q, w_k] = [&of.query, &of.key].map(|weight| elements(weight.val()));
            let [v, b] = [&of.value, &of.bias].map(|weight| elements(weight.val()));
            let hidden = b.len() / of.bias.val().dims()[0];
            let unit = |a: usize| {
                let from_q: f64 = (0..q.len()).map(|i| q[i] * w_q[(h * q.len() + i) * hidden + a]).sum();
                let from_k: f64 = (0..k.len()).map(|i| k[i] * w_k[(g * k.len() + i) * hidden + a]).sum();
                v[h * hidden + a] * (from_q + from_k + b[h * hidden + a]).tanh()
            };
            (0..hidden).map(unit).sum()
        }
        ScoreFunction::Cosine(of) => {
            let scale = elements(of.log_scale.val())[h].exp().min(of.max_scale);
            scale * dot(q, k) / (dot(q, q) * dot(k, k)).sqrt()
        }
    }
}

/// Scores, weights and output of a layer by the formulas; `change` is what follows the score of query i and key j.
fn expected(
    layer: &ScoredAttention,
    [query, key, value]: [Tensor<4>; 3],
    change: impl Fn(f64, usize, usize) -> f64,
) -> [Tensor<4>; 3] {
    let device = query.device();
    let [query, key, value] = [query, key, value].map(Vectors::new);
    let [batch, heads, query_len, _] = query.dims;
    let [_, kv_heads, key_len, value_dim] = value.dims;
    let (mut scores, mut weights, mut out) = (vec![], vec![], vec![]);
    for (b, h, i) in
        (0..batch * heads * query_len).map(|at| (at / query_len / heads, at / query_len % heads, at % query_len))
    {
        let g = h / (heads / kv_heads);
        let of = |j| score(&layer.score.function, h, g, query.at(b, h, i), key.at(b, g, j));
        let row: Vec<f64> = (0..key_len).map(|j| change(of(j), i, j)).collect();
        let row_weights = Tensor::<1>::from_data(TensorData::new(row.clone(), [key_len]), (&device, DType::F64));
        // What makes weights of scores has its own tests.
        let row_weights = elements(layer.normaliser().apply(row_weights, None).unwrap());
        out.extend((0..value_dim).map(|e| (0..key_len).map(|j| row_weights[j] * value.at(b, g, j)[e]).sum::<f64>()));
        scores.extend(row);
        weights.extend(row_weights);
    }
    let tensor =
        |values, dim| Tensor::from_data(TensorData::new(values, [batch, heads, query_len, dim]), (&device, DType::F64));
    [tensor(scores, key_len), tensor(weights, key_len), tensor(out, value_dim)]
}

#[test]
fn every_score_with_every_normaliser_follows_its_formula() {
    let Some(device) = wide_device() else { return };
    for kind in KINDS {
        for normaliser in NORMALISERS {
            let layer = layer(kind, normaliser, &device);
            let [scores, weights, out] = expected(&layer, inputs(&device), |score, _, _| score);
            let found = attend(&layer, inputs(&device), &AttentionOptions::new().with_weights(Selection::all()));
            assert_close(found.out, out, 1e-5);
            assert_close(found.weights.unwrap(), weights, 1e-5);
            let [query, key, _] = inputs(&device);
            assert_close(layer.scores(query, key, &AttentionOptions::new()).unwrap(), scores, 2e-5);
        }
    }
}

#[test]
fn scale_softcap_bias_and_masks_act_on_every_score() {
    let Some(device) = wide_device() else { return };
    let [batch, _, _, query_len, key_len, _, _] = SIZES;
    let bias = noise([1, 1, query_len, key_len], 7, &device);
    // Query 1 sees nothing by the mask; pair (2, 3) is hidden by the bias.
    let shown = |i: usize| i % 7 != 2 && i / key_len != 1;
    let bias = bias.mask_fill(bools([1, 1, query_len, key_len], |i| i == 2 * key_len + 3, &device), f32::NEG_INFINITY);
    let spec = AttentionSpec::new().with_scale(0.7).with_softcap(1.5);
    let mask = Mask::keep(bools([1, 1, query_len, key_len], shown, &device));
    let options = AttentionOptions::new().spec(spec).bias(bias.clone()).mask(mask).kv_lens(vec![key_len - 1; batch]);
    let bias = elements(bias);
    for kind in KINDS {
        let root = if kind == ScoreKind::ScaledDot { (SIZES[5] as f64).sqrt() } else { 1.0 };
        let change = |score: f64, i: usize, j: usize| {
            let at = i * key_len + j;
            let capped = 1.5 * (0.7 * score * root / 1.5).tanh() + bias[at];
            if shown(at) && j < key_len - 1 { capped } else { f64::NEG_INFINITY }
        };
        for normaliser in NORMALISERS {
            let layer = layer(kind, normaliser, &device);
            let [_, weights, out] = expected(&layer, inputs(&device), change);
            let found = attend(&layer, inputs(&device), &options.clone().with_weights(Selection::all()));
            assert_close(found.out, out, 1e-5);
            assert_close(found.weights.unwrap(), weights, 1e-5);
        }
    }
}

#[test]
fn sinks_take_weight_from_every_normaliser() {
    let device = reference_device();
    let [batch, heads, kv_heads, query_len, key_len, dim, value_dim] = SIZES;
    let sinks = Tensor::<1>::from_floats([-0.5, 0.4, 0.1, 1.2], &device);
    let [query, key, value] = inputs(&device);
    // The same by a key more: with cosine and additive scores a bias makes its score the sink, its value is 0.
    let more_key = Tensor::cat(vec![key.clone(), Tensor::zeros([batch, kv_heads, 1, dim], &device)], 2);
    let more_value = Tensor::cat(vec![value.clone(), Tensor::zeros([batch, kv_heads, 1, value_dim], &device)], 2);
    let column = sinks.clone().reshape([1, heads, 1, 1]).expand::<4, _>([1, heads, query_len, 1]);
    let bias = Tensor::cat(vec![Tensor::zeros([1, heads, query_len, key_len], &device), column], 3);
    for normaliser in [Normaliser::Softmax, Normaliser::Sparsemax, Normaliser::Entmax15] {
        // A key of zeros scores 0 by these.
        for kind in [ScoreKind::Dot, KINDS[4]] {
            let layer = layer(kind, normaliser, &device);
            let options = AttentionOptions::new().sinks(sinks.clone()).with_weights(Selection::all());
            let found = attend(&layer, [query.clone(), key.clone(), value.clone()], &options);
            let options = AttentionOptions::new().bias(bias.clone()).with_weights(Selection::all());
            let wanted = attend(&layer, [query.clone(), more_key.clone(), more_value.clone()], &options);
            assert_close(found.out, wanted.out, 1e-6);
            assert_close(found.weights.unwrap(), wanted.weights.unwrap().narrow(3, 0, key_len), 1e-6);
        }
    }
    // Quiet softmax: the sink and the 0 are two more logits.
    let quiet = layer(ScoreKind::ScaledDot, Normaliser::QuietSoftmax, &device);
    let found = attend(&quiet, inputs(&device), &AttentionOptions::new().sinks(sinks.clone()).with_lse());
    let plain = layer(ScoreKind::ScaledDot, Normaliser::Softmax, &device);
    let lse = attend(&plain, inputs(&device), &AttentionOptions::new().with_lse()).lse.unwrap();
    let wanted = (lse.exp() + sinks.exp().add_scalar(1.0).reshape([1, heads, 1])).log();
    assert_close(found.lse.unwrap(), wanted, 1e-5);
}

#[test]
fn the_fused_kernels_serve_what_they_can() {
    let device = reference_device();
    for kind in KINDS {
        for normaliser in [Normaliser::Softmax, Normaliser::QuietSoftmax] {
            let layer = layer(kind, normaliser, &device);
            let [query, key, value] = inputs(&device);
            let plan = layer.plan(query, key, value, &AttentionOptions::new()).unwrap();
            assert_ne!(plan.forward.kernel, "composite", "{kind:?}");
            let output = attend(&layer, inputs(&device), &AttentionOptions::new().with_lse());
            assert_eq!(output.lse.unwrap().dims(), [SIZES[0], SIZES[1], SIZES[3]]);
        }
    }
    let sparse = layer(ScoreKind::Dot, Normaliser::Sparsemax, &device);
    let demand = KernelChoice { forward: Some("cpu".into()), backward: None };
    let [query, key, value] = inputs(&device);
    let error = sparse.plan(query.clone(), key.clone(), value.clone(), &AttentionOptions::new()).unwrap_err();
    assert!(matches!(error, AttentionError::Unsupported { .. }), "{error}");
    let options = AttentionOptions::new().kernels(demand);
    let error = sparse.forward(query.clone(), key.clone(), value.clone(), &options).map(|_| ()).unwrap_err();
    assert!(matches!(error, AttentionError::Unsupported { ref kernel, .. } if kernel == "cpu"), "{error}");
    let error = sparse.forward(query, key, value, &AttentionOptions::new().with_lse()).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("lse"));
}

#[test]
fn special_cases_agree() {
    let device = reference_device();
    // Scaled dot with softmax is plain attention; a bilinear matrix of 1 is the dot product.
    let [query, key, value] = inputs(&device);
    let scaled = layer(ScoreKind::ScaledDot, Normaliser::Softmax, &device);
    let wanted = plain(query.clone(), key.clone(), value.clone(), None);
    assert_close(attend(&scaled, inputs(&device), &AttentionOptions::new()).out, wanted.clone(), 1e-6);
    let mut bilinear = layer(ScoreKind::Bilinear, Normaliser::Softmax, &device);
    if let ScoreFunction::Bilinear(of) = &mut bilinear.score.function {
        let [heads, dim] = [SIZES[1], SIZES[5]];
        let one = Tensor::<2>::eye(dim, &device).unsqueeze::<3>().expand::<3, _>([heads, dim, dim]);
        of.weight = of.weight.clone().map(|_| one);
    }
    let spec = AttentionSpec::new().with_scale(1.0 / (SIZES[5] as f64).sqrt());
    assert_close(attend(&bilinear, inputs(&device), &AttentionOptions::new().spec(spec)).out, wanted, 1e-6);
    // The cosine does not see lengths.
    let cosine = layer(KINDS[4], Normaliser::Softmax, &device);
    let [a, b] = [1.0, 50.0].map(|factor| {
        let scaled = [query.clone() * factor, key.clone() / factor, value.clone()];
        attend(&cosine, scaled, &AttentionOptions::new()).out
    });
    assert_close(a, b, 1e-5);
}

#[test]
fn the_cosines_scale_is_bounded_and_zeros_have_gradients() {
    let device = reference_device().autodiff();
    let cosine = config(KINDS[4], Normaliser::Softmax).init(&device).unwrap();
    let [query, key, value] = inputs(&device);
    let of = |initial_scale, max_scale| {
        let kind = ScoreKind::Cosine { initial_scale, max_scale };
        let layer = config(kind, Normaliser::Softmax).init(&device).unwrap();
        layer.scores(query.clone(), key.clone(), &AttentionOptions::new()).unwrap()
    };
    assert_close(of(20.0, 100.0).inner(), (of(10.0, 100.0) * 2.0).inner(), 1e-5);
    // Pushed beyond its bound the scale stays there.
    let mut pushed =
        config(ScoreKind::Cosine { initial_scale: 30.0, max_scale: 30.0 }, Normaliser::Softmax).init(&device);
    if let Ok(ScoredAttention { score, .. }) = &mut pushed
        && let ScoreFunction::Cosine(of) = &mut score.function
    {
        of.log_scale = of.log_scale.clone().map(|scale| scale + 5.0);
    }
    let pushed = pushed.unwrap().scores(query.clone(), key.clone(), &AttentionOptions::new()).unwrap();
    assert_close(pushed.inner(), of(30.0, 30.0).inner(), 1e-4);
    // Vectors of zeros.
    let zeros = Tensor::<4>::zeros(query.dims(), &device).require_grad();
    let out = cosine.forward(zeros.clone(), key, value, &AttentionOptions::new()).unwrap().out;
    let grad = zeros.grad(&(out.clone() * out).sum().backward()).unwrap();
    assert!(elements(grad).iter().all(|grad| grad.is_finite()));
}

#[test]
fn query_and_key_may_differ_in_width_where_a_matrix_joins_them() {
    let Some(device) = wide_device() else { return };
    let (query, key, value) =
        (noise([1, 2, 4, 3], 1, &device), noise([1, 1, 5, 6], 2, &device), noise([1, 1, 5, 2], 3, &device));
    for kind in [ScoreKind::Bilinear, ScoreKind::Additive { hidden: 4 }] {
        let score = ScoreConfig::new(2, 3).with_kv_heads(Some(1)).with_key_dim(Some(6)).with_kind(kind);
        let layer = shaken(ScoredAttentionConfig::new(score).init(&device).unwrap());
        let inputs = [query.clone(), key.clone(), value.clone()];
        let [_, _, out] = expected(&layer, inputs.clone(), |score, _, _| score);
        assert_close(attend(&layer, inputs, &AttentionOptions::new()).out, out, 1e-5);
    }
}

#[test]
fn additive_scores_made_in_runs_of_queries_are_the_same() {
    // 2300 queries and keys with 1 hidden feature: more than one run of 4 Mi.
    let device = reference_device();
    let score = ScoreConfig::new(1, 1).with_kind(ScoreKind::Additive { hidden: 1 });
    let layer = shaken(ScoredAttentionConfig::new(score).init(&device).unwrap());
    let (query, key) = (noise([1, 1, 2300, 1], 1, &device), noise([1, 1, 2300, 1], 2, &device));
    let scores = layer.scores(query.clone(), key.clone(), &AttentionOptions::new()).unwrap();
    for row in [0, 1822, 1823, 1824, 2299] {
        let one = layer.scores(query.clone().narrow(2, row, 1), key.clone(), &AttentionOptions::new()).unwrap();
        assert_close(scores.clone().narrow(2, row, 1), one, 1e-6);
    }
}

/// bf16 keeps 8 bits: inputs, parameters, scores that enter as a bias, and outputs are rounded to it, and nothing in
/// between.
#[test]
fn narrow_types_come_back_as_they_came() {
    struct Narrow;
    impl ModuleMapper for Narrow {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(FloatDType::BF16))
        }
    }
    // NdArray has no such type.
    let Ok(device) = crate::device("flex") else { return };
    for kind in KINDS {
        for normaliser in NORMALISERS {
            let whole = layer(kind, normaliser, &device);
            let narrow = inputs(&device).map(|tensor| tensor.cast(FloatDType::BF16));
            let wanted =
                attend(&whole, narrow.clone().map(|tensor| tensor.cast(FloatDType::F32)), &AttentionOptions::new());
            let output =
                attend(&whole.map(&mut Narrow), narrow, &AttentionOptions::new().with_weights(Selection::all()));
            assert_eq!((output.out.dtype(), output.weights.unwrap().dtype()), (DType::BF16, DType::F32));
            // Scores lie within ±4 and are rounded by 2⁻⁹ at most four times (query, key, parameter, score): off by
            // 1/32, so that weights are off by a factor of exp(2/32) and the output, of values below 1, by no more than
            // 1/16 and its own rounding.
            assert_close(output.out.cast(FloatDType::F32), wanted.out, 1.0 / 15.0);
        }
    }
}

#[test]
fn every_backend_gives_the_same() {
    for kind in KINDS {
        for normaliser in NORMALISERS {
            assert_agreement(1e-5, |device| {
                let options = AttentionOptions::new().spec(AttentionSpec::new().with_causal(true));
                attend(&layer(kind, normaliser, device), inputs(device), &options).out
            });
        }
    }
}

#[test]
fn a_record_carries_every_parameter() {
    let device = reference_device();
    for kind in KINDS {
        let first = layer(kind, Normaliser::Softmax, &device);
        let second = restored(&first, config(kind, Normaliser::Softmax).init(&device).unwrap());
        let [a, b] = [first, second].map(|layer| attend(&layer, inputs(&device), &AttentionOptions::new()).out);
        assert_close(b, a, 0.0);
    }
}
