//! The composite backward: recomputes the scores of each tile from the inputs and the LSE.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, FloatDType, Scalar, Shape, Slice, TensorMetadata};

use super::context::{Context, Scores, Tile};
use super::finite::Factor;
use super::ops::{cast, clip, dims, fill, grouped, join, part, reshape, times, transposed, ungrouped};
use super::product::product;
use super::tile_shape;
use crate::{AttentionError, AttentionInputs, Gradients, Problem, Upstream, Wanted};

/// What every tile of one backward pass reads.
struct Backward<'a, B: Backend> {
    context: Context<'a, B>,
    wanted: Wanted,
    /// Factors of the products that carry gradients.
    query: Factor<B>,
    key: Factor<B>,
    grad_out: Option<Factor<B>>,
    /// LSE with 0 in place of `−inf`: such rows have no visible score whose weight it could spoil. `[B, H, Sq, 1]`.
    lse: FloatTensor<B>,
    /// `δ = Σ_e dOut·out`, `[B, H, Sq, 1]`; absent where it is zero.
    delta: Option<FloatTensor<B>>,
    /// `dLse`, `[B, H, Sq, 1]`; absent where it is zero.
    grad_lse: Option<FloatTensor<B>>,
}

/// Gradients in the accumulation type while tiles are added to them; query and key as one tensor a tile.
struct Sums<B: Backend> {
    query: Vec<Option<FloatTensor<B>>>,
    key: Vec<Option<FloatTensor<B>>>,
    value: Vec<Option<FloatTensor<B>>>,
    bias: Option<FloatTensor<B>>,
    alibi_slopes: Option<FloatTensor<B>>,
    relative_bias: Option<FloatTensor<B>>,
}

/// See [`AttentionKernel::backward`](crate::AttentionKernel::backward).
pub(super) fn backward<B: Backend>(
    problem: &Problem,
    inputs: &AttentionInputs<B>,
    upstream: Upstream<B>,
    wanted: Wanted,
) -> Result<Gradients<B>, AttentionError> {
    let (tile_rows, tile_keys) = tile_shape(problem);
    let tiles = |len: usize, step: usize| (0..len).step_by(step).map(move |start| start..(start + step).min(len));
    let mut sums = Sums {
        query: tiles(problem.query_len, tile_rows).map(|_| None).collect(),
        key: tiles(problem.key_len, tile_keys).map(|_| None).collect(),
        value: tiles(problem.key_len, tile_keys).map(|_| None).collect(),
        bias: None,
        alibi_slopes: None,
        relative_bias: None,
    };
    if problem.is_empty() {
        return Ok(collect(&Context::new(problem, inputs), wanted, sums, None));
    }
    let pass = Backward::new(problem, inputs, upstream, wanted);
    for (at_rows, rows) in tiles(problem.query_len, tile_rows).enumerate() {
        let seen = pass.context.keys_of_rows(&rows);
        for (at_keys, keys) in tiles(problem.key_len, tile_keys).enumerate() {
            if keys.start >= seen.end || keys.end <= seen.start {
                continue;
            }
            let whole = keys.start <= seen.start && seen.end <= keys.end;
            let tile = Tile { heads: 0..problem.heads, rows: rows.clone(), keys };
            if !pass.context.sees(&tile) {
                continue;
            }
            pass.tile(&tile, whole, at_rows, at_keys, &mut sums);
        }
    }
    let sinks = pass.sinks();
    pass.context.finished(collect(&pass.context, wanted, sums, sinks))
}

