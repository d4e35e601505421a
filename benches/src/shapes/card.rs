//! The shapes that fill a graphics card: half types, lengths to 16384, caches to 131072 keys.
//!
//! Prefill keeps tokens × heads × dim at 16384 · 2048, as other projects publish it, so that length alone changes from shape
//! to shape. The shapes are of the families [`Suite::Prefill`] and [`Suite::Decode`] and count as those do.

use super::suites::{both_ways, causal};
use super::{Dtype, Shape, Suite, Window};

/// Batch × length of prefill.
const TOKENS: usize = 16384;
/// Heads × dim of prefill.
const WIDTH: usize = 2048;

/// Every shape for cards, in the order in which they run.
pub fn card() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for dtype in [Dtype::F16, Dtype::Bf16] {
        for head_dim in [64, 128] {
            for length in [1024, 2048, 4096, 8192, 16384] {
                shapes.extend(both_ways(full(dtype, length, head_dim)));
            }
        }
    }
    shapes.extend(with_options());
    shapes.extend(caches());
    shapes
}

/// Prefill of one length with no options.
fn full(dtype: Dtype, length: usize, head_dim: usize) -> Shape {
    Shape { dtype, ..Shape::square(Suite::Prefill, [TOKENS / length, WIDTH / head_dim, length, head_dim]) }
}

/// What real use adds, in f16: shared key/value heads, a window, a scale and softcap, lengths and a dim of no power of two.
fn with_options() -> Vec<Shape> {
    let f16 = |length, head_dim| full(Dtype::F16, length, head_dim);
    let mut shapes = vec![
        causal(Shape { kv_heads: 4, ..f16(4096, 128) }),
        causal(Shape { window: Some(Window { left: 1023, right: 0 }), ..f16(8192, 64) }),
        Shape { scale: Some(0.1), softcap: Some(30.0), ..f16(4096, 64) },
    ];
    let odd = Shape { dtype: Dtype::F16, key_len: 4003, ..Shape::square(Suite::Prefill, [4, 24, 4001, 80]) };
    shapes.extend(both_ways(odd));
    shapes
}

/// One token against caches of 8 key/value heads, for a single sequence and for eight.
fn caches() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for dtype in [Dtype::F16, Dtype::Bf16] {
        for (batch, key_len) in [(1, 8192), (1, 32768), (1, 131_072), (8, 8192), (8, 32768)] {
            shapes.push(Shape { dtype, kv_heads: 8, key_len, ..Shape::square(Suite::Decode, [batch, 32, 1, 128]) });
        }
    }
    shapes
}
