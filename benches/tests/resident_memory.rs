//! Ours on LibTorch takes no more memory than LibTorch's own operation, or than the plan says where LibTorch has none, and memory linear
//! in the lengths.
//!
//! LibTorch allocates past Rust's allocator, so this is what the system counts of the process; it is alone in it.
#![cfg(all(feature = "tch", target_os = "linux", target_env = "gnu"))]

use attn_benches::backend::Backend;
use attn_benches::contestants::{Contestant, Peers, enter};
use attn_benches::inputs::Inputs;
use attn_benches::resident::{Resident, keep_nothing};
use attn_benches::shapes::{Dtype, Extras, Shape, Suite};

/// What the count of pages may be off by: stacks, allocator's own pages, and code that a call is the first to touch.
const NOISE: u64 = 1 << 20;

/// The bound that the project sets beyond inputs and output.
const MOST: u64 = 40_000_000;

fn shape(suite: Suite, length: usize, causal: bool) -> Shape {
    Shape {
        suite,
        dtype: Dtype::F32,
        batch: 1,
        heads: 8,
        kv_heads: 8,
        query_len: length,
        key_len: length,
        head_dim: 64,
        causal,
        window: None,
        scale: None,
        softcap: None,
        extras: Extras::default(),
    }
}

/// The least growth of a few calls: what a call needs; more is what happens to come along.
fn growth(contestant: &Contestant) -> u64 {
    let mut least = u64::MAX;
    contestant.run().expect("a plain problem");
    for _ in 0..3 {
        let watch = Resident::start().expect("Linux tells");
        let outcome = contestant.run().expect("a plain problem");
        least = least.min(watch.stop().expect("Linux tells"));
        drop(outcome);
    }
    least
}

/// Beyond the results: ours, and LibTorch's operation called directly.
fn both(shape: &Shape) -> (u64, u64) {
    let contestants = enter(shape, &Inputs::of(shape), &[Backend::LibTorch], Peers::Near).expect("a plain problem");
    let of = |name: &str| {
        let contestant = contestants.iter().find(|contestant| contestant.name == name).expect("it can do the shape");
        let seen = growth(contestant);
        assert!(seen + NOISE >= shape.output_bytes(), "{name}: the results themselves must be seen, {seen} bytes were");
        seen.saturating_sub(shape.output_bytes())
    };
    let (ours, direct) = (of("ours"), of("torch-sdpa"));
    println!("{} {shape}: ours {ours} bytes beyond inputs and results, LibTorch directly {direct}", shape.suite.name());
    (ours, direct)
}

#[test]
fn no_more_than_libtorch_directly_and_linear_in_the_lengths() {
    keep_nothing();
    for length in [1024, 4096] {
        for causal in [false, true] {
            let (ours, direct) = both(&shape(Suite::Prefill, length, causal));
            assert!(ours <= direct + NOISE, "length {length}, causal {causal}: {ours} bytes, {direct} directly");
        }
    }
    // Scores of 16384 × 16384 would take 8 GiB.
    let (ours, direct) = both(&shape(Suite::Prefill, 16384, true));
    assert!(ours < MOST && ours <= direct + NOISE, "{ours} bytes, {direct} directly");
    // Scores of 2048 × 2048 would take 128 MiB, and what training keeps is linear.
    let (ours, direct) = both(&shape(Suite::Train, 2048, true));
    assert!(ours < direct + direct / 4, "{ours} bytes, {direct} directly");
    for length in [1024, 4096] {
        no_more_than_planned(length);
    }
}

/// LibTorch knows no softcap: the kernels for CPUs take copies of the tensors, which the plan counts.
fn no_more_than_planned(length: usize) {
    let shape = Shape { softcap: Some(20.0), ..shape(Suite::Prefill, length, true) };
    let contestants = enter(&shape, &Inputs::of(&shape), &[Backend::LibTorch], Peers::Near).expect("a plain problem");
    let ours = contestants.iter().find(|contestant| contestant.name == "ours").expect("it can do everything");
    let planned = ours.planned.as_ref().expect("ours plans");
    let taken = growth(ours).saturating_sub(shape.output_bytes());
    println!(
        "{shape}: {taken} bytes beyond inputs and results by {}, {} planned",
        planned.kernel, planned.workspace_bytes
    );
    assert_eq!(planned.kernel, "cpu");
    // All that is copied are inputs and results, beside the scratch.
    let linear = 6 * shape.output_bytes() + (8 << 20);
    assert!(taken <= planned.workspace_bytes + NOISE && planned.workspace_bytes < linear, "{taken}, at most {linear}");
}
