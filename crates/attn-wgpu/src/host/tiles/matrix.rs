//! Cuts for matrix units.

use attn_core::Problem;

use crate::device::matrix::Config;
use crate::device::score::Options;
use crate::host::machine::Machine;
use crate::host::tiles::{Cube, Narrow, Tiles, Way, packed, tuned};

/// How matrix units share a tile, whose rows are `planes · size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixTiles {
    /// Rows, columns and depth of a matrix.
    pub size: usize,
    /// Planes of a cube.
    pub planes: usize,
    /// Units of a plane.
    pub plane: usize,
    /// Keys of a block.
    pub block: usize,
    /// Numbers of the narrow type that a weight is the sum of.
    pub terms: usize,
    /// The bits of an f32 that the narrow type has room for.
    pub cut: u32,
    /// What weights are multiplied by on their way through the narrow type.
    pub lift: u32,
}

/// Columns of the output that a plane keeps: 64 registers of each of 32 units. Wider ones take several launches.
const COLUMNS: usize = 128;

impl MatrixTiles {
    /// What the kernel is compiled with.
    pub fn config(&self, head_dim: usize, columns: usize, options: Options) -> Config {
        let Self { size, planes, plane, block, terms, cut, lift } = *self;
        Config { head_dim, columns, size, planes, plane, block, terms, cut, lift, options }
    }
}

impl Tiles {
    /// The cut of `problem` for the matrix units of `machine`.
    ///
    /// # Errors
    /// Why they can't do it.
    pub fn by_matrices(problem: &Problem, machine: &Machine) -> Result<Self, String> {
        let hardware = &machine.hardware;
        let tuned = tuned::of(machine);
        let Narrow { terms, cut, lift, .. } = Narrow::of(problem.dtype)?;
        let Some(size) = machine.matrix_size(problem.dtype) else {
            return Err(format!("the device has no square matrices of {:?} that it adds in f32", problem.dtype));
        };
        let (least, plane) = (hardware.plane_size_min, hardware.plane_size_max as usize);
        if !machine.syncs_planes || least as usize != plane || !plane.is_multiple_of(size) {
            return Err(format!("planes of {least} to {plane} units, which it can't rely on"));
        }
        let packed = packed(problem, tuned.rows);
        let rows = problem.query_len * packed;
        if rows < size / 2 {
            return Err(format!("{rows} rows, which fill less than half a matrix"));
        }
        let columns = problem.value_dim.min(COLUMNS);
        let most = (hardware.max_units_per_cube as usize).min(hardware.max_cube_dim.0 as usize);
        let none = Options::default();
        let cut = |planes| MatrixTiles { size, planes, plane, block: tuned.matrix_block, terms, cut, lift };
        let fits = |&planes: &usize| {
            let bytes = cut(planes).config(problem.head_dim, columns, none).shared_bytes(2);
            planes * plane <= most && bytes <= hardware.max_shared_memory_size
        };
        let halves = std::iter::successors(Some(tuned.planes), |&planes| (planes > 1).then_some(planes / 2));
        let Some(planes) = halves.filter(|&planes| planes == 1 || rows > (planes / 2) * size).find(fits) else {
            return Err(format!("{} bytes of shared memory are too few", hardware.max_shared_memory_size));
        };
        let cube =
            Cube { units: planes * plane, rows: planes * size, packed, columns, at_once: tuned.cubes_per_processor };
        Ok(Self::new(problem, machine, cube, tuned.matrix_block, Way::Matrix(cut(planes))))
    }
}
