//! Tensors as the kernels take them.

use attn_core::{Band, BlockMask, Problem};
use burn_backend::cubecl::dtype_to_storage_type;
use burn_backend::ops::{BoolTensorOps, FloatTensorOps};
use burn_backend::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::kernel::{into_contiguous, untile};
use burn_cubecl::tensor::CubeTensor;

use crate::device::place::ScalarsLaunch;
use crate::device::score::Options;

/// Positions and lengths stay below this, so that their sums are i32.
pub const LARGEST: i64 = 1 << 30;

/// The tensor with a contiguous last axis and no tiling: as it is where it has that, else a copy.
pub fn rows(tensor: CubeTensor) -> CubeTensor {
    let tensor = untile(tensor);
    let shape = tensor.meta.shape();
    let last = shape.len() - 1;
    if tensor.meta.strides()[last] == 1 || shape[last] == 1 { tensor } else { into_contiguous(tensor) }
}

/// Elements that one load takes: the most of 8, 4, 2, 1, and no more than `most`, that `dim` and all strides are multiples of.
pub fn width(tensors: &[&CubeTensor], dim: usize, most: usize) -> usize {
    let fits = |width: usize| dim.is_multiple_of(width) && tensors.iter().all(|tensor| is_stepped(tensor, width));
    [8, 4, 2].into_iter().find(|&width| width <= most && fits(width)).unwrap_or(1)
}

/// The tensor with strides that are multiples of `width`: as it is where they are, else a copy, whose are if its last axis is.
pub fn stepped(tensor: &CubeTensor, width: usize) -> CubeTensor {
    if is_stepped(tensor, width) { tensor.clone() } else { into_contiguous(tensor.clone()) }
}

fn is_stepped(tensor: &CubeTensor, width: usize) -> bool {
    let strides = tensor.meta.strides();
    strides[..strides.len() - 1].iter().all(|stride| stride.is_multiple_of(width))
}

/// What broadcasts to the scores, with strides 0 along the axes on which it does.
pub fn scores_float(problem: &Problem, tensor: CubeTensor) -> CubeTensor {
    CubeBackend::float_expand(tensor, scores(problem))
}

/// As [`scores_float`], of a mask.
pub fn scores_bool(problem: &Problem, tensor: CubeTensor) -> CubeTensor {
    CubeBackend::bool_expand(tensor, scores(problem))
}

/// A table by relative position for every head, with stride 0 along them where they share one.
pub fn heads_of_table(problem: &Problem, table: CubeTensor) -> CubeTensor {
    let distances = table.meta.shape()[1];
    CubeBackend::float_expand(table, Shape::new([problem.heads, distances]))
}

fn scores(problem: &Problem) -> Shape {
    Shape::new([problem.batch, problem.heads, problem.query_len, problem.key_len])
}

/// Offset, lower and upper bound of `j − i`, keys. Bounds beyond any position are open.
fn numbers(band: &Band) -> [i32; 4] {
    let near = |bound: i64| bound.clamp(-LARGEST, LARGEST) as i32;
    let bound = |side: Option<i64>, open: i64| side.map_or(open, |side| band.offset.saturating_add(side));
    [near(band.offset), near(bound(band.lower, -LARGEST)), near(bound(band.upper, LARGEST)), near(band.keys as i64)]
}

/// Whether batch entries have bands of their own.
pub fn has_bands(problem: &Problem) -> bool {
    problem.bands.first().is_some_and(|first| problem.bands.iter().any(|band| band != first))
}

/// `[B, 4]`: the [`numbers`] of each batch entry; none where all have those of the first, which are among the scalars.
pub fn bands(problem: &Problem, client: &Client, like: &CubeTensor) -> Option<CubeTensor> {
    if !has_bands(problem) {
        return None;
    }
    let bytes: Vec<u8> = problem.bands.iter().flat_map(numbers).flat_map(i32::to_ne_bytes).collect();
    let handle = client.create_from_slice(&bytes);
    let shape = Shape::new([problem.batch, 4]);
    Some(CubeTensor::new_contiguous(client.clone(), like.device.clone(), shape, handle, DType::I32))
}

