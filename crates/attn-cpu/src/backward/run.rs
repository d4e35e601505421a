//! Items and threads: which block of keys is worked on when, and what is left to do when all are done.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::cut::{BiasSums, Cut};
use super::turns::{Turns, Watch};
use super::worker::Worker;
use super::{Gradients, Upstream, Wanted};
use crate::element::{Element, Loads};
use crate::kernel::gradient::Inner;
use crate::math::Float;
use crate::problem::{Attention, Dims};
use crate::schedule::{Geometry, products};
use crate::spread::{is_serial, spread};
use crate::workspace::{Area, Workspace};
use crate::{CpuError, View};

/// A checked problem with where its gradients go.
pub struct Call<'a, T: Element> {
    pub(crate) problem: &'a Attention<'a, T>,
    pub(crate) dims: Dims,
    pub(crate) upstream: &'a Upstream<'a, T>,
    pub(crate) wanted: Wanted,
    /// Those that are wanted, of the right lengths, all 0.
    pub(crate) grads: &'a mut Gradients<T>,
}

/// What the workers share: the problem, and pointers to what they add to. Null where it is not wanted.
#[derive(Debug)]
pub(super) struct Task<'a, T: Element> {
    pub problem: &'a Attention<'a, T>,
    pub dims: Dims,
    pub upstream: &'a Upstream<'a, T>,
    pub wanted: Wanted,
    pub cut: Cut,
    /// Gradients themselves.
    pub query: *mut T,
    pub key: *mut T,
    pub value: *mut T,
    /// dQ in accumulators: the gradient itself, `[B, H, Sq, D]`, or `[B, G, rows, D]` where elements are narrower.
    pub query_sums: *mut T::Accum,
    /// As [`BiasSums`] says.
    pub bias_sums: *mut T::Accum,
    /// `[B, H, Sq]`.
    pub slope_sums: *mut T::Accum,
    /// `[B, H, distances]`.
    pub table_sums: *mut T::Accum,
    /// dK and dV of all blocks that several items share, `[B, G, Sk, head_width or value_width]`. Null where none is.
    pub key_sums: *mut T::Accum,
    pub value_sums: *mut T::Accum,
    /// Turns to add to a block of rows, to a tile of a shared bias, to a head's table, to a block of keys.
    pub row_turns: Turns<'a>,
    pub tile_turns: Turns<'a>,
    pub table_turns: Turns<'a>,
    pub key_turns: Turns<'a>,
    /// Whether anything may be hidden.
    pub may_hide: bool,
}

// SAFETY: the pointers come from exclusive borrows that outlive the workers; blocks of keys are of one item each, and what several items
// add to, they add to by turns.
unsafe impl<T: Element> Sync for Task<'_, T> {}

impl<T: Element> Task<'_, T> {
    /// The keys that a block of rows sees by its band, from the first to past the last.
    pub fn seen_by_rows(&self, head: usize, block: usize) -> (usize, usize) {
        let (band, group) = (&self.problem.bands[head / self.dims.kv_heads], self.cut.scoring.group);
        let first = block * self.cut.block_rows;
        let last = (first + self.cut.block_rows).min(self.cut.rows) - 1;
        let (start, end) = (band.visible(first / group).0, band.visible(last / group).1);
        (start, end.max(start))
    }
}

