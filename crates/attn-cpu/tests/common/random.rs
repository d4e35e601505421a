//! Random shapes, layouts and all options together.

use attn_cpu::{Band, Dropout};
use proptest::prelude::*;

use super::{Array, Dims, Lay, Owned, OwnedBlocks, Random, Real, few};

/// Short lengths and dims, 0 among them.
pub fn dims() -> impl Strategy<Value = Dims> {
    (1..3_usize, 1..4_usize, 1..4_usize, 0..40_usize, 0..90_usize, 1..40_usize, 0..40_usize).prop_map(
        |(batch, kv_heads, group, query_len, key_len, head_dim, value_dim)| Dims {
            batch,
            heads: kv_heads * group,
            kv_heads,
            query_len,
            key_len,
            head_dim,
            value_dim,
        },
    )
}

/// Shapes that reach past a block of keys and into a second task.
pub fn long_dims() -> impl Strategy<Value = Dims> {
    (1..3_usize, 180..430_usize, 400..1100_usize, 1..20_usize, 1..20_usize).prop_map(
        |(group, query_len, key_len, head_dim, value_dim)| Dims {
            batch: 1,
            heads: group,
            kv_heads: 1,
            query_len,
            key_len,
            head_dim,
            value_dim,
        },
    )
}

/// An array that broadcasts to the scores: each axis kept or of length 1, as chance has it.
fn broadcast<T: Copy>(dims: Dims, random: &mut Random, gap: T, next: impl FnMut(&mut Random) -> T) -> Array<T> {
    let full = [dims.batch, dims.heads, dims.query_len, dims.key_len];
    let shape = full.map(|length| if random.below(3) == 0 { length.min(1) } else { length });
    let lay = [Lay::Plain, Lay::Plain, Lay::Swapped, Lay::Transposed, Lay::Padded][random.below(5)];
    let mut inner = Random(random.next());
    let mut next = next;
    Array::new(shape, lay, gap, || next(&mut inner)).broadcast(full)
}

/// A bias by relative position, for all heads or each, some distances of it hidden.
fn table<T: Real>(dims: Dims, random: &mut Random) -> Array<T> {
    let reach = [0, 1, 2, 7, 40, 300][random.below(6)];
    let heads = if random.below(2) == 0 { dims.heads.min(1) } else { dims.heads };
    let lay = [Lay::Plain, Lay::Plain, Lay::Transposed, Lay::Padded][random.below(4)];
    let hiding = random.below(3) == 0;
    let mut inner = Random(random.next());
    let next = || T::of(if hiding && inner.below(5) == 0 { f64::NEG_INFINITY } else { inner.normal() });
    let shape = [1, heads, 1, 2 * reach + 1];
    Array::new(shape, lay, T::of(f64::NAN), next).broadcast([1, dims.heads, 1, 2 * reach + 1])
}

fn band(dims: Dims, random: &mut Random) -> Band {
    let keys = if random.below(2) == 0 { dims.key_len } else { random.below(dims.key_len + 1) };
    let offset = match random.below(4) {
        0 => 0,
        1 => random.below(200) as i64 - 100,
        _ => keys as i64 - dims.query_len as i64,
    };
    let side = |random: &mut Random| (random.below(2) == 0).then(|| random.below(60) as i64);
    let lower = side(random).map(|left| -left);
    let upper = if random.below(2) == 0 { Some(0) } else { side(random) };
    Band { offset, lower, upper, keys }
}

/// Every option thrown in with a chance of one half.
pub fn with_options<T: Real>(dims: Dims, seed: u64) -> Owned<T> {
    let mut random = Random(seed);
    let lay = [Lay::Plain, Lay::Swapped, Lay::Transposed, Lay::Padded][random.below(4)];
    let mut owned = Owned::<T>::laid(dims, lay, random.next());
    let half = |random: &mut Random| random.below(2) == 0;
    if half(&mut random) {
        owned.scale = [0.0, 1.0, -0.3, 0.05][random.below(4)];
    }
    if half(&mut random) {
        owned.softcap = Some([0.5, 5.0, 30.0][random.below(3)]);
    }
    if half(&mut random) {
        owned.bands = (0..dims.batch).map(|_| band(dims, &mut random)).collect();
    }
    if half(&mut random) {
        let seen_when = half(&mut random);
        owned.mask = Some((broadcast(dims, &mut random, 7, |random| random.below(3) as u8), seen_when));
    }
    if half(&mut random) {
        let hiding = half(&mut random);
        owned.bias = Some(broadcast(dims, &mut random, T::of(f64::NAN), move |random| {
            T::of(if hiding && random.below(5) == 0 { f64::NEG_INFINITY } else { random.normal() })
        }));
    }
    if half(&mut random) {
        owned.alibi_slopes = Some((0..dims.heads).map(|h| T::of(0.5_f64.powi(h as i32 + 1))).collect());
    }
    if half(&mut random) {
        owned.relative_bias = Some(table(dims, &mut random));
    }
    owned.affine = random.below(4) == 0;
    if half(&mut random) {
        owned.sinks = Some((0..dims.heads).map(|_| T::of(random.normal())).collect());
    }
    if half(&mut random) {
        let axis = |random: &mut Random, len: usize| if random.below(2) == 0 { len.min(1) } else { len };
        let (batch, heads) = (axis(&mut random, dims.batch), axis(&mut random, dims.heads));
        let shape = [batch, heads, dims.query_len, dims.key_len];
        let (patterns, sparse) = (random.below(4), half(&mut random));
        owned.blocks = Some(OwnedBlocks::random(shape, patterns, sparse, &mut random));
    }
    if random.below(3) == 0 {
        owned.dropout = Some(Dropout { probability: [0.0, 0.1, 0.5, 0.9][random.below(4)], seed: random.next() });
    }
    owned
}

/// As many cases as that, or a tenth where few are enough.
pub fn cases(usual: u32) -> ProptestConfig {
    let cases = if few() { (usual / 10).max(1) } else { usual };
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}
