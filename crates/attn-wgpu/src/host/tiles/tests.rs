//! Every cut covers its problem, on devices of many shapes.

use attn_core::{AttentionSpec, Problem, ProblemInputs, TensorInfo};
use burn_backend::{DType, FloatDType};
use burn_cubecl::cubecl::ir::HardwareProperties;

use crate::host::machine::Machine;
use crate::host::tiles::{DecodeMmaTiles, DecodeTiles, MatrixTiles, MmaTiles, RowTiles, Tiles, Way, WgmmaTiles};

fn problem(heads: usize, kv_heads: usize, lengths: [usize; 2], dim: usize) -> Problem {
    under(AttentionSpec::default(), DType::F32, [heads, kv_heads], lengths, dim)
}

fn under(spec: AttentionSpec, dtype: DType, [heads, kv_heads]: [usize; 2], lengths: [usize; 2], dim: usize) -> Problem {
    let info = |shape: [usize; 4]| TensorInfo { shape: shape.into(), dtype };
    let inputs = ProblemInputs::new(
        info([2, heads, lengths[0], dim]),
        info([2, kv_heads, lengths[1], dim]),
        info([2, kv_heads, lengths[1], dim]),
    );
    Problem::new(&spec, &inputs).unwrap()
}

fn machine(plane: u32, processors: Option<u32>) -> Machine {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: plane,
        plane_size_max: plane,
        max_bindings: 31,
        max_shared_memory_size: 49152,
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
    Machine {
        hardware,
        is_software,
        broadcasts,
        shuffles: plane as usize,
        syncs_planes: true,
        matrix_sizes: vec![(FloatDType::F16, 16), (FloatDType::BF16, 16), (FloatDType::F16, 8)],
        instructions: if plane == 32 { vec![FloatDType::F16, FloatDType::BF16] } else { vec![] },
        is_cuda: plane == 32,
        multiplies_in_groups: plane == 32,
    }
}

/// Lengths around what tiles, blocks and runs may be.
const LENGTHS: [[usize; 2]; 9] =
    [[1, 1], [1, 4000], [3, 257], [8, 300], [63, 64], [64, 65], [65, 9], [1000, 5000], [1 << 20, 7]];

fn covers(problem: &Problem, tiles: &Tiles) {
    let group = problem.group();
    assert!(tiles.packed == 1 || tiles.packed == group, "{tiles:?}");
    assert!(tiles.tiles * tiles.rows >= problem.query_len * tiles.packed, "{tiles:?}");
    assert!(tiles.splits * tiles.run >= problem.key_len, "{tiles:?}");
    assert!((tiles.splits - 1) * tiles.run < problem.key_len, "{tiles:?}");
    assert!(tiles.units <= 256 && tiles.columns >= 1 && tiles.columns <= 256, "{tiles:?}");
    match tiles.way {
        Way::Rows(RowTiles { rows, block, edge, plane }) => {
            assert_eq!(tiles.rows, tiles.units * rows);
            assert!(plane == 0 || tiles.units.is_multiple_of(plane), "{tiles:?}");
            assert!((1..=block).contains(&edge), "{tiles:?}");
        }
        Way::Decode(DecodeTiles { lanes, plane, planes, block }) => {
            assert!(tiles.rows <= 8 && tiles.rows * tiles.tiles < 40, "{tiles:?}");
            assert_eq!(tiles.units, plane * planes);
            assert!(lanes.is_power_of_two() && lanes <= plane && block >= 1, "{tiles:?}");
            assert!(tiles.run.is_multiple_of(tiles.units / lanes * block), "{tiles:?}");
        }
        Way::DecodeMma(DecodeMmaTiles { halves, planes, .. }) => {
            assert_eq!((tiles.rows, tiles.units, tiles.tiles), (halves * 8, planes * 32, 1), "{tiles:?}");
            assert_eq!(tiles.packed, group, "{tiles:?}");
            assert!(tiles.run.is_multiple_of(planes * 16), "{tiles:?}");
            assert!(tiles.columns.is_multiple_of(64) && problem.value_dim.is_multiple_of(tiles.columns), "{tiles:?}");
            assert!(problem.head_dim.is_multiple_of(32) && problem.head_dim <= 256, "{tiles:?}");
        }
        Way::Matrix(MatrixTiles { size, planes, plane, block, .. }) => {
            assert_eq!((tiles.rows, tiles.units), (planes * size, planes * plane));
            assert!(plane.is_multiple_of(size) && block.is_multiple_of(size), "{tiles:?}");
            assert!((block * size).is_multiple_of(plane) && tiles.columns <= 128, "{tiles:?}");
        }
        Way::Mma(MmaTiles { planes, block, .. }) => {
            assert_eq!((tiles.rows, tiles.units), (planes * 16, planes * 32));
            assert!(block.is_multiple_of(16) && tiles.columns.is_multiple_of(16) && tiles.columns <= 128, "{tiles:?}");
            assert!(problem.head_dim.is_multiple_of(16) && problem.value_dim.is_multiple_of(16), "{tiles:?}");
        }
        Way::Wgmma(WgmmaTiles { groups, block, .. }) => {
            assert_eq!((tiles.rows, tiles.units), (groups * 64, groups * 128));
            assert!(block.is_multiple_of(16) && tiles.columns.is_multiple_of(16) && tiles.columns <= 128, "{tiles:?}");
            assert!(problem.head_dim.is_multiple_of(16) && problem.value_dim.is_multiple_of(16), "{tiles:?}");
        }
    }
}

