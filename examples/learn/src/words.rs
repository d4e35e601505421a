//! Words as bags of their pieces (Bojanowski et al. 2017): the word itself, its runs of three and four letters, and the marks at it,
//! each hashed to one of some buckets. No vocabulary is kept, so none can leak, and a word with a typo still is near itself.

use burn::config::Config;
use burn::module::{Initializer, Module};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// A text's words as they stand between spaces.
pub fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// A word without the marks around it, in lower case; one of nothing but marks, such as an emoticon, as it is.
pub fn bare(word: &str) -> String {
    let inner = word.trim_matches(|c: char| !c.is_alphanumeric());
    if inner.is_empty() { word.to_string() } else { inner.to_lowercase().replace('’', "'") }
}

/// The pieces of a word: itself, the marks in and around it, and its runs of three and four letters, `<` and `>` at its ends.
fn pieces(word: &str) -> Vec<String> {
    let bare = bare(word);
    if !bare.contains(char::is_alphanumeric) {
        return vec![bare];
    }
    let marks = word.trim_start_matches(char::is_alphanumeric);
    let mut marks: Vec<char> = marks.chars().filter(|c| !c.is_alphanumeric() && !"'’-".contains(*c)).collect();
    marks.dedup();
    let letters: Vec<char> = std::iter::once('<').chain(bare.chars()).chain(['>']).collect();
    let runs = [3, 4].into_iter().flat_map(|size| letters.windows(size).map(|run| run.iter().collect()));
    let runs: Vec<String> = runs.collect();
    let marks = (!marks.is_empty()).then(|| format!("marks {}", marks.iter().collect::<String>()));
    std::iter::once(format!("word {bare}")).chain(marks).chain(runs).collect()
}

/// Which buckets the pieces of a word fall into, at most `most` of them: the same on every machine, by FNV-1a.
pub fn hashed(word: &str, buckets: usize, most: usize) -> Vec<usize> {
    let hash = |piece: String| {
        piece
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    };
    let bucket = |piece| (hash(piece) % buckets.max(1) as u64) as usize;
    pieces(word).into_iter().take(most).map(bucket).collect()
}

/// Sizes of a [`WordBag`].
#[derive(Config, Debug)]
pub struct WordBagConfig {
    /// Features of a word.
    pub d_model: usize,
    /// Buckets that the pieces share.
    #[config(default = 8192)]
    pub buckets: usize,
    /// Pieces of a word that count.
    #[config(default = 20)]
    pub pieces: usize,
    /// The standard deviation of the table's first numbers.
    #[config(default = 0.1)]
    pub deviation: f64,
}

impl WordBagConfig {
    /// Makes the module.
    pub fn init(&self, device: &Device) -> WordBag {
        let initializer = Initializer::Normal { mean: 0.0, std: self.deviation };
        let table = EmbeddingConfig::new(self.buckets, self.d_model).with_initializer(initializer);
        WordBag { table: table.init(device) }
    }

    /// The words of a text in buckets, to be read often.
    pub fn text(&self, text: &[&str]) -> HashedText {
        text.iter().map(|word| hashed(word, self.buckets, self.pieces)).collect()
    }

    /// Texts side by side, each cut or filled up to `length` words.
    pub fn batch<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a HashedText>,
        length: usize,
        device: &Device,
    ) -> WordBatch {
        let (mut buckets, mut weights, mut there) = (Vec::new(), Vec::new(), Vec::new());
        let mut batch = 0;
        for text in texts {
            for at in 0..length {
                let word = text.get(at).map_or(&[][..], Vec::as_slice);
                let word = &word[..word.len().min(self.pieces)];
                let fill = self.pieces - word.len();
                buckets.extend(word.iter().map(|&bucket| bucket as i64).chain(std::iter::repeat_n(0, fill)));
                let weight = 1.0 / word.len().max(1) as f32;
                weights.extend(std::iter::repeat_n(weight, word.len()).chain(std::iter::repeat_n(0.0, fill)));
                there.push(!word.is_empty());
            }
            batch += 1;
        }
        let shape = [batch, length, self.pieces];
        WordBatch {
            buckets: Tensor::from_data(TensorData::new(buckets, shape), device),
            weights: Tensor::from_data(TensorData::new(weights, shape), device),
            there: Tensor::from_data(TensorData::new(there, [batch, length]), device),
        }
    }
}

