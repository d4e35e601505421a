//! One problem on one backend, cut into tiles: scores of a tile with what is hidden in it.

use std::cell::RefCell;
use std::ops::Range;

use burn_backend::tensor::{BoolTensor, Device, FloatTensor, IntTensor};
use burn_backend::{
    Backend, BoolDType, FloatDType, IntDType, Scalar, Shape, TensorData, TensorMetadata, get_or_init_device_settings,
};

use super::ops::{bool_part, cast, fill, grouped, part, reshape, times, transposed, ungrouped};
use super::product::product;
use crate::block_mask::BLOCK;
use crate::{AttentionError, AttentionInputs, BlockMask, Coverage, Polarity, Problem};

/// A rectangle of the score matrix for some heads of every batch entry.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    /// Query heads: all of them, or one.
    pub heads: Range<usize>,
    pub rows: Range<usize>,
    pub keys: Range<usize>,
}

/// Scores of a tile, `[B, h, r, k]` in the accumulation type.
pub(super) struct Scores<B: Backend> {
    /// `−inf` where hidden.
    pub values: FloatTensor<B>,
    /// `tanh(scale·q·k / softcap)` before anything was hidden; there if the problem has a softcap.
    pub tanh: Option<FloatTensor<B>>,
    /// The scores before the caller's function; there if the problem has one.
    pub unmodified: Option<FloatTensor<B>>,
    /// Masks of the hidden pairs, `true` = hidden, each broadcastable to the scores.
    pub hidden: Vec<BoolTensor<B>>,
}

/// A problem, its tensors, and the device's types.
pub(super) struct Context<'a, B: Backend> {
    pub problem: &'a Problem,
    pub inputs: &'a AttentionInputs<B>,
    pub device: Device<B>,
    pub accumulation: FloatDType,
    pub bool_dtype: BoolDType,
    int_dtype: IntDType,
    /// What went wrong on the host.
    pub failure: RefCell<Option<AttentionError>>,
}

impl<'a, B: Backend> Context<'a, B> {
    pub fn new(problem: &'a Problem, inputs: &'a AttentionInputs<B>) -> Self {
        let device = inputs.query.device();
        let settings = get_or_init_device_settings::<B>(&device);
        Self {
            problem,
            inputs,
            accumulation: problem.accumulation(),
            bool_dtype: settings.bool_dtype,
            int_dtype: settings.int_dtype,
            device,
            failure: RefCell::new(None),
        }
    }

    /// The keys that some batch entry's query among `rows` may see.
    pub fn keys_of_rows(&self, rows: &Range<usize>) -> Range<usize> {
        let ranges = self.problem.bands.iter().map(|band| band.keys_of_rows(rows.clone()));
        ranges.filter(|range| !range.is_empty()).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
    }

    /// Whether the block mask leaves anything of a tile visible.
    pub fn sees(&self, tile: &Tile) -> bool {
        self.coverages(tile).any(|coverage| coverage != Coverage::None)
    }

    /// What the block mask leaves visible of a tile, for each of its own batch entries and those of its own heads that the tile has;
    /// everything where there is no mask.
    fn coverages(&self, tile: &Tile) -> impl Iterator<Item = Coverage> {
        let mask = self.problem.block_mask.as_deref();
        let (batches, heads) = mask.map_or((1, 0..1), |mask| own_axes(mask, &tile.heads));
        let pairs = (0..batches).flat_map(move |batch| heads.clone().map(move |head| (batch, head)));
        pairs.map(move |(batch, head)| {
            mask.map_or(Coverage::Full, |mask| mask.coverage(batch, head, tile.rows.clone(), tile.keys.clone()))
        })
    }

    /// Key/value heads that the query heads of a tile read.
    pub fn kv_heads(&self, heads: &Range<usize>) -> Range<usize> {
        let group = self.problem.group();
        heads.start / group..(heads.end - 1) / group + 1
    }

    /// Rows of the query, `[B, h, r, D]`, in the accumulation type.
    pub fn query(&self, tile: &Tile) -> FloatTensor<B> {
        self.rows_of(&self.inputs.query, tile)
    }

