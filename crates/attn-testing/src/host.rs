//! A problem with its data on the host, and the answer to it: what files, generators, engines and oracles exchange.

use std::sync::Arc;

use attn_core::reference::{Broadcast, HostGradients, HostInputs};
use attn_core::{
    Alignment, AttentionError, AttentionSpec, BlockMask, Pair, Polarity, Problem, ProblemInputs, ScoreMod, TensorInfo,
};
use burn::tensor::{DType, FloatDType, bf16, f16};

/// Lengths of all axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    /// B.
    pub batch: usize,
    /// H, a multiple of G.
    pub heads: usize,
    /// G.
    pub kv_heads: usize,
    /// Sq.
    pub query_len: usize,
    /// Sk.
    pub key_len: usize,
    /// D.
    pub head_dim: usize,
    /// E.
    pub value_dim: usize,
}

impl Dims {
    /// `[B, H, Sq, D]`.
    pub fn query(&self) -> [usize; 4] {
        [self.batch, self.heads, self.query_len, self.head_dim]
    }

    /// `[B, G, Sk, D]`.
    pub fn key(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.key_len, self.head_dim]
    }

    /// `[B, G, Sk, E]`.
    pub fn value(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.key_len, self.value_dim]
    }

    /// `[B, H, Sq, E]`.
    pub fn out(&self) -> [usize; 4] {
        [self.batch, self.heads, self.query_len, self.value_dim]
    }

    /// `[B, H, Sq]`.
    pub fn rows(&self) -> [usize; 3] {
        [self.batch, self.heads, self.query_len]
    }

    /// `[B, H, Sq, Sk]`.
    pub fn scores(&self) -> [usize; 4] {
        [self.batch, self.heads, self.query_len, self.key_len]
    }
}

/// An attention with its data. Every number is one that `dtype` can hold.
#[derive(Debug, Clone)]
pub struct HostProblem {
    /// Element type of the tensors that a backend gets.
    pub dtype: FloatDType,
    /// Lengths of all axes.
    pub dims: Dims,
    /// Numbers and switches.
    pub spec: AttentionSpec,
    /// One length a batch entry.
    pub kv_lens: Option<Vec<usize>>,
    /// A mask by blocks.
    pub block_mask: Option<Arc<BlockMask>>,
    /// A function of the scores.
    pub score_mod: Option<Affine>,
    /// The data.
    pub inputs: HostInputs,
}

/// A function of the scores that multiplies and adds what depends on each coordinate of the pair, and may hide some pairs. Its slope is
/// its factor, so that its error is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affine {
    /// Of the numbers.
    pub seed: u64,
    /// Whether it hides some pairs.
    pub hides: bool,
}

impl Affine {
    /// Between −1 and 1, of few digits.
    pub fn factor(&self, pair: Pair) -> f64 {
        (self.mixed(pair) % 9) as f64 / 4.0 - 1.0
    }

    /// Between −1 and 1, of few digits, or −inf.
    pub fn term(&self, pair: Pair) -> f64 {
        match self.mixed(pair) >> 8 {
            mixed if self.hides && mixed % 13 == 0 => f64::NEG_INFINITY,
            mixed => (mixed % 17) as f64 / 8.0 - 1.0,
        }
    }

    /// The function of the contract.
    pub fn score_mod(self) -> ScoreMod {
        ScoreMod::new(move |score, pair| match self.term(pair) {
            f64::NEG_INFINITY => f64::NEG_INFINITY,
            term => self.factor(pair) * score + term,
        })
        .with_slope(move |_, pair| self.factor(pair))
    }

    fn mixed(&self, pair: Pair) -> u64 {
        let Pair { batch, head, query, position, key } = pair;
        let numbers = [batch as u64, head as u64, query as u64, position as u64, key as u64];
        numbers
            .iter()
            .fold(self.seed, |mixed, number| (mixed ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29))
            >> 3
    }
}

