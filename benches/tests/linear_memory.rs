//! A long forward pass takes memory linear in the lengths: scores of 8 heads at 16384 × 16384 in f32 would take 8 GiB.

use attn::Attention;
use attn_benches::alloc::{Counting, Watch};
use burn::tensor::{Distribution, Tensor};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bound that the project sets: 40 MB beyond inputs and output.
const MOST: u64 = 40_000_000;

/// What the tensors' own records may take: shapes, strides, reference counts, and a queue of the thread pool.
const RECORDS: u64 = 1024;

/// What allocates past the counting allocator: LibTorch, which `resident_memory.rs` watches, and devices, which attn-wgpu's test does.
const ELSEWHERE: [&str; 4] = ["tch", "wgpu", "cuda", "rocm"];

#[test]
fn a_causal_forward_at_16384_takes_little_beyond_inputs_and_output() {
    for backend in attn::BACKENDS.iter().filter(|backend| !ELSEWHERE.contains(backend)) {
        let device = attn::device(backend).expect("it is compiled in");
        let shape = [1, 8, 16384, 64];
        let inputs: [Tensor<4>; 3] = std::array::from_fn(|_| Tensor::random(shape, Distribution::Default, &device));
        let [query, key, value] = inputs.clone();
        let planned = Attention::new(query.clone(), key.clone(), value.clone()).causal(true).plan();
        let planned = planned.expect("a plain problem").forward.workspace_bytes;
        // The thread pool makes its own records in the first call; the least is a call's own.
        let peak = (0..2).map(|_| {
            let inputs = (query.clone(), key.clone(), value.clone());
            let watch = Watch::start();
            let output = Attention::new(inputs.0, inputs.1, inputs.2).causal(true).forward().expect("a plain problem");
            let seen = watch.stop();
            drop(output);
            seen.peak
        });
        let peak = peak.min().expect("two calls");
        let output_bytes = query.shape().num_elements() as u64 * 4;
        let beyond = peak.saturating_sub(output_bytes);
        println!("{backend}: {beyond} bytes beyond inputs and output, {planned} planned");
        assert!(peak >= output_bytes, "the output itself must have been counted");
        assert!(beyond < MOST, "{backend}: {beyond} bytes");
        let surplus = beyond.checked_sub(planned);
        assert!(
            surplus.is_some_and(|bytes| bytes <= RECORDS),
            "{backend}: {beyond} bytes where the plan told {planned}"
        );
    }
}
