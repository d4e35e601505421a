//! Attention weights and scores, made only when asked for.

use std::ops::Range;

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, Scalar, Shape, TensorMetadata, get_or_init_device_settings};

use super::context::{Context, Tile};
use super::finite::Factor;
use super::ops::{dims, fill, grouped, join, reshape, ungrouped};
use crate::{AttentionError, AttentionInputs, Problem};

/// Which rows of the weights, or of the scores, to make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Query heads, in the order in which they shall come; `None` is all of them.
    pub heads: Option<Vec<usize>>,
    /// Queries, in the order in which they shall come; `None` is all of them.
    pub rows: Option<Vec<usize>>,
}

impl Selection {
    /// Every head and row.
    pub fn all() -> Self {
        Self::default()
    }

    /// Checks that the heads and rows exist.
    ///
    /// # Errors
    /// A value error that names `heads` or `rows`.
    pub fn check(&self, problem: &Problem) -> Result<(), AttentionError> {
        let check = |argument, selected: &Option<Vec<usize>>, len: usize| match selected
            .iter()
            .flatten()
            .find(|&&index| index >= len)
        {
            Some(index) => Err(AttentionError::value(argument, format!("indices below {len}"), index)),
            None => Ok(()),
        };
        check("heads", &self.heads, problem.heads)?;
        check("rows", &self.rows, problem.query_len)
    }
}

/// `w(i, j) = exp(s(i, j) − lse(i))` for the selected heads and rows: `[B, heads, rows, Sk]` in the accumulation type.
///
/// Rows that see nothing are 0. With sinks, rows sum to less than 1. Differentiable where `B` is. Memory and time are those of the
/// selection, whatever the lengths.
///
/// # Errors
/// A value error that names `heads` or `rows` where the selection points past them.
pub fn weights<B: Backend>(
    problem: &Problem,
    inputs: &AttentionInputs<B>,
    lse: &FloatTensor<B>,
    selection: &Selection,
) -> Result<FloatTensor<B>, AttentionError> {
    selection.check(problem)?;
    let context = Context::new(problem, inputs);
    let lse = reshape::<B, 4>(lse.clone(), [problem.batch, problem.heads, problem.query_len, 1]);
    context.finished(selected(&context, selection, |tile| tile_weights(&context, &lse, tile))?)
}

/// The scores `s(i, j)` that the softmax takes, after softcap, ALiBi and bias, for the selected heads and rows: `[B,
/// heads, rows, Sk]` in the accumulation type, `−inf` where hidden. Sinks are no part of them.
///
/// Differentiable where `B` is. Memory and time are those of the selection, whatever the lengths. Where something may
/// be hidden, one number is read back for the query and one for the key, to see whether they are finite: what is hidden
/// then takes no part in gradients either, even NaN.
///
/// # Errors
/// A value error that names `heads` or `rows` where the selection points past them.
pub fn scores<B: Backend>(
    problem: &Problem,
    inputs: &AttentionInputs<B>,
    selection: &Selection,
) -> Result<FloatTensor<B>, AttentionError> {
    selection.check(problem)?;
    let [query, key] = [&inputs.query, &inputs.key].map(|x| Factor::<B>::judge(x.clone(), problem.may_hide()));
    let context = Context::new(problem, inputs);
    if !query.is_poisoned() && !key.is_poisoned() {
        return context.finished(selected(&context, selection, |tile| context.scores(&tile).values)?);
    }
    let cleaned = AttentionInputs { query: query.cleaned(), key: key.cleaned(), ..inputs.clone() };
    let cleaned = Context::new(problem, &cleaned);
    let made = selected(&context, selection, |tile| {
        // NaN and infinity are put back as constants, through which no gradient passes.
        let exact = context.products(&tile);
        let mut products = cleaned.products(&tile);
        for infinity in [f64::INFINITY, f64::NEG_INFINITY] {
            let reached = B::float_equal_elem(exact.clone(), Scalar::Float(infinity), context.bool_dtype);
            products = fill::<B>(products, reached, infinity);
        }
        let products = fill::<B>(products, B::float_is_nan(exact, context.bool_dtype), f64::NAN);
        context.scores_of(products, &tile).values
    })?;
    context.finished(made)
}

