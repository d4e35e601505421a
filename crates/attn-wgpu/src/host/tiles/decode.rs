//! Cuts for a few rows, whose dimensions the units of a plane share.

use attn_core::Problem;

use crate::device::decode::Config;
use crate::device::score::Options;
use crate::host::machine::Machine;
use crate::host::tiles::rows::COLUMNS;
use crate::host::tiles::{Cube, Tiles, Way, packed, tuned};

/// How units share a few rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecodeTiles {
    /// Units that share a key, a power of two and no more than a plane's.
    pub lanes: usize,
    /// Units of a plane: the fewest that one may have.
    pub plane: usize,
    /// Planes of a cube.
    pub planes: usize,
    /// Keys that a group of `lanes` has at once.
    pub block: usize,
}

/// Rows of a cube at most.
const ROWS: usize = 8;
/// Rows that share keys, at most: more are work enough for units with rows of their own.
const MOST_ROWS: usize = 32;
/// Times the registers that are wished for, which a unit may use where a plane has no more units: beyond, compilers take minutes.
const CROWDED: usize = 4;
/// Keys of a unit at once: loads that are under way together.
const KEYS: usize = 4;

impl DecodeTiles {
    /// What the kernel is compiled with.
    pub fn config(&self, head_dim: usize, columns: usize, rows: usize, options: Options) -> Config {
        let Self { lanes, plane, planes, block } = *self;
        Config { head_dim, columns, rows, lanes, plane, planes, block, options }
    }
}

impl Tiles {
    /// The cut of `problem` for units that share rows.
    ///
    /// # Errors
    /// Why they can't do it.
    pub fn by_dimensions(problem: &Problem, machine: &Machine) -> Result<Self, String> {
        let hardware = &machine.hardware;
        let tuned = tuned::of(machine);
        let packed = packed(problem, MOST_ROWS);
        let all_rows = problem.query_len * packed;
        if all_rows > MOST_ROWS {
            return Err(format!("{all_rows} rows to a head, where it serves up to {MOST_ROWS}"));
        }
        let rows = all_rows.min(ROWS);
        let plane = machine.shuffles;
        if plane < 2 {
            return Err("the units of a plane can't exchange numbers".to_string());
        }
        let columns = problem.value_dim.min(COLUMNS);
        // As few units to a key as have room for the rows, since they have to add up what each finds; but as many as read a line.
        let least = tuned.decode_lanes.min(problem.head_dim.next_power_of_two());
        let kept = |lanes: usize| rows * (problem.head_dim + columns).div_ceil(lanes);
        if kept(plane) > CROWDED * tuned.decode_registers {
            return Err(format!("rows of {} and {columns} numbers, too wide for a plane of {plane}", problem.head_dim));
        }
        let doubled = std::iter::successors(Some(1), |&lanes| (lanes < plane).then_some(2 * lanes));
        let mut enough = doubled.filter(|&lanes| lanes >= least && kept(lanes) <= tuned.decode_registers);
        let lanes = enough.next().unwrap_or(plane);
        let block = if rows > KEYS { KEYS / 2 } else { KEYS };
        let none = Options::default();
        let cut = |planes| DecodeTiles { lanes, plane, planes, block };
        let most = (hardware.max_units_per_cube as usize).min(hardware.max_cube_dim.0 as usize);
        let planes = std::iter::successors(Some(tuned.planes), |&planes| (planes > 1).then_some(planes / 2))
            .find(|&planes| {
                let bytes = cut(planes).config(problem.head_dim, columns, rows, none).shared_bytes();
                planes * plane <= most && bytes <= hardware.max_shared_memory_size
            })
            .ok_or_else(|| format!("{} bytes of shared memory are too few", hardware.max_shared_memory_size))?;
        let units = planes * plane;
        let cube = Cube { units, rows, packed, columns, at_once: tuned.decode_cubes };
        Ok(Self::new(problem, machine, cube, units / lanes * block, Way::Decode(cut(planes))))
    }

    /// Whether units that share rows are the faster way for these.
    ///
    /// # Errors
    /// Why not.
    pub fn advises_dimensions(problem: &Problem, machine: &Machine) -> Result<(), String> {
        let rows = problem.query_len * packed(problem, MOST_ROWS);
        let most = tuned::of(machine).decode_rows;
        if rows > most { Err(format!("{rows} rows share keys, more than {most}")) } else { Ok(()) }
    }
}
