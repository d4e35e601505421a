//! A plain oracle in f64, written from the contract alone, and random problems to judge the kernels by.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod dropout;
pub mod exact;
pub mod gradient;
pub mod random;

use attn_cpu::{Attention, Band, Blocks, Dropout, Element, Mask, ScoreMod, View};
use half::{bf16, f16};

use exact::exact_sum;

/// What the tests need of an element type.
pub trait Real: Element {
    fn of(x: f64) -> Self;
    fn up(self) -> f64;
    fn up_accum(x: Self::Accum) -> f64;
    fn accum(x: f64) -> Self::Accum;
    /// Bits of an accumulator, to compare exactly.
    fn bits(x: Self::Accum) -> u64;
    /// Unit roundoff of outputs and of accumulation.
    const ROUND: f64;
    const ACCUM_ROUND: f64;
    /// Below it a weight may count as 0.
    const SMALLEST: f64;
}

macro_rules! real {
    ($t:ty, $a:ty, $of:expr, $up:expr, $round:expr) => {
        impl Real for $t {
            fn of(x: f64) -> Self {
                $of(x)
            }
            fn up(self) -> f64 {
                $up(self)
            }
            fn up_accum(x: $a) -> f64 {
                f64::from(x)
            }
            fn accum(x: f64) -> $a {
                x as $a
            }
            fn bits(x: $a) -> u64 {
                u64::from(x.to_bits())
            }
            const ROUND: f64 = $round;
            const ACCUM_ROUND: f64 = <$a>::EPSILON as f64 / 2.0;
            const SMALLEST: f64 = <$a>::MIN_POSITIVE as f64 * 4.0;
        }
    };
}
real!(f32, f32, |x| x as f32, f64::from, f32::EPSILON as f64 / 2.0);
real!(f64, f64, |x| x, |x| x, f64::EPSILON / 2.0);
real!(f16, f32, f16::from_f64, f16::to_f64, 1.0 / 2048.0);
real!(bf16, f32, bf16::from_f64, bf16::to_f64, 1.0 / 256.0);

/// A problem that owns its data: storage with any strides, broadcast axes included.
#[derive(Debug, Clone)]
pub struct Owned<T> {
    pub dims: Dims,
    pub query: Array<T>,
    pub key: Array<T>,
    pub value: Array<T>,
    pub scale: f64,
    pub softcap: Option<f64>,
    pub bands: Vec<Band>,
    pub mask: Option<(Array<u8>, bool)>,
    pub bias: Option<Array<T>>,
    pub alibi_slopes: Option<Vec<T>>,
    /// `[1, H or 1, 1, 2·R + 1]`, broadcast to all heads.
    pub relative_bias: Option<Array<T>>,
    /// Whether scores go through [`affine`].
    pub affine: bool,
    pub sinks: Option<Vec<T>>,
    pub blocks: Option<OwnedBlocks>,
    pub dropout: Option<Dropout>,
}

/// A mask by blocks, `[batch, heads, query_len, key_len]` with batch and heads 1 or full.
#[derive(Debug, Clone)]
pub struct OwnedBlocks {
    pub shape: [usize; 4],
    pub table: Vec<u32>,
    pub patterns: Vec<[u64; 64]>,
}

impl OwnedBlocks {
    /// Kinds and patterns at random: as many blocks empty and full as mixed, or nearly all of them empty.
    pub fn random(shape: [usize; 4], patterns: usize, sparse: bool, random: &mut Random) -> Self {
        let [batch, heads, query_len, key_len] = shape;
        let count = batch * heads * query_len.div_ceil(64) * key_len.div_ceil(64);
        let kind = |random: &mut Random| match random.below(if sparse { 12 } else { 3 }) {
            0 => 1,
            1 if patterns > 0 => 2 + random.below(patterns) as u32,
            _ => 0,
        };
        let table = (0..count).map(|_| kind(random)).collect();
        let word = |random: &mut Random| [random.next(), 0, u64::MAX, random.next() & random.next()][random.below(4)];
        Self { shape, table, patterns: (0..patterns).map(|_| std::array::from_fn(|_| word(random))).collect() }
    }

