//! Tests of attention along axes of a grid.

use attn_core::Mask;
use burn::tensor::activation::gelu;
use burn::tensor::{Bool, Device, Tensor};

use super::{
    Input, assert_agreement, assert_close, assert_gradients, bools, gradients, heads, joined, noise, plain,
    reference_device, restored, shaken,
};
use crate::Selection;
use crate::nn::{
    Activation, AttentionOptions, AxialAttention, AxialAttentionConfig, Axis, AxisConfig, MultiHeadAttentionConfig,
    SpaceTimeBlock, SpaceTimeBlockConfig, SpaceTimeScheme,
};

const GRID: [usize; 5] = [2, 3, 2, 4, 6];

fn layer(axes: &[AxisConfig], device: &Device) -> AxialAttention {
    let config = AxialAttentionConfig::new(MultiHeadAttentionConfig::new(6, 2), axes.to_vec());
    shaken(config.init(device).unwrap())
}

fn axes(axes: &[Axis]) -> Vec<AxisConfig> {
    axes.iter().map(|&axis| AxisConfig::new(axis)).collect()
}

/// The layer by one attention over the whole grid, in which everything that `seen` does not show is hidden.
fn expected(layer: &AxialAttention, grid: Tensor<5>, seen: impl Fn([usize; 3], [usize; 3]) -> bool) -> Tensor<5> {
    let [b, t, h, w, c] = grid.dims();
    let count = t * h * w;
    let at = |position: usize| [position / (h * w), position / w % h, position % w];
    let hidden: Tensor<4, Bool> =
        bools([1, 1, count, count], |pair| !seen(at(pair / count), at(pair % count)), &grid.device());
    let flat = grid.reshape([b, count, c]);
    let attention = &layer.attention;
    let [query, key, value] = [&attention.query, &attention.key, attention.value.as_ref().unwrap()]
        .map(|linear| heads(linear.forward(flat.clone()), 2));
    let out = attention.output.forward(joined(plain(query, key, value, Some(hidden))));
    out.reshape([b, t, h, w, c])
}

/// Whether two positions are the same but for these axes.
fn same_but(axes: &[Axis], a: [usize; 3], b: [usize; 3]) -> bool {
    (0..3).all(|at| a[at] == b[at] || axes.iter().any(|&axis| axis as usize == at))
}

#[test]
fn any_axes_are_attention_over_the_grid_that_sees_along_them_alone() {
    use Axis::{Height, Time, Width};
    let device = reference_device();
    let grid = noise(GRID, 1, &device);
    let sets: [&[Axis]; 8] = [
        &[Time],
        &[Height],
        &[Width],
        &[Time, Height],
        &[Width, Time],
        &[Height, Width],
        &[Time, Height, Width],
        &[Width, Height, Time],
    ];
    for set in sets {
        let layer = layer(&axes(set), &device);
        let found = layer.forward(grid.clone(), None).unwrap();
        assert_close(found, expected(&layer, grid.clone(), |a, b| same_but(set, a, b)), 1e-5);
    }
}

#[test]
fn joint_is_plain_attention_over_all_positions() {
    let device = reference_device();
    let layer = layer(&axes(&[Axis::Time, Axis::Height, Axis::Width]), &device);
    let grid = noise(GRID, 1, &device);
    let flat = layer.attention.self_attention(grid.clone().reshape([2, 24, 6]), &AttentionOptions::new()).unwrap().out;
    assert_close(layer.forward(grid, None).unwrap(), flat.reshape(GRID), 1e-6);
}

#[test]
fn causal_and_windows_hold_along_one_axis_and_along_several() {
    use Axis::{Height, Time, Width};
    let device = reference_device();
    let grid = noise(GRID, 1, &device);
    let near = |a: usize, b: usize, window: usize| a.abs_diff(b) <= window;
    let time = AxisConfig::new(Time).with_causal(true);
    let width = AxisConfig::new(Width).with_window(Some(1));

    let one = layer(&[time], &device);
    let wanted = expected(&one, grid.clone(), |a, b| same_but(&[Time], a, b) && b[0] <= a[0]);
    assert_close(one.forward(grid.clone(), None).unwrap(), wanted, 1e-5);

    let one = layer(&[width], &device);
    let wanted = expected(&one, grid.clone(), |a, b| same_but(&[Width], a, b) && near(a[2], b[2], 1));
    assert_close(one.forward(grid.clone(), None).unwrap(), wanted, 1e-5);

    let all = layer(&[width, time, AxisConfig::new(Height)], &device);
    let wanted = expected(&all, grid.clone(), |a, b| b[0] <= a[0] && near(a[2], b[2], 1));
    assert_close(all.forward(grid.clone(), None).unwrap(), wanted, 1e-5);

    let wide = layer(&[AxisConfig::new(Time).with_window(Some(usize::MAX)), AxisConfig::new(Width)], &device);
    let wanted = expected(&wide, grid.clone(), |a, b| same_but(&[Time, Width], a, b));
    assert_close(wide.forward(grid, None).unwrap(), wanted, 1e-5);
}