/// The machine with the shared memory of a card that multiplies in groups of planes.
fn roomy(machine: &Machine) -> Machine {
    let hardware = HardwareProperties { max_shared_memory_size: 232_448, ..machine.hardware.clone() };
    Machine { hardware, ..machine.clone() }
}

#[test]
fn tiles_cover_all_rows_and_runs_all_keys() {
    let mut by_dimensions = 0;
    let mut by_matrices = 0;
    let mut by_instructions = 0;
    let mut by_groups = 0;
    let mut by_few = 0;
    for heads in [[8, 8], [8, 2], [32, 1]] {
        for lengths in LENGTHS {
            for dim in [1, 64, 128, 500] {
                for plane in [1, 8, 32, 64] {
                    for dtype in [DType::F32, DType::F16, DType::BF16] {
                        let problem = under(AttentionSpec::default(), dtype, heads, lengths, dim);
                        let machine = machine(plane, Some(132));
                        covers(&problem, &Tiles::by_rows(&problem, &machine));
                        if let Ok(tiles) = Tiles::by_dimensions(&problem, &machine) {
                            covers(&problem, &tiles);
                            by_dimensions += 1;
                        }
                        if let Ok(tiles) = Tiles::by_matrices(&problem, &machine) {
                            covers(&problem, &tiles);
                            by_matrices += 1;
                        }
                        if let Ok(tiles) = Tiles::by_instructions(&problem, &machine) {
                            covers(&problem, &tiles);
                            by_instructions += 1;
                        }
                        if let Ok(tiles) = Tiles::by_few(&problem, &machine) {
                            covers(&problem, &tiles);
                            by_few += 1;
                        }
                        if let Ok(tiles) = Tiles::by_groups(&problem, &roomy(&machine)) {
                            covers(&problem, &tiles);
                            by_groups += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(
        by_dimensions > 200 && by_matrices > 200 && by_instructions > 30 && by_groups > 20 && by_few > 20,
        "{by_dimensions} {by_matrices} {by_instructions} {by_groups} {by_few}"
    );
}

#[test]
fn decoding_fills_the_device_and_prefill_does_not_split() {
    let machine = machine(32, Some(132));
    let decode = problem(32, 8, [1, 32768], 128);
    let narrow = under(AttentionSpec::default(), DType::F16, [32, 8], [1, 32768], 128);
    let small = under(AttentionSpec::default(), DType::F16, [32, 8], [1, 32768], 64);
    for (decode, tiles, at_once) in [
        (&decode, Tiles::by_rows(&decode, &machine), 4),
        (&decode, Tiles::by_dimensions(&decode, &machine).unwrap(), 3),
        (&narrow, Tiles::by_few(&narrow, &machine).unwrap(), 2),
        (&small, Tiles::by_few(&small, &machine).unwrap(), 4),
    ] {
        assert_eq!(tiles.packed, 4);
        // Nearly as many for each processor as are at work at once, and no more: runs are whole blocks.
        assert!((at_once * 110..=at_once * 132).contains(&tiles.cubes(decode)), "{tiles:?}");
    }
    assert_eq!(Tiles::by_rows(&problem(32, 8, [4096, 4096], 128), &machine).splits, 1);
}

/// Under a window the runs are runs of what it shows.
#[test]
fn every_run_of_a_window_has_work() {
    let window = AttentionSpec::default().with_window(Some(4095), Some(0)).with_causal(true);
    let problem = under(window, DType::F16, [8, 8], [1, 1 << 20], 128);
    let tiles = Tiles::by_dimensions(&problem, &machine(32, Some(132))).unwrap();
    assert!(tiles.splits > 1 && (tiles.splits - 1) * tiles.run < 4096, "{tiles:?}");
}

/// Why matrix units or planes do not serve is said.
#[test]
fn what_does_not_serve_says_why() {
    let machine = machine(32, Some(132));
    let f32 = problem(8, 8, [64, 64], 64);
    assert!(Tiles::by_few(&f32, &machine).unwrap_err().contains("F32"));
    let many = under(AttentionSpec::default(), DType::F16, [8, 8], [17, 64], 64);
    assert!(Tiles::by_few(&many, &machine).unwrap_err().contains("17 rows"));
    let shared = under(AttentionSpec::default(), DType::F16, [32, 1], [1, 64], 64);
    assert!(Tiles::by_few(&shared, &machine).unwrap_err().contains("32 rows"));
    let narrow = under(AttentionSpec::default(), DType::F16, [8, 8], [1, 64], 96);
    assert!(Tiles::by_few(&narrow, &machine).unwrap_err().contains("96"));
    assert!(Tiles::by_matrices(&f32, &machine).unwrap_err().contains("F32"));
    let few = under(AttentionSpec::default(), DType::F16, [8, 8], [3, 64], 64);
    assert!(Tiles::by_matrices(&few, &machine).unwrap_err().contains("3 rows"));
    assert!(Tiles::by_dimensions(&f32, &machine).unwrap_err().contains("64 rows"));
    let long = under(AttentionSpec::default(), DType::F16, [8, 8], [8, 64], 4096);
    assert!(Tiles::by_dimensions(&long, &machine).unwrap_err().contains("4096"));
    assert!(Tiles::by_instructions(&f32, &machine).unwrap_err().contains("F32"));
    assert!(Tiles::by_instructions(&few, &machine).unwrap_err().contains("3 rows"));
    let ragged = under(AttentionSpec::default(), DType::F16, [8, 8], [64, 64], 40);
    assert!(Tiles::by_instructions(&ragged, &machine).unwrap_err().contains("40"));
    let alone = Machine { shuffles: 0, matrix_sizes: vec![], instructions: vec![], ..machine };
    assert!(Tiles::by_dimensions(&few, &alone).unwrap_err().contains("exchange"));
    let wide = under(AttentionSpec::default(), DType::F16, [8, 8], [64, 64], 64);
    assert!(Tiles::by_matrices(&wide, &alone).unwrap_err().contains("F16"));
    assert!(Tiles::by_instructions(&wide, &alone).unwrap_err().contains("F16"));
    assert!(Tiles::by_few(&few, &alone).unwrap_err().contains("F16"));
    assert!(Tiles::by_groups(&wide, &alone).unwrap_err().contains("49152"));
    let roomy = roomy(&alone);
    assert!(Tiles::by_groups(&wide, &roomy).is_ok());
    assert!(Tiles::by_groups(&f32, &roomy).unwrap_err().contains("F32"));
    assert!(Tiles::by_groups(&ragged, &roomy).unwrap_err().contains("40"));
    let half = under(AttentionSpec::default(), DType::F16, [8, 8], [32, 64], 64);
    assert!(Tiles::by_groups(&half, &roomy).unwrap_err().contains("32 rows"));
    let without = Machine { multiplies_in_groups: false, ..roomy };
    assert!(Tiles::by_groups(&wide, &without).unwrap_err().contains("no matrix instructions"));
}

/// A plan tells the cut.
#[test]
fn a_cut_reads_as_a_sentence() {
    let machine = machine(32, Some(132));
    let decode = Tiles::by_dimensions(&problem(32, 8, [1, 32768], 128), &machine).unwrap();
    assert!(decode.to_string().starts_with("4 rows × "), "{decode}");
    assert!(decode.to_string().contains("runs of"), "{decode}");
    let few = under(AttentionSpec::default(), DType::F16, [32, 8], [1, 300], 128);
    let few = Tiles::by_few(&few, &machine).unwrap();
    assert_eq!(few.to_string(), "8 rows × 64 keys by 4 planes with matrices in registers");
    let prefill = under(AttentionSpec::default(), DType::F16, [8, 8], [4096, 4096], 64);
    let matrix = Tiles::by_matrices(&prefill, &machine).unwrap();
    assert_eq!(matrix.to_string(), "64 rows × 32 keys by 4 planes with matrices of 16×16");
    let registers = Tiles::by_instructions(&prefill, &machine).unwrap();
    assert_eq!(registers.to_string(), "128 rows × 64 keys by 8 planes with matrices in registers");
    assert_eq!(Tiles::by_rows(&prefill, &machine).to_string(), "64 rows × 2 keys by 64 units");
}
