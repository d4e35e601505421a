//! The validated problem: the only source of shapes, and the place where wrong input is caught.

use std::sync::Arc;

use burn_backend::{DType, FloatDType, Shape};

use crate::{AttentionError, AttentionSpec, Band, BlockMask, Dropout, Pair, ScoreMod};

/// Shape and element type of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Lengths of the axes.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
}

/// Shapes and types of all inputs, without their data; see [`AttentionInputs`](crate::AttentionInputs) for the axes.
#[derive(Debug, Clone)]
pub struct ProblemInputs<'a> {
    /// `[B, H, Sq, D]`.
    pub query: TensorInfo,
    /// `[B, G, Sk, D]`.
    pub key: TensorInfo,
    /// `[B, G, Sk, E]`.
    pub value: TensorInfo,
    /// Broadcastable to `[B, H, Sq, Sk]`, bool.
    pub mask: Option<TensorInfo>,
    /// Broadcastable to `[B, H, Sq, Sk]`.
    pub bias: Option<TensorInfo>,
    /// `[H]`.
    pub alibi_slopes: Option<TensorInfo>,
    /// `[H or 1, 2·R + 1]`.
    pub relative_bias: Option<TensorInfo>,
    /// `[H]`.
    pub sinks: Option<TensorInfo>,
    /// `[B]`.
    pub kv_lens: Option<&'a [usize]>,
    /// `[B or 1, H or 1, Sq, Sk]`.
    pub block_mask: Option<&'a Arc<BlockMask>>,
    /// Of each score, on the host.
    pub score_mod: Option<&'a ScoreMod>,
}

impl ProblemInputs<'_> {
    /// Plain attention's inputs: no mask, biases, slopes, sinks, lengths, block mask or function of the scores.
    pub fn new(query: TensorInfo, key: TensorInfo, value: TensorInfo) -> Self {
        Self {
            query,
            key,
            value,
            mask: None,
            bias: None,
            alibi_slopes: None,
            relative_bias: None,
            sinks: None,
            kv_lens: None,
            block_mask: None,
            score_mod: None,
        }
    }
}

/// An attention whose inputs fit each other. Made by [`Problem::new`] alone, so that a kernel may rely on all it says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Problem {
    /// B.
    pub batch: usize,
    /// H.
    pub heads: usize,
    /// G; H is a multiple of it.
    pub kv_heads: usize,
    /// Sq.
    pub query_len: usize,
    /// Sk.
    pub key_len: usize,
    /// D, the last axis of query and key; at least 1.
    pub head_dim: usize,
    /// E, the last axis of value and output.
    pub value_dim: usize,
    /// Element type of all float inputs and of the output.
    pub dtype: FloatDType,
    /// Factor of `q·k`; finite.
    pub scale: f64,
    /// Positive and finite where given.
    pub softcap: Option<f64>,
    /// What each batch entry's queries can see, length B.
    pub bands: Vec<Band>,
    /// Shape of the mask, each axis 1 or that of `[B, H, Sq, Sk]`.
    pub mask: Option<[usize; 4]>,
    /// Shape of the bias, likewise.
    pub bias: Option<[usize; 4]>,
    /// Whether ALiBi slopes are given.
    pub alibi: bool,
    /// Shape of the bias by relative position: H or 1, and 2·R + 1 distances.
    pub relative_bias: Option<[usize; 2]>,
    /// Whether sinks are given.
    pub sinks: bool,
    /// Which blocks can be skipped and which pairs are seen, beside the bands; of the lengths of this problem.
    pub block_mask: Option<Arc<BlockMask>>,
    /// What becomes of each score before anything is hidden.
    pub score_mod: Option<ScoreMod>,
    /// Which weights are dropped, of a probability above 0.
    pub dropout: Option<Dropout>,
}