    /// Rows of a `[B, H, Sq, X]` tensor in the accumulation type.
    pub fn rows_of(&self, tensor: &FloatTensor<B>, tile: &Tile) -> FloatTensor<B> {
        let [batch, _, _, dim] = super::ops::dims(tensor);
        let rows = part::<B>(tensor, [0..batch, tile.heads.clone(), tile.rows.clone(), 0..dim]);
        cast::<B>(rows, self.accumulation)
    }

    /// Keys or values of a tile, `[B, g, k, X]`, in the accumulation type.
    pub fn keys_of(&self, tensor: &FloatTensor<B>, tile: &Tile) -> FloatTensor<B> {
        let [batch, _, _, dim] = super::ops::dims(tensor);
        let keys = part::<B>(tensor, [0..batch, self.kv_heads(&tile.heads), tile.keys.clone(), 0..dim]);
        cast::<B>(keys, self.accumulation)
    }

    /// A `[H]` tensor as `[1, h, 1, 1]` in the accumulation type.
    pub fn per_head(&self, tensor: &FloatTensor<B>, heads: &Range<usize>) -> FloatTensor<B> {
        let shaped = reshape::<B, 4>(tensor.clone(), [1, self.problem.heads, 1, 1]);
        cast::<B>(part::<B>(&shaped, [0..1, heads.clone(), 0..1, 0..1]), self.accumulation)
    }

    /// The scores of a tile.
    pub fn scores(&self, tile: &Tile) -> Scores<B> {
        self.scores_of(self.products(tile), tile)
    }

    /// `q·k` of a tile, `[B, h, r, k]`.
    pub fn products(&self, tile: &Tile) -> FloatTensor<B> {
        let kv_heads = self.kv_heads(&tile.heads).len();
        let query = grouped::<B>(self.query(tile), kv_heads);
        let key = self.keys_of(&self.inputs.key, tile);
        ungrouped::<B>(product::<B>(query, transposed::<B>(key)), tile.heads.len())
    }

    /// The scores of a tile from its `q·k`.
    pub fn scores_of(&self, products: FloatTensor<B>, tile: &Tile) -> Scores<B> {
        let mut values = times::<B>(products, self.problem.scale);
        let mut tanh = None;
        if let Some(cap) = self.problem.softcap {
            let bounded = B::float_tanh(times::<B>(values, 1.0 / cap));
            tanh = Some(bounded.clone());
            values = times::<B>(bounded, cap);
        }
        if let Some(slopes) = &self.inputs.alibi_slopes {
            let penalty = B::float_mul(self.distance(tile), self.per_head(slopes, &tile.heads));
            values = B::float_sub(values, penalty);
        }
        let biases = [self.relative_bias(tile), self.bias(tile)];
        let mut hidden = self.hidden(tile, &biases);
        for bias in biases.into_iter().flatten() {
            values = B::float_add(values, bias);
        }
        for mask in &hidden {
            values = fill::<B>(values, mask.clone(), f64::NEG_INFINITY);
        }
        let mut unmodified = None;
        if let Some(function) = &self.problem.score_mod {
            unmodified = Some(values.clone());
            values = self.modified(function, values, tile);
            hidden.push(B::float_equal_elem(values.clone(), Scalar::Float(f64::NEG_INFINITY), self.bool_dtype));
        }
        Scores { values, tanh, unmodified, hidden }
    }

    /// `|j − p|` of a tile, `[B or 1, 1, r, k]`.
    pub fn distance(&self, tile: &Tile) -> FloatTensor<B> {
        let relative = B::int_into_float(self.relative(tile), self.accumulation);
        let offsets: Vec<f64> = self.problem.bands.iter().map(|band| band.offset as f64).collect();
        let shifted = match uniform(&offsets) {
            Some(offset) => B::float_sub_scalar(relative, Scalar::Float(*offset)),
            None => {
                let shape = [offsets.len(), 1, 1, 1];
                let offsets = B::float_from_data(TensorData::new(offsets, shape), &self.device);
                B::float_sub(relative, cast::<B>(offsets, self.accumulation))
            }
        };
        B::float_abs(shifted)
    }

