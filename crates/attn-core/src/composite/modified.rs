//! A function of each score, by way of the host.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, DType, TensorData, try_read_sync};

use super::context::{Context, Tile};
use super::ops::{dims, fill};
use crate::{AttentionError, ScoreMod};

impl<B: Backend> Context<'_, B> {
    /// `f(s, pair)` of a tile's scores, `[B, h, r, k]`.
    pub(super) fn modified(&self, function: &ScoreMod, scores: FloatTensor<B>, tile: &Tile) -> FloatTensor<B> {
        let made = self.by_pair(&scores, tile, |score, index| function.apply(score, self.problem.pair(index)));
        // Where the backend differentiates by itself, what came from the host is a constant: its slope is put beside it.
        if !B::ad_enabled(&self.device) || !function.has_slope() {
            return made;
        }
        let slope = self.slopes(function, &scores, tile);
        // x − x is 0 for finite numbers alone; nothing goes back through others.
        let infinite = B::float_is_inf(scores.clone(), self.bool_dtype);
        let bad = B::bool_or(infinite, B::float_is_nan(scores.clone(), self.bool_dtype));
        let scores = fill::<B>(scores, bad, 0.0);
        let change = B::float_sub(scores.clone(), B::float_detach(scores));
        B::float_add(made, B::float_mul(slope, change))
    }

    /// `∂f/∂s` at a tile's scores; 0 where there is no slope.
    pub(super) fn slopes(&self, function: &ScoreMod, scores: &FloatTensor<B>, tile: &Tile) -> FloatTensor<B> {
        self.by_pair(scores, tile, |score, index| function.slope(score, self.problem.pair(index)).unwrap_or(0.0))
    }

    /// A number made of each score and the place of its pair, `[b, h, i, j]`.
    fn by_pair(&self, scores: &FloatTensor<B>, tile: &Tile, f: impl Fn(f64, [usize; 4]) -> f64) -> FloatTensor<B> {
        let shape = dims(scores);
        let [_, heads, rows, keys] = shape;
        let read = match try_read_sync(B::float_into_data(scores.clone())) {
            Some(Ok(data)) => data,
            Some(Err(error)) => return self.failed(error.to_string(), scores),
            None => return self.failed("scores cannot be read at once".to_string(), scores),
        };
        let place = |at: usize| {
            let (head, row, key) = (at / (rows * keys) % heads, at / keys % rows, at % keys);
            [at / (heads * rows * keys), tile.heads.start + head, tile.rows.start + row, tile.keys.start + key]
        };
        let made: Vec<f64> = read.iter::<f64>().enumerate().map(|(at, score)| f(score, place(at))).collect();
        let dtype: DType = self.accumulation.into();
        B::float_from_data(TensorData::new(made, shape).convert_dtype(dtype), &self.device)
    }

    /// Notes what went wrong, for [`finished`](Self::finished) to tell.
    fn failed(&self, reason: String, scores: &FloatTensor<B>) -> FloatTensor<B> {
        let error = AttentionError::Execution { kernel: super::NAME.to_string(), reason };
        self.failure.borrow_mut().get_or_insert(error);
        scores.clone()
    }

    /// What was made, unless something went wrong on the way.
    pub(super) fn finished<T>(&self, made: T) -> Result<T, AttentionError> {
        match self.failure.borrow_mut().take() {
            Some(error) => Err(error),
            None => Ok(made),
        }
    }
}
