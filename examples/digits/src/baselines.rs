//! What reads digits without learning weights: the nearest class mean and the nearest neighbour, by the distance of pixels.

use learn::digits::{ClassMeans, Digits, nearest};

/// The accuracy of taking each held-out digit for that whose mean image is nearest.
pub fn nearest_mean(learned: &Digits, held: &Digits) -> f64 {
    let means = ClassMeans::of(learned);
    accuracy(held, |image| means.nearest(image))
}

/// The accuracy of taking each held-out digit for its nearest neighbour of those learned from.
pub fn nearest_neighbour(learned: &Digits, held: &Digits) -> f64 {
    let all = || learned.labels.iter().enumerate().map(|(at, &digit)| (digit, learned.images.image(at)));
    accuracy(held, |image| nearest(image, all()))
}

fn accuracy(held: &Digits, read: impl Fn(&[f32]) -> Option<usize>) -> f64 {
    let right = |(at, &digit): (usize, &usize)| read(held.images.image(at)) == Some(digit);
    held.labels.iter().enumerate().filter(|&pair| right(pair)).count() as f64 / held.labels.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use learn::digits::Images;

    #[test]
    fn mean_and_neighbour_differ_where_a_class_has_two_shapes() {
        let digits = |pixels: Vec<f32>, labels| Digits { images: Images { side: 1, pixels }, labels };
        // Class 0 lies at both ends, class 1 between, nearer to the mean of both.
        let learned = digits(vec![0.0, 1.0, 0.5, 0.6], vec![0, 0, 1, 1]);
        let held = digits(vec![0.05, 0.95, 0.56, 0.44], vec![0, 0, 1, 1]);
        assert_eq!(nearest_neighbour(&learned, &held), 1.0);
        assert_eq!(nearest_mean(&learned, &held), 0.5);
    }
}