#[test]
fn padding_has_no_influence_even_where_it_holds_nan() {
    let device = reference_device().autodiff();
    let gone = |position: usize| position / 8 % 3 == 2;
    let nan = || bools(GRID, |i| gone(i / 6), &device);
    let padding = || Mask::hide(bools([2, 3, 2, 4], gone, &device));
    for scheme in [SpaceTimeScheme::Joint, SpaceTimeScheme::Divided, SpaceTimeScheme::Axial, SpaceTimeScheme::Space] {
        let block = shaken(SpaceTimeBlockConfig::new(6, 2, 8).with_scheme(scheme).init(&device).unwrap());
        let grid = noise(GRID, 1, &device);
        let found = block.forward(grid.clone().mask_fill(nan(), f32::NAN), Some(padding())).unwrap();
        let there = |grid: Tensor<5>| grid.narrow(1, 0, 2);
        let wanted = block.forward(there(grid), None).unwrap();
        assert_close(there(found.clone()).inner(), wanted.inner(), 1e-5);
        for (path, grad) in gradients(&block, &there(found).sum().backward()) {
            assert!(grad.is_none_or(f32::is_finite), "{path}: {grad:?}");
        }
    }
}

#[test]
fn weights_come_sequence_by_sequence() {
    let device = reference_device();
    let layer = layer(&axes(&[Axis::Time]), &device);
    let selection = Selection { heads: Some(vec![1]), rows: None };
    let output = layer.forward_with_weights(noise(GRID, 1, &device), None, selection).unwrap();
    let weights = output.weights.unwrap();
    assert_eq!(weights.dims(), [2 * 2 * 4, 1, 3, 3]);
    let sums: Tensor<4> = weights.sum_dim(3);
    assert_close(sums, Tensor::ones([16, 1, 3, 1], &device), 1e-6);
}

#[test]
fn a_block_is_its_steps_and_its_feed_forward() {
    use Axis::{Height, Time, Width};
    let device = reference_device();
    let grid = noise(GRID, 1, &device);
    let schemes: [(SpaceTimeScheme, &[&[Axis]]); 4] = [
        (SpaceTimeScheme::Joint, &[&[Time, Height, Width]]),
        (SpaceTimeScheme::Divided, &[&[Time], &[Height, Width]]),
        (SpaceTimeScheme::Axial, &[&[Time], &[Height], &[Width]]),
        (SpaceTimeScheme::Space, &[&[Height, Width]]),
    ];
    for (scheme, steps) in schemes {
        let config = SpaceTimeBlockConfig::new(6, 2, 8).with_scheme(scheme).with_causal_time(true);
        let config = config.with_space_window(Some(1)).with_time_window(Some(1));
        let block: SpaceTimeBlock = shaken(config.init(&device).unwrap());
        assert_eq!(block.attentions.len(), steps.len());
        let mut x = grid.clone();
        for ((layer, norm), step) in block.attentions.iter().zip(&block.attention_norms).zip(steps) {
            let seen = |a: [usize; 3], b: [usize; 3]| {
                let time = !step.contains(&Time) || b[0] <= a[0] && a[0] - b[0] <= 1;
                let near = |at: usize| a[at].abs_diff(b[at]) <= 1;
                same_but(step, a, b) && time && near(1) && near(2)
            };
            x = x.clone() + expected(layer, norm.forward(x), seen);
        }
        let fed = block.linear_inner.forward(block.feed_forward_norm.forward(x.clone()));
        let wanted = x + block.linear_outer.forward(gelu(fed));
        assert_close(block.forward(grid.clone(), None).unwrap(), wanted, 1e-4);
    }
}

