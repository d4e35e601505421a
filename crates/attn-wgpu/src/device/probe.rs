//! Tries what a software driver does not say of itself.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// Writes 1 for each unit that hears from every unit of its plane, planes being runs of `plane` units; else 0.
#[cube(launch)]
pub fn plane_probe(found: &mut Tensor<u32>, #[comptime] plane: u32) {
    let first = UNIT_POS - UNIT_POS % plane;
    let mut right = 0u32.runtime();
    #[unroll]
    for lane in 0..plane {
        let heard = plane_broadcast(UNIT_POS, lane);
        right += select(heard == first + lane, 1u32, 0u32);
    }
    found[UNIT_POS as usize] = select(right == plane, 1u32, 0u32);
}
