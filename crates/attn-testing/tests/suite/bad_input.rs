//! Wrong input is an error that names its argument, and never a panic; input without any element has its defined answer.

use attn::{Attention, AttentionError, AttentionSpec, Mask, Selection};
use attn_core::reference::HostInputs;
use attn_testing::engine::{Engine, refer};
use attn_testing::generate::config;
use attn_testing::host::{Ask, Dims, HostProblem, HostUpstream};
use attn_testing::panics;
use burn::tensor::{Bool, DType, Device, FloatDType, Tensor};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn devices() -> Vec<Device> {
    let engines =
        Engine::available().into_iter().filter(|engine| ["ndarray", "flex", "tch", "wgpu"].contains(&engine.name()));
    engines.filter_map(|engine| engine.device().cloned()).collect()
}

fn ones<const N: usize>(shape: [usize; N], device: &Device) -> Tensor<N> {
    Tensor::ones(shape, device)
}

/// Heads 6 over 3, queries 5, keys 7, dimensions 8 and 4.
fn valid(device: &Device) -> Attention {
    with_shapes([2, 6, 5, 8], [2, 3, 7, 8], [2, 3, 7, 4], device)
}

fn with_shapes(query: [usize; 4], key: [usize; 4], value: [usize; 4], device: &Device) -> Attention {
    Attention::new(ones(query, device), ones(key, device), ones(value, device))
}

/// Both the plan and the run refuse, naming the argument, and a person can read why.
fn refused(argument: &str, attention: Attention) {
    let plan = attention.plan().err();
    let error = match panics::catch(|| attention.forward().map(|_| ())) {
        Ok(Err(error)) => error,
        other => panic!("{argument}: expected an error, found {other:?}"),
    };
    assert_eq!(error.argument(), Some(argument), "{error}");
    assert_eq!(plan.as_ref(), Some(&error));
    assert!(error.to_string().contains(argument) && error.to_string().contains("found"), "{error}");
}

#[test]
fn the_valid_problem_is_valid() {
    for device in devices() {
        assert!(valid(&device).forward().is_ok());
    }
}

#[test]
fn shapes_that_do_not_fit() {
    for device in &devices() {
        let (q, k, v) = ([2, 6, 5, 8], [2, 3, 7, 8], [2, 3, 7, 4]);
        refused("key", with_shapes(q, [2, 4, 7, 8], [2, 4, 7, 4], device));
        refused("key", with_shapes(q, [2, 12, 7, 8], [2, 12, 7, 4], device));
        refused("key", with_shapes(q, [2, 0, 7, 8], [2, 0, 7, 4], device));
        refused("key", with_shapes(q, [2, 3, 7, 9], v, device));
        refused("key", with_shapes(q, [1, 3, 7, 8], [1, 3, 7, 4], device));
        refused("value", with_shapes(q, k, [1, 3, 7, 4], device));
        refused("value", with_shapes(q, k, [2, 3, 6, 4], device));
        refused("value", with_shapes(q, k, [2, 6, 7, 4], device));
        refused("query", with_shapes([2, 6, 5, 0], [2, 3, 7, 0], v, device));
        refused("key", with_shapes([2, 6, 5, 8], [2, 3, 7, 0], v, device));
    }
}

#[test]
fn masks_and_biases_that_cannot_broadcast() {
    for device in &devices() {
        for shape in [[2, 6, 5, 6], [2, 3, 5, 7], [3, 1, 1, 1], [1, 1, 7, 5], [2, 6, 0, 7]] {
            let mask: Tensor<4, Bool> = ones(shape, device).equal_elem(1.0);
            refused("mask", valid(device).mask(Mask::keep(mask.clone())));
            refused("mask", valid(device).mask(Mask::hide(mask)));
            refused("bias", valid(device).bias(ones(shape, device)));
        }
    }
}

#[test]
fn vectors_of_the_wrong_length() {
    for device in &devices() {
        for length in [0, 1, 3, 5, 7] {
            refused("alibi_slopes", valid(device).alibi_slopes(ones([length], device)));
            refused("sinks", valid(device).sinks(ones([length], device)));
        }
        for shape in [[6, 4], [6, 0], [3, 5], [0, 5], [7, 1]] {
            refused("relative_bias", valid(device).relative_bias(ones(shape, device)));
        }
        for lens in [vec![], vec![7], vec![7, 7, 7], vec![8, 0], vec![0, usize::MAX]] {
            refused("kv_lens", valid(device).kv_lens(lens));
        }
    }
}

