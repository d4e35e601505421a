//! The shapes of each suite.
//!
//! Prefill holds the shapes that other projects publish (4096×64, 2048×128, short encoders), each causal and not, and then
//! what real use adds: shared key/value heads, a window, a scale and a softcap of one's own, lengths and dims that are no
//! power of two. Decode is one token, or four, against a cache. Train is forward and backward. The sweep is drawn: see `sweep.rs`.

use super::{Dtype, SEED, SWEEP, Shape, Suite, Window, sweep};

/// The shapes of `suite`, in the order in which they run.
pub fn suite(suite: Suite) -> Vec<Shape> {
    match suite {
        Suite::Prefill => prefill(),
        Suite::Decode => decode(),
        Suite::Train => train(),
        Suite::Sweep => sweep(SEED, SWEEP),
    }
}

/// The shape without and with causality.
pub(super) fn both_ways(shape: Shape) -> [Shape; 2] {
    [shape, causal(shape)]
}

pub(super) fn causal(shape: Shape) -> Shape {
    Shape { causal: true, ..shape }
}

fn prefill() -> Vec<Shape> {
    let plain = |sizes| Shape::square(Suite::Prefill, sizes);
    let mut shapes = Vec::new();
    for sizes in [[1, 8, 1024, 64], [1, 8, 4096, 64], [1, 8, 1024, 128], [1, 8, 2048, 128], [8, 12, 128, 32]] {
        shapes.extend(both_ways(plain(sizes)));
    }
    shapes.push(causal(Shape { kv_heads: 8, ..plain([1, 32, 1024, 128]) }));
    shapes.push(causal(Shape { window: Some(Window { left: 255, right: 0 }), ..plain([1, 8, 4096, 64]) }));
    shapes.push(Shape { scale: Some(0.1), softcap: Some(30.0), ..plain([1, 8, 1024, 64]) });
    shapes.extend(both_ways(Shape { key_len: 1003, ..plain([1, 8, 1000, 80]) }));
    shapes.extend(both_ways(plain([3, 7, 197, 72])));
    for dtype in [Dtype::Bf16, Dtype::F16] {
        for sizes in [[1, 8, 4096, 64], [1, 8, 2048, 128]] {
            shapes.extend(both_ways(Shape { dtype, ..plain(sizes) }));
        }
    }
    shapes
}

fn decode() -> Vec<Shape> {
    let cache = |dtype, kv_heads, query_len, key_len, head_dim| Shape {
        dtype,
        kv_heads,
        key_len,
        causal: query_len > 1,
        ..Shape::square(Suite::Decode, [1, 32, query_len, head_dim])
    };
    let mut shapes = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for key_len in [1024, 8192] {
            shapes.push(cache(dtype, 8, 1, key_len, 128));
        }
    }
    shapes.push(cache(Dtype::F32, 8, 4, 1024, 128));
    shapes.push(cache(Dtype::F32, 8, 4, 8192, 128));
    shapes.push(cache(Dtype::F32, 32, 1, 1024, 128));
    shapes.push(cache(Dtype::F32, 4, 1, 3001, 80));
    shapes
}

fn train() -> Vec<Shape> {
    let plain = |sizes| Shape::square(Suite::Train, sizes);
    let mut shapes = Vec::new();
    for sizes in [[1, 8, 1024, 64], [1, 8, 4096, 64], [1, 8, 2048, 128], [8, 12, 128, 32]] {
        shapes.extend(both_ways(plain(sizes)));
    }
    shapes.push(causal(Shape { kv_heads: 2, ..plain([1, 8, 1024, 64]) }));
    shapes.push(causal(plain([2, 5, 333, 80])));
    shapes.extend(both_ways(Shape { dtype: Dtype::Bf16, ..plain([1, 8, 4096, 64]) }));
    shapes
}
