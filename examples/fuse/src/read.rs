//! What an answer was taken from: attention rollout over words and digits together.

use burn::tensor::{Int, Tensor};

/// The weights of one attention.
#[derive(Debug, Clone)]
pub enum Weights {
    /// From words to words, `[batch, heads, length, length]`.
    Words(Tensor<4>),
    /// From words to digits, `[batch, heads, length, places]`.
    Digits(Tensor<4>),
}

/// How much the first token took from each word and each digit, `[batch, length + places]`, from the weights first to last.
///
/// Words and digits are one sequence. Where words attend, digits stay as they are; to words or to digits, each word keeps half of itself,
/// as [`learn::rollout`] has it. Rows sum to 1, but for what sinks took. `None` where nothing attended.
pub fn rollout(weights: &[Weights], places: usize) -> Option<Tensor<2>> {
    let together = |weights: &Weights| {
        let (Weights::Words(found) | Weights::Digits(found)) = weights;
        let mean: Tensor<3> = found.clone().mean_dim(1).squeeze_dim(1);
        let ([batch, length, _], device) = (mean.dims(), mean.device());
        let zeros = |columns| Tensor::<3>::zeros([batch, length, columns], &device);
        let words = match weights {
            Weights::Words(_) => Tensor::cat(vec![mean, zeros(places)], 2),
            Weights::Digits(_) => Tensor::cat(vec![zeros(length), mean], 2),
        };
        let still: Tensor<3> = Tensor::<2>::eye(length + places, &device).narrow(0, length, places).unsqueeze();
        Tensor::cat(vec![words, still.expand([batch, places, length + places])], 1).unsqueeze_dim::<4>(1)
    };
    let read = learn::rollout(&weights.iter().map(together).collect::<Vec<_>>())?;
    let [batch, size, _] = read.dims();
    Some(read.narrow(1, 0, 1).reshape([batch, size]))
}

/// The weights from each word to each digit, summed over heads and looks, `[batch, length, places]`: of hard looks, how many heads took
/// the digit. `None` where no word looked.
pub fn looks(weights: &[Weights]) -> Option<Tensor<3>> {
    let looks = weights.iter().filter_map(|weights| match weights {
        Weights::Digits(found) => Some(found.clone().sum_dim(1).squeeze_dim::<3>(1)),
        Weights::Words(_) => None,
    });
    looks.reduce(|sum, look| sum + look)
}

/// Choices `[batch, heads, length, 1]` as weights `[batch, heads, length, places]`: 1 for the one chosen, 0 for the others.
pub fn chosen(indices: Tensor<4, Int>, places: usize) -> Tensor<4> {
    let [batch, heads, length, _] = indices.dims();
    let shape = [batch, heads, length, places];
    let numbers = Tensor::<1, Int>::arange(0..places as i64, &indices.device()).reshape([1, 1, 1, places]);
    numbers.expand::<4, _>(shape).equal(indices.expand::<4, _>(shape)).float()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn an_answer_that_asks_a_word_that_looked_took_from_the_digit() {
        let device = Device::default();
        // Two words, two digits. The second word looks at the second digit, the first at the first; then the first asks the second.
        let look = Weights::Digits(chosen(Tensor::from_data([[[[0], [1]]]], &device), 2));
        let ask = Weights::Words(Tensor::from_data([[[[0.0, 1.0], [0.0, 1.0]]]], &device));
        let looked: Vec<f32> =
            looks(&[look.clone(), ask.clone(), look.clone()]).unwrap().into_data().iter::<f32>().collect();
        assert_eq!(looked, [2.0, 0.0, 0.0, 2.0]);
        let found: Vec<f32> = rollout(&[look.clone(), ask.clone()], 2).unwrap().into_data().iter::<f32>().collect();
        // Half itself, half the second word; each of them half itself and half the digit.
        assert_eq!(found, [0.25, 0.25, 0.25, 0.25]);
        // The other way round: the digit is the first word's own.
        let found: Vec<f32> = rollout(&[ask, look], 2).unwrap().into_data().iter::<f32>().collect();
        assert_eq!(found, [0.25, 0.25, 0.5, 0.0]);
        assert!(rollout(&[], 2).is_none());
    }
}
