//! Samples as tensors.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use learn::digits::Images;

use crate::scene::{MOST, Sample};
use crate::words::Vocabulary;

/// Questions, rows and answers.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[batch, length]`: tokens.
    pub words: Tensor<2, Int>,
    /// `[batch, length]`: false where a token fills up.
    pub is_word: Tensor<2, Bool>,
    /// `[batch, places, pixels]`; paper where a row has ended.
    pub images: Tensor<3>,
    /// `[batch, places]`: whether a digit stands there.
    pub is_digit: Tensor<2, Bool>,
    /// `[batch]`: which of the answers is right.
    pub answers: Tensor<1, Int>,
}

impl Batch {
    /// Of some samples.
    pub fn of(samples: &[Sample], images: &Images, vocabulary: &Vocabulary, device: &Device) -> Self {
        let (count, length, size) = (samples.len(), vocabulary.length, images.side * images.side);
        let tokens: Vec<usize> =
            samples.iter().flat_map(|sample| vocabulary.encode(&sample.asked.text(sample.wording))).collect();
        let is_word: Vec<bool> = tokens.iter().map(|&token| Vocabulary::is_there(token)).collect();
        let tokens: Vec<i64> = tokens.into_iter().map(|token| token as i64).collect();
        let mut pixels = Vec::with_capacity(count * MOST * size);
        for (at, sample) in samples.iter().enumerate() {
            sample.images.iter().for_each(|&at| pixels.extend_from_slice(images.image(at)));
            pixels.resize((at + 1) * MOST * size, 0.0);
        }
        let is_digit: Vec<bool> =
            samples.iter().flat_map(|sample| (0..MOST).map(|place| place < sample.images.len())).collect();
        let answers: Vec<i64> = samples.iter().map(|sample| sample.answer as i64).collect();
        Self {
            words: Tensor::from_data(TensorData::new(tokens, [count, length]), device),
            is_word: Tensor::from_data(TensorData::new(is_word, [count, length]), device),
            images: Tensor::from_data(TensorData::new(pixels, [count, MOST, size]), device),
            is_digit: Tensor::from_data(TensorData::new(is_digit, [count, MOST]), device),
            answers: Tensor::from_data(TensorData::new(answers, [count]), device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::Asked;

    #[test]
    fn rows_are_filled_up_with_paper_that_is_marked() {
        let images = Images { side: 1, pixels: vec![0.25, 0.5, 0.75, 1.0] };
        let sample = |images: &[usize]| Sample {
            images: images.to_vec(),
            digits: vec![1; images.len()],
            asked: Asked::Exists(1),
            wording: 0,
            answer: 19,
        };
        let samples = [sample(&[3, 0, 2, 1]), sample(&[1, 1, 1, 1, 1])];
        let batch = Batch::of(&samples, &images, &Vocabulary::new(), &Device::default());
        let found: Vec<f32> = batch.images.into_data().iter::<f32>().collect();
        assert_eq!(found, [1.0, 0.25, 0.75, 0.5, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0]);
        let there: Vec<bool> = batch.is_digit.into_data().iter::<bool>().collect();
        assert_eq!(
            there.iter().map(|&there| u8::from(there)).collect::<Vec<_>>(),
            [1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0]
        );
        // "is there a one", the answer's token before it.
        let words: Vec<bool> = batch.is_word.into_data().iter::<bool>().collect();
        assert_eq!(words.iter().filter(|&&word| word).count(), 10);
    }
}
