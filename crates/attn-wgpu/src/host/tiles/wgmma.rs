//! Cuts for the asynchronous matrix instructions of groups of planes.

use attn_core::Problem;
use burn_backend::FloatDType;

use crate::device::score::Options;
use crate::device::wgmma::{Config, GROUP, ROWS};
use crate::host::machine::Machine;
use crate::host::tiles::{Cube, Narrow, Tiles, Way, packed, tuned};

/// How groups of four planes share a tile, 64 rows to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WgmmaTiles {
    /// Groups of planes of a cube.
    pub groups: usize,
    /// Keys of a block.
    pub block: usize,
    /// Numbers of the narrow type that a weight is the sum of.
    pub terms: usize,
    /// The bits of an f32 that the narrow type has room for.
    pub cut: u32,
    /// The power of two that weights are multiplied by on their way through the narrow type.
    pub lift: u32,
    /// The narrow type is bf16, not f16.
    pub brain: bool,
}

/// The widest rows of queries, and columns of the output, that a unit has registers for.
const DIMS: usize = 128;
/// Dimensions that an instruction multiplies.
const DEEP: usize = 16;
/// Terms of a weight: three of bf16 would keep f32's 24 bits, and take a third more time.
const TERMS: usize = 2;

impl Tiles {
    /// The cut of `problem` for the groups of planes of `machine`.
    ///
    /// # Errors
    /// Why they can't do it.
    pub fn by_groups(problem: &Problem, machine: &Machine) -> Result<Self, String> {
        let hardware = &machine.hardware;
        let tuned = tuned::of(machine);
        let Narrow { cut, lift, .. } = Narrow::of(problem.dtype)?;
        if !machine.multiplies_in_groups {
            return Err("the device has no matrix instructions of groups of planes".to_string());
        }
        let (head_dim, value_dim) = (problem.head_dim, problem.value_dim);
        if !head_dim.is_multiple_of(DEEP) || !value_dim.is_multiple_of(DEEP) || head_dim > DIMS {
            return Err(format!(
                "dimensions of {head_dim} and {value_dim}, where it takes multiples of {DEEP}, the first up to {DIMS}"
            ));
        }
        let packed = packed(problem, tuned.wgmma_groups * ROWS);
        let rows = problem.query_len * packed;
        if rows <= ROWS / 2 {
            return Err(format!("{rows} rows, which fill less than half of a group's"));
        }
        let columns = value_dim.min(DIMS);
        let groups = rows.div_ceil(ROWS).min(tuned.wgmma_groups);
        let brain = problem.dtype == FloatDType::BF16;
        let tiles = WgmmaTiles { groups, block: tuned.wgmma_block, terms: TERMS, cut, lift, brain };
        let bytes = Config::new(&tiles, head_dim, columns, true, Options::default()).shared_bytes();
        if bytes > hardware.max_shared_memory_size {
            return Err(format!("{} bytes of shared memory, where it takes {bytes}", hardware.max_shared_memory_size));
        }
        let cube = Cube { units: groups * GROUP, rows: groups * ROWS, packed, columns, at_once: tuned.wgmma_cubes };
        Ok(Self::new(problem, machine, cube, tuned.wgmma_block, Way::Wgmma(tiles)))
    }
}
