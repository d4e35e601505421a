//! The table of what was tried and found best, by the kind of device.
//!
//! A row is added by timing `attn-bench --backend wgpu` or `cuda` with other numbers, as ratios to Burn's operation. Numbers are
//! fixed rather than tried at run time: the same problem on the same device is always cut the same way, and so gives the same bits.

use crate::host::machine::Machine;

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
    /// Keys of a block for matrix units.
    pub matrix_block: usize,
    /// Planes of a cube that multiplies matrices in registers.
    pub mma_planes: usize,
    /// Keys of a block there.
    pub mma_block: usize,
    /// Planes of a cube that decodes or multiplies matrices, at most.
    pub planes: usize,
    /// Rows that share keys for which decoding is faster than units with rows of their own, at most.
    pub decode_rows: usize,
    /// Numbers of queries and outputs that a unit keeps where it decodes: registers.
    pub decode_registers: usize,
    /// Units that share a key where a cube decodes, at least: neighbours that read neighbouring numbers.
    pub decode_lanes: usize,
    /// Keys of the shortest run: below, joining costs more than it gains.
    pub shortest_run: usize,
    /// Runs at most: their results are joined by one unit.
    pub most_splits: usize,
    /// Cubes that keep a processor busy.
    pub cubes_per_processor: usize,
    /// Processors where their number is unknown.
    pub processors: usize,
}

/// Cards. Set from what their makers say: two warps of NVIDIA's or a wavefront of AMD's to a tile; eight scores are eight chains
/// of multiply-adds, which hide their latency. Not measured on a card yet.
const CARD: Tuned = Tuned {
    rows: 64,
    unit_rows: 1,
    block: 8,
    lone_block: 8,
    unrolled: 1024,
    matrix_block: 32,
    mma_planes: 8,
    mma_block: 64,
    planes: 4,
    decode_rows: 8,
    decode_registers: 128,
    decode_lanes: 8,
    shortest_run: 256,
    most_splits: 128,
    cubes_per_processor: 4,
    processors: 32,
};

/// llvmpipe, measured on version 22.3.6 with AVX-512: 4 × 4 sums are the accumulators that it has registers for. Of 8 heads of
/// 1024 × 64 in f32, rows × keys: 2×4 138 ms, 4×2 138, 4×4 82, 8×2 141, 8×4 82 (40 s to compile), 4×8 90, 6×4 118. Of one query
/// of 8 heads with 4096 keys, by decoding and by rows: 4.6 and 5.3 ms; of 4 query heads to a key head of 128: 8.8 and 10.0; of 16
/// rows to a key head: 7.2 and 4.6.
const SOFTWARE: Tuned = Tuned { unit_rows: 4, block: 4, unrolled: 2048, decode_rows: 4, decode_lanes: 1, ..CARD };

/// The row of the table for a device.
pub fn of(machine: &Machine) -> Tuned {
    if machine.is_software { SOFTWARE } else { CARD }
}
