//! A step of training through attention takes memory linear in the lengths: between the passes it keeps the output and its LSE beyond the
//! inputs, and neither pass makes scores. Burn's own operation keeps several tensors of them.

use attn::Attention;
use attn_benches::alloc::{Counting, Watch};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Distribution, Tensor};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bound that the project sets at 1×8×8192×64, beyond inputs and gradients.
const MOST: u64 = 60_000_000;

/// What allocates past the counting allocator.
const ELSEWHERE: [&str; 4] = ["tch", "wgpu", "cuda", "rocm"];

/// Query, key and value, and the attention of a step.
type Step = dyn Fn([Tensor<4>; 3]) -> Tensor<4>;

/// The most bytes that a step allocates beyond its inputs and gradients, and those that it keeps between the passes.
fn step(device: &Device, length: usize, run: &Step) -> (u64, u64) {
    let shape = [1, 8, length, 64];
    let device = device.clone().autodiff();
    let inputs: [Tensor<4>; 3] =
        std::array::from_fn(|_| Tensor::<4>::random(shape, Distribution::Default, &device).require_grad());
    let gradients_bytes = 3 * 4 * shape.iter().product::<usize>() as u64;
    let watch = Watch::start();
    let loss = run(inputs.clone()).sum();
    let between = watch.kept();
    let mut gradients = loss.backward();
    let seen = watch.stop();
    for input in &inputs {
        let gradient = input.grad_remove(&mut gradients).expect("it is a leaf");
        assert_eq!(gradient.dims(), shape);
    }
    assert!(seen.peak >= gradients_bytes, "the gradients themselves must have been counted");
    (seen.peak - gradients_bytes, between)
}

#[test]
fn a_causal_step_at_8192_takes_little_beyond_inputs_and_gradients() {
    for backend in attn::BACKENDS.iter().filter(|backend| !ELSEWHERE.contains(backend)) {
        let device = attn::device(backend).expect("it is compiled in");
        let ours = |[query, key, value]: [Tensor<4>; 3]| {
            Attention::new(query, key, value).causal(true).forward().expect("a plain problem").out
        };
        let (peak, kept) = step(&device, 8192, &ours);
        println!("{backend}: {peak} bytes beyond inputs and gradients, {kept} kept between the passes");
        assert!(peak < MOST, "{backend}: {peak} bytes");
        // The output, its LSE, and small change.
        let output = 4 * 8 * 8192 * 64_u64;
        assert!(kept < output + output / 64 + 100_000, "{backend}: {kept} bytes kept for an output of {output}");
        // Burn's own at a quarter of the length: several tensors of 8 × 2048 × 2048 scores.
        let options = AttentionModuleOptions { is_causal: true, ..AttentionModuleOptions::default() };
        let burn = move |[query, key, value]: [Tensor<4>; 3]| attention(query, key, value, None, None, options);
        let (burns, burns_kept) = step(&device, 2048, &burn);
        println!("{backend}: Burn's own at 2048: {burns} bytes beyond inputs and gradients, {burns_kept} kept");
        assert!(burns > 4 * 8 * 2048 * 2048 && burns > peak, "{backend}: Burn's own took {burns} bytes");
    }
}