impl Problem {
    /// Checks shapes, element types and values.
    ///
    /// # Errors
    /// Names the first argument that does not fit.
    pub fn new(spec: &AttentionSpec, inputs: &ProblemInputs<'_>) -> Result<Self, AttentionError> {
        let [batch, heads, query_len, head_dim] =
            four("query", &inputs.query.shape, "[batch, heads, query_len, head_dim]")?;
        let [_, kv_heads, key_len, _] = four("key", &inputs.key.shape, "[batch, kv_heads, key_len, head_dim]")?;
        let [_, _, _, value_dim] = four("value", &inputs.value.shape, "[batch, kv_heads, key_len, value_dim]")?;
        if head_dim == 0 {
            return Err(AttentionError::shape("query", "[_, _, _, head_dim of at least 1]", &inputs.query.shape));
        }
        expect("key", &inputs.key.shape, &[batch, kv_heads, key_len, head_dim])?;
        expect("value", &inputs.value.shape, &[batch, kv_heads, key_len, value_dim])?;
        if heads != 0 && (kv_heads == 0 || heads % kv_heads != 0) || heads == 0 && kv_heads != 0 {
            return Err(AttentionError::shape(
                "key",
                format!("[_, kv_heads that divides the query's {heads} heads, _, _]"),
                &inputs.key.shape,
            ));
        }
        let dtype = check_dtypes(inputs)?;
        let scores = [batch, heads, query_len, key_len];
        let (scale, softcap) = check_numbers(spec, head_dim)?;
        Ok(Self {
            batch,
            heads,
            kv_heads,
            query_len,
            key_len,
            head_dim,
            value_dim,
            dtype,
            scale,
            softcap,
            bands: bands(spec, inputs.kv_lens, batch, query_len, key_len)?,
            mask: broadcast("mask", inputs.mask.as_ref(), scores)?,
            bias: broadcast("bias", inputs.bias.as_ref(), scores)?,
            alibi: per_head("alibi_slopes", inputs.alibi_slopes.as_ref(), heads)?,
            relative_bias: relative(inputs.relative_bias.as_ref(), heads)?,
            sinks: per_head("sinks", inputs.sinks.as_ref(), heads)?,
            block_mask: blocks(inputs.block_mask, scores)?,
            score_mod: inputs.score_mod.cloned(),
            dropout: spec.dropout.map(Dropout::check).transpose()?.filter(|dropout| dropout.probability > 0.0),
        })
    }

    /// Query heads that read one key/value head, H/G.
    pub fn group(&self) -> usize {
        self.heads.checked_div(self.kv_heads).unwrap_or(1)
    }

