//! What the units do with a block: send for it, begin and await its products, make weights of them.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

use super::{Config, GROUP, ROWS, VECTOR, text};
use crate::device::place::{Place, Reach};
use crate::device::score::{Score, score, seen};

/// Exponents of two of scores whose rounding is an eighth of one.
pub const HUGE: f32 = 1_048_576.0;

/// The address of a slice in shared memory, in bytes.
#[cube]
pub fn address<F: Float, N: Size>(room: &Shared<[Vector<F, N>]>) -> u32 {
    let start = room.as_ptr();
    let found: u32;
    gpu_asm!(
        "{{\n.reg .u64 a;\ncvta.to.shared.u64 a, {start};\ncvt.u32.u64 {found}, a;\n}}",
        found = out(_) found, start = in(_) start,
    );
    found
}

/// The lower half of a matrix's word: its address, and the distance of its columns of atoms by 16.
#[cube]
pub fn begun(address: u32, columns: u32) -> u32 {
    (address / 16) | (columns * 65536)
}

/// Sends for 16 bytes, or for as many zeros.
#[cube]
fn send<F: Float, N: Size>(from: &[Vector<F, N>], to: u32, is_there: bool) {
    let start = from.as_ptr();
    let bytes = select(is_there, 16u32, 0u32);
    gpu_asm!("cp.async.cg.shared::cta.global [{}], [{}], 16, {};", in(_) to, in(_) start, in(_) bytes);
}

/// What was sent for so far is a group.
#[cube]
pub fn gone() {
    gpu_asm!("cp.async.commit_group;");
}

/// Waits for all that the unit has sent for; matrix instructions see it after the next barrier.
#[cube]
pub fn arrived() {
    gpu_asm!("cp.async.wait_all;\nfence.proxy.async.shared::cta;");
}

/// Where a vector of a row lies from the matrix's first on, in bytes.
#[cube]
fn place_of(row: usize, vector: usize, #[comptime] rows: usize) -> u32 {
    let atom = comptime!(text::ATOM);
    (((vector / atom) * rows + row) * atom + ((vector % atom) ^ (row % atom))) as u32 * 16
}

/// Sends for a block of rows of `columns` numbers; zeros from row `end` on.
#[cube]
pub fn fetch<F: Float, N: Size>(
    tensor: &Tensor<Vector<F, N>>,
    base: usize,
    j0: i32,
    end: i32,
    to: u32,
    #[comptime] columns: usize,
    #[comptime] config: Config,
) {
    let stride = tensor.stride(2);
    let steps = comptime!(columns / VECTOR);
    let units = comptime!(config.groups * GROUP);
    let rows = comptime!(units / steps);
    if comptime!(units % steps == 0 && rows % text::ATOM == 0 && config.block % rows == 0) {
        // A unit's rows are as many atoms apart: places follow from the first one. Nothing is read of rows that are not there.
        let row = UNIT_POS as usize / steps;
        let vector = UNIT_POS as usize % steps;
        let first = (base + (j0 as usize + row) * stride) / VECTOR + vector;
        let step = rows * (stride / VECTOR);
        let place = to + place_of(row, vector, comptime!(config.block));
        let there = end - j0 - row as i32;
        #[unroll]
        for n in 0..comptime!(config.block / rows) {
            let from = first + n * step;
            let to = place + comptime!((16 * n * rows * text::ATOM) as u32);
            send(&tensor[from..from + 1], to, comptime!((n * rows) as i32) < there);
        }
    } else {
        #[unroll]
        for n in 0..comptime!((config.block * steps).div_ceil(units)) {
            let at = UNIT_POS as usize + n * units;
            let row = at / steps;
            let vector = at % steps;
            let j = j0 + row as i32;
            let from = (base + min(j, end - 1) as usize * stride) / VECTOR + vector;
            if comptime!((n + 1) * units <= config.block * steps) || at < comptime!(config.block * steps) {
                send(&tensor[from..from + 1], to + place_of(row, vector, comptime!(config.block)), j < end);
            }
        }
    }
}

