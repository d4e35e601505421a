//! What a mask by blocks skips is not paid for: a window of 256 keys at length 8192, as an expression, beside full attention on
//! NdArray.
#![cfg(feature = "ndarray")]

use std::time::{Duration, Instant};

use attn::{Attention, BlockMask, MaskExpr, MaskShape};
use burn::tensor::{Distribution, Tensor};

const LENGTH: usize = 8192;
const ROUNDS: usize = 7;

#[test]
fn a_window_of_256_at_length_8192_takes_a_tenth_of_full_attention() {
    let device = attn::device("ndarray").expect("it needs nothing");
    let [query, key, value] =
        [1, 2, 3].map(|_| Tensor::<4>::random([1, 1, LENGTH, 64], Distribution::Default, &device));
    let attention = || Attention::new(query.clone(), key.clone(), value.clone());
    let window = MaskExpr::causal() & MaskExpr::window(Some(255), None);
    let mask: std::sync::Arc<BlockMask> =
        window.compile(&MaskShape::new(1, 1, LENGTH, LENGTH)).expect("it fits").into();

    let time = |attention: Attention| {
        let start = Instant::now();
        attention.forward().expect("a plain problem");
        start.elapsed()
    };
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        times[0].push(time(attention()));
        times[1].push(time(attention().block_mask(mask.clone())));
        times[2].push(time(attention().mask_expr(window.clone())));
    }
    let [full, compiled, expression] = times.map(median);
    println!("full {full:.4} s; window {compiled:.4} s, {:.3} of it", compiled / full);
    println!("with compiling the expression {expression:.4} s, {:.3} of it; {}", expression / full, mask.count());
    assert!(compiled <= 0.1 * full, "{compiled} s in place of at most a tenth of {full} s");
    assert!(expression <= 0.1 * full, "{expression} s in place of at most a tenth of {full} s");
}
