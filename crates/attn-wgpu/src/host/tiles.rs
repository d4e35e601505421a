//! How a problem is cut for a device: rows of a cube, keys of a block, runs of keys, columns of a launch.

mod backward;
mod decode;
mod decode_mma;
mod matrix;
mod mma;
mod rows;
#[cfg(test)]
mod tests;
mod tuned;
mod wgmma;

use std::fmt;
use std::hash::Hash;

use attn_core::Problem;
use burn_backend::FloatDType;

use crate::device::decode::mma::KEYS;
use crate::device::merge::AT_ONCE;
use crate::host::machine::Machine;

pub use backward::{BackwardTiles, Side, runs};
pub use decode::DecodeTiles;
pub use decode_mma::DecodeMmaTiles;
pub use matrix::MatrixTiles;
pub use mma::MmaTiles;
pub use rows::RowTiles;
pub use wgmma::WgmmaTiles;

/// How a problem is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Units of a cube.
    pub units: usize,
    /// Rows of a cube.
    pub rows: usize,
    /// Heads whose rows share a tile: all that read one key/value head, or 1.
    pub packed: usize,
    /// Tiles of `packed` heads' rows.
    pub tiles: usize,
    /// Runs of keys, each a cube of its own.
    pub splits: usize,
    /// Keys of a run.
    pub run: usize,
    /// Columns of the output that one launch makes at most.
    pub columns: usize,
    /// What the units of a cube do.
    pub way: Way,
}

/// What the units of a cube do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// Each has rows of its own.
    Rows(RowTiles),
    /// They share the dimensions of a few rows.
    Decode(DecodeTiles),
    /// They multiply a few rows as matrices in registers that are known.
    DecodeMma(DecodeMmaTiles),
    /// Their planes multiply matrices.
    Matrix(MatrixTiles),
    /// They multiply matrices in registers that are known.
    Mma(MmaTiles),
    /// Groups of their planes multiply matrices that lie in shared memory.
    Wgmma(WgmmaTiles),
}

impl fmt::Display for Tiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} × ", self.rows, if self.rows == 1 { "row" } else { "rows" })?;
        match self.way {
            Way::Rows(RowTiles { rows, block, plane, .. }) => {
                write!(f, "{block} keys by {} units", self.units)?;
                if rows > 1 {
                    write!(f, " of {rows} rows")?;
                }
                if plane > 0 {
                    write!(f, ", {plane} load for each other")?;
                }
            }
            Way::Decode(DecodeTiles { lanes, block, .. }) => {
                write!(f, "{} keys by {} units, {lanes} to a key", block * self.units / lanes, self.units)?;
            }
            Way::DecodeMma(DecodeMmaTiles { planes, .. }) => {
                write!(f, "{} keys by {planes} planes with matrices in registers", planes * KEYS)?;
            }
            Way::Matrix(MatrixTiles { size, planes, block, .. }) => {
                write!(f, "{block} keys by {planes} planes with matrices of {size}×{size}")?;
            }
            Way::Mma(MmaTiles { planes, block, .. }) => {
                write!(f, "{block} keys by {planes} planes with matrices in registers")?;
            }
            Way::Wgmma(WgmmaTiles { groups, block, .. }) => {
                let planes = if groups == 1 { "four planes" } else { "groups of four planes" };
                write!(f, "{block} keys by {planes} with matrices in shared memory")?;
            }
        }
        if self.splits > 1 {
            write!(f, "; {} runs of {} keys", self.splits, self.run)?;
        }
        Ok(())
    }
}

impl Tiles {
    /// Cubes of a launch.
    pub fn cubes(&self, problem: &Problem) -> usize {
        self.tiles * self.splits * problem.batch * (problem.heads / self.packed)
    }

    /// What kernels are compiled for.
    pub fn compiled(&self) -> impl Hash + use<> {
        let Self { units, rows, columns, way, .. } = *self;
        (units, rows, columns, self.joiners(), way)
    }

