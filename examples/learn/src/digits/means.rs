//! A reader of digits that learns no weights: the nearest class mean, by the distance of pixels.

use super::Digits;

/// The mean image of each class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMeans(Vec<(usize, Vec<f32>)>);

impl ClassMeans {
    /// Of the classes that occur.
    pub fn of(learned: &Digits) -> Self {
        let size = learned.images.side * learned.images.side;
        let mean = |digit: usize| {
            let members: Vec<usize> = (0..learned.labels.len()).filter(|&at| learned.labels[at] == digit).collect();
            let mut sum = vec![0.0; size];
            for &at in &members {
                sum.iter_mut().zip(learned.images.image(at)).for_each(|(sum, pixel)| *sum += pixel);
            }
            let mean = sum.into_iter().map(|pixel| pixel / members.len() as f32).collect();
            (!members.is_empty()).then_some((digit, mean))
        };
        Self((0..10).filter_map(mean).collect())
    }

    /// The class whose mean is nearest; `None` where there is none.
    pub fn nearest(&self, image: &[f32]) -> Option<usize> {
        nearest(image, self.0.iter().map(|(digit, mean)| (*digit, mean.as_slice())))
    }
}

/// Which of some digits has the image that is nearest.
pub fn nearest<'a>(image: &[f32], others: impl Iterator<Item = (usize, &'a [f32])>) -> Option<usize> {
    let distance = |other: &[f32]| image.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let measured = others.map(|(digit, other)| (digit, distance(other)));
    measured.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(digit, _)| digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digits::Images;

    #[test]
    fn an_image_is_of_the_class_whose_mean_is_nearest() {
        let digits = |pixels: Vec<f32>, labels| Digits { images: Images { side: 1, pixels }, labels };
        // Class 3 lies at both ends, class 7 between: its mean is nearer to their middle.
        let means = ClassMeans::of(&digits(vec![0.0, 1.0, 0.5, 0.6], vec![3, 3, 7, 7]));
        assert_eq!([0.0, 0.52, 0.53, 1.0].map(|pixel| means.nearest(&[pixel])), [Some(3), Some(3), Some(7), Some(7)]);
        assert_eq!(ClassMeans::of(&digits(vec![], vec![])).nearest(&[0.0]), None);
    }
}