#[test]
fn numbers_without_a_meaning() {
    for device in &devices() {
        for softcap in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            refused("softcap", valid(device).softcap(softcap));
        }
        for scale in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            refused("scale", valid(device).scale(scale));
            refused("scale", valid(device).spec(AttentionSpec::new().with_scale(scale)));
        }
    }
}

#[test]
fn element_types_that_differ() {
    for device in &devices() {
        let wide = |shape| Tensor::<4>::ones(shape, (device, DType::F64));
        let [q, k, v] = [[2, 6, 5, 8], [2, 3, 7, 8], [2, 3, 7, 4]];
        refused("key", Attention::new(wide(q), ones(k, device), ones(v, device)));
        refused("key", Attention::new(ones(q, device), wide(k), ones(v, device)));
        refused("value", Attention::new(ones(q, device), ones(k, device), wide(v)));
        refused("bias", valid(device).bias(wide([1, 1, 5, 7])));
        let wide = Tensor::<1>::ones([6], (device, DType::F64));
        refused("alibi_slopes", valid(device).alibi_slopes(wide.clone()));
        refused("sinks", valid(device).sinks(wide));
        refused("relative_bias", valid(device).relative_bias(Tensor::<2>::ones([6, 5], (device, DType::F64))));
    }
}

#[test]
fn tensors_of_two_backends() {
    let devices = devices();
    let [here, there] = devices.as_slice() else {
        println!("skipped: there are not two backends");
        return;
    };
    let [q, k, v] = [[2, 6, 5, 8], [2, 3, 7, 8], [2, 3, 7, 4]];
    refused("key", Attention::new(ones(q, here), ones(k, there), ones(v, here)));
    refused("value", Attention::new(ones(q, here), ones(k, here), ones(v, there)));
    refused("mask", valid(here).mask(Mask::keep(ones([1, 1, 5, 7], there).equal_elem(1.0))));
    refused("bias", valid(here).bias(ones([1, 1, 5, 7], there)));
    refused("alibi_slopes", valid(here).alibi_slopes(ones([6], there)));
    refused("relative_bias", valid(here).relative_bias(ones([6, 5], there)));
    refused("sinks", valid(here).sinks(ones([6], there)));
}

/// `Tensor<4>` is float by its type; a primitive of Flex is not.
#[cfg(feature = "flex")]
#[test]
fn an_integer_tensor_as_query() {
    use attn_core::AttentionInputs;
    use burn::backend::ops::{FloatTensorOps as _, IntTensorOps as _};
    use burn::tensor::TensorData;
    type B = burn::backend::Flex;
    let device = Default::default();
    let integers = || B::int_from_data(TensorData::new(vec![1i32; 12], [1, 2, 3, 2]), &device);
    let floats = || B::float_from_data(TensorData::new(vec![1f32; 12], [1, 2, 3, 2]), &device);
    let argument = |inputs: AttentionInputs<B>| match inputs.problem(&AttentionSpec::new()) {
        Err(error @ AttentionError::DType { .. }) => error.argument(),
        other => panic!("expected an error of the element type, found {other:?}"),
    };
    assert_eq!(argument(AttentionInputs::new(integers(), floats(), floats())), Some("query"));
    assert_eq!(argument(AttentionInputs::new(integers(), integers(), integers())), Some("query"));
    assert_eq!(argument(AttentionInputs::new(floats(), integers(), floats())), Some("key"));
    assert_eq!(argument(AttentionInputs::new(floats(), floats(), integers())), Some("value"));
    let mut inputs = AttentionInputs::<B>::new(floats(), floats(), floats());
    inputs.bias = Some(integers());
    assert_eq!(argument(inputs), Some("bias"));
}

#[test]
fn selections_past_the_end() {
    for device in &devices() {
        let select = |heads: Option<Vec<usize>>, rows| valid(device).with_weights(Selection { heads, rows }).forward();
        let argument = |result: Result<_, AttentionError>| result.map(|_| ()).expect_err("past the end").argument();
        assert_eq!(argument(select(Some(vec![0, 6]), None)), Some("heads"));
        assert_eq!(argument(select(None, Some(vec![5]))), Some("rows"));
        assert!(select(Some(vec![]), Some(vec![])).is_ok());
    }
}

