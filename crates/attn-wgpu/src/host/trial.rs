//! Matrix units are tried on a small problem before they are trusted: they belong to the youngest parts of drivers and compilers,
//! some of which lose what was added under a condition, or fold away a rounding.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use attn_core::{AttentionInputs, AttentionSpec, Problem};
use burn_backend::ops::FloatTensorOps;
use burn_backend::{DType, FloatDType, TensorData};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

use crate::host::launch::{self, Operands};
use crate::host::machine::{self, Machine};
use crate::host::taken::Launches;
use crate::host::tiles::Tiles;
use crate::kernel::Cube;

/// D and E with tails of matrices.
const RAGGED: [usize; 2] = [40, 24];
/// D and E of whole matrices.
const WHOLE: [usize; 2] = [48, 32];

/// The same, where units load more of a row at once.
const BROAD: [usize; 2] = [96, 64];

/// Few queries, lengths with tails.
const FEW: [usize; 2] = [5, 333];
/// Lengths with tails, several blocks, half a tile of rows.
const SHORT: [usize; 2] = [43, 77];
/// The same where tiles and blocks are larger.
const LONG: [usize; 2] = [90, 300];

/// A cut of a problem for a machine.
type Cut = fn(&Problem, &Machine) -> Result<Tiles, String>;
type Answers = LazyLock<Mutex<HashMap<String, Result<(), String>>>>;

/// Whether matrix units find for `dtype` what units with rows of their own find. Asked once of each device and type.
///
/// # Errors
/// What differed.
pub fn matrices(device: &CubeDevice, dtype: FloatDType, machine: &Machine) -> Result<(), String> {
    static ANSWERS: Answers = LazyLock::new(Mutex::default);
    once(&ANSWERS, device, dtype, || {
        compare(device, dtype, machine, (RAGGED, SHORT), (Cube::Matrix, Tiles::by_matrices))
    })
}

/// As [`matrices`], of matrix instructions whose registers are known.
///
/// # Errors
/// What differed.
pub fn instructions(device: &CubeDevice, dtype: FloatDType, machine: &Machine) -> Result<(), String> {
    static ANSWERS: Answers = LazyLock::new(Mutex::default);
    once(&ANSWERS, device, dtype, || {
        compare(device, dtype, machine, (WHOLE, SHORT), (Cube::Mma, Tiles::by_instructions))
    })
}

/// As [`matrices`], of those where few rows share keys.
///
/// # Errors
/// What differed.
pub fn few(device: &CubeDevice, dtype: FloatDType, machine: &Machine) -> Result<(), String> {
    static ANSWERS: Answers = LazyLock::new(Mutex::default);
    once(&ANSWERS, device, dtype, || compare(device, dtype, machine, (BROAD, FEW), (Cube::DecodeMma, Tiles::by_few)))
}

/// As [`matrices`], of the instructions of groups of planes.
///
/// # Errors
/// What differed.
pub fn groups(device: &CubeDevice, dtype: FloatDType, machine: &Machine) -> Result<(), String> {
    static ANSWERS: Answers = LazyLock::new(Mutex::default);
    once(&ANSWERS, device, dtype, || compare(device, dtype, machine, (WHOLE, LONG), (Cube::Wgmma, Tiles::by_groups)))
}

fn once(
    answers: &Answers,
    device: &CubeDevice,
    dtype: FloatDType,
    ask: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    // An answer is written whole or not at all.
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    answers.entry(format!("{device:?} {dtype:?}")).or_insert_with(ask).clone()
}

fn compare(
    device: &CubeDevice,
    dtype: FloatDType,
    machine: &Machine,
    ([head_dim, value_dim], [query_len, key_len]): ([usize; 2], [usize; 2]),
    (kernel, cut): (Cube, Cut),
) -> Result<(), String> {
    let [batch, heads, kv_heads] = [1, 2, 1];
    let inputs = || {
        AttentionInputs::<CubeBackend>::new(
            numbers(device, dtype, [batch, heads, query_len, head_dim], 1),
            numbers(device, dtype, [batch, kv_heads, key_len, head_dim], 2),
            numbers(device, dtype, [batch, kv_heads, key_len, value_dim], 3),
        )
    };
    let spec = AttentionSpec { causal: true, scale: Some(0.5), ..AttentionSpec::default() };
    let problem = inputs().problem(&spec).map_err(|error| error.to_string())?;
    let rows = answer(&problem, inputs(), (Cube::Rows, &Tiles::by_rows(&problem, machine)))?;
    let tiles = cut(&problem, machine)?;
    let matrices = answer(&problem, inputs(), (kernel, &tiles)).map_err(|reason| format!("on trial: {reason}"))?;
    // Values lie within ±1, and outputs are rounded to the narrow type; the LSE is not.
    let rounding = if dtype == FloatDType::F16 { 2f32.powi(-10) } else { 2f32.powi(-7) };
    for (what, allowed, [found, expected]) in
        [("output", rounding, [&matrices.0, &rows.0]), ("LSE", 1e-4, [&matrices.1, &rows.1])]
    {
        let same = |(&a, &b): (&f32, &f32)| (a - b).abs() <= allowed;
        if found.len() != expected.len() || !found.iter().zip(expected).all(same) {
            return Err(format!("on trial the {what} of the driver's matrices of {dtype:?} was wrong"));
        }
    }
    Ok(())
}

/// Output and LSE, as f32.
fn answer(
    problem: &Problem,
    inputs: AttentionInputs<CubeBackend>,
    (kernel, tiles): (Cube, &Tiles),
) -> Result<(Vec<f32>, Vec<f32>), String> {
    // Output and LSE are read, which asks the driver about all of it.
    let launches = Launches::unasked(kernel, inputs.query.device.clone());
    let operands = Operands::new(problem, inputs);
    let (out, lse) = launch::forward(problem, &operands, tiles, true, &launches);
    launches.end([].into_iter()).map_err(|error| error.to_string())?;
    let lse = lse.ok_or("no LSE was made")?;
    Ok((read(out)?, read(lse)?))
}

fn read(tensor: CubeTensor) -> Result<Vec<f32>, String> {
    let (dtype, shape) = (tensor.dtype, tensor.meta.shape().clone());
    let bytes = machine::read(&tensor.client, tensor.handle)?;
    let data = TensorData::from_bytes(bytes, shape, dtype).convert_dtype(DType::F32);
    data.try_to_vec().map_err(|error| format!("{error:?}"))
}

/// Numbers between −1 and 1 without a pattern, the same each time.
fn numbers(device: &CubeDevice, dtype: FloatDType, shape: [usize; 4], seed: u32) -> CubeTensor {
    let count = shape.iter().product::<usize>() as u32;
    let number = |at: u32| {
        // Weyl's sequence, stirred: multiplication by odd numbers loses nothing.
        let x = (at + 1).wrapping_mul(0x9e37_79b9).wrapping_add(seed.wrapping_mul(0x85eb_ca6b));
        let x = (x ^ (x >> 15)).wrapping_mul(0x2c1b_3c6d);
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let data = TensorData::new((0..count).map(number).collect::<Vec<_>>(), shape).convert_dtype(dtype.into());
    CubeBackend::float_from_data(data, device)
}
