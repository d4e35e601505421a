//! The kernel's device memory is linear in the lengths: by what the device's allocator holds, from 1024 to 4096 keys and queries.
#![cfg(feature = "wgpu")]

use attn_core::{AttentionInputs, AttentionKernel, AttentionSpec};
use attn_wgpu::{Cube, CubeBackend, CubeDevice};
use burn_backend::ops::FloatTensorOps;
use burn_backend::{Distribution, FloatDType, Shape};
use burn_cubecl::cubecl::MemoryScope;

/// What the allocator reserves at a time, for sizes small and large. At 4096 the scores would take 128 MiB.
const PAGES: u64 = 16 << 20;

/// An adapter, where there is one.
fn device() -> Option<CubeDevice> {
    let found = CubeDevice::enumerate_all().into_iter().next();
    if found.is_none() {
        println!("skipped: there is no adapter");
    }
    found
}

/// Bytes of the inputs, and those that the device's allocator holds for tensors and has reserved more after a call than before it.
/// Allocators reserve whole pages and keep them, so that nothing that a call takes goes unseen.
fn growth(device: &CubeDevice, length: usize) -> (u64, u64) {
    let shape = [1, 2, length, 32];
    let make =
        || CubeBackend::float_random(Shape::new(shape), Distribution::Uniform(-1.0, 1.0), device, FloatDType::F32);
    let spec = AttentionSpec { softcap: Some(20.0), causal: true, ..AttentionSpec::default() };
    let inputs = AttentionInputs::<CubeBackend>::new(make(), make(), make());
    let problem = inputs.problem(&spec).expect("a plain problem");
    let client = device.client();
    let reserved = || client.memory_report(MemoryScope::Device).usage().bytes_reserved;
    let before = reserved();
    let outputs = Cube::Rows.forward(&problem, inputs, true).expect("a plain problem");
    let after = reserved();
    drop(outputs);
    (3 * shape.iter().product::<usize>() as u64 * 4, after - before)
}

#[test]
fn device_memory_is_linear_in_the_lengths() {
    let Some(device) = device() else { return };
    for length in [1024, 4096] {
        let (inputs, grown) = growth(&device, length);
        let scores = 2 * (length * length) as u64 * 4;
        println!(
            "length {length}: inputs {inputs} bytes, {grown} more reserved in the call; scores would take {scores}"
        );
        assert!(grown <= inputs + PAGES, "length {length}: {grown} bytes");
    }
}
