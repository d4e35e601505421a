//! Tests of relative biases, ALiBi slopes and absolute positions.

use attn_core::AttentionSpec;
use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, elements, noise, reference_device, restored, shaken,
};
use crate::nn::{
    AlibiSlopes, AttentionOptions, DistanceRule, LearnedPositionsConfig, MultiHeadAttentionConfig, Positions,
    RelativeBias, RelativeBiasConfig, SinusoidalPositionsConfig, alibi_slopes,
};

const RULES: [DistanceRule; 4] = [
    DistanceRule::T5 { buckets: 8, max_distance: 12, bidirectional: true },
    DistanceRule::T5 { buckets: 6, max_distance: 9, bidirectional: false },
    DistanceRule::Clipped { max_distance: 3 },
    DistanceRule::Clipped { max_distance: 1 },
];

fn bias(rule: DistanceRule, device: &Device) -> RelativeBias {
    shaken(RelativeBiasConfig::new(3, rule).init(device).unwrap())
}

#[test]
fn t5_buckets_are_those_of_the_paper_in_whole_numbers() {
    let power = |base: u128, exponent: u32| base.checked_pow(exponent).unwrap();
    for distance in -200i64..=200 {
        let x = u128::from(distance.unsigned_abs());
        // 16 rows a side, 8 of them exact: ln(x/8)/ln(16)·8 ≥ k where x² ≥ 8²·2^k.
        let far = (1..=7).filter(|&k| x * x >= 64 * power(2, k)).count();
        let side = if x < 8 { x as usize } else { 8 + far };
        let expected = if distance > 0 { 16 + side } else { side };
        assert_eq!(DistanceRule::t5(true).row(distance), expected, "distance {distance}");
        // 32 rows, 16 of them exact: ln(x/16)/ln(8)·16 ≥ k where x^16 ≥ 16^16·8^k.
        let far = (1..=15).filter(|&k| power(x, 16) >= power(16, 16) * power(8, k)).count();
        let expected = if distance >= 0 {
            0
        } else if x < 16 {
            x as usize
        } else {
            16 + far
        };
        assert_eq!(DistanceRule::t5(false).row(distance), expected, "distance {distance}");
    }
    // The ends of the whole numbers, where nothing may overflow.
    assert_eq!(DistanceRule::t5(true).row(i64::MIN), 15);
    assert_eq!(DistanceRule::t5(true).row(i64::MAX), 31);
    assert_eq!(DistanceRule::t5(false).row(i64::MIN), 31);
}

#[test]
fn a_clipped_table_has_a_row_for_each_distance() {
    let rule = DistanceRule::Clipped { max_distance: 3 };
    let rows: Vec<usize> = [i64::MIN, -4, -3, -1, 0, 2, 3, 4, i64::MAX].map(|distance| rule.row(distance)).into();
    assert_eq!((rows, rule.rows()), (vec![0, 0, 0, 2, 3, 5, 6, 6, 6], 7));
}

#[test]
fn a_bias_is_the_tables_row_of_the_distance() {
    let device = reference_device();
    for rule in RULES {
        let bias = bias(rule, &device);
        let table = elements(bias.weight.val());
        for (query_len, key_len, offset) in [(4, 6, 2), (6, 4, 0), (1, 7, 6), (5, 1, -3), (1, 1, 0), (3, 3, 40)] {
            let found = bias.forward(query_len, key_len, offset).unwrap();
            assert_eq!(found.dims(), [1, 3, query_len, key_len]);
            let expected = |at: usize| {
                let (h, i, j) = (at / (query_len * key_len), at / key_len % query_len, at % key_len);
                table[rule.row(j as i64 - i as i64 - offset) * 3 + h]
            };
            let found = elements(found);
            assert_eq!(found, (0..found.len()).map(expected).collect::<Vec<_>>());
        }
    }
}

