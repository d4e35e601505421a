//! Tests of attention that stops early.

use attn_core::{AttentionSpec, Mask};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, elements, noise, reference_device, wide_device,
};
use crate::Attention;
use crate::nn::{ChunkOrder, HaltingConfig, HaltingOutput, halting_attention};

const KEYS: usize = 37;
const QUERIES: usize = 11;
const CHUNK: usize = 5;

fn config(epsilon: f64) -> HaltingConfig {
    HaltingConfig::new(epsilon).with_chunk(CHUNK)
}

/// 4 query heads over 2 key/value heads; keys far from the end are short, so that there is something to leave out.
fn inputs(seed: usize, device: &Device) -> [Tensor<4>; 3] {
    let fade = |j: usize| (if j + 8 >= KEYS { 2.5 } else { 0.2 }) * (1.0 + seed as f32 * 0.1);
    let fade: Vec<f32> = (0..KEYS).map(fade).collect();
    let fade = Tensor::<4>::from_data(TensorData::new(fade, [1, 1, KEYS, 1]), device);
    [
        noise([2, 4, QUERIES, 6], 3 * seed + 1, device).mul_scalar(2.0),
        noise([2, 2, KEYS, 6], 3 * seed + 2, device) * fade,
        noise([2, 2, KEYS, 3], 3 * seed + 3, device),
    ]
}

fn orders() -> [ChunkOrder; 3] {
    [ChunkOrder::LastFirst, ChunkOrder::FirstFirst, ChunkOrder::Given(vec![7, 0, 3, 6, 2, 5, 1, 4])]
}

fn padded(device: &Device) -> Mask<Tensor<2, burn::tensor::Bool>> {
    Mask::keep(bools([2, KEYS], |i| i % 6 != 5 && !(KEYS..KEYS + 10).contains(&i), device))
}

fn ints(tensor: Tensor<3, Int>) -> Vec<i64> {
    tensor.into_data().convert::<i64>().try_to_vec::<i64>().unwrap()
}

/// Full attention over the same keys.
fn full([q, k, v]: [Tensor<4>; 3], config: &HaltingConfig, padding: bool) -> (Tensor<4>, Tensor<3>) {
    let device = q.device();
    let mut spec = AttentionSpec::new().with_causal(config.causal);
    spec.scale = config.scale;
    let mut attention = Attention::new(q, k, v).spec(spec).with_lse();
    if padding {
        attention = attention.mask(padded(&device).map(|keep| keep.reshape([2, 1, 1, KEYS])));
    }
    let output = attention.forward().unwrap();
    (output.out, output.lse.unwrap())
}

fn halted([q, k, v]: [Tensor<4>; 3], config: &HaltingConfig, padding: bool) -> HaltingOutput {
    let padding = padding.then(|| padded(&q.device()));
    halting_attention(q, k, v, padding, config).unwrap()
}

#[test]
fn an_epsilon_of_zero_is_full_attention_in_any_order() {
    let device = reference_device();
    for order in orders() {
        for causal in [false, true] {
            for padding in [false, true] {
                let config = config(0.0).with_causal(causal).with_order(order.clone()).with_scale(Some(-0.7));
                let (out, lse) = full(inputs(0, &device), &config, padding);
                let found = halted(inputs(0, &device), &config, padding);
                assert_close(found.out, out, 1e-5);
                assert_close(found.lse, lse, 1e-5);
                assert_close(found.bound, Tensor::zeros([2, 4, QUERIES], &device), 0.0);
                if !padding {
                    let last = |row: usize| if causal { KEYS - QUERIES + row } else { KEYS - 1 };
                    for (at, chunks) in ints(found.chunks).into_iter().enumerate() {
                        assert_eq!(chunks as usize, last(at % QUERIES) / CHUNK + 1);
                    }
                }
            }
        }
    }
}

/// `‖a − b‖` of each row.
fn distances(a: Tensor<4>, b: Tensor<4>) -> Vec<f64> {
    let [_, _, _, dim] = a.dims();
    elements(a - b).chunks(dim).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).collect()
}