impl<'a, B: Backend> Backward<'a, B> {
    fn new(problem: &'a Problem, inputs: &'a AttentionInputs<B>, upstream: Upstream<B>, wanted: Wanted) -> Self {
        let context = Context::new(problem, inputs);
        let may_hide = problem.may_hide();
        let column = [problem.batch, problem.heads, problem.query_len, 1];
        let lse = reshape::<B, 4>(cast::<B>(upstream.lse, context.accumulation), column);
        let nothing = B::float_equal_elem(lse.clone(), Scalar::Float(f64::NEG_INFINITY), context.bool_dtype);
        let delta = upstream.grad_out.as_ref().map(|grad_out| {
            let grad_out = cast::<B>(grad_out.clone(), context.accumulation);
            let out = cast::<B>(upstream.out, context.accumulation);
            B::float_sum_dim(B::float_mul(grad_out, out), 3)
        });
        let grad_lse = upstream.grad_lse.map(|grad| reshape::<B, 4>(cast::<B>(grad, context.accumulation), column));
        Self {
            wanted,
            query: Factor::judge(inputs.query.clone(), may_hide),
            key: Factor::judge(inputs.key.clone(), may_hide),
            // With no value axis there is nothing that the output's gradient could reach.
            grad_out: upstream.grad_out.filter(|_| problem.value_dim > 0).map(|grad| Factor::judge(grad, may_hide)),
            lse: fill::<B>(lse, nothing, 0.0),
            delta,
            grad_lse,
            context,
        }
    }

    /// Adds what a tile gives; `whole` tells that its rows see nothing outside it.
    fn tile(&self, tile: &Tile, whole: bool, at_rows: usize, at_keys: usize, sums: &mut Sums<B>) {
        let context = &self.context;
        let scores = context.scores(tile);
        let lse = context.rows_of(&self.lse, tile);
        let mut weights = B::float_exp(B::float_sub(scores.values.clone(), lse.clone()));
        if whole {
            weights = context.normalised(weights, lse, tile);
        }
        if self.wanted.value
            && let Some(grad_out) = &self.grad_out
        {
            let visible = grad_out.is_poisoned().then(|| context.visible(&weights, &scores.hidden));
            let dropped = context.dropped(weights.clone(), tile);
            add::<B>(&mut sums.value[at_keys], self.transposed_product(dropped, visible, grad_out, tile));
        }
        let Some(mut grad) = self.grad_scores(&scores, weights, tile, whole) else { return };
        if let (Some(function), Some(before)) = (&context.problem.score_mod, &scores.unmodified) {
            let slopes = context.slopes(function, before, tile);
            grad = hide::<B>(B::float_mul(grad, slopes), &scores.hidden);
        }
        if self.wanted.bias {
            self.add_bias(&mut sums.bias, grad.clone(), tile);
        }
        if self.wanted.alibi_slopes {
            let slopes = B::float_neg(B::float_mul(grad.clone(), context.distance(tile)));
            add::<B>(&mut sums.alibi_slopes, sum_to::<B>(slopes, [1, context.problem.heads, 1, 1]));
        }
        if self.wanted.relative_bias {
            context.add_relative_bias(&mut sums.relative_bias, &grad, tile);
        }
        if let Some(tanh) = scores.tanh {
            // d(c·tanh(s/c))/ds = 1 − tanh²
            let square = B::float_mul(tanh.clone(), tanh);
            grad = B::float_sub(grad.clone(), B::float_mul(grad, square));
            grad = hide::<B>(grad, &scores.hidden);
        }
        grad = times::<B>(grad, context.problem.scale);
        if self.wanted.key {
            let visible = None; // A visible non-finite query has already made its row of `grad` non-finite.
            add::<B>(&mut sums.key[at_keys], self.transposed_product(grad.clone(), visible, &self.query, tile));
        }
        if self.wanted.query {
            let kv_heads = context.kv_heads(&tile.heads).len();
            let key = self.key.map(|key| context.keys_of(key, tile));
            let product = key.product(grouped::<B>(grad, kv_heads), None);
            add::<B>(&mut sums.query[at_rows], ungrouped::<B>(product, tile.heads.len()));
        }
    }