impl HostProblem {
    /// The validated problem.
    ///
    /// # Errors
    /// As [`Problem::new`].
    pub fn problem(&self) -> Result<Problem, AttentionError> {
        let dtype: DType = self.dtype.into();
        let float = |shape: &[usize]| TensorInfo { shape: shape.into(), dtype };
        let per_head = |data: &Option<Vec<f64>>| data.as_ref().map(|data| float(&[data.len()]));
        let bool_dtype = DType::Bool(burn::tensor::BoolStore::Native);
        let mask = self.inputs.mask.as_ref();
        let score_mod = self.score_mod.map(Affine::score_mod);
        Problem::new(
            &self.spec,
            &ProblemInputs {
                query: float(&self.dims.query()),
                key: float(&self.dims.key()),
                value: float(&self.dims.value()),
                mask: mask.map(|(mask, _)| TensorInfo { shape: mask.shape.into(), dtype: bool_dtype }),
                bias: self.inputs.bias.as_ref().map(|bias| float(&bias.shape)),
                alibi_slopes: per_head(&self.inputs.alibi_slopes),
                relative_bias: self.inputs.relative_bias.as_ref().map(|table| float(&table_shape(table))),
                sinks: per_head(&self.inputs.sinks),
                kv_lens: self.kv_lens.as_deref(),
                block_mask: self.block_mask.as_ref(),
                score_mod: score_mod.as_ref(),
            },
        )
    }
}

impl HostProblem {
    /// Absolute position of query 0 of a batch entry, from the spec's own words.
    pub fn offset(&self, batch: usize) -> i128 {
        match self.spec.alignment {
            Alignment::BottomRight => self.visible_keys(batch) as i128 - self.dims.query_len as i128,
            Alignment::TopLeft => 0,
            Alignment::Offset(offset) => i128::from(offset),
        }
    }

    /// The pair as functions see it.
    pub fn pair(&self, [batch, head, query, key]: [usize; 4]) -> Pair {
        let position = (query as i128 + self.offset(batch)).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Pair { batch, head, query, position, key }
    }

    /// `|j − p|`.
    pub fn distance(&self, index: [usize; 4]) -> f64 {
        self.relative(index).unsigned_abs() as f64
    }

    /// `j − p`.
    fn relative(&self, [batch, _, row, key]: [usize; 4]) -> i128 {
        key as i128 - (row as i128 + self.offset(batch))
    }

    /// Where the bias by relative position of a pair stands in its table, row-major; `None` where there is no table.
    pub fn in_table(&self, index: [usize; 4]) -> Option<usize> {
        let table = self.inputs.relative_bias.as_ref()?;
        let reach = (table.shape[3] / 2) as i128;
        let column = (self.relative(index).clamp(-reach, reach) + reach) as usize;
        Some(position_in(table.shape, [0, index[1], 0, column]))
    }

    /// The bias by relative position of a pair.
    pub fn relative_bias(&self, index: [usize; 4]) -> Option<f64> {
        self.inputs.relative_bias.as_ref().zip(self.in_table(index)).map(|(table, at)| table.data[at])
    }

    /// Whether query `i` of a head sees key `j`, at `[b, h, i, j]`. Written from the contract's words, apart from the reference and
    /// from the bands that kernels use.
    pub fn sees(&self, index: [usize; 4]) -> bool {
        let [batch, _, row, key] = index;
        let position = row as i128 + self.offset(batch);
        let (j, window) = (key as i128, self.spec.window);
        key < self.visible_keys(batch)
            && !(self.spec.causal && j > position)
            && window.left.is_none_or(|left| j >= position - left as i128)
            && window.right.is_none_or(|right| j <= position + right as i128)
            && self.block_mask.as_ref().is_none_or(|mask| mask.sees(batch, index[1], row, key))
            && self.inputs.mask.as_ref().is_none_or(|(mask, polarity)| {
                mask.data[position_in(mask.shape, index)] == (*polarity == Polarity::Keep)
            })
            && self
                .inputs
                .bias
                .as_ref()
                .is_none_or(|bias| bias.data[position_in(bias.shape, index)] != f64::NEG_INFINITY)
            && self.relative_bias(index) != Some(f64::NEG_INFINITY)
            && self.score_mod.is_none_or(|function| function.term(self.pair(index)) != f64::NEG_INFINITY)
    }

