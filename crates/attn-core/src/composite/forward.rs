//! The composite forward: online softmax over tiles of keys.

use std::ops::Range;

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, Scalar, Shape};

use super::context::{Context, Tile};
use super::finite::Factor;
use super::ops::{cast, fill, grouped, join, reshape, ungrouped};
use super::tile_shape;
use crate::{AttentionError, AttentionInputs, AttentionOutputs, Problem};

/// Running maximum `[B, H, r, 1]`, sum `[B, H, r, 1]` and weighted values `[B, H, r, E]` of a tile of queries.
struct Softmax<B: Backend> {
    max: FloatTensor<B>,
    sum: FloatTensor<B>,
    values: FloatTensor<B>,
}

/// See [`AttentionKernel::forward`](crate::AttentionKernel::forward).
pub(super) fn forward<B: Backend>(
    problem: &Problem,
    inputs: &AttentionInputs<B>,
    lse: bool,
) -> Result<AttentionOutputs<B>, AttentionError> {
    let context = Context::new(problem, inputs);
    if problem.is_empty() {
        return Ok(empty(&context, lse));
    }
    let value = Factor::judge(inputs.value.clone(), problem.may_hide());
    let (tile_rows, _) = tile_shape(problem);
    let mut tiles = (0..problem.query_len).step_by(tile_rows).map(|start| {
        let rows = start..(start + tile_rows).min(problem.query_len);
        finish(&context, attend(&context, &value, rows))
    });
    // `is_empty` above leaves at least one tile.
    let Some((first_out, first_lse)) = tiles.next() else {
        return Ok(empty(&context, lse));
    };
    let (outs, lses): (Vec<_>, Vec<_>) = tiles.unzip();
    context.finished(AttentionOutputs {
        out: join::<B>(first_out, outs, 2),
        lse: lse.then(|| join::<B>(first_lse, lses, 2)),
    })
}

fn empty<B: Backend>(context: &Context<'_, B>, lse: bool) -> AttentionOutputs<B> {
    let problem = context.problem;
    let shape = [problem.batch, problem.heads, problem.query_len, problem.value_dim];
    AttentionOutputs {
        out: B::float_zeros(Shape::from(shape), &context.device, problem.dtype),
        lse: lse.then(|| {
            B::float_zeros(Shape::from([shape[0], shape[1], shape[2]]), &context.device, context.accumulation)
        }),
    }
}

/// The softmax of a tile of queries over all keys that they may see.
fn attend<B: Backend>(context: &Context<'_, B>, value: &Factor<B>, rows: Range<usize>) -> Softmax<B> {
    let (_, tile_keys) = tile_shape(context.problem);
    let keys = context.keys_of_rows(&rows);
    let mut softmax = start(context, rows.len());
    for start in keys.clone().step_by(tile_keys) {
        let tile = Tile {
            heads: 0..context.problem.heads,
            rows: rows.clone(),
            keys: start..(start + tile_keys).min(keys.end),
        };
        if context.sees(&tile) {
            softmax = step(context, value, &tile, softmax);
        }
    }
    softmax
}

/// The softmax over nothing but the sink.
fn start<B: Backend>(context: &Context<'_, B>, rows: usize) -> Softmax<B> {
    let problem = context.problem;
    let full = |dim: usize, value: f64| {
        let shape = Shape::from([problem.batch, problem.heads, rows, dim]);
        B::float_full(shape, Scalar::Float(value), &context.device, context.accumulation)
    };
    // The lowest finite number in place of −inf, so that no difference of maxima is NaN.
    let lowest = context.accumulation.finfo().min;
    let (max, sum) = match &context.inputs.sinks {
        Some(sinks) => {
            let sink = B::float_add(full(1, 0.0), context.per_head(sinks, &(0..problem.heads)));
            let max = B::float_clamp_min(sink.clone(), Scalar::Float(lowest));
            (max.clone(), B::float_exp(B::float_sub(sink, max)))
        }
        None => (full(1, lowest), full(1, 0.0)),
    };
    Softmax { max, sum, values: full(problem.value_dim, 0.0) }
}

/// Takes one more tile of keys into the softmax.
fn step<B: Backend>(context: &Context<'_, B>, value: &Factor<B>, tile: &Tile, softmax: Softmax<B>) -> Softmax<B> {
    let scores = context.scores(tile);
    let visible = value.is_poisoned().then(|| context.visible(&scores.values, &scores.hidden));
    let tile_max = B::float_max_dim(scores.values.clone(), 3);
    let max = larger::<B>(softmax.max.clone(), tile_max, context);
    let rescale = B::float_exp(B::float_sub(softmax.max, max.clone()));
    let weights = B::float_exp(B::float_sub(scores.values, max.clone()));
    let sum = B::float_add(B::float_mul(softmax.sum, rescale.clone()), B::float_sum_dim(weights.clone(), 3));
    let values = match context.problem.value_dim {
        0 => softmax.values,
        _ => {
            let kv_heads = context.kv_heads(&tile.heads).len();
            let value = value.map(|value| context.keys_of(value, tile));
            let weights = context.dropped(weights, tile);
            let product = value.product(grouped::<B>(weights, kv_heads), visible.map(|v| grouped::<B>(v, kv_heads)));
            B::float_add(B::float_mul(softmax.values, rescale), ungrouped::<B>(product, tile.heads.len()))
        }
    };
    Softmax { max, sum, values }
}

/// The elementwise larger of two tensors; the first is finite.
fn larger<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>, context: &Context<'_, B>) -> FloatTensor<B> {
    let take_b = B::float_greater(b.clone(), a.clone(), context.bool_dtype);
    B::float_mask_where(a, take_b, b)
}

/// Output in the inputs' type and LSE `[B, H, r]`.
fn finish<B: Backend>(context: &Context<'_, B>, softmax: Softmax<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let [batch, heads, rows, _] = super::ops::dims(&softmax.sum);
    let nothing = B::float_equal_elem(softmax.sum.clone(), Scalar::Float(0.0), context.bool_dtype);
    let divisor = fill::<B>(softmax.sum.clone(), nothing.clone(), 1.0);
    let out = cast::<B>(B::float_div(softmax.values, divisor.clone()), context.problem.dtype);
    let lse = fill::<B>(B::float_add(softmax.max, B::float_log(divisor)), nothing, f64::NEG_INFINITY);
    (out, reshape::<B, 3>(lse, [batch, heads, rows]))
}