    /// `j − i` of a tile, `[1, 1, r, k]`.
    fn relative(&self, tile: &Tile) -> IntTensor<B> {
        let axis = |range: &Range<usize>, shape: [usize; 4]| {
            let range = range.start as i64..range.end as i64;
            B::int_reshape(B::int_arange(range, &self.device, self.int_dtype), Shape::from(shape))
        };
        let keys = axis(&tile.keys, [1, 1, 1, tile.keys.len()]);
        let rows = axis(&tile.rows, [1, 1, tile.rows.len(), 1]);
        B::int_sub(keys, rows)
    }

    fn bias(&self, tile: &Tile) -> Option<FloatTensor<B>> {
        let bias = self.inputs.bias.as_ref()?;
        Some(cast::<B>(part::<B>(bias, self.score_ranges(tile)), self.accumulation))
    }

    fn score_ranges(&self, tile: &Tile) -> [Range<usize>; 4] {
        [0..self.problem.batch, tile.heads.clone(), tile.rows.clone(), tile.keys.clone()]
    }

    /// Where a tile is hidden: by the bands, by a mask, by a bias of `−inf`.
    fn hidden(&self, tile: &Tile, biases: &[Option<FloatTensor<B>>]) -> Vec<BoolTensor<B>> {
        let mut hidden = self.hidden_by_bands(tile);
        hidden.extend(self.hidden_by_blocks(tile));
        if let Some(mask) = &self.inputs.mask {
            let tensor = bool_part::<B>(mask.tensor(), self.score_ranges(tile));
            hidden.push(match mask.polarity() {
                Polarity::Hide => tensor,
                Polarity::Keep => B::bool_not(tensor),
            });
        }
        for bias in biases.iter().flatten() {
            hidden.push(B::float_equal_elem(bias.clone(), Scalar::Float(f64::NEG_INFINITY), self.bool_dtype));
        }
        hidden
    }

    fn hidden_by_bands(&self, tile: &Tile) -> Vec<BoolTensor<B>> {
        let bands = &self.problem.bands;
        let covered = |band: &crate::Band| band.coverage(tile.rows.clone(), tile.keys.clone()) == Coverage::Full;
        if bands.iter().all(covered) {
            return Vec::new();
        }
        // Bounds past the matrix mean no more than bounds at its edge, and these fit any integer type.
        let limit = (self.problem.query_len + self.problem.key_len) as i64 + 1;
        let bound = |bound: Option<i64>, offset: i64, open: i64| {
            bound.map_or(open, |bound| offset.saturating_add(bound)).clamp(-limit, limit)
        };
        let lower: Vec<i64> = bands.iter().map(|band| bound(band.lower, band.offset, -limit)).collect();
        let upper: Vec<i64> = bands.iter().map(|band| bound(band.upper, band.offset, limit)).collect();
        // j ≥ keys, as a bound on j − 0: the tile with its rows taken as 0.
        let ends: Vec<i64> = bands.iter().map(|band| band.keys as i64 - 1).collect();
        let relative = self.relative(tile);
        let columns = self.relative(&Tile { rows: 0..1, ..tile.clone() });
        vec![self.below(relative.clone(), &lower), self.above(relative, &upper), self.above(columns, &ends)]
    }

    /// Where the block mask hides pairs of a tile, `[B or 1, h or 1, r, k]`; none where it shows all of them.
    fn hidden_by_blocks(&self, tile: &Tile) -> Option<BoolTensor<B>> {
        let mask = self.problem.block_mask.as_deref()?;
        if self.coverages(tile).all(|coverage| coverage == Coverage::Full) {
            return None;
        }
        let (batches, heads) = own_axes(mask, &tile.heads);
        let shape = [batches, heads.len(), tile.rows.len(), tile.keys.len()];
        let mut hidden = Vec::with_capacity(shape.iter().product());
        for batch in 0..batches {
            for head in heads.clone() {
                for row in tile.rows.clone() {
                    for block in tile.keys.start / BLOCK..tile.keys.end.div_ceil(BLOCK) {
                        let word = mask.word(batch, head, row, block);
                        let first = block * BLOCK;
                        let keys = tile.keys.start.max(first)..tile.keys.end.min(first + BLOCK);
                        hidden.extend(keys.map(|key| word >> (key - first) & 1 == 0));
                    }
                }
            }
        }
        let data = TensorData::new(hidden, shape).convert_dtype(self.bool_dtype.into());
        Some(B::bool_from_data(data, &self.device))
    }