#[test]
fn any_positions_give_the_bias_of_their_distances() {
    let device = reference_device();
    let bias = bias(RULES[2], &device);
    let runs = bias.forward(3, 4, 1).unwrap();
    let each = |rows: &[&[i64]]| Positions::Each(rows.iter().map(|row| row.to_vec()).collect());
    let between = |query, key| bias.between(&query, &key, [2, 3, 4]).unwrap();
    assert_close(between(each(&[&[1, 2, 3]]), Positions::From(0)), runs.clone(), 0.0);
    assert_close(between(Positions::FromEach(vec![8, 8]), each(&[&[7, 8, 9, 10]])), runs.clone(), 0.0);
    // A batch entry may have its own.
    let found = between(Positions::FromEach(vec![1, 2]), Positions::From(0));
    assert_close(found, Tensor::cat(vec![runs, bias.forward(3, 4, 2).unwrap()], 0), 0.0);
    let found = between(each(&[&[1, 2, 3], &[9, 9, 9]]), each(&[&[0, 1, 2, 3], &[9, 9, 9, 9]]));
    let middle = bias.forward(1, 1, 0).unwrap().expand::<4, _>([1, 3, 3, 4]);
    assert_close(found.narrow(0, 1, 1), middle, 0.0);
}

#[test]
fn gradients_of_the_table_are_central_differences() {
    for rule in RULES {
        assert_gradients(bias(rule, &reference_device()), |bias| {
            let runs = bias.forward(3, 4, 1).unwrap();
            let pairs = bias.between(&Positions::Each(vec![vec![2, 0]]), &Positions::From(0), [1, 2, 4]).unwrap();
            (runs.clone() * runs).sum() + (pairs.clone() * pairs).sum()
        });
    }
}

#[test]
fn every_backend_gives_the_same_and_records_carry_tables() {
    let device = reference_device();
    for rule in RULES {
        assert_agreement(1e-6, |device| bias(rule, device).forward(4, 5, 1).unwrap());
        let first = bias(rule, &device);
        let second = restored(&first, RelativeBiasConfig::new(3, rule).init(&device).unwrap());
        assert_close(second.forward(4, 5, 1).unwrap(), first.forward(4, 5, 1).unwrap(), 0.0);
    }
    let config = LearnedPositionsConfig::new(9, 4);
    let first = shaken(config.init(&device).unwrap());
    let second = restored(&first, config.init(&device).unwrap());
    assert_close(second.weight.val(), first.weight.val(), 0.0);
    assert_agreement(1e-6, |device| {
        let learned = shaken(config.init(device).unwrap());
        let sinusoidal = SinusoidalPositionsConfig::new(4).init().unwrap();
        let hidden = learned.forward(noise([2, 5, 4], 1, device), &Positions::From(2)).unwrap();
        sinusoidal.forward(hidden, &Positions::From(2)).unwrap()
    });
}

#[test]
fn slopes_are_the_papers_for_any_number_of_heads() {
    let two = |exponents: &[f64]| exponents.iter().map(|e| 2f64.powf(-e)).collect::<Vec<_>>();
    assert_eq!(alibi_slopes(0), Vec::<f64>::new());
    assert_eq!(alibi_slopes(1), two(&[8.0]));
    assert_eq!(alibi_slopes(8), two(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]));
    // 12 heads: those of 8, then the 1st, 3rd, 5th and 7th of 16.
    assert_eq!(alibi_slopes(12), two(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.5, 1.5, 2.5, 3.5]));
    assert_eq!(alibi_slopes(3), two(&[4.0, 8.0, 2.0]));
    let device = reference_device();
    for (slopes, found) in [(vec![0.5], 1), (vec![0.5, f64::NAN], 2)] {
        let config = MultiHeadAttentionConfig::new(4, 2).with_alibi(Some(AlibiSlopes::Given { slopes }));
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some("alibi"), "{found} slopes");
    }
}