    fn visible_keys(&self, batch: usize) -> usize {
        self.kv_lens.as_ref().map_or(self.dims.key_len, |lens| lens[batch])
    }

    /// Key/value head that a query head reads.
    pub fn kv_head(&self, head: usize) -> usize {
        head / (self.dims.heads / self.dims.kv_heads)
    }
}

/// Gradients of the loss by the outputs: the loss is `Σ out·grad_out + Σ lse·grad_lse`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostUpstream {
    /// `[B, H, Sq, E]`.
    pub grad_out: Vec<f64>,
    /// `[B, H, Sq]`; none is zero.
    pub grad_lse: Option<Vec<f64>>,
}

/// What to compute beside the output.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// The log-sum-exp of every row.
    pub lse: bool,
    /// Every weight.
    pub weights: bool,
    /// Gradients by every input, for this upstream gradient.
    pub gradients: Option<HostUpstream>,
}

/// What came, widened to f64, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `[B, H, Sq, E]`.
    pub out: Vec<f64>,
    /// `[B, H, Sq]`.
    pub lse: Option<Vec<f64>>,
    /// `[B, H, Sq, Sk]`.
    pub weights: Option<Vec<f64>>,
    /// By every input that is there.
    pub gradients: Option<HostGradients>,
}

impl Answer {
    /// The tensor of that name in case files: `out`, `lse`, `weights`, `dq`, `dk`, `dv`, `dbias`, `dalibi_slopes`, `dsinks`; and
    /// `drelative_bias`, which no file has.
    pub fn get(&self, name: &str) -> Option<&[f64]> {
        let gradients = self.gradients.as_ref();
        match name {
            "out" => Some(&self.out),
            "lse" => self.lse.as_deref(),
            "weights" => self.weights.as_deref(),
            "dq" => gradients.map(|gradients| gradients.query.as_slice()),
            "dk" => gradients.map(|gradients| gradients.key.as_slice()),
            "dv" => gradients.map(|gradients| gradients.value.as_slice()),
            "dbias" => gradients.and_then(|gradients| gradients.bias.as_deref()),
            "dalibi_slopes" => gradients.and_then(|gradients| gradients.alibi_slopes.as_deref()),
            "drelative_bias" => gradients.and_then(|gradients| gradients.relative_bias.as_deref()),
            "dsinks" => gradients.and_then(|gradients| gradients.sinks.as_deref()),
            _ => None,
        }
    }

    /// Every name that [`get`](Self::get) knows.
    pub const NAMES: [&'static str; 10] =
        ["out", "lse", "weights", "dq", "dk", "dv", "dbias", "dalibi_slopes", "drelative_bias", "dsinks"];
}

/// `[H or 1, 2·R + 1]`, of a table that is kept in four axes.
pub fn table_shape(table: &Broadcast<f64>) -> [usize; 2] {
    [table.shape[1], table.shape[3]]
}

/// The number of that element type that lies nearest, widened again.
pub fn round_to(dtype: FloatDType, value: f64) -> f64 {
    match dtype {
        FloatDType::F64 => value,
        FloatDType::F32 | FloatDType::Flex32 => f64::from(value as f32),
        FloatDType::F16 => f16::from_f64(value).to_f64(),
        FloatDType::BF16 => bf16::from_f64(value).to_f64(),
    }
}

/// Row-major position of an index in a shape, axes of length 1 broadcast.
pub fn position_in(shape: [usize; 4], index: [usize; 4]) -> usize {
    (0..4).fold(0, |at, axis| at * shape[axis] + if shape[axis] == 1 { 0 } else { index[axis] })
}

/// A broadcast tensor with its elements made from their indices.
pub fn broadcast<T>(shape: [usize; 4], mut element: impl FnMut([usize; 4]) -> T) -> Broadcast<T> {
    let [a, b, c, d] = shape;
    let mut data = Vec::with_capacity(a * b * c * d);
    for at in 0..a * b * c * d {
        data.push(element([at / (b * c * d), at / (c * d) % b, at / d % c, at % d]));
    }
    Broadcast { shape, data }
}