/// Runs a checked problem on vectors of `S`, which this machine has.
///
/// # Errors
/// Where memory has no room for the workspace.
pub(crate) fn run<S: Loads<T>, T: Element<Accum = S::A>>(call: Call<'_, T>) -> Result<(), CpuError> {
    let Call { problem, dims, upstream, wanted, grads } = call;
    let cut = Cut::new(&dims, Geometry::of::<S>(), &wanted, T::IS_WIDE);
    if cut.rows > 0 && cut.items() > 0 {
        let threads = rayon::current_num_threads();
        let mut workspace = Workspace::new(cut.bytes::<S::A>(threads))?;
        let mut area = workspace.area();
        let sums = cut.sums().map(|count| zeros::<S::A>(&mut area, count));
        let shared = |at: usize| if cut.sums()[at] > 0 { sums[at] } else { std::ptr::null_mut() };
        let stopped = AtomicBool::new(false);
        let [rows, tiles, tables, keys] = cut.turns();
        let pointer = |grads: &mut Option<Vec<T>>| grads.as_mut().map_or(std::ptr::null_mut(), Vec::as_mut_ptr);
        let (query, bias) = (pointer(&mut grads.query), pointer(&mut grads.bias));
        let mut task = Task {
            problem,
            dims,
            upstream,
            wanted,
            cut,
            query,
            key: pointer(&mut grads.key),
            value: pointer(&mut grads.value),
            query_sums: if T::IS_WIDE { query.cast() } else { sums[0] },
            bias_sums: if T::IS_WIDE && cut.bias == BiasSums::Pairs { bias.cast() } else { sums[1] },
            slope_sums: sums[2],
            table_sums: sums[3],
            key_sums: shared(4),
            value_sums: shared(5),
            row_turns: Turns::new(&mut area, 0, &stopped, |_| 0),
            tile_turns: Turns::new(&mut area, tiles, &stopped, |_| 0),
            table_turns: Turns::new(&mut area, tables, &stopped, |_| 0),
            key_turns: Turns::new(&mut area, keys, &stopped, |_| 0),
            may_hide: may_hide(problem, &dims),
        };
        let mut pairs = 0;
        task.row_turns = Turns::new(&mut area, rows, &stopped, |at| {
            let (start, end) = task.seen_by_rows(at / cut.row_blocks, at % cut.row_blocks);
            pairs += (end - start) as u128 * cut.block_rows as u128;
            start / cut.block_keys
        });
        let products = products(&dims, pairs);
        let workers = if is_serial(products) { 1 } else { cut.workers(threads) };
        let next = AtomicUsize::new(0);
        let work = |area: Area<'_>| {
            let _watch = Watch(&stopped);
            let (mut area, mut worker) = (Some(area), None);
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= cut.items() || stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Some(area) = area.take() {
                    worker = Some(Worker::<S, T>::new(&task, area));
                }
                let (head, within) = place(item, cut.heads, cut.key_blocks * cut.parts, workers);
                if let Some(worker) = &mut worker
                    && !worker.item(head, within / cut.parts, within % cut.parts)
                {
                    return;
                }
            }
        };
        // Five products of two matrices where the forward has two.
        spread(area, workers, cut.worker_bytes::<S::A>(), products.saturating_mul(5) / 2, &work);
        finish::<T>(&task, grads);
    }
    if let (Some(to), Some(sinks)) = (&mut grads.sinks, problem.sinks) {
        for (head, (to, sink)) in to.iter_mut().zip(sinks).enumerate() {
            *to = T::narrow(S::A::from_f64(sink_gradient::<S, T>(&dims, upstream, head, sink.widen().to_f64())));
        }
    }
    Ok(())
}

/// Key/value head of an item, and which of the head's items it is, block of keys by block of keys: as many heads as there are workers take
/// turns. So a worker mostly finds that the block before its own is done, and what an item waits for is always taken before it.
fn place(item: usize, heads: usize, blocks: usize, workers: usize) -> (usize, usize) {
    let wave = item / (workers * blocks);
    let (first, within) = (wave * workers, item % (workers * blocks));
    let width = workers.min(heads - first);
    (first + within % width, within / width)
}

/// Room for `count` numbers, all 0.
fn zeros<A: Float>(area: &mut Area<'_>, count: usize) -> *mut A {
    let room = area.take(count);
    room.fill(MaybeUninit::new(A::ZERO));
    room.as_mut_ptr().cast()
}

/// Whether any pair may be hidden.
fn may_hide<T: Element>(problem: &Attention<'_, T>, dims: &Dims) -> bool {
    let whole = |query| problem.bands.iter().all(|band| band.visible(query) == (0, dims.key_len));
    problem.mask.is_some()
        || problem.blocks.is_some()
        || problem.bias.is_some()
        || problem.relative_bias.is_some()
        || problem.score_mod.is_some()
        || !(whole(0) && whole(dims.query_len.saturating_sub(1)))
}

