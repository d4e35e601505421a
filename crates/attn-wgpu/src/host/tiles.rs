//! How a problem is cut for a device: rows of a cube, keys of a block, runs of keys, columns of a launch.

use attn_core::Problem;

use crate::host::machine::Machine;

/// How a problem is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Units of a cube.
    pub units: usize,
    /// Rows of a unit.
    pub rows: usize,
    /// Keys whose scores a unit holds at once.
    pub block: usize,
    /// The same where some of them are hidden.
    pub edge: usize,
    /// Units that load keys for each other; 0 where each loads its own.
    pub plane: usize,
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
}

/// Rows of a tile where there are enough: two warps of NVIDIA's, one wavefront of AMD's.
const ROWS: usize = 64;
/// Keys of a block at most: eight scores are eight chains of multiply-adds, which hide their latency.
const BLOCK: usize = 8;
/// Multiply-adds of a unit and a block, times two, that are unrolled: what drivers compile in seconds.
const UNROLLED: usize = 1024;
/// The same on a software driver.
const SOFTWARE_UNROLLED: usize = 2048;
/// Rows of a unit and keys of a block on a software driver, which multiplies what it has loaded without help of its own: so many
/// sums are the accumulators that AVX-512 has registers for.
const SOFTWARE_TILE: usize = 4;
/// The widest output row that a unit keeps: 256 registers or 1 KiB of private memory; wider ones take several launches.
const COLUMNS: usize = 256;
/// Keys of the shortest run: below, joining costs more than it gains.
const SHORTEST_RUN: usize = 256;
/// Cubes that fill a device whose size is unknown: four for each of 32 processors.
const FILLING: usize = 128;
/// Cubes for each processor where their number is known.
const CUBES_PER_PROCESSOR: usize = 4;
/// Runs at most: their results are joined by one unit.
const MOST_SPLITS: usize = 128;

impl Tiles {
    /// The cut of `problem` on `machine`.
    pub fn of(problem: &Problem, machine: &Machine) -> Self {
        let hardware = &machine.hardware;
        // A few queries of heads that share keys fill a tile together, so that keys are read once for all of them.
        let group = problem.group();
        let packed = if group * problem.query_len <= ROWS { group } else { 1 };
        let rows = problem.query_len * packed;
        let columns = problem.value_dim.min(COLUMNS);
        let least = (hardware.plane_size_max as usize).clamp(1, 32);
        let unrolled = if machine.is_software { SOFTWARE_UNROLLED } else { UNROLLED };
        let budget = (unrolled / (problem.head_dim + columns)).max(1);
        let (own, most_keys) = if machine.is_software && rows > least {
            (rows.div_ceil(least).min(SOFTWARE_TILE).min(budget), SOFTWARE_TILE)
        } else {
            (1, BLOCK)
        };
        let block = (budget / own).clamp(1, most_keys);
        // A second block of another length costs a driver little where it is one key, and a GPU time where it is not whole.
        let edge = if machine.is_software { 1 } else { block };
        let most = (hardware.max_units_per_cube as usize).min(hardware.max_cube_dim.0 as usize).max(1);
        let units = rows.div_ceil(own).next_power_of_two().clamp(least, (ROWS / own).max(least)).min(most);
        let tiles = rows.div_ceil(units * own);
        let cubes = tiles * problem.batch * (problem.heads / packed);
        let (splits, run) = splits(cubes, block, problem, machine);
        let plane = if units % machine.broadcasts.max(1) == 0 { machine.broadcasts } else { 0 };
        Self { units, rows: own, block, edge, plane, packed, tiles, splits, run, columns }
    }

    /// Cubes of a launch.
    pub fn cubes(&self, problem: &Problem) -> usize {
        self.tiles * self.splits * problem.batch * (problem.heads / self.packed)
    }
}