    /// Whether a query sees a key, from the words of the table's documentation.
    pub fn seen(&self, [b, h, i, j]: [usize; 4]) -> bool {
        let [batch, heads, query_len, key_len] = self.shape;
        let (b, h) = (if batch == 1 { 0 } else { b }, if heads == 1 { 0 } else { h });
        let row = (b * heads + h) * query_len.div_ceil(64) + i / 64;
        match self.table[row * key_len.div_ceil(64) + j / 64] {
            0 => false,
            1 => true,
            entry => self.patterns[entry as usize - 2][i % 64] >> (j % 64) & 1 == 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dims {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub query_len: usize,
    pub key_len: usize,
    pub head_dim: usize,
    pub value_dim: usize,
}

#[derive(Debug, Clone)]
pub struct Array<T> {
    pub data: Vec<T>,
    pub shape: [usize; 4],
    pub strides: [usize; 4],
}

/// How an array lies in memory.
#[derive(Debug, Clone, Copy)]
pub enum Lay {
    /// `[0, 1, 2, 3]`, the last fastest.
    Plain,
    /// Axes 1 and 2 swapped: `[B, S, H, D]` seen as `[B, H, S, D]`.
    Swapped,
    /// The last axis not contiguous.
    Transposed,
    /// Rows with a gap after them.
    Padded,
}

impl<T: Copy> Array<T> {
    /// An array of that shape filled by `next`, with NaN-like `gap` where the layout leaves holes.
    pub fn new(shape: [usize; 4], lay: Lay, gap: T, mut next: impl FnMut() -> T) -> Self {
        let [a, b, c, d] = shape;
        let (strides, len) = match lay {
            Lay::Plain => ([b * c * d, c * d, d, 1], a * b * c * d),
            Lay::Swapped => ([c * b * d, d, b * d, 1], a * b * c * d),
            Lay::Transposed => ([b * d * c, d * c, 1, c], a * b * c * d),
            Lay::Padded => ([b * c * (d + 3), c * (d + 3), d + 3, 1], a * b * c * (d + 3)),
        };
        let mut array = Self { data: vec![gap; len], shape, strides };
        for index in indices(shape) {
            let at = array.at(index);
            array.data[at] = next();
        }
        array
    }

    /// The same with axes of length 1 stretched to `shape` by strides of 0.
    pub fn broadcast(mut self, shape: [usize; 4]) -> Self {
        for (axis, &wanted) in shape.iter().enumerate() {
            if self.shape[axis] != wanted {
                assert_eq!(self.shape[axis], 1);
                self.strides[axis] = 0;
            }
        }
        self.shape = shape;
        self
    }

    pub fn at(&self, index: [usize; 4]) -> usize {
        index.iter().zip(self.strides).map(|(i, s)| i * s).sum()
    }

    pub fn get(&self, index: [usize; 4]) -> T {
        self.data[self.at(index)]
    }

    pub fn set(&mut self, index: [usize; 4], x: T) {
        let at = self.at(index);
        self.data[at] = x;
    }

    pub fn view(&self) -> View<'_, T, 4> {
        View::new(&self.data, self.shape, self.strides).expect("the test's own arrays are sound")
    }
}

/// A function of a score whose factor and term depend on each coordinate of its place, and which hides some.
pub fn affine(score: f64, [b, h, i, j]: [usize; 4]) -> f64 {
    let mixed = b + 3 * h + 5 * i + 7 * j;
    if mixed % 11 == 4 {
        return f64::NEG_INFINITY;
    }
    score * ((mixed % 5) as f64 - 2.0) / 2.0 + (mixed % 3) as f64 / 4.0
}

/// Its slope.
pub fn affine_slope([b, h, i, j]: [usize; 4]) -> f64 {
    ((b + 3 * h + 5 * i + 7 * j) % 5) as f64 / 2.0 - 1.0
}

/// Every place of an array, the last axis first. Counted: of nested `flat_map`s Valgrind reports a branch on memory that was not written,
/// which the compiler makes of them rightly.
pub fn indices([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
    (0..a * b * c * d).map(move |at| [at / (b * c * d), at / (c * d) % b, at / d % c, at % d])
}

/// Numbers that look random, the same in every run.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..1`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Roughly normal: the sum of four uniform numbers, scaled to variance 1.
    pub fn normal(&mut self) -> f64 {
        ((0..4).map(|_| self.unit()).sum::<f64>() - 2.0) * 3.0_f64.sqrt()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

impl<T: Real> Owned<T> {
    /// Random inputs, no options, every key seen.
    pub fn plain(dims: Dims, seed: u64) -> Self {
        Self::laid(dims, Lay::Plain, seed)
    }

    /// The same with a layout.
    pub fn laid(dims: Dims, lay: Lay, seed: u64) -> Self {
        let mut random = Random(seed);
        let Dims { batch, heads, kv_heads, query_len, key_len, head_dim, value_dim } = dims;
        let mut array = |shape| Array::new(shape, lay, T::of(f64::NAN), || T::of(random.normal()));
        Self {
            dims,
            query: array([batch, heads, query_len, head_dim]),
            key: array([batch, kv_heads, key_len, head_dim]),
            value: array([batch, kv_heads, key_len, value_dim]),
            scale: 1.0 / (head_dim.max(1) as f64).sqrt(),
            softcap: None,
            bands: vec![Band::full(key_len); batch],
            mask: None,
            bias: None,
            alibi_slopes: None,
            relative_bias: None,
            sinks: None,
            blocks: None,
            affine: false,
            dropout: None,
        }
    }

    pub fn problem(&self) -> Attention<'_, T> {
        Attention {
            query: self.query.view(),
            key: self.key.view(),
            value: self.value.view(),
            scale: self.scale,
            softcap: self.softcap,
            bands: &self.bands,
            mask: self.mask.as_ref().map(|(mask, seen_when)| Mask { view: mask.view(), seen_when: *seen_when }),
            bias: self.bias.as_ref().map(Array::view),
            alibi_slopes: self.alibi_slopes.as_deref(),
            relative_bias: self.relative_bias.as_ref().map(|table| {
                let ([_, heads, _, distances], [_, by_head, _, by_distance]) = (table.shape, table.strides);
                View::new(&table.data, [heads, distances], [by_head, by_distance])
                    .expect("the test's own table is sound")
            }),
            sinks: self.sinks.as_deref(),
            blocks: self.blocks.as_ref().map(|blocks| {
                Blocks::new(blocks.shape, &blocks.table, &blocks.patterns).expect("the test's own blocks are sound")
            }),
            dropout: self.dropout,
            score_mod: self.affine.then(|| ScoreMod::new(&affine).with_slope(&|_, place| affine_slope(place))),
        }
    }

    pub fn rows(&self) -> usize {
        self.dims.batch * self.dims.heads * self.dims.query_len
    }

    /// Runs the kernel: out `[B, H, Sq, E]` and LSE `[B, H, Sq]`. Outputs are poisoned before.
    pub fn run(&self, isa: attn_cpu::Isa) -> (Vec<T>, Vec<T::Accum>) {
        let mut out = vec![T::of(f64::NAN); self.rows() * self.dims.value_dim];
        let mut lse = vec![T::Accum::default(); self.rows()];
        attn_cpu::forward(&self.problem(), isa, &mut out, Some(&mut lse)).expect("a sound problem");
        (out, lse)
    }

    /// Whether the band, the mask and the blocks let a query see a key.
    pub fn seen(&self, [b, h, i, j]: [usize; 4]) -> bool {
        let band = self.bands[b];
        let distance = j as i128 - (i as i128 + i128::from(band.offset));
        j < band.keys
            && band.lower.is_none_or(|lower| distance >= i128::from(lower))
            && band.upper.is_none_or(|upper| distance <= i128::from(upper))
            && self.mask.as_ref().is_none_or(|(mask, seen)| (mask.get([b, h, i, j]) != 0) == *seen)
            && self.blocks.as_ref().is_none_or(|blocks| blocks.seen([b, h, i, j]))
    }

    /// The answer in f64, with how far a kernel's may lie from it.
    pub fn oracle(&self) -> Oracle {
        let Dims { batch, heads, query_len, value_dim, .. } = self.dims;
        let mut oracle = Oracle::default();
        for [b, h, i, _] in indices([batch, heads, query_len, 1]) {
            let row = self.row(b, h, i);
            oracle.out.extend(row.out);
            oracle.out_error.extend(row.out_error);
            oracle.pairs_error.extend(row.pairs_error);
            oracle.lse.push(row.lse);
            oracle.lse_error.push(row.lse_error);
        }
        assert_eq!(oracle.out.len(), batch * heads * query_len * value_dim);
        oracle
    }

    fn row(&self, b: usize, h: usize, i: usize) -> RowAnswer {
        let g = h / (self.dims.heads / self.dims.kv_heads);
        let mut scores = Vec::new();
        let mut error = 0.0_f64;
        for j in (0..self.dims.key_len).filter(|j| self.seen([b, h, i, *j])) {
            let Some((score, wrong)) = self.score(b, h, g, i, j) else { continue };
            scores.push((j, score));
            error = error.max(wrong);
        }
        let sink = self.sinks.as_ref().map_or(f64::NEG_INFINITY, |sinks| sinks[h].up());
        let top = scores.iter().fold(sink, |top, (_, score)| top.max(*score));
        let base = if top == f64::NEG_INFINITY { 0.0 } else { top };
        let weights: Vec<f64> = scores.iter().map(|(_, score)| (score - base).exp()).collect();
        let sum = exact_sum(weights.iter().copied().chain([(sink - base).exp()]));
        // The exponents are measured from the maximum, in base 2 and with one rounding.
        let error =
            error + 4.0 * T::ACCUM_ROUND * (2.0 + base.abs()) + 2.0 * T::ACCUM_ROUND * (scores.len() as f64).sqrt();
        let mut answer = RowAnswer {
            lse: base + sum.ln(),
            lse_error: error + T::ACCUM_ROUND * (base + sum.ln()).abs(),
            ..RowAnswer::default()
        };
        let factors = |j| self.factor([b, h, i, j]);
        for e in 0..self.dims.value_dim {
            let values: Vec<f64> =
                scores.iter().map(|(j, _)| factors(*j) * self.value.get([b, g, *j, e]).up()).collect();
            let parts = || weights.iter().zip(&values).map(|(weight, value)| weight * value);
            let (total, size) = (exact_sum(parts()), exact_sum(parts().map(f64::abs)));
            // Weights below the smallest normal number count as 0.
            let flushed = T::SMALLEST * exact_sum(values.iter().map(|value| value.abs()));
            let (out, size) = if sum == 0.0 { (0.0, 0.0) } else { (total / sum, size / sum) };
            answer.out.push(out);
            let rounding = T::ROUND * out.abs() + if T::ROUND > 1e-4 { 1e-7 } else { 0.0 };
            answer.out_error.push(size * (2.0 * error + 8.0 * T::ACCUM_ROUND) + rounding + flushed);
            // Each weight rounded, and what was accumulated of it rounded with the output.
            answer.pairs_error.push(size * T::ROUND * (1.0 + T::ROUND));
        }
        answer
    }

    /// A score, and how far the kernel's may lie from it. None where a bias of −∞ hides it.
    fn score(&self, b: usize, h: usize, g: usize, i: usize, j: usize) -> Option<(f64, f64)> {
        let product = |d| self.query.get([b, h, i, d]).up() * self.key.get([b, g, j, d]).up();
        let dot = exact_sum((0..self.dims.head_dim).map(product));
        let size = exact_sum((0..self.dims.head_dim).map(|d| product(d).abs()));
        let mut score = dot * self.scale;
        let mut parts = size * self.scale.abs();
        if let Some(cap) = self.softcap {
            score = cap * (score / cap).tanh();
            parts += score.abs();
        }
        if let Some(slopes) = &self.alibi_slopes {
            let distance = j as f64 - (i as f64 + self.bands[b].offset as f64);
            score -= slopes[h].up() * distance.abs();
            parts += (slopes[h].up() * distance).abs();
        }
        if let Some(table) = &self.relative_bias {
            let reach = (table.shape[3] / 2) as i128;
            let distance = j as i128 - (i as i128 + i128::from(self.bands[b].offset));
            let bias = table.get([0, h, 0, (distance.clamp(-reach, reach) + reach) as usize]).up();
            if bias == f64::NEG_INFINITY {
                return None;
            }
            score += bias;
            parts += bias.abs();
        }
        if let Some(bias) = &self.bias {
            let bias = bias.get([b, h, i, j]).up();
            if bias == f64::NEG_INFINITY {
                return None;
            }
            score += bias;
            parts += bias.abs();
        }
        if self.affine {
            let before = score;
            score = affine(score, [b, h, i, j]);
            if score == f64::NEG_INFINITY {
                return None;
            }
            parts += before.abs() + score.abs();
        }
        let steps = 4.0 + (self.dims.head_dim as f64).sqrt();
        (score != f64::NEG_INFINITY).then_some((score, parts * steps * T::ACCUM_ROUND))
    }
}

#[derive(Debug, Default)]
struct RowAnswer {
    out: Vec<f64>,
    out_error: Vec<f64>,
    pairs_error: Vec<f64>,
    lse: f64,
    lse_error: f64,
}

/// The exact answer and the errors that rounding may cause.
#[derive(Debug, Default)]
pub struct Oracle {
    pub out: Vec<f64>,
    pub out_error: Vec<f64>,
    /// What products of pairs of bf16 add to it: weights are rounded for them.
    pub pairs_error: Vec<f64>,
    pub lse: Vec<f64>,
    pub lse_error: Vec<f64>,
}

impl Oracle {
    /// The first number that is off, in words.
    pub fn check<T: Real>(&self, isa: attn_cpu::Isa, out: &[T], lse: &[T::Accum]) -> Result<(), String> {
        let pairs = isa == attn_cpu::Isa::Avx512Bf16 && T::NAME == "bf16";
        for (at, (want, error)) in self.out.iter().zip(&self.out_error).enumerate() {
            let weights = if pairs { self.pairs_error[at] } else { 0.0 };
            close("out", at, out[at].up(), *want, *error + weights)?;
        }
        for (at, (want, error)) in self.lse.iter().zip(&self.lse_error).enumerate() {
            close("lse", at, T::up_accum(lse[at]), *want, *error)?;
        }
        Ok(())
    }
}

fn close(what: &str, at: usize, found: f64, want: f64, error: f64) -> Result<(), String> {
    let same = found == want || (found.is_nan() && want.is_nan());
    if same || (found - want).abs() <= error {
        return Ok(());
    }
    Err(format!("{what}[{at}]: found {found:e}, expected {want:e} within {error:e}"))
}

/// Whether few cases are enough: what watches each access of a program makes it slow, and asks for that by this variable.
pub fn few() -> bool {
    std::env::var_os("ATTN_FEW_CASES").is_some()
}

/// Runs on every instruction set of this machine and compares with the oracle.
pub fn check_all<T: Real>(owned: &Owned<T>) {
    let oracle = owned.oracle();
    for isa in attn_cpu::Isa::available() {
        let (out, lse) = owned.run(isa);
        if let Err(wrong) = oracle.check::<T>(isa, &out, &lse) {
            panic!("{} {}: {wrong}, {:?}", isa.name(), T::NAME, owned.dims);
        }
    }
}