    /// Units that join the runs of a vector of the output, where there are several.
    pub fn joiners(&self) -> Option<usize> {
        const MOST: usize = 8;
        match self.splits {
            1 => None,
            // One unit loads as many together.
            splits if splits <= AT_ONCE => Some(1),
            _ => Some(MOST),
        }
    }

    /// Completes a cut: tiles and runs of keys, of which `block` are taken at a time.
    fn new(problem: &Problem, machine: &Machine, cube: Cube, block: usize, way: Way) -> Self {
        let Cube { units, rows, packed, columns, at_once } = cube;
        let tiles = (problem.query_len * packed).div_ceil(rows);
        let cubes = tiles * problem.batch * (problem.heads / packed);
        let (splits, run) = splits(cubes, at_once, block, problem, machine);
        Self { units, rows, packed, tiles, splits, run, columns, way }
    }
}

/// What a cube has.
struct Cube {
    units: usize,
    rows: usize,
    packed: usize,
    columns: usize,
    /// Cubes that a processor works on at once.
    at_once: usize,
}

/// How weights go through a narrow type, as sums of its numbers, so that they keep f32's bits.
struct Narrow {
    /// Numbers of the type that a weight is the sum of: f16 has 11 bits, bf16 has 8.
    terms: usize,
    /// The bits of an f32 that the type has room for.
    cut: u32,
    /// What weights are multiplied by on their way: f16's numbers begin at 2⁻²⁴, and weights far below count where all values are small.
    lift: u32,
    /// The bits of the exponents of two of its numbers in a word.
    exponents: u32,
}

impl Narrow {
    /// Of the types that matrices are made of.
    ///
    /// # Errors
    /// That `dtype` is none of them.
    fn of(dtype: FloatDType) -> Result<Self, String> {
        match dtype {
            FloatDType::F16 => Ok(Self { terms: 2, cut: 0xffff_e000, lift: 1 << 15, exponents: 0x7c00_7c00 }),
            FloatDType::BF16 => Ok(Self { terms: 3, cut: 0xffff_0000, lift: 1, exponents: 0x7f80_7f80 }),
            other => Err(format!("it multiplies f16 and bf16, not {other:?}")),
        }
    }

    /// Of those that `machine` multiplies by instructions whose registers are known.
    ///
    /// # Errors
    /// That `dtype` is none of them.
    fn by_instructions(dtype: FloatDType, machine: &Machine) -> Result<Self, String> {
        let narrow = Self::of(dtype)?;
        if !machine.instructions.contains(&dtype) {
            return Err(format!("the device has no instruction for matrices of {dtype:?} whose registers are known"));
        }
        Ok(narrow)
    }
}

/// Heads that share keys and whose queries fit a tile of `rows` together, so that keys are read once for all of them; else 1.
fn packed(problem: &Problem, rows: usize) -> usize {
    let group = problem.group();
    if group * problem.query_len <= rows { group } else { 1 }
}

/// Runs of keys and the length of one: enough for every processor to have work, each long enough to be worth it.
fn splits(cubes: usize, at_once: usize, block: usize, problem: &Problem, machine: &Machine) -> (usize, usize) {
    let tuned = tuned::of(machine);
    let hardware = &machine.hardware;
    let filling = match (hardware.num_streaming_multiprocessors, hardware.num_cpu_cores) {
        (Some(processors), _) | (None, Some(processors)) => processors as usize * at_once,
        (None, None) => tuned.processors * at_once,
    };
    // What the rows of a batch entry see between them: a tile's run begins where its own rows begin to see.
    let seen = problem.bands.iter().map(|band| band.keys_of_rows(0..problem.query_len).len()).max().unwrap_or(0);
    // As many as are at work at once, and no more: a few cubes left over would take as long as all before them.
    let wanted = (filling / cubes.max(1)).min(seen / tuned.shortest_run).clamp(1, tuned.most_splits);
    let run = seen.div_ceil(wanted).next_multiple_of(block).max(block);
    (seen.div_ceil(run).max(1), run)
}