#[test]
fn the_error_is_within_the_bound_and_the_bound_within_epsilon() {
    let Some(device) = wide_device() else { return };
    let all = KEYS.div_ceil(CHUNK) as i64;
    let mut spared = 0;
    for seed in 0..8 {
        for (order, epsilon) in orders().into_iter().flat_map(|order| [(order.clone(), 0.05), (order, 0.5)]) {
            for (causal, padding) in [(false, false), (true, false), (false, true), (true, true)] {
                let inputs = inputs(seed, &device).map(|tensor| tensor.cast(DType::F64));
                let config = config(epsilon).with_causal(causal).with_order(order.clone());
                let (out, _) = full(inputs.clone(), &config, padding);
                let found = halted(inputs, &config, padding);
                let errors = distances(found.out, out);
                let (bounds, chunks) = (elements(found.bound), ints(found.chunks));
                for ((error, bound), chunks) in errors.into_iter().zip(bounds).zip(chunks) {
                    assert!(error <= bound + 1e-12, "{error} is more than {bound}");
                    assert!(bound <= epsilon, "{bound} is more than {epsilon}");
                    spared += all - chunks;
                }
            }
        }
    }
    assert!(spared > 1000, "{spared} chunks left out");
}

/// The bound of the documentation for a query that has read the last `chunks` chunks.
fn bound_by_hand([q, k, v]: [&[f64]; 3], out: &[f64], mass: f64, chunks: usize, scale: f64) -> f64 {
    let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let total = KEYS.div_ceil(CHUNK);
    let (mut rest, mut greatest) = (0.0, 0.0_f64);
    for chunk in 0..total - chunks {
        let keys = chunk * CHUNK..KEYS.min((chunk + 1) * CHUNK);
        let longest = keys.clone().map(|j| norm(&k[j * 6..][..6])).fold(0.0, f64::max);
        rest += keys.len() as f64 * (scale * norm(q) * longest).exp();
        greatest = keys.map(|j| norm(&v[j * 3..][..3])).fold(greatest, f64::max);
    }
    let ratio = rest / mass;
    ratio / (1.0 + ratio) * (norm(out) + greatest)
}

#[test]
fn a_query_stops_at_the_first_chunk_whose_bound_allows_it() {
    let Some(device) = wide_device() else { return };
    let epsilon = 0.2;
    let tensors = inputs(1, &device).map(|tensor| tensor.cast(DType::F64));
    let found = halted(tensors.clone(), &config(epsilon), false);
    let (counts, bounds) = (ints(found.chunks), elements(found.bound));
    let different: std::collections::BTreeSet<_> = counts.iter().collect();
    assert!(different.len() > 2, "queries stop at {different:?}");
    let total = KEYS.div_ceil(CHUNK);
    let [q, k, v] = tensors;
    // What each query has after its first 1, 2, … chunks.
    let after: Vec<(Vec<f64>, Vec<f64>)> = (1..=total)
        .map(|chunks| {
            let (first, count) = ((total - chunks) * CHUNK, KEYS - (total - chunks) * CHUNK);
            let part = |tensor: &Tensor<4>| tensor.clone().narrow(2, first, count);
            let output = Attention::new(q.clone(), part(&k), part(&v)).with_lse().forward().unwrap();
            (elements(output.out), elements(output.lse.unwrap()))
        })
        .collect();
    let (q, k, v) = (elements(q), elements(k), elements(v));
    for (row, (count, bound)) in counts.into_iter().zip(bounds).enumerate() {
        let head = row / QUERIES / 2;
        let by_hand = |chunks: usize| {
            let (outs, lses) = &after[chunks - 1];
            let of_head = [&q[row * 6..][..6], &k[head * KEYS * 6..][..KEYS * 6], &v[head * KEYS * 3..][..KEYS * 3]];
            bound_by_hand(of_head, &outs[row * 3..][..3], lses[row].exp(), chunks, 1.0 / 6.0_f64.sqrt())
        };
        let count = count as usize;
        assert!((by_hand(count) - bound).abs() < 1e-9, "row {row}: {bound} in place of {}", by_hand(count));
        assert!((1..count).all(|chunks| by_hand(chunks) > epsilon), "row {row} could have stopped before {count}");
    }
}

#[test]
fn a_budget_ends_a_query_whatever_is_left() {
    let device = reference_device();
    let tensors = inputs(2, &device);
    let found = halted(tensors.clone(), &config(0.0).with_budget(Some(2)), false);
    assert!(ints(found.chunks).into_iter().all(|chunks| chunks == 2));
    let [q, k, v] = tensors.clone();
    let last = |tensor: Tensor<4>| tensor.narrow(2, 30, 7);
    let near = Attention::new(q, last(k), last(v)).forward().unwrap().out;
    assert_close(found.out.clone(), near, 1e-5);
    let (full, _) = full(tensors, &config(0.0), false);
    for (error, bound) in distances(found.out, full).into_iter().zip(elements(found.bound)) {
        assert!(bound > 0.0 && error <= bound + 1e-6, "{error} is more than {bound}");
    }
}

