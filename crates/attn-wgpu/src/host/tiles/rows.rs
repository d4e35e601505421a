//! Cuts in which each unit has rows of its own.

use attn_core::Problem;

use crate::host::machine::Machine;
use crate::host::tiles::{Cube, Tiles, Way, packed, tuned};

/// Each unit has rows of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowTiles {
    /// Rows of a unit.
    pub rows: usize,
    /// Keys whose scores a unit holds at once.
    pub block: usize,
    /// The same where some of them are hidden.
    pub edge: usize,
    /// Units that load keys for each other; 0 where each loads its own.
    pub plane: usize,
}

/// The widest output row that a unit keeps: 256 registers or 1 KiB of private memory; wider ones take several launches.
pub const COLUMNS: usize = 256;

impl Tiles {
    /// The cut of `problem` for units that have rows of their own.
    pub fn by_rows(problem: &Problem, machine: &Machine) -> Self {
        let hardware = &machine.hardware;
        let tuned = tuned::of(machine);
        let packed = packed(problem, tuned.rows);
        let rows = problem.query_len * packed;
        let columns = problem.value_dim.min(tuned.row_columns);
        let least = (hardware.plane_size_max as usize).clamp(1, 32);
        let budget = (tuned.unrolled / (problem.head_dim + columns)).max(1);
        // Rows too few for the units of a plane are not heaped on some of them; each then has more keys instead.
        let is_heaped = tuned.unit_rows > 1 && rows > least;
        let own = if is_heaped { rows.div_ceil(least).min(tuned.unit_rows).min(budget) } else { 1 };
        let block = (budget / own).clamp(1, if is_heaped { tuned.block } else { tuned.lone_block });
        // A second block of another length costs a driver little where it is one key, and a card time where it is not whole.
        let edge = if machine.is_software { 1 } else { block };
        let most = (hardware.max_units_per_cube as usize).min(hardware.max_cube_dim.0 as usize).max(1);
        let units = rows.div_ceil(own).next_power_of_two().clamp(least, (tuned.rows / own).max(least)).min(most);
        let plane = if units % machine.broadcasts.max(1) == 0 { machine.broadcasts } else { 0 };
        let way = Way::Rows(RowTiles { rows: own, block, edge, plane });
        Self::new(
            problem,
            machine,
            Cube { units, rows: units * own, packed, columns, at_once: tuned.cubes_per_processor },
            block,
            way,
        )
    }
}
