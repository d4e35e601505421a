//! The table of what was tried and found best, by the kind of device.
//!
//! A row is added by timing `attn-bench --backend wgpu` or `cuda` with other numbers, as ratios to Burn's operation. Numbers are
//! fixed rather than tried at run time: the same problem on the same device is always cut the same way, and so gives the same bits.

use crate::host::machine::Machine;
use crate::host::tiles::rows::COLUMNS;

/// Numbers for a kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuned {
    /// Rows of a tile where there are enough.
    pub rows: usize,
    /// Rows of a unit where units have rows of their own, as far as `unrolled` allows.
    pub unit_rows: usize,
    /// Keys whose scores a unit has at once, as far as `unrolled` allows.
    pub block: usize,
    /// The same where a unit has one row because there are few.
    pub lone_block: usize,
    /// Multiply-adds of a unit and a block, times two, that are unrolled: what drivers compile in seconds.
    pub unrolled: usize,
    /// The same in the backward pass, where three or four products are unrolled.
    pub backward_unrolled: usize,
    /// Columns of gradients that a unit keeps there, at most: registers, beside those of two inputs.
    pub backward_columns: usize,
    /// Columns of the output that a unit keeps where it has rows of its own, at most: registers, beside those of the query.
    pub row_columns: usize,
    /// Keys of a block for matrix units.
    pub matrix_block: usize,
    /// Planes of a cube that multiplies matrices in registers.
    pub mma_planes: usize,
    /// Keys of a block there.
    pub mma_block: usize,
    /// Cubes of them that a processor has registers for at once.
    pub mma_cubes: usize,
    /// Groups of planes of a cube, where they multiply matrices in shared memory.
    pub wgmma_groups: usize,
    /// Keys of a block there.
    pub wgmma_block: usize,
    /// Cubes of them that a processor has registers for at once.
    pub wgmma_cubes: usize,
    /// Planes of a cube that decodes or multiplies matrices, at most.
    pub planes: usize,
    /// Rows that share keys for which decoding is faster than units with rows of their own, at most.
    pub decode_rows: usize,
    /// Numbers of queries and outputs that a unit keeps where it decodes: registers.
    pub decode_registers: usize,
    /// Units that share a key where a cube decodes, at least: neighbours that read neighbouring numbers.
    pub decode_lanes: usize,
    /// Cubes that decode, for which a processor has registers at once.
    pub decode_cubes: usize,
    /// Cubes that decode by matrix instructions, for which a processor has registers at once: in general, and of up to eight rows and 64
    /// dimensions.
    pub decode_mma_cubes: [usize; 2],
    /// Keys of the shortest run: below, joining costs more than it gains.
    pub shortest_run: usize,
    /// Runs at most: their results are joined by few units.
    pub most_splits: usize,
    /// Cubes that keep a processor busy, where units have rows of their own or multiply matrices by units.
    pub cubes_per_processor: usize,
    /// Processors where their number is unknown.
    pub processors: usize,
}

/// Cards, measured on an H100 through CUDA; of other makers' cards nothing is measured yet.
///
/// Matrices in registers, f16, 4 × 16 heads of 4096 × 128 (4 × 32 of 4096 × 64), planes × keys: 8×64 182 TFLOP/s (146), 4×64 163 (149),
/// 8×32 173 (136), 4×32 169 (150), 12×32 143 (133), 12×64 and 16×32 (152, 144). A plane of 128 dims has 255 registers, so that one cube
/// of 8 planes is at work on a processor.
///
/// Matrices in shared memory, in a prototype of the kernel, f16, 4096 × 128 and 4096 × 64, groups × keys: 2×128 369 TFLOP/s and 277, 2×64 357
/// and none, 4×64 none and 306; causal 309, 302 and 248, 247.
///
/// Decoding, f16, 32 query heads to 8 key heads of 128, one batch entry with 131072 keys and 8 with 32768; units to a key, cubes of a
/// processor: 16, 3 2295 and 2511 GB/s; 16, 6 2142 and 2469; 8, 2 2239 and 2270; 8, 4 2110 and 2025. Four rows take 254 registers with 8
/// units to a key and 167 with 16.
///
/// Decoding by matrix instructions, which is not measured on a card yet, registers by CUDA's assembler: of four rows of 64 dimensions 127, of
/// 96 and values of 64 140, of 128 219, of 16 rows of 64 153.
///
/// Rows of their own, f32, 4 × 16 heads of 2048 × 128, columns × keys: 128×4 185 ms, 64×5 43, 64×2 37: beyond, registers are spilled.
const CARD: Tuned = Tuned {
    rows: 64,
    unit_rows: 1,
    block: 8,
    lone_block: 2,
    unrolled: 1024,
    backward_unrolled: 1024,
    backward_columns: 64,
    row_columns: 64,
    matrix_block: 32,
    mma_planes: 8,
    mma_block: 64,
    mma_cubes: 1,
    wgmma_groups: 2,
    wgmma_block: 128,
    wgmma_cubes: 1,
    planes: 4,
    decode_rows: 8,
    decode_registers: 128,
    decode_lanes: 16,
    decode_cubes: 3,
    decode_mma_cubes: [2, 4],
    shortest_run: 256,
    most_splits: 128,
    cubes_per_processor: 4,
    processors: 32,
};

/// llvmpipe, measured on version 22.3.6 with AVX-512: 4 × 4 sums are the accumulators that it has registers for. Of 8 heads of
/// 1024 × 64 in f32, rows × keys: 2×4 138 ms, 4×2 138, 4×4 82, 8×2 141, 8×4 82 (40 s to compile), 4×8 90, 6×4 118. Of one query
/// of 8 heads with 4096 keys, by decoding and by rows: 4.6 and 5.3 ms; of 4 query heads to a key head of 128: 8.8 and 10.0; of 16
/// rows to a key head: 7.2 and 4.6.
///
/// Backward, 8 heads of 512 × 64 causal in f32 beside other work, multiply-adds unrolled: 1024 (4 rows × 1 key) 146 ms and 8 s to compile,
/// 2048 (4×2) 130 and 13. Of 256 dimensions, columns: 64 compiles in a third of the time of 256.
const SOFTWARE: Tuned = Tuned {
    unit_rows: 4,
    block: 4,
    lone_block: 8,
    unrolled: 2048,
    backward_columns: 128,
    row_columns: COLUMNS,
    decode_rows: 4,
    decode_lanes: 1,
    decode_cubes: 4,
    ..CARD
};

/// The row of the table for a device.
pub fn of(machine: &Machine) -> Tuned {
    if machine.is_software { SOFTWARE } else { CARD }
}