#[test]
fn gradients_are_central_differences() {
    let device = reference_device();
    for scheme in [SpaceTimeScheme::Divided, SpaceTimeScheme::Joint] {
        // On NdArray, Burn's gradient of GELU is that of the approximation by tanh.
        let config = SpaceTimeBlockConfig::new(4, 2, 5).with_activation(Activation::Relu);
        let config = config.with_scheme(scheme).with_causal_time(true);
        let block = shaken(config.init(&device).unwrap());
        assert_gradients((block, Input::new(noise([1, 2, 2, 3, 4], 1, &device))), |(block, grid)| {
            let out = block.forward(grid.value(), None).unwrap();
            (out.clone() * out).sum()
        });
    }
}

#[test]
fn every_backend_gives_the_same() {
    for scheme in [SpaceTimeScheme::Axial, SpaceTimeScheme::Joint] {
        assert_agreement(1e-5, |device| {
            let config = SpaceTimeBlockConfig::new(6, 2, 8).with_scheme(scheme).with_causal_time(true);
            let padding = Mask::hide(bools([2, 3, 2, 4], |i| i % 7 == 6, device));
            shaken(config.init(device).unwrap()).forward(noise(GRID, 1, device), Some(padding)).unwrap()
        });
    }
}

#[test]
fn a_record_carries_every_parameter() {
    let device = reference_device();
    let config = SpaceTimeBlockConfig::new(6, 2, 8);
    let first = shaken(config.init(&device).unwrap());
    let second = restored(&first, config.init(&device).unwrap());
    let [a, b] = [first, second].map(|block| block.forward(noise(GRID, 1, &device), None).unwrap());
    assert_close(b, a, 0.0);
}

#[test]
fn wrong_input_and_wrong_configs_name_the_argument() {
    let device = reference_device();
    let block = SpaceTimeBlockConfig::new(6, 2, 8).init(&device).unwrap();
    let single = layer(&axes(&[Axis::Time]), &device);
    for shape in [[0, 3, 2, 4, 6], [2, 0, 2, 4, 6], [2, 3, 0, 4, 6], [2, 3, 2, 0, 6]] {
        assert_eq!(block.forward(Tensor::zeros(shape, &device), None).unwrap().dims(), shape);
        let joint = layer(&[AxisConfig::new(Axis::Width), AxisConfig::new(Axis::Time).with_causal(true)], &device);
        assert_eq!(joint.forward(Tensor::zeros(shape, &device), None).unwrap().dims(), shape);
    }
    let wrong = || Tensor::zeros([2, 3, 2, 4, 5], &device);
    assert_eq!(block.forward(wrong(), None).map(|_| ()).unwrap_err().argument(), Some("grid"));
    assert_eq!(single.forward(wrong(), None).map(|_| ()).unwrap_err().argument(), Some("grid"));
    let padding = || Some(Mask::keep(bools([2, 3, 4, 2], |_| true, &device)));
    let grid = || Tensor::zeros(GRID, &device);
    assert_eq!(block.forward(grid(), padding()).map(|_| ()).unwrap_err().argument(), Some("padding"));
    assert_eq!(single.forward(grid(), padding()).map(|_| ()).unwrap_err().argument(), Some("padding"));
    let selection = Selection { heads: Some(vec![2]), rows: None };
    let error = single.forward_with_weights(grid(), None, selection).map(|_| ()).unwrap_err();
    assert_eq!(error.argument(), Some("heads"));

    for set in [&[][..], &[Axis::Time, Axis::Time][..]] {
        let config = AxialAttentionConfig::new(MultiHeadAttentionConfig::new(6, 2), axes(set));
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some("axes"), "{config}");
    }
    for (argument, config) in [
        ("d_model", SpaceTimeBlockConfig::new(0, 1, 8)),
        ("heads", SpaceTimeBlockConfig::new(6, 4, 8)),
        ("d_ff", SpaceTimeBlockConfig::new(6, 2, 0)),
        ("layer_norm_epsilon", SpaceTimeBlockConfig::new(6, 2, 8).with_layer_norm_epsilon(-1.0)),
    ] {
        assert_eq!(config.init(&device).map(|_| ()).unwrap_err().argument(), Some(argument), "{config}");
    }
}