#[test]
fn kernels_that_are_not_there() {
    for device in &devices() {
        for attention in [valid(device).kernel("cudnn"), valid(device).backward_kernel("cudnn")] {
            let error = attention.plan().expect_err("there is no such kernel");
            assert!(matches!(&error, AttentionError::Unsupported { kernel, .. } if kernel == "cudnn"), "{error}");
        }
    }
}

fn filled(dims: Dims, sinks: bool) -> HostProblem {
    let ones = |shape: [usize; 4]| vec![1.0; shape.iter().product()];
    let inputs = HostInputs {
        query: ones(dims.query()),
        key: ones(dims.key()),
        value: ones(dims.value()),
        sinks: sinks.then(|| vec![0.5; dims.heads]),
        ..HostInputs::default()
    };
    HostProblem {
        dtype: FloatDType::F32,
        dims,
        spec: AttentionSpec::new(),
        kv_lens: None,
        block_mask: None,
        score_mod: None,
        inputs,
    }
}

/// No keys: 0 and `−inf`, or the sink. No queries, batch entries, heads or value dimensions: empty tensors of the right shape.
#[test]
fn axes_of_length_0_have_their_answer() {
    let full = Dims { batch: 2, heads: 4, kv_heads: 2, query_len: 3, key_len: 5, head_dim: 8, value_dim: 6 };
    let shapes = [
        Dims { batch: 0, ..full },
        Dims { heads: 0, kv_heads: 0, ..full },
        Dims { query_len: 0, ..full },
        Dims { key_len: 0, ..full },
        Dims { value_dim: 0, ..full },
        Dims { query_len: 0, key_len: 0, ..full },
        Dims { batch: 0, key_len: 0, value_dim: 0, ..full },
    ];
    let cases = shapes.into_iter().flat_map(|dims| [false, true].map(|sinks| filled(dims, sinks)));
    for (problem, engine) in cases.flat_map(|case| Engine::available().into_iter().map(move |by| (case.clone(), by))) {
        let dims = problem.dims;
        let upstream = HostUpstream {
            grad_out: vec![1.0; dims.out().iter().product()],
            grad_lse: Some(vec![1.0; dims.rows().iter().product()]),
        };
        let ask = Ask { lse: true, weights: true, gradients: Some(upstream) };
        let expected = refer(&problem, &ask).expect("the reference answers");
        let found = panics::catch(|| engine.answer(&problem, &ask)).and_then(|answer| answer);
        let found = found.unwrap_or_else(|reason| panic!("{} with {dims:?}: {reason}", engine.name()));
        super::random::check(engine.name(), &expected, &found, &attn_testing::bound::bounds(&problem, &ask))
            .unwrap_or_else(|reason| panic!("{} with {dims:?}: {reason}", engine.name()));
    }
}

/// Shapes drawn without sense: an answer of the right shape or an error that names its argument.
#[test]
fn no_shapes_at_all_panic() {
    let axis = || prop_oneof![1 => Just(0usize), 4 => Just(1), 4 => Just(2), 2 => Just(3), 2 => Just(4)];
    let shape = || [axis(), axis(), axis(), axis()];
    let vector = || proptest::option::of(0usize..5);
    let drawn =
        (shape(), shape(), shape(), proptest::option::of(shape()), proptest::option::of(shape()), vector(), vector());
    let devices = devices();
    let survives =
        |(query, key, value, mask, bias, slopes, sinks): (_, _, _, Option<_>, Option<_>, Option<_>, Option<_>)| {
            for device in &devices {
                let mut attention = with_shapes(query, key, value, device).with_lse();
                if let Some(mask) = mask {
                    attention = attention.mask(Mask::hide(ones(mask, device).equal_elem(0.0)));
                }
                if let Some(bias) = bias {
                    attention = attention.bias(ones(bias, device));
                }
                if let Some(slopes) = slopes {
                    attention = attention.alibi_slopes(ones([slopes], device));
                }
                if let Some(sinks) = sinks {
                    attention = attention.sinks(ones([sinks], device));
                }
                match panics::catch(|| attention.forward()).map_err(TestCaseError::fail)? {
                    Ok(output) => prop_assert_eq!(output.out.dims(), [query[0], query[1], query[2], value[3]]),
                    Err(error) => prop_assert!(error.argument().is_some(), "{error}"),
                }
            }
            Ok(())
        };
    TestRunner::new(config(2000)).run(&drawn, survives).unwrap_or_else(|error| panic!("{error}"));
}
