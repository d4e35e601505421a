//! What reads digits without learning weights: the nearest class mean and the nearest neighbour, by the distance of pixels.

use crate::data::Digits;

/// The accuracy of taking each held-out digit for that whose mean image is nearest.
pub fn nearest_mean(learned: &Digits, held: &Digits) -> f64 {
    let size = held.images.side * held.images.side;
    let mut means: Vec<(usize, Vec<f32>)> = Vec::new();
    for digit in 0..10 {
        let members: Vec<usize> = (0..learned.labels.len()).filter(|&at| learned.labels[at] == digit).collect();
        if members.is_empty() {
            continue;
        }
        let mut sum = vec![0.0; size];
        for &at in &members {
            sum.iter_mut().zip(learned.images.image(at)).for_each(|(sum, pixel)| *sum += pixel);
        }
        means.push((digit, sum.into_iter().map(|pixel| pixel / members.len() as f32).collect()));
    }
    accuracy(held, |image| nearest(image, means.iter().map(|(digit, mean)| (*digit, mean.as_slice()))))
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

fn nearest<'a>(image: &[f32], others: impl Iterator<Item = (usize, &'a [f32])>) -> Option<usize> {
    let distance = |other: &[f32]| image.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let measured = others.map(|(digit, other)| (digit, distance(other)));
    measured.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(digit, _)| digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Images;

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