/// Runs of keys and the length of one: enough for every processor to have work, each long enough to be worth it.
fn splits(cubes: usize, block: usize, problem: &Problem, machine: &Machine) -> (usize, usize) {
    let hardware = &machine.hardware;
    let filling = match (hardware.num_streaming_multiprocessors, hardware.num_cpu_cores) {
        (Some(processors), _) | (None, Some(processors)) => processors as usize * CUBES_PER_PROCESSOR,
        (None, None) => FILLING,
    };
    let keys = problem.bands.iter().map(|band| band.keys).max().unwrap_or(0);
    // A window bounds what a row sees, and so how many runs are worth it.
    let seen = problem.bands.iter().map(|band| band.keys_of_rows(0..problem.query_len).len()).max().unwrap_or(0);
    let wanted = filling.div_ceil(cubes.max(1)).min(seen / SHORTEST_RUN).clamp(1, MOST_SPLITS);
    let run = keys.div_ceil(wanted).next_multiple_of(block).max(block);
    (keys.div_ceil(run).max(1), run)
}

#[cfg(test)]
mod tests {
    use attn_core::{AttentionSpec, ProblemInputs, TensorInfo};
    use burn_backend::DType;
    use burn_cubecl::cubecl::ir::HardwareProperties;

    use super::*;

    fn problem(heads: usize, kv_heads: usize, lengths: [usize; 2], dim: usize) -> Problem {
        let info = |shape: [usize; 4]| TensorInfo { shape: shape.to_vec(), dtype: DType::F32 };
        let inputs = ProblemInputs {
            query: info([2, heads, lengths[0], dim]),
            key: info([2, kv_heads, lengths[1], dim]),
            value: info([2, kv_heads, lengths[1], dim]),
            mask: None,
            bias: None,
            alibi_slopes: None,
            sinks: None,
            kv_lens: None,
        };
        Problem::new(&AttentionSpec::default(), &inputs).unwrap()
    }

    fn machine(plane: u32, processors: Option<u32>) -> Machine {
        let hardware = HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: plane,
            plane_size_max: plane,
            max_bindings: 31,
            max_shared_memory_size: 16384,
            max_cube_count: (65535, 65535, 65535),
            max_units_per_cube: 256,
            max_cube_dim: (256, 256, 64),
            num_streaming_multiprocessors: processors,
            num_cpu_cores: None,
            last_level_cache_size: None,
            num_tensor_cores: None,
            min_tensor_cores_dim: None,
            max_vector_size: 4,
            cube_mma_reserved_shared_memory: 0,
        };
        let is_software = plane == 8;
        let broadcasts = if is_software { 8 } else { 0 };
        Machine { hardware, is_software, broadcasts }
    }

    #[test]
    fn tiles_cover_all_rows_and_runs_all_keys() {
        for (heads, kv_heads) in [(8, 8), (8, 2), (32, 1)] {
            for lengths in [[1, 1], [1, 4000], [3, 257], [63, 64], [64, 65], [65, 9], [1000, 5000], [1 << 20, 7]] {
                for dim in [1, 64, 128, 500] {
                    for plane in [1, 8, 32, 64] {
                        let problem = problem(heads, kv_heads, lengths, dim);
                        let tiles = Tiles::of(&problem, &machine(plane, Some(132)));
                        assert!(tiles.tiles * tiles.units * tiles.rows >= lengths[0] * tiles.packed, "{tiles:?}");
                        assert!(tiles.splits * tiles.run >= lengths[1], "{tiles:?}");
                        assert!((tiles.splits - 1) * tiles.run < lengths[1], "{tiles:?}");
                        assert!(tiles.packed == 1 || tiles.packed == heads / kv_heads, "{tiles:?}");
                        assert!(tiles.plane == 0 || tiles.units.is_multiple_of(tiles.plane), "{tiles:?}");
                        assert!(tiles.edge >= 1 && tiles.edge <= tiles.block, "{tiles:?}");
                        assert!(tiles.units <= 256 && tiles.block >= 1 && tiles.columns <= COLUMNS, "{tiles:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn decoding_fills_the_device_and_prefill_does_not_split() {
        let machine = machine(32, Some(132));
        let decode = Tiles::of(&problem(32, 8, [1, 32768], 128), &machine);
        assert_eq!(decode.packed, 4);
        assert!(decode.cubes(&problem(32, 8, [1, 32768], 128)) >= 4 * 132, "{decode:?}");
        assert_eq!(Tiles::of(&problem(32, 8, [4096, 4096], 128), &machine).splits, 1);
    }
}