/// A mask by blocks as one buffer of words: its table, and behind it the patterns, two words a row.
pub fn blocks(mask: &BlockMask, like: &CubeTensor) -> CubeTensor {
    let patterns = mask.patterns().iter().flatten().flat_map(|&word| [word as u32, (word >> 32) as u32]);
    let words: Vec<u32> = mask.table().iter().copied().chain(patterns).collect();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let handle = like.client.create_from_slice(&bytes);
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), Shape::new([words.len()]), handle, DType::U32)
}

/// Entries of the table from one batch entry to the next, from one head to the next, from one block of queries to the next, and all.
fn block_strides(mask: &BlockMask) -> [usize; 4] {
    let ([batch, heads, ..], [query_blocks, key_blocks]) = (mask.shape(), mask.blocks());
    let of_head = query_blocks * key_blocks;
    let step = |axis: usize, stride: usize| if axis == 1 { 0 } else { stride };
    [step(batch, heads * of_head), step(heads, of_head), key_blocks, mask.table().len()]
}

/// What a score goes through; `keep` tells what is true in the mask.
pub fn options(problem: &Problem, keep: bool) -> Options {
    Options {
        softcap: problem.softcap.is_some(),
        alibi: problem.alibi,
        mask: problem.mask.is_some(),
        bias: problem.bias.is_some(),
        keep,
        blocks: problem.block_mask.is_some(),
        relative: problem.relative_bias.is_some(),
        dropout: problem.dropout.is_some(),
        apart: false,
        given: 0,
    }
}

/// Which of a kernel's optional tensors are given, a bit each, as a part of what it is compiled for. CubeCL's hash of optional arguments
/// (0.11) counts those that are given without saying which, and kernels kept on disk are found by that hash alone: one with sinks would
/// be taken for one with a table of bands.
pub fn given(tensors: &[bool]) -> u32 {
    tensors.iter().fold(0, |bits, &is_given| bits << 1 | u32::from(is_given))
}

/// Whether the scale is above 0 as f32 holds it: 0 times a score of −∞ would be NaN.
pub fn is_above_0(problem: &Problem) -> bool {
    problem.scale as f32 >= f32::MIN_POSITIVE
}

/// How a launch cuts its work.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Heads whose rows lie behind each other in a tile.
    pub packed: usize,
    /// Tiles of the rows of `packed` heads.
    pub tiles: usize,
    /// Runs of keys, and keys of a run.
    pub runs: (usize, usize),
    /// The first column that the launch makes.
    pub first_column: usize,
}

/// Numbers of a launch.
pub fn scalars(problem: &Problem, cut: Cut) -> ScalarsLaunch {
    let Cut { packed, tiles, runs: (splits, run), first_column } = cut;
    let strides = problem.block_mask.as_deref().map_or([0; 4], block_strides);
    let (seed, threshold, kept) =
        problem.dropout.map_or((0, 0, 1.0), |dropout| (dropout.seed, dropout.threshold(), dropout.scale()));
    let [offset, lower, upper, keys] = problem.bands.first().map_or([0; 4], numbers);
    ScalarsLaunch::new(
        problem.heads,
        problem.group(),
        packed,
        tiles * splits * problem.batch * (problem.heads / packed),
        tiles,
        splits,
        run,
        first_column,
        strides[0],
        strides[1],
        strides[2],
        strides[3],
        offset,
        lower,
        upper,
        keys,
        problem.scale as f32,
        problem.softcap.unwrap_or(1.0) as f32,
        f32::NEG_INFINITY,
        seed as u32,
        (seed >> 32) as u32,
        threshold,
        kept as f32,
    )
}

/// The type as the kernels' compiler names it.
pub fn element(tensor: &CubeTensor) -> ElemType {
    dtype_to_storage_type(tensor.dtype)
}
