//! The register tile, which both products use: up to six rows by four vectors of `C ← factor · C + A · B`.
//!
//! ```text
//! acc[r][v] = 0 or factor[r] · C[r][v]
//! for k in 0..depth:
//!     b[v] = B[k][v]                       (vectors)
//!     for r: acc[r][v] += A[r][k] · b[v]   (A broadcast)
//! C[r][v] = acc[r][v]
//! ```
//! Where packed operands are units of two bf16, a step is two steps of the depth.

use crate::kernel::{BLOCK, PIECE, ROWS, STRIDE, whole_rows};
use crate::simd::{Job, Simd};

/// How the broadcast operand lies: pieces of `LENGTH` steps along the depth, each of [`ROWS`] rows. Constants, so that one register
/// addresses all rows.
pub(crate) trait Lies: Copy {
    /// Steps of a piece.
    const LENGTH: usize;
    /// From one row to the next.
    const ROW: usize;
    /// From one step to the next.
    const STEP: usize = 1;
}

/// A task's queries.
#[derive(Clone, Copy)]
pub(crate) struct Queries;

impl Lies for Queries {
    const LENGTH: usize = PIECE;
    const ROW: usize = PIECE;
}

/// A strip's weights: one piece, since no block has more keys.
#[derive(Clone, Copy)]
pub(crate) struct Weights;

impl Lies for Weights {
    const LENGTH: usize = BLOCK;
    const ROW: usize = STRIDE;
}

/// A run of rows of weights, of which the columns are the product's rows: the transposed operand, as it lies.
#[derive(Clone, Copy)]
pub(crate) struct Columns;

impl Lies for Columns {
    const LENGTH: usize = usize::MAX;
    const ROW: usize = 1;
    const STEP: usize = STRIDE;
}

/// The operands of a tile. Strides count elements.
pub(crate) struct Tile<S: Simd, L> {
    /// `[rows, depth]`, lying as `L` says.
    pub a: *const S::A,
    pub lies: std::marker::PhantomData<L>,
    /// `[depth, vectors · LANES]`, the last axis contiguous.
    pub b: *const S::A,
    pub b_stride: usize,
    pub depth: usize,
    /// `[rows, vectors · LANES]`, the last axis contiguous.
    pub c: *mut S::A,
    pub c_stride: usize,
    /// `[rows]`: multiplies what `C` holds. Null: `C` is overwritten.
    pub factor: *const S::A,
}

/// Steps of the loop's body. The loop's own instructions then cost 2% of the slots in place of 8%, which matters where two
/// hardware threads share a core's front end.
const UNROLL: usize = 4;

/// Runs a tile of `rows` (rounded up to [`whole_rows`]) by `vectors` (at most `TILE_VECTORS`).
///
/// # Safety
/// The CPU has the instruction set of `S`, and the operands are valid for that many rows and vectors.
pub(crate) unsafe fn run<S: Simd, L: Lies>(rows: usize, vectors: usize, tile: &Tile<S, L>) {
    // SAFETY: passed on from the caller.
    unsafe {
        match whole_rows(rows) {
            1 => with_rows::<S, L, 1>(vectors, tile),
            2 => with_rows::<S, L, 2>(vectors, tile),
            4 => with_rows::<S, L, 4>(vectors, tile),
            _ => with_rows::<S, L, 6>(vectors, tile),
        }
    }
}

unsafe fn with_rows<S: Simd, L: Lies, const R: usize>(vectors: usize, tile: &Tile<S, L>) {
    // SAFETY: passed on from the caller.
    unsafe {
        match vectors {
            0 | 1 => S::enter(Sized::<'_, S, L, R, 1>(tile)),
            2 => S::enter(Sized::<'_, S, L, R, 2>(tile)),
            3 => S::enter(Sized::<'_, S, L, R, 3>(tile)),
            _ => S::enter(Sized::<'_, S, L, R, 4>(tile)),
        }
    }
}

/// A tile whose size the compiler knows, so that its accumulators are registers. The operands are borrowed: copying them
/// right after they were written would stall on store forwarding, 4% of the whole.
struct Sized<'a, S: Simd, L, const R: usize, const N: usize>(&'a Tile<S, L>);

impl<S: Simd, L: Lies, const R: usize, const N: usize> Job<S> for Sized<'_, S, L, R, N> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let t = self.0;
        // SAFETY: the operands are valid for R rows and N vectors, as `run` was promised.
        unsafe {
            let mut acc = [[S::splat(S::A::default()); N]; R];
            if !t.factor.is_null() {
                for (r, row) in acc.iter_mut().enumerate() {
                    let factor = S::splat(*t.factor.add(r));
                    for (v, x) in row.iter_mut().enumerate() {
                        *x = S::mul(factor, S::load(t.c.add(r * t.c_stride + v * S::LANES)));
                    }
                }
            }
            let (mut a, mut b, mut left) = (t.a, t.b, t.depth);
            while left > 0 {
                let depth = left.min(L::LENGTH);
                for _ in 0..depth / UNROLL {
                    for _ in 0..UNROLL {
                        step::<S, L, R, N>(&mut acc, a, b);
                        a = a.wrapping_add(L::STEP);
                        b = b.wrapping_add(t.b_stride);
                    }
                }
                for _ in 0..depth % UNROLL {
                    step::<S, L, R, N>(&mut acc, a, b);
                    a = a.wrapping_add(L::STEP);
                    b = b.wrapping_add(t.b_stride);
                }
                a = a.wrapping_add((ROWS * L::ROW).wrapping_sub(L::LENGTH.wrapping_mul(L::STEP)));
                left -= depth;
            }
            for (r, row) in acc.iter().enumerate() {
                for (v, x) in row.iter().enumerate() {
                    S::store(t.c.add(r * t.c_stride + v * S::LANES), *x);
                }
            }
        }
    }
}

/// One step along the depth.
#[inline(always)]
unsafe fn step<S: Simd, L: Lies, const R: usize, const N: usize>(
    acc: &mut [[S::V; N]; R],
    a: *const S::A,
    b: *const S::A,
) {
    // SAFETY: `a` is valid for a number of each row, `b` for N vectors.
    unsafe {
        let b: [S::V; N] = std::array::from_fn(|v| S::load(b.add(v * S::LANES)));
        for (r, row) in acc.iter_mut().enumerate() {
            let a = S::splat(*a.add(r * L::ROW));
            for (x, b) in row.iter_mut().zip(b) {
                *x = S::mac(a, b, *x);
            }
        }
    }
}