/// Sums up what items have left for slopes, tables and biases that are broadcast, in one order.
fn finish<T: Element>(task: &Task<'_, T>, grads: &mut Gradients<T>)
where
    T::Accum: Float,
{
    let Dims { batch, heads, query_len, key_len, .. } = task.dims;
    // SAFETY: all workers are done; each of these has as many numbers, which began as 0.
    let sums = |sums: *mut T::Accum, count: usize| unsafe { std::slice::from_raw_parts(sums.cast_const(), count) };
    if let Some(slopes) = &mut grads.alibi_slopes {
        let rows = sums(task.slope_sums, batch * heads * query_len);
        for (head, to) in slopes.iter_mut().enumerate() {
            let rows = (0..batch).flat_map(|b| &rows[(b * heads + head) * query_len..][..query_len]);
            *to = T::narrow(T::Accum::from_f64(rows.map(|x| x.to_f64()).sum()));
        }
    }
    if let (Some(table), Some([own, distances])) = (&mut grads.relative_bias, task.wanted.relative_bias) {
        let all = sums(task.table_sums, batch * heads * distances);
        reduce::<T>(table, [1, own, 1, distances], all, [batch, heads, 1, distances]);
    }
    if let (Some(bias), Some(shape)) = (&mut grads.bias, task.wanted.bias) {
        match task.cut.bias {
            BiasSums::Nothing => {}
            BiasSums::Pairs if T::IS_WIDE => {}
            BiasSums::Pairs => {
                let all = sums(task.bias_sums, bias.len());
                reduce::<T>(bias, shape, all, shape);
            }
            BiasSums::Columns => {
                let full = [batch, heads, 1, key_len];
                reduce::<T>(bias, shape, sums(task.bias_sums, batch * heads * key_len), full);
            }
            BiasSums::Rows => {
                let full = [batch, heads, query_len, 1];
                reduce::<T>(bias, shape, sums(task.bias_sums, batch * heads * query_len), full);
            }
        }
    }
}

/// Sums over the axes along which `shape` is 1 and `full` is not.
fn reduce<T: Element>(to: &mut [T], shape: [usize; 4], from: &[T::Accum], full: [usize; 4])
where
    T::Accum: Float,
{
    let axes: [(usize, usize); 4] = std::array::from_fn(|axis| (shape[axis], full[axis] / shape[axis].max(1)));
    let strides = [full[1] * full[2] * full[3], full[2] * full[3], full[3], 1];
    for (at, to) in to.iter_mut().enumerate() {
        let place = [
            at / (shape[1] * shape[2] * shape[3]),
            at / (shape[2] * shape[3]) % shape[1],
            at / shape[3] % shape[2],
            at % shape[3],
        ];
        let first: usize = place.iter().zip(strides).map(|(place, stride)| place * stride).sum();
        let mut sum = 0.0;
        for a in 0..axes[0].1 {
            for b in 0..axes[1].1 {
                for c in 0..axes[2].1 {
                    for d in 0..axes[3].1 {
                        sum += from[first + a * strides[0] + b * strides[1] + c * strides[2] + d].to_f64();
                    }
                }
            }
        }
        *to = T::narrow(T::Accum::from_f64(sum));
    }
}

/// `Σ exp(sink − LSE) · (dLse − δ)` over all rows of a head.
fn sink_gradient<S: Loads<T>, T: Element<Accum = S::A>>(
    dims: &Dims,
    upstream: &Upstream<'_, T>,
    head: usize,
    sink: f64,
) -> f64 {
    let mut sum = 0.0;
    for b in 0..dims.batch {
        for i in 0..dims.query_len {
            let lse = number(&upstream.lse, [b, head, i]).to_f64();
            if sink != f64::NEG_INFINITY {
                sum -= (sink - lse).exp() * shift::<S, T>(upstream, dims, [b, head, i]).to_f64();
            }
        }
    }
    sum
}

/// `δ − dLse` of a row: `Σ dOut·out − dLse`.
pub(super) fn shift<S: Loads<T>, T: Element<Accum = S::A>>(
    upstream: &Upstream<'_, T>,
    dims: &Dims,
    row: [usize; 3],
) -> S::A {
    let delta = upstream.grad_out.map_or(S::A::ZERO, |grad| {
        let job = Inner {
            a: row_of(&grad, row),
            a_stride: grad.strides()[3],
            b: row_of(&upstream.out, row),
            b_stride: upstream.out.strides()[3],
            count: dims.value_dim,
        };
        // SAFETY: both views were checked to have `value_dim` elements in every row.
        unsafe { S::enter(job) }
    });
    upstream.grad_lse.map_or(delta, |grad| delta + -number(&grad, row))
}

/// Where a row of a view `[B, H, N, X]` begins.
pub(super) fn row_of<T>(view: &View<'_, T, 4>, row: [usize; 3]) -> *const T {
    let at: usize = row.iter().zip(view.strides()).map(|(place, stride)| place * stride).sum();
    view.data().as_ptr().wrapping_add(at)
}

/// A number of a view `[B, H, Sq]`.
pub(super) fn number<A: Copy>(view: &View<'_, A, 3>, row: [usize; 3]) -> A {
    view.data()[row.iter().zip(view.strides()).map(|(place, stride)| place * stride).sum::<usize>()]
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn every_item_has_its_place_after_those_that_it_waits_for() {
        for (heads, blocks, workers) in [(1, 5, 1), (1, 5, 3), (3, 4, 2), (7, 2, 3), (8, 1, 2), (2, 3, 8)] {
            let places: Vec<_> = (0..heads * blocks).map(|item| place(item, heads, blocks, workers)).collect();
            for head in 0..heads {
                let own: Vec<_> = places.iter().filter(|place| place.0 == head).map(|place| place.1).collect();
                assert_eq!(own, (0..blocks).collect::<Vec<_>>(), "{heads} {blocks} {workers}");
                // Of one block, too, heads come in their order.
                for block in 0..blocks {
                    let at = |head| places.iter().position(|place| *place == (head, block));
                    assert!(head == 0 || at(head - 1) < at(head), "{heads} {blocks} {workers}");
                }
            }
        }
    }
}