/// The buckets of each word of a text.
pub type HashedText = Vec<Vec<usize>>;

/// Texts for a [`WordBag`].
#[derive(Debug, Clone)]
pub struct WordBatch {
    buckets: Tensor<3, Int>,
    weights: Tensor<3>,
    /// Which words are there, `[batch, length]`; the others are padding.
    pub there: Tensor<2, Bool>,
}

/// Words to vectors.
///
/// ```text
/// vector = mean over the word's pieces of table[bucket of the piece]        0 for padding
/// ```
#[derive(Module, Debug)]
pub struct WordBag {
    table: Embedding,
}

impl WordBag {
    /// `[batch, length, d_model]`.
    pub fn forward(&self, words: &WordBatch) -> Tensor<3> {
        let [batch, length, pieces] = words.buckets.dims();
        let rows = self.table.forward(words.buckets.clone().reshape([batch * length, pieces]));
        let [_, _, d_model] = rows.dims();
        let weights = words.weights.clone().reshape([batch * length, pieces, 1]);
        (rows * weights).sum_dim(1).reshape([batch, length, d_model])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_bare_of_marks_and_case_but_emoticons_stay() {
        let found: Vec<String> = words("  \"Don’t,  well-MADE!\" :-) 3.5 ...").into_iter().map(bare).collect();
        assert_eq!(found, ["don't", "well-made", ":-)", "3.5", "..."]);
    }

    #[test]
    fn pieces_are_the_word_its_marks_and_its_runs() {
        assert_eq!(pieces("Cat!!?"), ["word cat", "marks !?", "<ca", "cat", "at>", "<cat", "cat>"]);
        assert_eq!(pieces("a"), ["word a", "<a>"]);
        assert_eq!(pieces("don't"), pieces("DON’T"));
        assert_eq!(pieces(":)"), [":)"]);
        // FNV-1a of "*" is af63a74c8601927d.
        assert_eq!(hashed("*", 1 << 20, 9), [0x1_927d]);
        assert_eq!(hashed("internationalisation", 100, 7).len(), 7);
        // A typo leaves half of the pieces.
        let (right, typo) = (hashed("horrible", 1 << 30, 99), hashed("horible", 1 << 30, 99));
        assert!(typo.iter().filter(|piece| right.contains(piece)).count() * 2 >= typo.len());
    }

    #[test]
    fn a_vector_is_the_mean_of_its_pieces_and_padding_is_nothing() {
        let device = Device::default();
        let config = WordBagConfig::new(3).with_buckets(16).with_pieces(4);
        let (bag, texts) = (config.init(&device), [config.text(&["ox", "ant"]), config.text(&[])]);
        let batch = config.batch(&texts, 3, &device);
        let there: Vec<bool> = batch.there.clone().into_data().iter::<bool>().collect();
        assert_eq!(there, [true, true, false, false, false, false]);
        let table: Vec<f32> = bag.table.weight.val().into_data().iter::<f32>().collect();
        let found: Vec<f32> = bag.forward(&batch).into_data().iter::<f32>().collect();
        for (at, word) in ["ox", "ant"].into_iter().enumerate() {
            let buckets = hashed(word, 16, 4);
            for feature in 0..3 {
                let sum: f32 = buckets.iter().map(|bucket| table[bucket * 3 + feature]).sum();
                let (found, expected) = (found[at * 3 + feature], sum / buckets.len() as f32);
                assert!((found - expected).abs() < 1e-6, "{found} in place of {expected}");
            }
        }
        assert!(found[6..].iter().all(|&x| x == 0.0));
    }
}