    /// The column of the bias by relative position that a key at distance `j − p` reads: `R + clamp(j − p, −R, R)`.
    ///
    /// 0 where there is no such bias.
    pub fn relative_column(&self, distance: i64) -> usize {
        let reach = self.relative_bias.map_or(0, |[_, distances]| distances / 2);
        let steps = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX).min(reach);
        if distance < 0 { reach - steps } else { reach + steps }
    }

    /// The factor of the weight at `[b, h, i, j]` as it multiplies a value: 0 where it is dropped, else what dropout makes of 1.
    pub fn dropout_factor(&self, place: [usize; 4]) -> f64 {
        self.dropout.map_or(1.0, |dropout| if dropout.keeps(place) { dropout.scale() } else { 0.0 })
    }

    /// The pair at `[b, h, i, j]`, as functions of the caller see it.
    pub fn pair(&self, [batch, head, query, key]: [usize; 4]) -> Pair {
        let offset = self.bands.get(batch).map_or(0, |band| band.offset);
        Pair { batch, head, query, position: (query as i64).saturating_add(offset), key }
    }

    /// Whether a backward pass can exist.
    ///
    /// # Errors
    /// Names `score_mod` where it has no slope.
    pub fn check_differentiable(&self) -> Result<(), AttentionError> {
        match &self.score_mod {
            Some(function) if !function.has_slope() => {
                Err(AttentionError::value("score_mod", "a function with its slope, to differentiate by", "one without"))
            }
            _ => Ok(()),
        }
    }

    /// The type in which scores, sums and the LSE are kept: f64 for f64, else f32.
    pub fn accumulation(&self) -> FloatDType {
        match self.dtype {
            FloatDType::F64 => FloatDType::F64,
            _ => FloatDType::F32,
        }
    }

    /// Whether anything may be hidden: by the bands, a mask, a block mask, a bias of either kind or a function of
    /// the scores (whose `−inf` hides).
    pub fn may_hide(&self) -> bool {
        self.mask.is_some()
            || self.block_mask.is_some()
            || self.bias.is_some()
            || self.relative_bias.is_some()
            || self.score_mod.is_some()
            || self.bands.iter().any(|band| !band.is_full(self.query_len, self.key_len))
    }

    /// The pairs of query and key that the bands and the block mask leave visible, over batch and heads. Masks are not counted: their
    /// contents are unknown before the kernel runs.
    pub fn visible_pairs(&self) -> u64 {
        if let Some(mask) = &self.block_mask {
            return self.bands.iter().enumerate().map(|(batch, band)| self.pairs_in_blocks(mask, batch, band)).sum();
        }
        let pairs: u64 = match self.bands.first() {
            Some(first) if self.bands.iter().all(|band| band == first) => {
                first.visible_pairs(self.query_len) * self.batch as u64
            }
            _ => self.bands.iter().map(|band| band.visible_pairs(self.query_len)).sum(),
        };
        pairs * self.heads as u64
    }

    /// The pairs of a batch entry that both its band and the block mask leave visible.
    fn pairs_in_blocks(&self, mask: &BlockMask, batch: usize, band: &Band) -> u64 {
        let rows = |head: usize| -> u64 {
            (0..self.query_len).map(|row| mask.seen_in(batch, head, row, band.keys_of(row)) as u64).sum()
        };
        match mask.shape()[1] {
            1 => rows(0) * self.heads as u64,
            heads => (0..heads).map(rows).sum(),
        }
    }

    /// Whether there is no element of output to compute: an empty batch, no heads or no queries.
    pub fn is_empty(&self) -> bool {
        self.batch == 0 || self.heads == 0 || self.query_len == 0
    }
}

fn four(argument: &'static str, shape: &[usize], expected: &str) -> Result<[usize; 4], AttentionError> {
    <[usize; 4]>::try_from(shape).map_err(|_| AttentionError::shape(argument, expected, shape))
}

fn expect(argument: &'static str, found: &[usize], expected: &[usize; 4]) -> Result<(), AttentionError> {
    if found == expected { Ok(()) } else { Err(AttentionError::shape(argument, format!("{expected:?}"), found)) }
}

fn check_dtypes(inputs: &ProblemInputs<'_>) -> Result<FloatDType, AttentionError> {
    let mismatch = |argument, expected: &str, found: DType| AttentionError::DType {
        argument,
        expected: expected.to_string(),
        found: found.name().to_string(),
    };
    let dtype = match inputs.query.dtype {
        DType::F64 => FloatDType::F64,
        DType::F32 => FloatDType::F32,
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        other => return Err(mismatch("query", "f64, f32, f16 or bf16", other)),
    };
    let floats = [
        ("key", Some(&inputs.key)),
        ("value", Some(&inputs.value)),
        ("bias", inputs.bias.as_ref()),
        ("alibi_slopes", inputs.alibi_slopes.as_ref()),
        ("relative_bias", inputs.relative_bias.as_ref()),
        ("sinks", inputs.sinks.as_ref()),
    ];
    for (argument, info) in floats {
        if let Some(info) = info
            && info.dtype != inputs.query.dtype
        {
            return Err(mismatch(argument, inputs.query.dtype.name(), info.dtype));
        }
    }
    match &inputs.mask {
        Some(mask) if !mask.dtype.is_bool() => Err(mismatch("mask", "bool", mask.dtype)),
        _ => Ok(dtype),
    }
}