    fn below(&self, values: IntTensor<B>, bounds: &[i64]) -> BoolTensor<B> {
        match uniform(bounds) {
            Some(&bound) => B::int_lower_elem(values, Scalar::Int(bound), self.bool_dtype),
            None => B::int_lower(values, self.per_batch(bounds), self.bool_dtype),
        }
    }

    fn above(&self, values: IntTensor<B>, bounds: &[i64]) -> BoolTensor<B> {
        match uniform(bounds) {
            Some(&bound) => B::int_greater_elem(values, Scalar::Int(bound), self.bool_dtype),
            None => B::int_greater(values, self.per_batch(bounds), self.bool_dtype),
        }
    }

    fn per_batch(&self, values: &[i64]) -> IntTensor<B> {
        let data = TensorData::new(values.to_vec(), [values.len(), 1, 1, 1]);
        B::int_cast(B::int_from_data(data.convert_dtype(self.int_dtype.into()), &self.device), self.int_dtype)
    }

    /// The weights `exp(s − lse)` of a tile that holds all its rows see, over their own sum and the sink's.
    ///
    /// The LSE may come from another kernel, whose scores round otherwise: at scores of 10⁴ their sum is then off by 10⁻³.
    /// `lse` is `[B, h, r, 1]`, finite. Rows that see nothing stay 0.
    pub fn normalised(&self, weights: FloatTensor<B>, lse: FloatTensor<B>, tile: &Tile) -> FloatTensor<B> {
        let mut sum = B::float_sum_dim(weights.clone(), 3);
        if let Some(sinks) = &self.inputs.sinks {
            let sink = B::float_exp(B::float_sub(self.per_head(sinks, &tile.heads), lse));
            sum = B::float_add(sum, sink);
        }
        let nothing = B::float_equal_elem(sum.clone(), Scalar::Float(0.0), self.bool_dtype);
        B::float_div(weights, fill::<B>(sum, nothing, 1.0))
    }

    /// Weights of a tile, or gradients by them, times the factors by which dropout takes them.
    pub fn dropped(&self, weights: FloatTensor<B>, tile: &Tile) -> FloatTensor<B> {
        let Some(dropout) = self.problem.dropout else { return weights };
        let mut factors: Vec<f64> = Vec::new();
        for batch in 0..self.problem.batch {
            for head in tile.heads.clone() {
                for row in tile.rows.clone() {
                    factors.extend(dropout.factors([batch, head, row], tile.keys.clone()));
                }
            }
        }
        let data = TensorData::new(factors, super::ops::dims(&weights));
        let data = data.convert_dtype(burn_backend::DType::from(self.accumulation));
        B::float_mul(weights, B::float_from_data(data, &self.device))
    }

    /// 1 where a tile is visible, 0 where hidden, shaped as `like`.
    pub fn visible(&self, like: &FloatTensor<B>, hidden: &[BoolTensor<B>]) -> FloatTensor<B> {
        let ones = B::float_ones(like.shape(), &self.device, self.accumulation);
        hidden.iter().fold(ones, |visible, mask| fill::<B>(visible, mask.clone(), 0.0))
    }
}

/// Batch entries of a block mask, and those of its heads that belong to a tile's.
fn own_axes(mask: &BlockMask, heads: &Range<usize>) -> (usize, Range<usize>) {
    let [batches, own_heads, ..] = mask.shape();
    (batches, if own_heads == 1 { 0..1 } else { heads.clone() })
}

/// The one value that all elements have.
fn uniform<T: PartialEq>(values: &[T]) -> Option<&T> {
    let first = values.first()?;
    values.iter().all(|value| value == first).then_some(first)
}
