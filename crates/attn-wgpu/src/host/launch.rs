//! The launches of one forward pass.

#[cfg(test)]
mod tests;

use attn_core::Problem;
use burn_backend::cubecl::dtype_to_storage_type;
use burn_backend::{DType, Shape};
use burn_cubecl::cubecl::{CubeCount, CubeDim};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use crate::device::decode::attention_decode;
use crate::device::decode::mma::attention_decode_mma;
use crate::device::forward::{Config, attention_forward};
use crate::device::matrix::attention_matrix;
use crate::device::merge::{self, attention_merge};
use crate::device::mma::{VECTOR, attention_mma};
use crate::device::score::Options;
use crate::device::wgmma::{self, attention_wgmma};
use crate::host::arguments::{
    Cut, bands, blocks, element, given, heads_of_table, is_above_0, options, rows, scalars, scores_bool, scores_float,
    stepped, width,
};
use crate::host::taken::Launches;
use crate::host::tiles::{RowTiles, Tiles, Way};

/// A forward pass's tensors, their last axes contiguous.
pub struct Operands {
    /// `[B, H, Sq, D]`.
    pub query: CubeTensor,
    /// `[B, G, Sk, D]`.
    pub key: CubeTensor,
    /// `[B, G, Sk, E]`.
    pub value: CubeTensor,
    /// Expanded to the scores.
    pub mask: Option<CubeTensor>,
    /// Whether true in the mask is seen.
    pub keep: bool,
    /// Expanded to the scores.
    pub bias: Option<CubeTensor>,
    /// `[H]`.
    pub slopes: Option<CubeTensor>,
    /// Expanded to `[H, 2·R + 1]`.
    pub relative: Option<CubeTensor>,
    /// `[H]`.
    pub sinks: Option<CubeTensor>,
    /// The table of a mask by blocks, and its patterns behind it.
    pub blocks: Option<CubeTensor>,
}

impl Operands {
    /// Makes what broadcasts broadcast, and last axes contiguous.
    pub fn new(problem: &Problem, inputs: attn_core::AttentionInputs<burn_cubecl::CubeBackend>) -> Self {
        let blocks = problem.block_mask.as_deref().map(|mask| blocks(mask, &inputs.query));
        let keep = inputs.mask.as_ref().is_some_and(|mask| mask.polarity() == attn_core::Polarity::Keep);
        Self {
            query: rows(inputs.query),
            key: rows(inputs.key),
            value: rows(inputs.value),
            mask: inputs.mask.map(|mask| scores_bool(problem, mask.into_parts().0)),
            keep,
            bias: inputs.bias.map(|bias| scores_float(problem, bias)),
            slopes: inputs.alibi_slopes,
            relative: inputs.relative_bias.map(|table| heads_of_table(problem, table)),
            sinks: inputs.sinks,
            blocks,
        }
    }

    /// Every tensor.
    pub fn all(&self) -> impl Iterator<Item = &CubeTensor> {
        let given = [&self.mask, &self.bias, &self.slopes, &self.relative, &self.sinks, &self.blocks];
        [&self.query, &self.key, &self.value].into_iter().chain(given.into_iter().flatten())
    }
}

/// The output `[B, H, Sq, E]` and, if wanted, the LSE `[B, H, Sq]` in f32.
pub fn forward(
    problem: &Problem,
    operands: &Operands,
    tiles: &Tiles,
    lse: bool,
    launches: &Launches,
) -> (CubeTensor, Option<CubeTensor>) {
    let like = &operands.query;
    let make = |shape: Vec<usize>, dtype: DType| {
        empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(shape), dtype)
    };
    let rows = [problem.batch, problem.heads, problem.query_len];
    let out = make([&rows[..], &[problem.value_dim]].concat(), like.dtype);
    let found = lse.then(|| make(rows.to_vec(), DType::F32));
    let Some(lanes) = tiles.joiners() else {
        pass(problem, operands, tiles, &out, found.as_ref(), launches);
        return (out, found);
    };
    let parts = make([&[tiles.splits], &rows[..], &[problem.value_dim]].concat(), DType::F32);
    let lses = make([&[tiles.splits], &rows[..]].concat(), DType::F32);
    pass(problem, operands, tiles, &parts, Some(&lses), launches);
    merge(problem, operands, (tiles.splits, lanes), [parts, lses], &out, found.as_ref());
    (out, found)
}

