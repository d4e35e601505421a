//! Augmentation: weather half as unusual, or unusual the other way, would have gone on alike.

use rand::Rng;
use rand::rngs::StdRng;

/// By what to multiply all anomalies of each of some samples: 1/2 to 3/2, of either sign.
pub fn factors(samples: usize, rng: &mut StdRng) -> Vec<f32> {
    let mut factor = || rng.random_range(0.5..1.5) * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
    (0..samples).map(|_| factor()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn factors_have_either_sign_and_no_great_size() {
        let factors = factors(1000, &mut StdRng::seed_from_u64(1));
        assert!(factors.iter().all(|factor| (0.5..1.5).contains(&factor.abs())));
        let mean = factors.iter().sum::<f32>() / 1000.0;
        // Five standard deviations of the mean of 1000.
        assert!(mean.abs() < 0.17, "{mean}");
    }
}