#[test]
fn sinusoids_follow_their_formula_at_any_position() {
    let device = reference_device();
    for d_model in [1, 6, 7] {
        let hidden = noise([2, 3, d_model], 1, &device);
        let sinusoidal = SinusoidalPositionsConfig::new(d_model).with_base(100.0).init().unwrap();
        let starts = [0i64, 123_456_789];
        // Twice, from the table that was kept and after another one.
        for _ in 0..2 {
            let found = sinusoidal.forward(hidden.clone(), &Positions::FromEach(starts.to_vec())).unwrap();
            let value = |at: usize| {
                let (entry, token, feature) = (at / (3 * d_model), at / d_model % 3, at % d_model);
                let position = (starts[entry] + token as i64) as f64;
                let angle = position / 100f64.powf((feature - feature % 2) as f64 / d_model as f64);
                if feature % 2 == 0 { angle.sin() } else { angle.cos() }
            };
            let table: Vec<f64> = (0..6 * d_model).map(value).collect();
            let table = Tensor::<1>::from_data(table.as_slice(), (&device, hidden.dtype())).reshape([2, 3, d_model]);
            assert_close(found, hidden.clone() + table, 3e-7);
            sinusoidal.forward(hidden.clone(), &Positions::From(9)).unwrap();
        }
    }
}

#[test]
fn learned_positions_are_rows_of_their_table_and_learn() {
    let device = reference_device();
    let learned = shaken(LearnedPositionsConfig::new(9, 4).init(&device).unwrap());
    let hidden = noise([2, 3, 4], 1, &device);
    let table = |row| learned.weight.val().narrow(0, row, 3).reshape([1, 3, 4]);
    let found = learned.forward(hidden.clone(), &Positions::FromEach(vec![6, 0])).unwrap();
    assert_close(found, hidden.clone() + Tensor::cat(vec![table(6), table(0)], 0), 0.0);
    assert_gradients((learned, Input::new(hidden)), |(learned, hidden)| {
        let out = learned.forward(hidden.value(), &Positions::Each(vec![vec![3, 3, 8]])).unwrap();
        let weight = noise([2, 3, 4], 7, &out.device()).cast(FloatDType::F64);
        (out.clone() * out * weight).sum()
    });
}

#[test]
fn a_table_holds_the_bias_of_every_distance() {
    let device = reference_device();
    for rule in RULES {
        let bias = bias(rule, &device);
        let table = bias.table().unwrap();
        let [heads, distances] = table.dims();
        let reach = distances / 2;
        assert_eq!(distances % 2, 1, "{rule}");
        // One query in the middle of keys that lie up to four distances past the table on both sides.
        let around = bias.forward(1, distances + 8, reach as i64 + 4).unwrap().reshape([heads, distances + 8]);
        assert_close(around.clone().narrow(1, 4, distances), table.clone(), 0.0);
        for (at, end) in [(0, 0), (distances + 4, distances - 1)] {
            let end = table.clone().narrow(1, end, 1).repeat_dim(1, 4);
            assert_close(around.clone().narrow(1, at, 4), end, 0.0);
        }
    }
}

#[test]
fn a_relative_bias_is_the_same_in_the_kernel_and_over_every_pair() {
    let device = reference_device();
    let config = MultiHeadAttentionConfig::new(6, 4).with_head_dim(Some(3)).with_relative_bias(Some(RULES[0]));
    let layer = shaken(config.init(&device).unwrap());
    let (hidden, memory) = (noise([2, 5, 6], 1, &device), noise([2, 9, 6], 2, &device));
    let table = noise([4, 7], 3, &device);
    for causal in [false, true] {
        let options = AttentionOptions::new().spec(AttentionSpec::new().with_causal(causal)).kv_lens([9, 6]);
        let out = |options: &AttentionOptions| {
            layer.forward(hidden.clone(), memory.clone(), memory.clone(), options).unwrap().out
        };
        let pairs = options.clone().positions(Positions::FromEach(vec![4, 1]), Positions::From(0));
        assert_close(out(&options), out(&pairs), 1e-6);
        // A table of the call is added to the layer's.
        let found = out(&options.clone().relative_bias(table.clone()));
        assert_close(found.clone(), out(&pairs.relative_bias(table.clone())), 1e-6);
        assert!((found - out(&options)).abs().max().into_scalar::<f32>() > 1e-3);
    }
}

