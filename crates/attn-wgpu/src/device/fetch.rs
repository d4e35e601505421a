//! Rows of a tensor as the units of a plane load them for each other, where that is cheaper than each loading for itself.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// Loads the vectors of `block` rows from `j0` on, `steps` of each, a plane's units one behind the other; nothing where there is no plane.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a kernel's tensors, handed on one by one")]
pub fn fetch<F: Float, N: Size>(
    tensor: &Tensor<Vector<F, N>>,
    base: usize,
    stride: usize,
    j0: i32,
    last: i32,
    #[comptime] steps: usize,
    #[comptime] block: usize,
    #[comptime] plane: usize,
) -> Array<Vector<f32, N>> {
    let loads = comptime!(if plane == 0 || steps == 0 { 1 } else { (block * steps).div_ceil(plane) });
    let mut found = Array::<Vector<f32, N>>::new(loads);
    if comptime!(plane > 0 && steps > 0) {
        let width = N::value();
        let lane = UNIT_POS as usize % plane;
        #[unroll]
        for t in 0..loads {
            let at = min(t * plane + lane, comptime!(block * steps - 1));
            let j = min(j0 + (at / steps) as i32, last) as usize;
            found[t] = Vector::cast_from(tensor[(base + j * stride) / width + at % steps]);
        }
    }
    found
}

/// Vector `d` of the row that begins at `at`, the block's vector number `index`.
#[cube]
pub fn part<F: Float, N: Size>(
    tensor: &Tensor<Vector<F, N>>,
    fetched: &Array<Vector<f32, N>>,
    at: usize,
    #[comptime] index: usize,
    #[comptime] d: usize,
    #[comptime] plane: usize,
) -> Vector<f32, N> {
    if comptime!(plane == 0) {
        Vector::cast_from(tensor[at / N::value() + d])
    } else {
        plane_broadcast(fetched[index / plane], comptime!((index % plane) as u32))
    }
}
