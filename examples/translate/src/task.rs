//! What is to be learned: pairs of texts, and how well others do.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::rngs::StdRng;

use crate::text::{PAD, Vocabulary};

/// A text and what it shall become.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// What goes in.
    pub source: String,
    /// What shall come out.
    pub target: String,
}

/// The pair of a sample; what is random in it is drawn.
pub type Draw = Box<dyn Fn(usize, &mut StdRng) -> Pair>;

/// A translation to learn.
pub struct Task {
    /// Its name in the checkpoint, and that of its folder.
    pub name: &'static str,
    /// A line on the data, for people.
    pub about: String,
    /// The page's title.
    pub title: &'static str,
    /// What the page is about.
    pub lead: &'static str,
    /// What the signs in its pictures mean.
    pub marks: &'static str,
    /// How sources become tokens.
    pub source: Vocabulary,
    /// How targets do.
    pub target: Vocabulary,
    /// Tokens of the longest source and target to learn from.
    pub longest: (usize, usize),
    /// Samples to learn from.
    pub samples: usize,
    /// Their pairs.
    pub pair: Draw,
    /// Sources with fewer tokens are not drawn: they say little.
    pub shortest_drawn: usize,
    /// Pairs held out.
    pub held: Vec<Pair>,
    /// Of each held-out pair its kind, of `kinds`; both empty where there are none.
    pub kind: Vec<usize>,
    /// What kinds there are.
    pub kinds: Vec<String>,
    /// What is measured.
    pub metric: String,
    /// Of found texts beside true ones, in `[0, 1]`.
    pub measure: fn(&[(&str, &str)]) -> f64,
    /// What a whole run promises.
    pub promise: Option<f64>,
    /// What others reach: name, value, whether the example promises to beat it.
    pub baselines: Vec<(String, f64, bool)>,
    /// How it is learned.
    pub recipe: Recipe,
}

/// The numbers of a training.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Pairs of a step.
    pub batch: usize,
    /// Epochs of a whole run and of a short one.
    pub epochs: (usize, usize),
    /// The height of the rate of learning.
    pub rate: f64,
    /// Features of a state.
    pub d_hidden: usize,
    /// Probability of dropping a feature.
    pub dropout: f64,
    /// Whether the model may copy what it reads.
    pub copies: bool,
    /// Beams of the search for what to write; 1 is greedy.
    pub beams: usize,
}

/// Token rows as one tensor `[rows, longest]`, filled up with [`PAD`], and how long each is.
pub fn padded(rows: &[Vec<usize>], longest: usize, device: &Device) -> (Tensor<2, Int>, Vec<usize>) {
    let lengths: Vec<usize> = rows.iter().map(|row| row.len().min(longest)).collect();
    let fill = |row: &Vec<usize>| {
        let tokens = row.iter().copied().chain(std::iter::repeat(PAD)).take(longest);
        tokens.map(|token| token as i64).collect::<Vec<_>>()
    };
    let tokens: Vec<i64> = rows.iter().flat_map(fill).collect();
    (Tensor::from_data(TensorData::new(tokens, [rows.len(), longest]), device), lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_up_and_cut() {
        let (tokens, lengths) = padded(&[vec![5], vec![6, 7, 8], vec![]], 2, &Device::default());
        assert_eq!(tokens.into_data().iter::<i64>().collect::<Vec<_>>(), [5, 0, 6, 7, 0, 0]);
        assert_eq!(lengths, [1, 2, 0]);
    }
}
