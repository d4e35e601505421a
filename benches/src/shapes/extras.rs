//! What a shape may have beyond lengths, causality and window: options that come with numbers of their own.
//!
//! What a mask hides follows from the place alone, so that a shape says all of it in a few words.

use super::Shape;

/// Options with numbers of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Extras {
    /// E, where values have another dim than queries and keys.
    pub value_dim: Option<usize>,
    /// Batch entry b sees its first Sk·(2B − b)/2B keys alone (`kv_lens`): all of them the first, half of them and some more the last.
    pub ragged: bool,
    /// A mask.
    pub mask: Option<MaskKind>,
    /// A bias.
    pub bias: Option<BiasKind>,
    /// Scores fall by 2^(−8(h+1)/H) for each key of distance in head h.
    pub alibi: bool,
    /// A logit a head that takes weight and gives no value.
    pub sinks: bool,
}

/// What a mask hides, and along which axes it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskKind {
    /// [B, 1, 1, Sk]: batch entry b hides its first b·Sk/2B keys, as left padding does.
    Padding,
    /// [1, 1, Sq, Sk]: documents of this many tokens packed in one sequence; none sees another.
    Documents(usize),
    /// [1, H, Sq, Sk]: about one pair in four, anywhere.
    Pairs,
}

/// Along which axes a bias differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BiasKind {
    /// [1, H, Sq, Sk], as relative positions give.
    Heads,
    /// [1, 1, 1, Sk], a number a key.
    Keys,
}

impl Shape {
    /// E.
    pub fn value_dim(&self) -> usize {
        self.extras.value_dim.unwrap_or(self.head_dim)
    }

    /// The keys that batch entry `batch` has.
    pub fn keys_of(&self, batch: usize) -> usize {
        if !self.extras.ragged {
            return self.key_len;
        }
        (self.key_len * (2 * self.batch - batch) / (2 * self.batch)).max(1)
    }

    /// The lengths of all batch entries, where they differ from Sk.
    pub fn kv_lens(&self) -> Option<Vec<usize>> {
        self.extras.ragged.then(|| (0..self.batch).map(|batch| self.keys_of(batch)).collect())
    }

    /// The position p of query `i` among the keys of batch entry `batch`: the last query stands at the last key.
    pub fn position(&self, batch: usize, i: usize) -> i64 {
        i as i64 + self.keys_of(batch) as i64 - self.query_len as i64
    }

    /// Whether the mask hides key `j` from query `i`.
    pub fn is_masked(&self, [batch, head, i, j]: [usize; 4]) -> bool {
        match self.extras.mask {
            None => false,
            Some(MaskKind::Padding) => j < batch * self.key_len / (2 * self.batch),
            Some(MaskKind::Documents(length)) => {
                let position = i as i64 + self.key_len as i64 - self.query_len as i64;
                position.div_euclid(length as i64) != (j / length) as i64
            }
            // The top bits of a multiplicative hash: 2654435761 is 2³² over the golden ratio.
            Some(MaskKind::Pairs) => {
                let place = (head * self.query_len + i) * self.key_len + j;
                (place as u32).wrapping_mul(2_654_435_761) >> 30 == 0
            }
        }
    }

    /// Whether query `i` of a head sees key `j` after all that hides.
    pub fn sees(&self, [batch, head, i, j]: [usize; 4]) -> bool {
        self.visible_keys(batch, i).contains(&j) && !self.is_masked([batch, head, i, j])
    }

    /// The axes of the mask.
    pub fn mask_dims(&self) -> Option<[usize; 4]> {
        Some(match self.extras.mask? {
            MaskKind::Padding => [self.batch, 1, 1, self.key_len],
            MaskKind::Documents(_) => [1, 1, self.query_len, self.key_len],
            MaskKind::Pairs => [1, self.heads, self.query_len, self.key_len],
        })
    }

    /// The axes of the bias.
    pub fn bias_dims(&self) -> Option<[usize; 4]> {
        Some(match self.extras.bias? {
            BiasKind::Heads => [1, self.heads, self.query_len, self.key_len],
            BiasKind::Keys => [1, 1, 1, self.key_len],
        })
    }

    /// Where the bias of a pair lies among its numbers.
    pub fn bias_at(&self, [head, i, j]: [usize; 3]) -> usize {
        match self.extras.bias {
            Some(BiasKind::Heads) => (head * self.query_len + i) * self.key_len + j,
            _ => j,
        }
    }

    /// The slope of each head, rounded to the shape's type.
    pub fn alibi_slopes(&self) -> Option<Vec<f32>> {
        let slope = |head: usize| self.dtype.round(2f32.powf(-8.0 * (head + 1) as f32 / self.heads as f32));
        self.extras.alibi.then(|| (0..self.heads).map(slope).collect())
    }

    /// The words for them, in the order of the definition.
    pub(super) fn extra_words(&self) -> Vec<String> {
        let Extras { value_dim: _, ragged, mask, bias, alibi, sinks } = self.extras;
        let mut words = Vec::new();
        let mut say = |said: bool, word: &str| {
            if said {
                words.push(word.to_string());
            }
        };
        say(alibi, "alibi");
        say(bias == Some(BiasKind::Heads), "bias");
        say(bias == Some(BiasKind::Keys), "bias-of-keys");
        say(ragged, "kv_lens");
        say(mask == Some(MaskKind::Padding), "padding");
        say(mask == Some(MaskKind::Pairs), "mask-of-pairs");
        if let Some(MaskKind::Documents(length)) = mask {
            say(true, &format!("documents {length}"));
        }
        say(sinks, "sinks");
        words
    }
}