#[test]
fn wrong_configs_and_inputs_name_the_argument_and_nothing_gives_nothing() {
    let device = reference_device();
    let t5 = |buckets, max_distance, bidirectional| DistanceRule::T5 { buckets, max_distance, bidirectional };
    let cases = [
        ("heads", RelativeBiasConfig::new(0, DistanceRule::t5(true))),
        ("buckets", RelativeBiasConfig::new(2, t5(7, 128, true))),
        ("buckets", RelativeBiasConfig::new(2, t5(2, 128, true))),
        ("buckets", RelativeBiasConfig::new(2, t5(1, 128, false))),
        ("max_distance", RelativeBiasConfig::new(2, t5(32, 8, true))),
        ("max_distance", RelativeBiasConfig::new(2, t5(32, 16, false))),
        ("max_distance", RelativeBiasConfig::new(2, DistanceRule::Clipped { max_distance: 0 })),
        ("max_distance", RelativeBiasConfig::new(2, DistanceRule::Clipped { max_distance: usize::MAX })),
    ];
    for (argument, config) in cases {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
    let relative = bias(RULES[0], &device);
    let name = |query, key| relative.between(&query, &key, [2, 3, 4]).map(|_| ()).unwrap_err().argument();
    assert_eq!(name(Positions::FromEach(vec![1]), Positions::From(0)), Some("query_positions"));
    assert_eq!(name(Positions::From(0), Positions::Each(vec![vec![1]])), Some("key_positions"));
    for [query_len, key_len] in [[0, 4], [4, 0], [0, 0]] {
        assert_eq!(relative.forward(query_len, key_len, 3).unwrap().dims(), [1, 3, query_len, key_len]);
    }

    let none = relative.between(&Positions::FromEach(vec![]), &Positions::From(0), [0, 3, 4]).unwrap();
    assert_eq!(none.dims(), [0, 3, 3, 4]);

    let config = |d_model| SinusoidalPositionsConfig::new(d_model);
    assert_eq!(config(0).init().map(|_| ()).unwrap_err().argument(), Some("d_model"));
    assert_eq!(config(4).with_base(-1.0).init().map(|_| ()).unwrap_err().argument(), Some("base"));
    let sinusoidal = config(4).init().unwrap();
    let learned = LearnedPositionsConfig::new(9, 4).init(&device).unwrap();
    let none = LearnedPositionsConfig::new(0, 4).init(&device).map(|_| ()).unwrap_err();
    assert_eq!(none.argument(), Some("positions"));
    let hidden = |shape| Tensor::<3>::zeros(shape, &device);
    for empty in [[0, 3, 4], [2, 0, 4]] {
        let starts = Positions::FromEach(vec![0; empty[0]]);
        assert_eq!(sinusoidal.forward(hidden(empty), &starts).unwrap().dims(), empty);
        assert_eq!(learned.forward(hidden(empty), &starts).unwrap().dims(), empty);
    }
    let cases = [("hidden", [2, 3, 5], Positions::From(0)), ("positions", [2, 3, 4], Positions::FromEach(vec![0; 3]))];
    for (argument, shape, positions) in cases {
        let error = sinusoidal.forward(hidden(shape), &positions).map(|_| ()).unwrap_err();
        assert_eq!(error.argument(), Some(argument));
        assert_eq!(learned.forward(hidden(shape), &positions).map(|_| ()).unwrap_err(), error);
    }
    for start in [-1, 7] {
        let error = learned.forward(hidden([2, 3, 4]), &Positions::From(start)).map(|_| ()).unwrap_err();
        assert_eq!(error.argument(), Some("positions"), "from {start}");
    }
    assert_eq!(sinusoidal.num_params(), 0);
}
