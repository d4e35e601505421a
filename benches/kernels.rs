//! Criterion benches: the CPU kernels with each instruction set of this machine, and ours on each backend, on the shapes of
//! the harness.
//!
//! `cargo bench -p attn-benches -- prefill/avx512` runs some of them; criterion keeps the figures and compares with the run
//! before. Throughput is useful operations a second, so that `Gelem/s` reads as GFLOP/s; in decode it is bytes of keys and
//! values. Answers are checked by the tests and by `attn-bench`, not here.

use std::hint::black_box;
use std::time::Duration;

use attn_benches::backend::Backend;
use attn_benches::contestants::{Peers, enter};
use attn_benches::inputs::Inputs;
use attn_benches::shapes::{Dtype, Shape, Suite, suite};
use attn_cpu::{Attention, Band, CpuError, Element, Isa, View, forward};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use half::{bf16, f16};

fn throughput(shape: &Shape) -> Throughput {
    match shape.suite {
        Suite::Decode => Throughput::Bytes(shape.kv_bytes()),
        Suite::Prefill | Suite::Train | Suite::Sweep => Throughput::Elements(shape.flops() as u64),
    }
}

fn group<'a>(criterion: &'a mut Criterion, suite: Suite, who: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(format!("{}/{who}", suite.name()));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group
}

/// What each query sees, in the kernel's terms.
fn band(shape: &Shape) -> Band {
    let causal = shape.causal.then_some(0);
    let right = shape.window.map(|w| w.right as i64);
    Band {
        offset: shape.key_len as i64 - shape.query_len as i64,
        lower: shape.window.map(|w| -(w.left as i64)),
        upper: match (causal, right) {
            (Some(causal), Some(right)) => Some(right.min(causal)),
            (causal, right) => causal.or(right),
        },
        keys: shape.key_len,
    }
}

/// Times one kernel on one shape.
fn kernel<T: Element>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    shape: &Shape,
    isa: Isa,
    convert: fn(f32) -> T,
) -> Result<(), CpuError> {
    let inputs = Inputs::of(shape);
    let as_type = |numbers: &[f32]| -> Vec<T> { numbers.iter().map(|&x| convert(x)).collect() };
    let (query, key, value) = (as_type(&inputs.query), as_type(&inputs.key), as_type(&inputs.value));
    let query_shape = [shape.batch, shape.heads, shape.query_len, shape.head_dim];
    let key_shape = [shape.batch, shape.kv_heads, shape.key_len, shape.head_dim];
    let bands = vec![band(shape); shape.batch];
    let problem = Attention {
        scale: shape.effective_scale(),
        softcap: shape.softcap,
        ..Attention::plain(
            View::contiguous(&query, query_shape)?,
            View::contiguous(&key, key_shape)?,
            View::contiguous(&value, key_shape)?,
            &bands,
        )
    };
    let mut out = vec![T::default(); query.len()];
    forward(&problem, isa, &mut out, None)?;
    group.throughput(throughput(shape));
    group.bench_function(shape.to_string(), |bencher| {
        bencher.iter(|| {
            let done = forward(black_box(&problem), isa, &mut out, None);
            black_box(&out);
            done
        });
    });
    Ok(())
}

/// attn-cpu, forward.
fn kernels(criterion: &mut Criterion) {
    for kind in [Suite::Prefill, Suite::Decode] {
        for isa in Isa::available() {
            let mut group = group(criterion, kind, isa.name());
            for shape in suite(kind) {
                let done = match shape.dtype {
                    Dtype::F32 => kernel(&mut group, &shape, isa, |x| x),
                    Dtype::Bf16 => kernel(&mut group, &shape, isa, bf16::from_f32),
                    Dtype::F16 => kernel(&mut group, &shape, isa, f16::from_f32),
                };
                done.unwrap_or_else(|error| panic!("{shape} with {}: {error}", isa.name()));
            }
        }
    }
}

/// Ours through the face that users call, on each backend; training included.
fn face(criterion: &mut Criterion) {
    for kind in [Suite::Prefill, Suite::Decode, Suite::Train] {
        for &backend in Backend::ALL {
            let mut group = group(criterion, kind, &format!("attn-{backend}"));
            for shape in suite(kind).iter().filter(|s| backend.has_dtype(s.dtype)) {
                let contestants = enter(shape, &Inputs::of(shape), &[backend], Peers::Near)
                    .unwrap_or_else(|error| panic!("{shape} on {backend}: {error:#}"));
                group.throughput(throughput(shape));
                for contestant in contestants.iter().filter(|c| c.is_ours()) {
                    group.bench_function(shape.to_string(), |bencher| {
                        bencher.iter(|| contestant.run());
                    });
                }
            }
        }
    }
}

criterion_group!(benches, kernels, face);
criterion_main!(benches);
