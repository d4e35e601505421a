//! Augmentation: a digit that is moved by a pixel is the same digit.

use rand::Rng;
use rand::rngs::StdRng;

use super::Images;

impl Images {
    /// Some of them, each moved by up to a pixel of eight (or as much of a larger image) across and down; what comes in is paper.
    pub fn shifted(&self, indices: &[usize], rng: &mut StdRng) -> Self {
        let side = self.side;
        let most = (side / 8).max(1) as i32;
        let mut pixels = Vec::with_capacity(indices.len() * side * side);
        for &at in indices {
            let image = self.image(at);
            let (down, across) = (rng.random_range(-most..=most), rng.random_range(-most..=most));
            for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
                let from = y.checked_add_signed(-down as isize).zip(x.checked_add_signed(-across as isize));
                let from = from.filter(|&(y, x)| y < side && x < side);
                pixels.push(from.map_or(0.0, |(y, x)| image[y * side + x]));
            }
        }
        Self { side, pixels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_dot_moves_by_at_most_a_pixel_and_every_way() {
        let mut dot = vec![0.0; 64];
        dot[3 * 8 + 3] = 1.0;
        let images = Images { side: 8, pixels: dot };
        let moved = images.shifted(&[0; 200], &mut StdRng::seed_from_u64(1));
        let mut places: Vec<_> =
            (0..200).map(|at| moved.image(at).iter().position(|&pixel| pixel == 1.0).unwrap()).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places, [18, 19, 20, 26, 27, 28, 34, 35, 36]);
        let corner = Images { side: 8, pixels: [vec![1.0], vec![0.0; 63]].concat() };
        let gone = corner.shifted(&[0; 50], &mut StdRng::seed_from_u64(1));
        assert!((0..50).any(|at| gone.image(at).iter().all(|&pixel| pixel == 0.0)), "over the edge");
    }
}