fn check_numbers(spec: &AttentionSpec, head_dim: usize) -> Result<(f64, Option<f64>), AttentionError> {
    let scale = spec.scale.unwrap_or_else(|| 1.0 / (head_dim as f64).sqrt());
    if !scale.is_finite() {
        return Err(AttentionError::value("scale", "a finite number", scale));
    }
    match spec.softcap {
        Some(cap) if !(cap > 0.0 && cap.is_finite()) => {
            Err(AttentionError::value("softcap", "a positive finite number", cap))
        }
        softcap => Ok((scale, softcap)),
    }
}

fn bands(
    spec: &AttentionSpec,
    kv_lens: Option<&[usize]>,
    batch: usize,
    query_len: usize,
    key_len: usize,
) -> Result<Vec<Band>, AttentionError> {
    if let Some(lens) = kv_lens {
        if lens.len() != batch {
            return Err(AttentionError::shape("kv_lens", format!("[{batch}]"), &[lens.len()]));
        }
        if let Some((at, len)) = lens.iter().enumerate().find(|(_, len)| **len > key_len) {
            return Err(AttentionError::value(
                "kv_lens",
                format!("at most key_len = {key_len}"),
                format!("{len} at {at}"),
            ));
        }
    }
    // A side longer than any position is an open one.
    let distance = |keys: usize| i64::try_from(keys).ok();
    let right = spec.window.right.and_then(distance);
    let upper = if spec.causal { Some(right.unwrap_or(0).min(0)) } else { right };
    let band = |keys: usize| Band {
        offset: spec.alignment.offset(query_len, keys),
        lower: spec.window.left.and_then(distance).map(|keys| -keys),
        upper,
        keys,
    };
    Ok((0..batch).map(|b| band(kv_lens.map_or(key_len, |lens| lens[b]))).collect())
}

fn broadcast(
    argument: &'static str,
    info: Option<&TensorInfo>,
    scores: [usize; 4],
) -> Result<Option<[usize; 4]>, AttentionError> {
    let Some(info) = info else { return Ok(None) };
    match <[usize; 4]>::try_from(&*info.shape) {
        Ok(shape) if shape.iter().zip(scores).all(|(&axis, full)| axis == 1 || axis == full) => Ok(Some(shape)),
        _ => {
            let expected = format!("broadcastable to [batch, heads, query_len, key_len] = {scores:?}");
            Err(AttentionError::shape(argument, expected, &info.shape))
        }
    }
}

/// A block mask of this problem's lengths; batch and heads broadcast.
fn blocks(mask: Option<&Arc<BlockMask>>, scores: [usize; 4]) -> Result<Option<Arc<BlockMask>>, AttentionError> {
    let Some(mask) = mask else { return Ok(None) };
    let found = mask.shape();
    let fits = |axis: usize| found[axis] == scores[axis] || axis < 2 && found[axis] == 1;
    if (0..4).all(fits) {
        return Ok(Some(mask.clone()));
    }
    let expected = format!("{scores:?} ([batch, heads, query_len, key_len], batch and heads may be 1)");
    Err(AttentionError::shape("block_mask", expected, &found))
}

/// A table by relative position: of one head or each, an odd number of distances.
fn relative(info: Option<&TensorInfo>, heads: usize) -> Result<Option<[usize; 2]>, AttentionError> {
    match info.map(|info| &*info.shape) {
        None => Ok(None),
        Some(&[own, distances]) if (own == 1 || own == heads) && distances % 2 == 1 => Ok(Some([own, distances])),
        Some(found) => {
            let expected = format!("[{heads} or 1, an odd number of distances] (heads, 2·reach + 1)");
            Err(AttentionError::shape("relative_bias", expected, found))
        }
    }
}

fn per_head(argument: &'static str, info: Option<&TensorInfo>, heads: usize) -> Result<bool, AttentionError> {
    match info {
        Some(info) if *info.shape != [heads] => Err(AttentionError::shape(argument, format!("[{heads}]"), &info.shape)),
        info => Ok(info.is_some()),
    }
}