    /// `p ∘ (dOut·Vᵀ − δ + dLse)`, 0 where hidden; `None` where it is zero throughout. Dropout multiplies `dOut·Vᵀ` as it does the weights.
    ///
    /// Where the tile is all that its rows see, `δ = Σ_j p·(dOut·Vᵀ)` is taken from the very products it is subtracted from: where
    /// one weight is 1, the difference is then exactly 0, and not a rounding error that a large key magnifies.
    fn grad_scores(
        &self,
        scores: &Scores<B>,
        weights: FloatTensor<B>,
        tile: &Tile,
        whole: bool,
    ) -> Option<FloatTensor<B>> {
        let context = &self.context;
        let by_out = self.grad_out.as_ref().map(|grad_out| {
            let kv_heads = context.kv_heads(&tile.heads).len();
            let value = transposed::<B>(context.keys_of(&context.inputs.value, tile));
            let grad_out = grouped::<B>(context.rows_of(grad_out.raw(), tile), kv_heads);
            context.dropped(ungrouped::<B>(product::<B>(grad_out, value), tile.heads.len()), tile)
        });
        let rows = |tensor: &Option<FloatTensor<B>>| tensor.as_ref().map(|tensor| context.rows_of(tensor, tile));
        let delta = match &by_out {
            Some(by_out) if whole => {
                let products = hide::<B>(B::float_mul(weights.clone(), by_out.clone()), &scores.hidden);
                Some(B::float_sum_dim(products, 3))
            }
            _ => rows(&self.delta),
        };
        let by_weights = match (by_out, shift::<B>(rows(&self.grad_lse), delta)) {
            (Some(by_out), Some(shift)) => B::float_add(by_out, shift),
            (Some(by_out), None) => by_out,
            (None, Some(shift)) => return Some(hide::<B>(B::float_mul(weights, shift), &scores.hidden)),
            (None, None) => return None,
        };
        Some(hide::<B>(B::float_mul(weights, by_weights), &scores.hidden))
    }

    /// `weightsᵀ · rows`, summed over the query heads of each group: `[B, G, k, X]`.
    fn transposed_product(
        &self,
        weights: FloatTensor<B>,
        visible: Option<FloatTensor<B>>,
        rows: &Factor<B>,
        tile: &Tile,
    ) -> FloatTensor<B> {
        let kv_heads = self.context.kv_heads(&tile.heads).len();
        let turned = |tensor: FloatTensor<B>| transposed::<B>(grouped::<B>(tensor, kv_heads));
        let rows = rows.map(|rows| grouped::<B>(self.context.rows_of(rows, tile), kv_heads));
        rows.product(turned(weights), visible.map(turned))
    }

    fn add_bias(&self, sum: &mut Option<FloatTensor<B>>, grad: FloatTensor<B>, tile: &Tile) {
        let problem = self.context.problem;
        let Some(shape) = problem.bias else { return };
        let ranges = clip(shape, [0..problem.batch, tile.heads.clone(), tile.rows.clone(), tile.keys.clone()]);
        let lengths = [ranges[0].len(), ranges[1].len(), ranges[2].len(), ranges[3].len()];
        let total = sum
            .take()
            .unwrap_or_else(|| B::float_zeros(Shape::from(shape), &self.context.device, self.context.accumulation));
        let before = part::<B>(&total, ranges.clone());
        let after = B::float_add(before, sum_to::<B>(grad, lengths));
        *sum = Some(B::float_slice_assign(total, &ranges.map(Slice::from), after));
    }

    /// `dSink_h = Σ exp(sink − lse) · (dLse − δ)`, `[H]`.
    fn sinks(&self) -> Option<FloatTensor<B>> {
        let problem = self.context.problem;
        let sinks = self.context.inputs.sinks.as_ref()?;
        let shift = shift::<B>(self.grad_lse.clone(), self.delta.clone())?;
        if !self.wanted.sinks {
            return None;
        }
        let sinks = self.context.per_head(sinks, &(0..problem.heads));
        let weights = B::float_exp(B::float_sub(sinks, self.lse.clone()));
        let grad = sum_to::<B>(B::float_mul(weights, shift), [1, problem.heads, 1, 1]);
        Some(reshape::<B, 1>(grad, [problem.heads]))
    }
}

