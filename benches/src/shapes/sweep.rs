//! Random shapes: what lies between and beside the shapes that anyone would think of.
//!
//! Lengths are spread evenly over their logarithm from 1 to 3000, dims over 8 to 256 whether or not they suit a vector, and every
//! option comes up alone and with others. Batch and heads are as many as an amount of work allows that a run of hundreds can bear.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{BiasKind, Dtype, Extras, MaskKind, Shape, Suite, Window};

/// What a sweep is drawn from that nobody asked for another.
pub const SEED: u64 = 1;
/// Shapes of a sweep that nobody asked to be longer.
pub const SWEEP: usize = 200;
/// The most work of a shape, in floating-point operations.
const MOST_WORK: f64 = 3e9;
/// The most scores of a shape: peers are given masks of as many numbers.
const MOST_SCORES: usize = 1 << 25;
const MOST_LENGTH: f64 = 3000.0;

/// `count` shapes; the same for the same `seed`.
pub fn sweep(seed: u64, count: usize) -> Vec<Shape> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut shapes: Vec<Shape> = Vec::with_capacity(count);
    while shapes.len() < count {
        let shape = draw(&mut random);
        if shape.flops() > 0.0 && !shapes.iter().any(|other| other.to_string() == shape.to_string()) {
            shapes.push(shape);
        }
    }
    shapes
}

fn draw(random: &mut StdRng) -> Shape {
    let [query_len, key_len] = lengths(random);
    let head_dim = dim(random);
    let mut shape = Shape {
        dtype: match random.random_range(0..4) {
            0 | 1 => Dtype::F32,
            2 => Dtype::Bf16,
            _ => Dtype::F16,
        },
        query_len,
        key_len,
        ..Shape::square(Suite::Sweep, [1, 1, 1, head_dim])
    };
    options(random, &mut shape);
    heads(random, &mut shape);
    shape
}

/// Sq and Sk: half of the time one length, else two, seldom more queries than keys.
fn lengths(random: &mut StdRng) -> [usize; 2] {
    let mut length = || MOST_LENGTH.powf(random.random::<f64>()).round() as usize;
    let [a, b] = [length(), length()];
    match random.random_range(0..10) {
        0..5 => [a, a],
        5..9 => [a.min(b), a.max(b)],
        _ => [a, b],
    }
}

/// Half of the time a multiple of 8, else anything.
fn dim(random: &mut StdRng) -> usize {
    if random.random() { 8 * random.random_range(1..=32) } else { random.random_range(8..=256) }
}

fn options(random: &mut StdRng, shape: &mut Shape) {
    let mut once_in = |n: u32| random.random_range(0..n) == 0;
    shape.causal = once_in(3);
    let windowed = once_in(6);
    shape.scale = once_in(6).then_some(0.125);
    shape.softcap = once_in(8).then_some(20.0);
    let (other_dim, masked, biased) = (once_in(8), once_in(4), once_in(6));
    shape.extras = Extras { ragged: once_in(6), alibi: once_in(10), sinks: once_in(20), ..Extras::default() };
    if windowed {
        let reach = 1 + shape.key_len / 2;
        let right = if shape.causal { 0 } else { random.random_range(0..reach) };
        shape.window = Some(Window { left: random.random_range(0..reach), right });
    }
    if other_dim {
        shape.extras.value_dim = Some(dim(random));
    }
    if masked {
        shape.extras.mask = Some(match random.random_range(0..3) {
            0 => MaskKind::Padding,
            1 => MaskKind::Documents(1 + random.random_range(0..shape.key_len)),
            _ => MaskKind::Pairs,
        });
    }
    if biased {
        shape.extras.bias = Some(if random.random() { BiasKind::Heads } else { BiasKind::Keys });
    }
}

/// B, G and H: as many as the work allows, to 4, 16 and 32.
fn heads(random: &mut StdRng, shape: &mut Shape) {
    let room = (MOST_WORK / shape.flops().max(1.0)).min((MOST_SCORES / (shape.query_len * shape.key_len)) as f64);
    let mut some = |most: f64| random.random_range(1..=(most as usize).max(1));
    shape.batch = some(room.min(4.0));
    let room = room / shape.batch as f64;
    shape.kv_heads = some(room.min(16.0));
    let group = if random.random() { 1 } else { 1 << random.random_range(1..4) };
    let group = if room < (group * shape.kv_heads) as f64 { 1 } else { group };
    shape.heads = group * shape.kv_heads;
}
