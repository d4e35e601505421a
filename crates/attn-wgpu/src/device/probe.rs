//! Tries what a driver does not say of its planes.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// Every unit hears every other unit of its plane.
pub const BROADCASTS: u32 = 1;
/// Every unit hears the units whose numbers differ from its own in one bit.
pub const SHUFFLES: u32 = 2;

/// Writes for each unit the sum of what works, planes being runs of `plane` units, or of a multiple of that.
#[cube(launch)]
pub fn plane_probe(found: &mut Tensor<u32>, #[comptime] plane: u32) {
    let first = UNIT_POS - UNIT_POS % plane;
    let mut broadcasts = 0u32.runtime();
    #[unroll]
    for lane in 0..plane {
        let heard = plane_broadcast(UNIT_POS, lane);
        broadcasts += select(heard == first + lane, 1u32, 0u32);
    }
    let mut shuffles = 0u32.runtime();
    #[unroll]
    for round in 0..comptime!(plane.ilog2()) {
        let distance = comptime!(1u32 << round);
        let heard = plane_shuffle_xor(UNIT_POS, distance);
        shuffles += select(heard == (UNIT_POS ^ distance), 1u32, 0u32);
    }
    found[UNIT_POS as usize] =
        select(broadcasts == plane, BROADCASTS, 0u32) + select(shuffles == comptime!(plane.ilog2()), SHUFFLES, 0u32);
}