/// Sends for the queries of a tile: rows that are not there are the last one again.
#[cube]
pub fn fetch_queries<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    place: &Place,
    reach: &Reach,
    to: u32,
    #[comptime] config: Config,
) {
    let steps = comptime!(config.head_dim / VECTOR);
    let query_len = query.shape(2);
    let group = comptime!((16 * ROWS * Config::row(config.head_dim)) as u32);
    let mut at = UNIT_POS as usize;
    while at < comptime!(config.groups * ROWS * steps) {
        let of_tile = at / steps;
        let vector = at % steps;
        let row = min(reach.first_row + of_tile, reach.rows - 1);
        let head = place.first_head + row / query_len;
        let begin = place.batch * query.stride(0) + head * query.stride(1) + row % query_len * query.stride(2);
        let from = begin / VECTOR + vector;
        let place = place_of(of_tile % ROWS, vector, ROWS);
        send(&query[from..from + 1], to + (of_tile / ROWS) as u32 * group + place, true);
        at += comptime!(config.groups * GROUP);
    }
}

/// Begins the products of a group's rows with a block of keys.
#[cube]
pub fn multiply<S: Size>(queries: u32, keys: u32, #[comptime] config: Config) -> Vector<f32, S> {
    let text = comptime!(text::scores(&config));
    let sums: Vector<f32, S>;
    gpu_asm!("{text}\n// {sums} {q} {k}", sums = out(_) sums, q = in(_) queries, k = in(_) keys);
    sums
}

/// Begins to add a block's values, times their weights.
#[cube]
pub fn add<E: Size, P: Size>(
    acc: &Vector<f32, E>,
    weights: &Vector<u32, P>,
    values: u32,
    #[comptime] config: Config,
) -> Vector<f32, E> {
    let text = comptime!(text::outputs(&config));
    let sums: Vector<f32, E>;
    gpu_asm!(
        "{text}\n// {sums} {acc} {p} {v}",
        sums = out(_) sums, acc = in(_) *acc, p = in(_) *weights, v = in(_) values,
    );
    sums
}

/// Sums that are there, when at most `left` groups of products are under way.
#[cube]
pub fn settled<S: Size>(begun: &Vector<f32, S>, #[comptime] left: usize) -> Vector<f32, S> {
    let count = begun.vector_size();
    let text = comptime!(text::settled(count, left));
    let sums: Vector<f32, S>;
    gpu_asm!("{text}\n// {sums} {begun}", sums = out(_) sums, begun = in(_) *begun);
    sums
}

/// The scores of the lane's parts of a block, `x[4·n + 2·r + c]` of its column c of row r of the eight keys n; −∞ where a key is not
/// seen. Products where they are compared before their factor.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's variables, handed on one by one")]
pub fn scored<F: Float, M: Numeric, S: Size>(
    s: Vector<f32, S>,
    x: &mut Array<f32>,
    j0: i32,
    t: usize,
    reach: &Reach,
    rows: &Sequence<Score>,
    mask: &ComptimeOption<&Tensor<M>>,
    bias: &ComptimeOption<&Tensor<F>>,
    #[comptime] config: Config,
) {
    let seen_by_all = j0 >= reach.all_start && j0 + config.block as i32 <= reach.all_end;
    let guarded = comptime!(config.options.mask).runtime() || !seen_by_all;
    #[unroll]
    for n in 0..comptime!(config.block / 8) {
        #[unroll]
        for r in 0..2usize {
            #[unroll]
            for c in 0..2usize {
                let at = comptime!(n * 4 + r * 2 + c);
                if comptime!(config.plain) {
                    x[at] = s.extract(at);
                } else {
                    let j = j0 + (n * 8 + 2 * t + c) as i32;
                    let key_at = min(j, reach.keys - 1) as usize;
                    x[at] = score::<F>(s.extract(at), key_at, j, rows.index(r), bias, config.options);
                }
            }
        }
    }
    if guarded {
        #[unroll]
        for n in 0..comptime!(config.block / 8) {
            #[unroll]
            for r in 0..2usize {
                let row = rows.index(r);
                #[unroll]
                for c in 0..2usize {
                    let at = comptime!(n * 4 + r * 2 + c);
                    let j = j0 + (n * 8 + 2 * t + c) as i32;
                    let key_at = min(j, reach.keys - 1) as usize;
                    let seen = seen::<M>(key_at, j, reach.end, row, mask, config.options);
                    x[at] = select(seen, x[at], row.neg_inf);
                }
            }
        }
    }
}

