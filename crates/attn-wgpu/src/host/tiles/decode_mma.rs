//! Cuts for a few rows by matrix instructions whose registers are known.

use attn_core::Problem;

use crate::device::decode::mma::{Config, DEEP, HALF, KEYS, WIDE};
use crate::device::mma::{PLANE, ROWS};
use crate::device::score::Options;
use crate::host::machine::Machine;
use crate::host::tiles::{Cube, Narrow, Tiles, Way, tuned};

/// How planes go over the keys of a few rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecodeMmaTiles {
    /// Halves of a matrix that the rows fill.
    pub halves: usize,
    /// Planes of a cube.
    pub planes: usize,
    /// Numbers of the narrow type that a weight is the sum of.
    pub terms: usize,
    /// The bits of an f32 that the narrow type has room for.
    pub cut: u32,
    /// What weights are multiplied by on their way through the narrow type.
    pub lift: u32,
    /// The bits of the exponents of two of the narrow numbers in a word.
    pub exponents: u32,
}

/// The widest rows of queries that a plane has registers for.
const DIMS: usize = 256;
/// Columns of the output that it has registers for.
const COLUMNS: usize = 128;

impl DecodeMmaTiles {
    /// What the kernel is compiled with.
    pub fn config(&self, head_dim: usize, columns: usize, options: Options) -> Config {
        let Self { halves, planes, terms, cut, lift, exponents } = *self;
        Config { head_dim, columns, halves, planes, terms, cut, lift, exponents, options }
    }
}

impl Tiles {
    /// The cut of `problem` for the matrix instructions of `machine`, where few rows share keys.
    ///
    /// # Errors
    /// Why they can't do it.
    pub fn by_few(problem: &Problem, machine: &Machine) -> Result<Self, String> {
        let hardware = &machine.hardware;
        let tuned = tuned::of(machine);
        let Narrow { terms, cut, lift, exponents } = Narrow::by_instructions(problem.dtype, machine)?;
        let (head_dim, value_dim) = (problem.head_dim, problem.value_dim);
        if !head_dim.is_multiple_of(DEEP) || !value_dim.is_multiple_of(WIDE) || head_dim > DIMS {
            return Err(format!(
                "dimensions of {head_dim} and {value_dim}, where it takes multiples of {DEEP} up to {DIMS}, and of {WIDE}"
            ));
        }
        // All that share keys, so that each is read once: more rows are a tile of several planes elsewhere.
        let packed = problem.group();
        let rows = problem.query_len.saturating_mul(packed);
        if rows > ROWS {
            return Err(format!("{rows} rows share keys, where it serves up to {ROWS}"));
        }
        let halves = rows.div_ceil(HALF);
        let columns = if value_dim.is_multiple_of(COLUMNS) { COLUMNS } else { WIDE };
        let planes = tuned.planes;
        let tiles = DecodeMmaTiles { halves, planes, terms, cut, lift, exponents };
        let bytes = tiles.config(head_dim, columns, Options::default()).shared_bytes();
        let most = (hardware.max_units_per_cube as usize).min(hardware.max_cube_dim.0 as usize);
        if bytes > hardware.max_shared_memory_size || planes * PLANE > most {
            return Err(format!("{bytes} bytes of shared memory and {planes} planes are too many"));
        }
        let is_small = halves == 1 && head_dim + columns <= 2 * WIDE;
        let at_once = tuned.decode_mma_cubes[usize::from(is_small)];
        let cube = Cube { units: planes * PLANE, rows: halves * HALF, packed, columns, at_once };
        Ok(Self::new(problem, machine, cube, planes * KEYS, Way::DecodeMma(tiles)))
    }
}
