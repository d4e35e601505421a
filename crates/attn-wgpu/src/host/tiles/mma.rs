//! Cuts for matrix instructions whose registers are known.

use attn_core::Problem;

use crate::device::mma::{Config, PLANE, ROWS};
use crate::device::score::Options;
use crate::host::machine::Machine;
use crate::host::tiles::{Cube, Narrow, Tiles, Way, packed, tuned};

/// How planes share a tile, 16 rows to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MmaTiles {
    /// Planes of a cube.
    pub planes: usize,
    /// Keys of a block.
    pub block: usize,
    /// Numbers of the narrow type that a weight is the sum of.
    pub terms: usize,
    /// The bits of an f32 that the narrow type has room for.
    pub cut: u32,
    /// What weights are multiplied by on their way through the narrow type.
    pub lift: u32,
    /// The bits of the exponents of two of the narrow numbers in a word.
    pub exponents: u32,
}

/// The widest rows of queries, and columns of the output, that a plane has registers for.
const DIMS: usize = 128;

impl MmaTiles {
    /// What the kernel is compiled with.
    pub fn config(&self, head_dim: usize, columns: usize, options: Options) -> Config {
        let Self { planes, block, terms, cut, lift, exponents } = *self;
        Config { head_dim, columns, planes, block, terms, cut, lift, exponents, options }
    }
}

impl Tiles {
    /// The cut of `problem` for the matrix instructions of `machine`.
    ///
    /// # Errors
    /// Why they can't do it.
    pub fn by_instructions(problem: &Problem, machine: &Machine) -> Result<Self, String> {
        let hardware = &machine.hardware;
        let tuned = tuned::of(machine);
        let Narrow { terms, cut, lift, exponents } = Narrow::by_instructions(problem.dtype, machine)?;
        let (head_dim, value_dim) = (problem.head_dim, problem.value_dim);
        if !head_dim.is_multiple_of(ROWS) || !value_dim.is_multiple_of(ROWS) || head_dim > DIMS {
            return Err(format!(
                "dimensions of {head_dim} and {value_dim}, where it takes multiples of {ROWS}, the first up to {DIMS}"
            ));
        }
        let packed = packed(problem, tuned.mma_planes * ROWS);
        let rows = problem.query_len * packed;
        if rows < ROWS / 2 {
            return Err(format!("{rows} rows, which fill less than half a matrix"));
        }
        let columns = value_dim.min(DIMS);
        let most = (hardware.max_units_per_cube as usize).min(hardware.max_cube_dim.0 as usize);
        let block = tuned.mma_block;
        let none = Options::default();
        let cut = |planes| MmaTiles { planes, block, terms, cut, lift, exponents };
        let fits = |&planes: &usize| {
            let bytes = cut(planes).config(head_dim, columns, none).shared_bytes();
            planes * PLANE <= most && bytes <= hardware.max_shared_memory_size
        };
        let halves = std::iter::successors(Some(tuned.mma_planes), |&planes| (planes > 1).then_some(planes / 2));
        let Some(planes) = halves.filter(|&planes| planes == 1 || rows > (planes / 2) * ROWS).find(fits) else {
            return Err(format!("{} bytes of shared memory are too few", hardware.max_shared_memory_size));
        };
        let cube = Cube { units: planes * PLANE, rows: planes * ROWS, packed, columns, at_once: tuned.mma_cubes };
        Ok(Self::new(problem, machine, cube, block, Way::Mma(cut(planes))))
    }
}