/// One launch for every run of columns.
fn pass(
    problem: &Problem,
    operands: &Operands,
    tiles: &Tiles,
    out: &CubeTensor,
    lse: Option<&CubeTensor>,
    launches: &Launches,
) {
    let client = &operands.query.client;
    let bands = bands(problem, client, &operands.query);
    let address = operands.all().chain([out]).map(CubeTensor::required_address_type).max().unwrap_or_default();
    let (query, key, value, reads, writes) = match tiles.way {
        // Shared memory is made of such vectors, and the dimensions are multiples of them.
        Way::DecodeMma(_) | Way::Mma(_) | Way::Wgmma(_) => {
            let [query, key, value] = [&operands.query, &operands.key, &operands.value].map(|x| stepped(x, VECTOR));
            (query, key, value, VECTOR, VECTOR)
        }
        _ => {
            // Sixteen bytes where memory is what counts, and the device has such vectors of narrow numbers.
            let vectors = client.properties().hardware.max_vector_size;
            let most =
                if matches!(tiles.way, Way::Decode(_)) { vectors.min(16 / operands.key.dtype.size()) } else { 4 };
            let reads = width(&[&operands.query, &operands.key], problem.head_dim, most);
            // The output as rows: its only stride that counts is a row's.
            let writes = width(&[&operands.value], problem.value_dim, most);
            (operands.query.clone(), operands.key.clone(), operands.value.clone(), reads, writes)
        }
    };
    // They join where runs do.
    let sinks = operands.sinks.clone().filter(|_| tiles.splits == 1);
    let mask_element = operands.mask.as_ref().map_or(dtype_to_storage_type(DType::U32), element);
    let mut first = 0;
    while first < problem.value_dim {
        if first > 0 {
            launches.again(out);
        }
        let columns = tiles.columns.min(problem.value_dim - first);
        let cut =
            Cut { packed: tiles.packed, tiles: tiles.tiles, runs: (tiles.splits, tiles.run), first_column: first };
        // Every launch finds the same LSE; the first one writes it.
        let lse = if first == 0 { lse.cloned() } else { None };
        let given = given(&[sinks.is_some(), bands.is_some(), lse.is_some()]);
        let (scalars, options) = (scalars(problem, cut), Options { given, ..options(problem, operands.keep) });
        // The kernels take the same, but for masks by blocks and biases by relative position, which one of them knows.
        macro_rules! launch {
            ($kernel:ident, $config:expr $(, $own:expr)* $(; $($size:expr),+)?) => {
                $kernel::launch(
                    client,
                    spread(tiles.cubes(problem), client.properties().hardware.max_cube_count),
                    CubeDim::new_1d(tiles.units as u32),
                    address,
                    reads,
                    writes,
                    $($($size,)+)?
                    query.clone().into_tensor_arg(),
                    key.clone().into_tensor_arg(),
                    value.clone().into_tensor_arg(),
                    operands.mask.clone().map(CubeTensor::into_tensor_arg).into(),
                    operands.bias.clone().map(CubeTensor::into_tensor_arg).into(),
                    operands.slopes.clone().map(CubeTensor::into_tensor_arg).into(),
                    sinks.clone().map(CubeTensor::into_tensor_arg).into(),
                    bands.clone().map(CubeTensor::into_tensor_arg).into(),
                    $($own,)*
                    out.clone().into_tensor_arg(),
                    lse.map(CubeTensor::into_tensor_arg).into(),
                    scalars,
                    $config,
                    element(&operands.query),
                    element(out),
                    mask_element,
                )
            };
        }
        let head_dim = problem.head_dim;
        match tiles.way {
            Way::Rows(RowTiles { rows, block, edge, plane }) => {
                let blocks = operands.blocks.clone().map(CubeTensor::into_tensor_arg).into();
                let relative = operands.relative.clone().map(CubeTensor::into_tensor_arg).into();
                let config = Config { head_dim, columns, rows, block, edge, plane, options };
                launch!(attention_forward, config, blocks, relative);
            }
            Way::Decode(cut) => launch!(attention_decode, cut.config(head_dim, columns, tiles.rows, options)),
            Way::DecodeMma(cut) => launch!(attention_decode_mma, cut.config(head_dim, columns, options)),
            Way::Matrix(cut) => launch!(attention_matrix, cut.config(head_dim, columns, options)),
            Way::Mma(cut) => launch!(attention_mma, cut.config(head_dim, columns, options)),
            Way::Wgmma(cut) => {
                let config = wgmma::Config::new(&cut, head_dim, columns, is_above_0(problem), options);
                launch!(attention_wgmma, config; cut.block / 2, config.wide() / 2, cut.block / 4 * cut.terms);
            }
        }
        first += columns;
    }
}

/// Joins the runs, each vector of the output by so many units.
fn merge(
    problem: &Problem,
    operands: &Operands,
    (splits, lanes): (usize, usize),
    [parts, lses]: [CubeTensor; 2],
    out: &CubeTensor,
    lse: Option<&CubeTensor>,
) {
    const UNITS: usize = 64;
    let client = &operands.query.client;
    let address = [&parts, &lses, out].into_iter().map(CubeTensor::required_address_type).max().unwrap_or_default();
    let width = width(&[], problem.value_dim, 4);
    let rows = problem.batch * problem.heads * problem.query_len;
    let vectors = problem.value_dim / width;
    attention_merge::launch(
        client,
        spread((rows * vectors).div_ceil(UNITS / lanes), client.properties().hardware.max_cube_count),
        CubeDim::new_1d(UNITS as u32),
        address,
        width,
        parts.into_tensor_arg(),
        lses.into_tensor_arg(),
        operands.sinks.clone().map(CubeTensor::into_tensor_arg).into(),
        out.clone().into_tensor_arg(),
        lse.cloned().map(CubeTensor::into_tensor_arg).into(),
        splits,
        rows,
        vectors,
        problem.query_len,
        problem.heads,
        f32::NEG_INFINITY,
        merge::Config { units: UNITS, lanes, given: given(&[operands.sinks.is_some(), lse.is_some()]) },
        element(&operands.query),
        element(out),
    );
}

/// At least `cubes` cubes on two axes, neither longer than the device takes: kernels look at their number.
pub fn spread(cubes: usize, most: (u32, u32, u32)) -> CubeCount {
    let along = (most.0 as usize).max(1);
    if cubes <= along {
        return CubeCount::Static(cubes as u32, 1, 1);
    }
    // As square as can be, so that few cubes find nothing to do.
    let second = cubes.div_ceil(along);
    CubeCount::Static(cubes.div_ceil(second) as u32, second as u32, 1)
}