/// Weights of scores, times 2^`lift`; what the rows' sums so far are to be multiplied by.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's variables, handed on one by one")]
pub fn softmax(
    x: &mut Array<f32>,
    m: &mut Array<f32>,
    l: &mut Array<f32>,
    factors: &mut Array<f32>,
    factor: f32,
    neg_inf: f32,
    lift: f32,
    #[comptime] config: Config,
) {
    #[unroll]
    for r in 0..2usize {
        let mut top = neg_inf;
        #[unroll]
        for n in 0..comptime!(config.block / 8) {
            top = max(top, max(x[n * 4 + r * 2], x[n * 4 + r * 2 + 1]));
        }
        top = max(top, plane_shuffle_xor(top, 1u32));
        top = max(top, plane_shuffle_xor(top, 2u32));
        // Whole, so that nothing but the exponent itself is rounded.
        top = max(m[r], (top * factor).ceil());
        // A row that has seen nothing yet: 0 in place of −∞, so that 2^(−∞ − 0) = 0.
        let level = select(top == neg_inf, f32::cast_from(0u32), top);
        factors[r] = power(&(m[r] - level));
        m[r] = top;
        // Beyond, what rounding took of the greatest product would be seen: all products are rounded, as that one was.
        let mut by = factor;
        if level.abs() > comptime!(HUGE).runtime() {
            by = f32::cast_from(1u32);
            #[unroll]
            for n in 0..comptime!(config.block / 8) {
                #[unroll]
                for c in 0..2usize {
                    let at = comptime!(n * 4 + r * 2 + c);
                    x[at] = product(&x[at], &factor);
                }
            }
        }
        let below = lift - level;
        let mut sum = l[r] * factors[r];
        #[unroll]
        for n in 0..comptime!(config.block / 8) {
            #[unroll]
            for c in 0..2usize {
                let p = power(&fma(x[n * 4 + r * 2 + c], by, below));
                sum += p;
                x[n * 4 + r * 2 + c] = p;
            }
        }
        l[r] = sum;
    }
}

/// A product that is rounded before anything is added to it.
#[cube]
pub fn product(a: &f32, b: &f32) -> f32 {
    let rounded: f32;
    gpu_asm!("mul.rn.f32 {c}, {a}, {b};", c = out(_) rounded, a = in(_) *a, b = in(_) *b, options(pure, nomem));
    rounded
}

/// 2^x, off by 2⁻²² of it.
#[cube]
pub fn power(x: &f32) -> f32 {
    let y: f32;
    gpu_asm!("ex2.approx.ftz.f32 {y}, {x};", y = out(_) y, x = in(_) *x, options(pure, nomem));
    y
}

/// Weights as sums of narrow numbers, for sixteen keys after the other: the words of one term, then those of the next.
#[cube]
pub fn split<P: Size>(x: &mut Array<f32>, #[comptime] config: Config) -> Vector<u32, P> {
    let mut words = Vector::<u32, P>::new(0u32);
    #[unroll]
    for n in 0..comptime!(config.block / 16) {
        #[unroll]
        for at in 0..4usize {
            #[unroll]
            for term in 0..config.terms {
                let low = comptime!(n * 8 + at * 2);
                let high = comptime!(n * 8 + at * 2 + 1);
                let mut a = x[low];
                let mut b = x[high];
                if comptime!(term + 1 < config.terms) {
                    // Cut, not rounded: what is left is exact. The last term is rounded.
                    a = f32::reinterpret(u32::reinterpret(a) & comptime!(config.cut));
                    b = f32::reinterpret(u32::reinterpret(b) & comptime!(config.cut));
                    x[low] = x[low] - a;
                    x[high] = x[high] - b;
                }
                words.insert(comptime!((n * config.terms + term) * 4 + at), pair(&a, &b, config));
            }
        }
    }
    words
}

/// Two narrow numbers in a word.
#[cube]
fn pair(low: &f32, high: &f32, #[comptime] config: Config) -> u32 {
    let of = comptime!(config.narrow());
    let word: u32;
    gpu_asm!(
        "cvt.rn.{of}x2.f32 {word}, {high}, {low};",
        word = out(_) word, high = in(_) *high, low = in(_) *low, options(pure, nomem),
    );
    word
}

/// Whether a sum is not finite.
#[cube]
pub fn is_bad<E: Size>(acc: Vector<f32, E>, #[comptime] config: Config) -> bool {
    let mut bad = false.runtime();
    #[unroll]
    for at in 0..comptime!(config.columns / 2) {
        bad = bad || u32::reinterpret(acc.extract(at)) & 0x7f80_0000u32 == 0x7f80_0000u32;
    }
    bad
}
