//! The backward pass as a binding calls it: only what is wanted is made, and what is not wanted changes nothing.
#![cfg(feature = "wgpu")]

use attn_core::{
    AttentionInputs, AttentionKernel, AttentionSpec, Gradients, Pass, Problem, ProblemInputs, TensorInfo, Upstream,
    Wanted,
};
use attn_wgpu::{Cube, CubeBackend, CubeDevice};
use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType, Distribution, FloatDType, Shape};
use burn_cubecl::tensor::CubeTensor;

/// An adapter, where there is one.
fn device() -> Option<CubeDevice> {
    let found = CubeDevice::enumerate_all().into_iter().next();
    if found.is_none() {
        println!("skipped: there is no adapter");
    }
    found
}

fn random(device: &CubeDevice, shape: impl Into<Shape>) -> CubeTensor {
    CubeBackend::float_random(shape.into(), Distribution::Uniform(-1.0, 1.0), device, FloatDType::F32)
}

fn bits(tensor: &CubeTensor) -> Vec<u8> {
    tensor.client.read_one(tensor.handle.clone()).expect("it is there").to_vec()
}

/// The gradients by name, those that are there.
fn named(gradients: &Gradients<CubeBackend>) -> [(&'static str, Option<Vec<u8>>); 7] {
    let Gradients { query, key, value, bias, alibi_slopes, relative_bias, sinks } = gradients;
    [
        ("query", query),
        ("key", key),
        ("value", value),
        ("bias", bias),
        ("alibi_slopes", alibi_slopes),
        ("relative_bias", relative_bias),
        ("sinks", sinks),
    ]
    .map(|(name, tensor)| (name, tensor.as_ref().map(bits)))
}

#[test]
fn only_what_is_wanted_is_made_and_its_bits_are_the_same() {
    let Some(device) = device() else { return };
    let make = |heads: usize, len: usize| random(&device, [2, heads, len, 8]);
    let mut inputs = AttentionInputs::<CubeBackend>::new(make(4, 20), make(2, 33), make(2, 33));
    inputs.bias = Some(random(&device, [1, 4, 1, 33]));
    inputs.alibi_slopes = Some(random(&device, [4]));
    inputs.relative_bias = Some(random(&device, [4, 11]));
    inputs.sinks = Some(random(&device, [4]));
    let problem = inputs.problem(&AttentionSpec { causal: true, ..AttentionSpec::default() }).expect("it is one");
    let outputs = Cube::Rows.forward(&problem, inputs.clone(), true).expect("it serves");
    let lse = outputs.lse.expect("it was asked for");
    let (grad_out, grad_lse) = (make(4, 20), random(&device, [2, 4, 20]));
    let backward = |by: [bool; 2], wanted: Wanted| {
        let upstream = Upstream {
            out: outputs.out.clone(),
            lse: lse.clone(),
            grad_out: by[0].then(|| grad_out.clone()),
            grad_lse: by[1].then(|| grad_lse.clone()),
        };
        named(&Cube::Rows.backward(&problem, inputs.clone(), upstream, wanted).expect("it serves"))
    };
    let all = Wanted::all(&inputs);
    for by in [[true, true], [false, true]] {
        let whole = backward(by, all);
        let none = Wanted::default();
        let single = [
            Wanted { query: true, ..none },
            Wanted { key: true, ..none },
            Wanted { value: true, ..none },
            Wanted { bias: true, ..none },
            Wanted { alibi_slopes: true, ..none },
            Wanted { relative_bias: true, ..none },
            Wanted { sinks: true, ..none },
        ];
        for (at, wanted) in single.into_iter().enumerate() {
            for (other, (name, found)) in backward(by, wanted).into_iter().enumerate() {
                let expected = if other == at { whole[at].1.clone() } else { None };
                assert!(found == expected, "{name} where only {} is wanted, by {by:?}", whole[at].0);
            }
        }
    }
    for (name, found) in backward([false, false], all) {
        assert!(found.expect("it is wanted").iter().all(|&byte| byte == 0), "{name} without gradients of outputs");
    }
}

#[test]
fn what_it_does_not_serve_is_refused() {
    let Some(device) = device() else { return };
    let problem = |dtype: DType, len: usize| {
        let info = || TensorInfo { shape: [1, 1, len, 8].into(), dtype };
        let inputs = ProblemInputs::new(info(), info(), info());
        Problem::new(&AttentionSpec::default(), &inputs).expect("it is one")
    };
    let refused = |kernel: Cube, problem: &Problem| kernel.supports(&device, problem, Pass::Backward).err();
    assert_eq!(refused(Cube::Rows, &problem(DType::F32, 8)), None);
    assert!(refused(Cube::Rows, &problem(DType::F64, 8)).is_some_and(|reason| reason.contains("f64")));
    assert!(refused(Cube::Rows, &problem(DType::F32, 0)).is_some_and(|reason| reason.contains("length 0")));
    for kernel in [Cube::Decode, Cube::Matrix, Cube::Mma] {
        assert!(refused(kernel, &problem(DType::F32, 8)).is_some_and(|reason| reason.contains("no backward pass")));
    }
}
