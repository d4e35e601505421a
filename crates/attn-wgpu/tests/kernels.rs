//! Kernels that CubeCL keeps on disk are found by a hash alone, and the one that it derives for optional tensors does not say which are
//! given: kernels that take as many must differ in something else, or one would run in another's place.
#![cfg(feature = "wgpu")]

use std::collections::HashSet;

use attn_core::{AttentionInputs, AttentionKernel, AttentionSpec, Pass, Upstream, Wanted};
use attn_wgpu::{Cube, CubeBackend, CubeDevice};
use burn_backend::ops::FloatTensorOps;
use burn_backend::{FloatDType, Shape};
use burn_cubecl::cubecl::launched::LaunchedKernels;
use burn_cubecl::tensor::CubeTensor;

const HEADS: usize = 2;
const ROWS: usize = 8;
/// Few keys, and so many that they are read in runs.
const KEYS: [usize; 2] = [64, 2048];
const DIM: usize = 64;

fn ones(device: &CubeDevice, shape: impl Into<Shape>, dtype: FloatDType) -> CubeTensor {
    CubeBackend::float_ones(shape.into(), device, dtype)
}

/// The hashes of what a call launches. Nothing else may launch anything meanwhile: this file has one test.
fn launched<T>(call: impl FnOnce() -> T) -> HashSet<u128> {
    let launched = LaunchedKernels::new();
    let made = call();
    let hashes = launched.finish().into_iter().collect();
    drop(made);
    hashes
}

/// What is given in one of two calls, and not in the other.
#[derive(Debug, Clone, Copy, Default)]
struct Given {
    sinks: bool,
    /// Lengths, for which batch entries have bands of their own.
    lens: bool,
    slopes: bool,
    /// The log-sum-exp is asked for, or has a gradient.
    lse: bool,
    /// The output has a gradient.
    out: bool,
    /// The slopes' gradient is wanted.
    by_slopes: bool,
}

fn inputs(device: &CubeDevice, dtype: FloatDType, lengths: [usize; 2], given: Given) -> AttentionInputs<CubeBackend> {
    let rows = |length: usize| ones(device, [2, HEADS, length, DIM], dtype);
    let mut inputs = AttentionInputs::<CubeBackend>::new(rows(lengths[0]), rows(lengths[1]), rows(lengths[1]));
    inputs.sinks = given.sinks.then(|| ones(device, [HEADS], dtype));
    inputs.alibi_slopes = given.slopes.then(|| ones(device, [HEADS], dtype));
    inputs.kv_lens = given.lens.then(|| vec![lengths[1], lengths[1] - 1]);
    inputs
}

fn forward(device: &CubeDevice, kernel: Cube, dtype: FloatDType, lengths: [usize; 2], given: Given) -> HashSet<u128> {
    let inputs = inputs(device, dtype, lengths, given);
    let problem = inputs.problem(&AttentionSpec::default()).expect("it is one");
    launched(|| kernel.forward(&problem, inputs, given.lse).expect("it serves"))
}

fn backward(device: &CubeDevice, given: Given) -> HashSet<u128> {
    let dtype = FloatDType::F32;
    let inputs = inputs(device, dtype, [ROWS, KEYS[0]], given);
    let problem = inputs.problem(&AttentionSpec::default()).expect("it is one");
    let wanted = Wanted { query: true, key: true, value: true, alibi_slopes: given.by_slopes, ..Wanted::default() };
    let outputs = Cube::Rows.forward(&problem, inputs.clone(), true).expect("it serves");
    let upstream = Upstream {
        out: outputs.out,
        lse: outputs.lse.expect("it was asked for"),
        grad_out: given.out.then(|| ones(device, [2, HEADS, ROWS, DIM], dtype)),
        grad_lse: given.lse.then(|| ones(device, [2, HEADS, ROWS], FloatDType::F32)),
    };
    launched(|| Cube::Rows.backward(&problem, inputs, upstream, wanted).expect("it serves"))
}

#[test]
fn each_has_a_hash_of_its_own() {
    let Some(device) = CubeDevice::enumerate_all().into_iter().next() else {
        println!("skipped: there is no adapter");
        return;
    };
    let none = Given::default();
    let [sinks, lens, lse] = [Given { sinks: true, ..none }, Given { lens: true, ..none }, Given { lse: true, ..none }];
    for kernel in Cube::ALL {
        let (dtype, query_len) = match kernel {
            Cube::Matrix | Cube::Mma | Cube::Wgmma => (FloatDType::F16, 64),
            Cube::Decode => (FloatDType::F32, 1),
            Cube::DecodeMma => (FloatDType::F16, 1),
            _ => (FloatDType::F32, ROWS),
        };
        for lengths in KEYS.map(|keys| [query_len, keys]) {
            let plain = inputs(&device, dtype, lengths, none).problem(&AttentionSpec::default()).expect("it is one");
            if let Err(reason) = kernel.supports(&device, &plain, Pass::Forward) {
                println!("skipped {kernel:?}: {reason}");
                continue;
            }
            let [sinks, lens, lse] = [sinks, lens, lse].map(|given| forward(&device, kernel, dtype, lengths, given));
            assert!(sinks.is_disjoint(&lens), "{kernel:?} with sinks is one with a table of bands");
            assert!(lens.is_disjoint(&lse), "{kernel:?} with a table of bands is one with a log-sum-exp");
            // Where runs are joined, sinks and log-sum-exp are the joining kernel's; the one before it is the same.
            let same = sinks.intersection(&lse).count();
            assert!(same < sinks.len() && same <= 1, "{kernel:?} with sinks is one with a log-sum-exp");
        }
    }

    // Statistics without sinks or tables are made by the same kernel; what else is launched takes other tensors.
    let out = Given { out: true, ..none };
    let slopes = Given { slopes: true, ..out };
    let pairs = [
        ("sinks, bands", Given { sinks: true, ..out }, Given { lens: true, ..out }, 1),
        ("sums, bands", Given { by_slopes: true, ..slopes }, Given { lens: true, ..slopes }, 1),
        ("the gradient of the output, of its log-sum-exp", out, Given { lse: true, ..none }, 0),
    ];
    for (names, one, other, same) in pairs {
        let [one, other] = [one, other].map(|given| backward(&device, given));
        assert!(one.intersection(&other).count() <= same, "{names}: {one:?}, {other:?}");
    }
}
