//! Cuts of the backward pass: by rows, by keys, and runs of the pairs that read a number of a bias or table.

use std::fmt;
use std::hash::Hash;

use attn_core::Problem;

use crate::device::backward::Block;
use crate::host::machine::Machine;
use crate::host::tiles::{packed, tuned};

/// How a backward pass is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackwardTiles {
    /// Units have query rows of their own: dQ, and what is a sum over rows.
    pub rows: Side,
    /// Units have keys of their own: dK and dV.
    pub keys: Side,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// Units of a cube.
    pub units: usize,
    /// How each goes over what is not its own.
    pub block: Block,
    /// Heads whose rows share a tile, or read its keys.
    pub packed: usize,
    /// Tiles of `packed` heads.
    pub tiles: usize,
    /// Columns of gradients that one launch makes at most.
    pub columns: usize,
}

impl BackwardTiles {
    /// The cut of `problem`.
    pub fn new(problem: &Problem, machine: &Machine) -> Self {
        let packed = packed(problem, tuned::of(machine).rows);
        let [by_row, by_key] = [problem.head_dim, problem.head_dim + problem.value_dim];
        Self {
            rows: Side::new(problem, machine, problem.query_len * packed, packed, by_row),
            keys: Side::new(problem, machine, problem.key_len, problem.group(), by_key),
        }
    }

    /// What kernels are compiled for.
    pub fn compiled(&self) -> impl Hash + use<> {
        (self.rows.compiled(), self.keys.compiled())
    }
}

impl Side {
    /// Of `count` rows or keys, for which `gradients` numbers each are made.
    fn new(problem: &Problem, machine: &Machine, count: usize, packed: usize, gradients: usize) -> Self {
        let hardware = &machine.hardware;
        let tuned = tuned::of(machine);
        let columns = tuned.backward_columns;
        let least = (hardware.plane_size_max as usize).clamp(1, 32);
        let budget = (tuned.backward_unrolled / (problem.head_dim + problem.value_dim + gradients.min(columns))).max(1);
        // As the forward pass does.
        let is_heaped = tuned.unit_rows > 1 && count > least;
        let own = if is_heaped { count.div_ceil(least).min(tuned.unit_rows).min(budget) } else { 1 };
        let block = (budget / own).clamp(1, if is_heaped { tuned.block } else { tuned.lone_block });
        let edge = if machine.is_software { 1 } else { block };
        let most = (hardware.max_units_per_cube as usize).min(hardware.max_cube_dim.0 as usize).max(1);
        let units = count.div_ceil(own).next_power_of_two().clamp(least, (tuned.rows / own).max(least)).min(most);
        let plane = if units % machine.broadcasts.max(1) == 0 { machine.broadcasts } else { 0 };
        Self { units, block: Block { own, block, edge, plane }, packed, tiles: count.div_ceil(units * own), columns }
    }

    /// What kernels are compiled for.
    fn compiled(&self) -> impl Hash + use<> {
        (self.units, self.block, self.columns)
    }

    /// Cubes of a launch.
    pub fn cubes(&self, problem: &Problem) -> usize {
        self.tiles * problem.batch * (problem.heads / self.packed)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, own: &str, others: &str) -> fmt::Result {
        let Block { own: count, block, plane, .. } = self.block;
        write!(f, "{} {own} × {block} {others} by {} units", self.units * count, self.units)?;
        if plane > 0 { write!(f, ", {plane} load for each other") } else { Ok(()) }
    }
}

impl fmt::Display for BackwardTiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.write(f, "rows", "keys")?;
        f.write_str("; ")?;
        self.keys.write(f, "keys", "rows")
    }
}

/// Units that find gradients by pairs, of several for each number where there are few numbers.
const UNITS: usize = 1 << 15;
/// Pairs of the shortest run.
const SHORTEST: usize = 64;

/// Runs of the pairs that read one of `numbers`, and pairs of a run.
pub fn runs(numbers: usize, pairs: usize) -> (usize, usize) {
    let runs = (UNITS / numbers.max(1)).clamp(1, pairs.div_ceil(SHORTEST).max(1));
    let run = pairs.div_ceil(runs).max(1);
    (pairs.div_ceil(run).max(1), run)
}
