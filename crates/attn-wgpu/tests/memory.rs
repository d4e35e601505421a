//! The kernels' device memory is linear in the lengths: by what the device's allocator holds, from 1024 to 4096 keys and queries, and
//! for the one that decodes from 2¹⁷ to 2¹⁹ keys.
#![cfg(feature = "wgpu")]

use attn_core::{AttentionInputs, AttentionKernel, AttentionSpec, Pass, Upstream, Wanted};
use attn_wgpu::{Cube, CubeBackend, CubeDevice};
use burn_backend::ops::FloatTensorOps;
use burn_backend::{Distribution, FloatDType, Shape};
use burn_cubecl::cubecl::MemoryScope;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the allocator reserves at a time, for sizes small and large. At 4096 the scores would take 128 MiB.
const PAGES: u64 = 16 << 20;

/// An adapter, where there is one, and the right to be the only test that takes memory of it.
fn device() -> Option<(CubeDevice, MutexGuard<'static, ()>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let found = CubeDevice::enumerate_all().into_iter().next();
    if found.is_none() {
        println!("skipped: there is no adapter");
    }
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Some((found?, alone))
}

/// Bytes that the device's allocator has reserved more after `call` than before it. What earlier calls left is given back before, so
/// that nothing is served from it unseen.
fn reserved_by<T>(device: &CubeDevice, call: impl FnOnce() -> T) -> (T, u64) {
    let client = device.client();
    client.memory_cleanup().expect("memory that nothing holds is given back");
    let reserved = || client.memory_report(MemoryScope::Device).usage().bytes_reserved;
    let before = reserved();
    let made = call();
    (made, reserved() - before)
}

/// Bytes of the inputs, and those that the device's allocator holds for tensors and has reserved more after a call than before it;
/// none where the device has no such kernel. Allocators reserve whole pages and keep them, so that nothing that a call takes goes
/// unseen.
fn growth(
    kernel: Cube,
    dtype: FloatDType,
    device: &CubeDevice,
    [query_len, key_len]: [usize; 2],
) -> Option<(u64, u64)> {
    let make = |length| {
        let shape = Shape::new([1, 2, length, 32]);
        CubeBackend::float_random(shape, Distribution::Uniform(-1.0, 1.0), device, dtype)
    };
    let spec = AttentionSpec { softcap: Some(20.0), causal: true, ..AttentionSpec::default() };
    let inputs = AttentionInputs::<CubeBackend>::new(make(query_len), make(key_len), make(key_len));
    let problem = inputs.problem(&spec).expect("a plain problem");
    if let Err(reason) = kernel.supports(device, &problem, Pass::Forward) {
        println!("skipped {kernel:?}: {reason}");
        return None;
    }
    let (_outputs, grown) = reserved_by(device, || kernel.forward(&problem, inputs, true).expect("a plain problem"));
    Some((2 * 32 * 4 * (query_len + 2 * key_len) as u64, grown))
}

#[test]
fn device_memory_is_linear_in_the_lengths() {
    let Some((device, _alone)) = device() else { return };
    let cases = [
        (Cube::Rows, FloatDType::F32, [[1024, 1024], [4096, 4096]]),
        (Cube::Decode, FloatDType::F32, [[4, 1 << 17], [4, 1 << 19]]),
        (Cube::Matrix, FloatDType::F16, [[1024, 1024], [4096, 4096]]),
        (Cube::Mma, FloatDType::F16, [[1024, 1024], [4096, 4096]]),
    ];
    for (kernel, dtype, lengths) in cases {
        for [query_len, key_len] in lengths {
            let Some((inputs, grown)) = growth(kernel, dtype, &device, [query_len, key_len]) else { continue };
            let scores = 2 * (query_len * key_len) as u64 * 4;
            println!(
                "{kernel:?} {query_len}×{key_len}: inputs {inputs} bytes, {grown} more reserved; scores take {scores}"
            );
            assert!(grown <= inputs.min(PAGES) + PAGES, "{kernel:?} {query_len}×{key_len}: {grown} bytes");
        }
    }
}

#[test]
fn a_backward_pass_takes_what_it_says() {
    let Some((device, _alone)) = device() else { return };
    for length in [1024, 4096] {
        let shape = Shape::new([1, 2, length, 32]);
        let make =
            || CubeBackend::float_random(shape.clone(), Distribution::Uniform(-1.0, 1.0), &device, FloatDType::F32);
        let mut inputs = AttentionInputs::<CubeBackend>::new(make(), make(), make());
        let slopes = CubeBackend::float_zeros(Shape::new([2]), &device, FloatDType::F32);
        inputs.alibi_slopes = Some(slopes);
        let spec = AttentionSpec { causal: true, ..AttentionSpec::default() };
        let problem = inputs.problem(&spec).expect("a plain problem");
        let outputs = Cube::Rows.forward(&problem, inputs.clone(), true).expect("a plain problem");
        let lse = outputs.lse.expect("it was asked for");
        let upstream = Upstream { out: outputs.out, lse, grad_out: Some(make()), grad_lse: None };
        let wanted = Wanted::all(&inputs);
        let backward = || Cube::Rows.backward(&problem, inputs, upstream, wanted).expect("a plain problem");
        let (_made, grown) = reserved_by(&device, backward);
        // Three gradients of the inputs' size. Allocators reserve whole pages.
        let gradients = 3 * 2 * 32 * 4 * length as u64;
        let workspace = Cube::Rows.workspace_bytes(&device, &problem, Pass::Backward);
        println!("{length}: gradients {gradients} bytes, workspace {workspace}, {grown} more reserved");
        assert!(workspace < gradients, "{workspace} bytes of workspace at {length}");
        assert!(grown <= gradients + workspace + PAGES, "{length}: {grown} bytes");
    }
}