/// `dLse − δ`; `None` where it is zero.
fn shift<B: Backend>(grad_lse: Option<FloatTensor<B>>, delta: Option<FloatTensor<B>>) -> Option<FloatTensor<B>> {
    match (grad_lse, delta) {
        (Some(grad_lse), Some(delta)) => Some(B::float_sub(grad_lse, delta)),
        (Some(grad_lse), None) => Some(grad_lse),
        (None, Some(delta)) => Some(B::float_neg(delta)),
        (None, None) => None,
    }
}

/// 0 where hidden, whatever stood there.
fn hide<B: Backend>(tensor: FloatTensor<B>, hidden: &[burn_backend::tensor::BoolTensor<B>]) -> FloatTensor<B> {
    hidden.iter().fold(tensor, |tensor, mask| fill::<B>(tensor, mask.clone(), 0.0))
}

fn add<B: Backend>(sum: &mut Option<FloatTensor<B>>, term: FloatTensor<B>) {
    *sum = Some(match sum.take() {
        Some(sum) => B::float_add(sum, term),
        None => term,
    });
}

/// Sums over the axes that `shape` has as 1.
fn sum_to<B: Backend>(tensor: FloatTensor<B>, shape: [usize; 4]) -> FloatTensor<B> {
    let from = dims(&tensor);
    (0..4)
        .filter(|&axis| shape[axis] == 1 && from[axis] != 1)
        .fold(tensor, |tensor, axis| B::float_sum_dim(tensor, axis))
}

/// Joins the tiles, puts zeros where no tile was visible, and casts to the inputs' type.
fn collect<B: Backend>(
    context: &Context<'_, B>,
    wanted: Wanted,
    sums: Sums<B>,
    sinks: Option<FloatTensor<B>>,
) -> Gradients<B> {
    let (problem, inputs) = (context.problem, context.inputs);
    let (tile_rows, tile_keys) = tile_shape(problem);
    let zeros = |shape: Vec<usize>| B::float_zeros(Shape::from(shape), &context.device, context.accumulation);
    let tiled = |tiles: Vec<Option<FloatTensor<B>>>, like: &FloatTensor<B>, step: usize| {
        let [batch, heads, len, dim] = dims(like);
        let mut tiles = tiles
            .into_iter()
            .enumerate()
            .map(|(at, tile)| tile.unwrap_or_else(|| zeros(vec![batch, heads, step.min(len - at * step), dim])));
        match tiles.next() {
            Some(first) => join::<B>(first, tiles.collect(), 2),
            None => zeros(vec![batch, heads, len, dim]),
        }
    };
    let dtype: FloatDType = problem.dtype;
    let like = |wanted: bool, sum: Option<FloatTensor<B>>, input: &Option<FloatTensor<B>>| {
        let input = input.as_ref().filter(|_| wanted)?;
        let shape = input.shape();
        let sum = sum.map(|sum| B::float_reshape(sum, shape.clone()));
        Some(cast::<B>(sum.unwrap_or_else(|| zeros(shape.to_vec())), dtype))
    };
    Gradients {
        query: wanted.query.then(|| cast::<B>(tiled(sums.query, &inputs.query, tile_rows), dtype)),
        key: wanted.key.then(|| cast::<B>(tiled(sums.key, &inputs.key, tile_keys), dtype)),
        value: wanted.value.then(|| cast::<B>(tiled(sums.value, &inputs.value, tile_keys), dtype)),
        bias: like(wanted.bias, sums.bias, &inputs.bias),
        alibi_slopes: like(wanted.alibi_slopes, sums.alibi_slopes, &inputs.alibi_slopes),
        relative_bias: like(wanted.relative_bias, sums.relative_bias, &inputs.relative_bias),
        sinks: like(wanted.sinks, sinks, &inputs.sinks),
    }
}