#[test]
fn padding_has_no_influence_even_where_it_holds_nan() {
    let device = reference_device();
    let config = config(0.1).with_causal(true);
    let [q, k, v] = inputs(0, &device);
    let wanted = halted([q.clone(), k.clone(), v.clone()], &config, true);
    let kept = elements(padded(&device).into_parts().0.float());
    let nan = |width: usize| {
        bools([2, 2, KEYS, width], |i| kept[i / width / KEYS / 2 * KEYS + i / width % KEYS] == 0.0, &device)
    };
    let poisoned = [q, k.mask_fill(nan(6), f32::NAN), v.mask_fill(nan(3), f32::NAN)];
    let found = halted(poisoned, &config, true);
    assert_close(found.out, wanted.out, 0.0);
    assert_close(found.bound, wanted.bound, 0.0);
    assert_eq!(ints(found.chunks), ints(wanted.chunks));
}

#[test]
fn gradients_are_those_of_the_attention_over_what_was_read() {
    let Some(device) = wide_device() else { return };
    for causal in [false, true] {
        let inputs = inputs(1, &device).map(|tensor| Input::new(tensor.narrow(0, 0, 1)));
        let [q, k, v] = inputs;
        assert_gradients((q, k, v), |(q, k, v)| {
            let config = config(0.2).with_causal(causal);
            let output = halting_attention(q.value(), k.value(), v.value(), None, &config).unwrap();
            (output.out.clone() * output.out).sum() + output.lse.mul_scalar(0.1).sum()
        });
    }
}

#[test]
fn every_backend_gives_the_same() {
    assert_agreement(1e-5, |device| halted(inputs(0, device), &config(0.1).with_causal(true), true).out);
}

#[test]
fn wrong_input_and_wrong_configs_name_the_argument() {
    let device = reference_device();
    let attend = |q: [usize; 4], k: [usize; 4], v: [usize; 4], padding: Option<usize>, config: HaltingConfig| {
        let padding = padding.map(|length| Mask::keep(bools([2, length], |_| true, &device)));
        let [q, k, v] = [q, k, v].map(|shape| Tensor::<4>::zeros(shape, &device));
        halting_attention(q, k, v, padding, &config).map(|output| output.chunks.dims())
    };
    let (q, k, v) = ([2, 4, 3, 6], [2, 2, 12, 6], [2, 2, 12, 3]);
    assert_eq!(attend(q, k, v, Some(12), config(0.1)), Ok([2, 4, 3]));
    for (q, k, v) in [
        ([0, 4, 3, 6], [0, 2, 12, 6], [0, 2, 12, 3]),
        ([2, 4, 0, 6], k, v),
        (q, [2, 2, 0, 6], [2, 2, 0, 3]),
        (q, k, [2, 2, 12, 0]),
        ([2, 4, 20, 6], k, v),
    ] {
        for causal in [false, true] {
            assert_eq!(attend(q, k, v, None, config(0.1).with_causal(causal)), Ok([q[0], q[1], q[2]]));
        }
    }
    for (argument, q, k, v, padding, config) in [
        ("key", q, [2, 3, 12, 6], [2, 3, 12, 3], None, config(0.1)),
        ("key", q, [2, 2, 12, 5], v, None, config(0.1)),
        ("value", q, k, [2, 2, 11, 3], None, config(0.1)),
        ("key_padding", q, k, v, Some(11), config(0.1)),
        ("epsilon", q, k, v, None, config(-0.1)),
        ("epsilon", q, k, v, None, config(f64::NAN)),
        ("chunk", q, k, v, None, config(0.1).with_chunk(0)),
        ("budget", q, k, v, None, config(0.1).with_budget(Some(0))),
        ("scale", q, k, v, None, config(0.1).with_scale(Some(f64::INFINITY))),
        ("order", q, k, v, None, config(0.1).with_order(ChunkOrder::Given(vec![0, 1]))),
        ("order", q, k, v, None, config(0.1).with_order(ChunkOrder::Given(vec![0, 1, 1]))),
        ("order", q, k, v, None, config(0.1).with_order(ChunkOrder::Given(vec![0, 1, 3]))),
    ] {
        assert_eq!(attend(q, k, v, padding, config).unwrap_err().argument(), Some(argument));
    }
}