/// Tiles of the selected heads and rows over all keys, joined: `[B, heads, rows, Sk]`.
fn selected<B: Backend>(
    context: &Context<'_, B>,
    selection: &Selection,
    compute: impl Fn(Tile) -> FloatTensor<B>,
) -> Result<FloatTensor<B>, AttentionError> {
    let problem = context.problem;
    let heads = runs(selection.heads.as_deref(), problem.heads, problem.group() == 1 || selection.heads.is_none());
    let rows = runs(selection.rows.as_deref(), problem.query_len, true);
    let lengths = [&heads, &rows].map(|runs| runs.iter().map(ExactSizeIterator::len).sum::<usize>());
    if problem.batch * lengths[0] * lengths[1] * problem.key_len == 0 {
        let shape = Shape::from([problem.batch, lengths[0], lengths[1], problem.key_len]);
        return Ok(B::float_zeros(shape, &context.device, context.accumulation));
    }
    let tile = |heads: &Range<usize>, rows: &Range<usize>| {
        compute(Tile { heads: heads.clone(), rows: rows.clone(), keys: 0..problem.key_len })
    };
    let of_heads = |heads: &Range<usize>| {
        let mut tiles = rows.iter().map(|rows| tile(heads, rows));
        tiles.next().map(|first| join::<B>(first, tiles.collect(), 2))
    };
    let mut heads = heads.iter().filter_map(of_heads);
    match heads.next() {
        Some(first) => Ok(join::<B>(first, heads.collect(), 1)),
        None => Err(AttentionError::value("heads", "at least one", 0)),
    }
}

/// The indices as ranges of consecutive ones, or each by itself.
fn runs(indices: Option<&[usize]>, len: usize, merge: bool) -> Vec<Range<usize>> {
    let Some(indices) = indices else { return std::iter::once(0..len).collect() };
    let mut runs: Vec<Range<usize>> = Vec::new();
    for &index in indices {
        match runs.last_mut() {
            Some(run) if merge && run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

fn tile_weights<B: Backend>(context: &Context<'_, B>, lse: &FloatTensor<B>, tile: Tile) -> FloatTensor<B> {
    let scores = context.scores(&tile);
    let lse = context.rows_of(lse, &tile);
    let nothing = B::float_equal_elem(lse.clone(), Scalar::Float(f64::NEG_INFINITY), context.bool_dtype);
    let lse = fill::<B>(lse, nothing, 0.0);
    let weights = B::float_exp(B::float_sub(scores.values, lse.clone()));
    context.normalised(weights, lse, &tile)
}

/// `weights · value` where a weight of exactly 0 takes nothing, not even NaN or infinity.
///
/// Shapes: weights `[B, H, Sq, Sk]`, value `[B, G, Sk, E]`, result `[B, H, Sq, E]`, with H a multiple of G.
///
/// # Errors
/// A shape error that names `weights` or `value`.
pub fn apply_weights<B: Backend>(
    weights: FloatTensor<B>,
    value: FloatTensor<B>,
) -> Result<FloatTensor<B>, AttentionError> {
    let (shape, value_shape) = (weights.shape().to_vec(), value.shape().to_vec());
    let fits = shape.len() == 4 && value_shape.len() == 4 && shape[0] == value_shape[0] && shape[3] == value_shape[2];
    if !fits || value_shape[1] == 0 || !shape[1].is_multiple_of(value_shape[1]) {
        let expected = format!("[batch, kv_heads, key_len, value_dim] to go with weights of {shape:?}");
        return Err(AttentionError::shape("value", expected, &value_shape));
    }
    let [_, heads, ..] = dims(&weights);
    let device = weights.device();
    let factor = Factor::<B>::judge(value, true);
    let visible = factor.is_poisoned().then(|| {
        let hidden = B::float_equal_elem(
            weights.clone(),
            Scalar::Float(0.0),
            get_or_init_device_settings::<B>(&device).bool_dtype,
        );
        let ones = B::float_ones(weights.shape(), &device, weights.dtype().into());
        grouped::<B>(fill::<B>(ones, hidden, 0.0), value_shape[1])
    });
    Ok(ungrouped::<B>(factor.product(grouped::<B>(weights, value_shape[1]), visible), heads))
}
