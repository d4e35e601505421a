//! A function of each score, of the caller's own.

use std::fmt;
use std::sync::Arc;

use crate::Pair;

type Function = Arc<dyn Fn(f64, Pair) -> f64 + Send + Sync>;

/// Any function from a score and its pair of query and key to another score: `s ← f(s, pair)` after softcap, ALiBi and biases, before
/// anything is hidden (FlexAttention's `score_mod`, Dong et al. 2024).
///
/// It runs on the host: on CPU backends inside the kernel, a pair at a time; elsewhere the composite carries each tile of scores to the
/// host and back, and no other kernel serves. What the contract has as an option of its own (scale, softcap, ALiBi, tables by relative
/// position, masks) is faster by that.
///
/// A score of −inf stays that: what is hidden is hidden. −inf as an answer hides. Answers for pairs that something else hides are not
/// used, and it may not be asked for them. Gradients need the [slope](Self::with_slope); without it an attention that is to be
/// differentiated is refused.
///
/// ```
/// use attn_core::ScoreMod;
///
/// // Scores shrink with the square root of the distance.
/// let shrink = |pair: attn_core::Pair| 1.0 / (1.0 + pair.position.abs_diff(pair.key as i64) as f64).sqrt();
/// let function = ScoreMod::new(move |score, pair| score * shrink(pair)).with_slope(move |_, pair| shrink(pair));
/// assert!(function.has_slope());
/// ```
#[derive(Clone)]
pub struct ScoreMod {
    value: Function,
    slope: Option<Function>,
}

impl ScoreMod {
    /// From a function of the score and its pair.
    pub fn new(value: impl Fn(f64, Pair) -> f64 + Send + Sync + 'static) -> Self {
        Self { value: Arc::new(value), slope: None }
    }

    /// With its derivative by the score, from the same score and pair: `∂f/∂s (s, pair)`.
    pub fn with_slope(self, slope: impl Fn(f64, Pair) -> f64 + Send + Sync + 'static) -> Self {
        Self { slope: Some(Arc::new(slope)), ..self }
    }

    /// Whether it can be differentiated.
    pub fn has_slope(&self) -> bool {
        self.slope.is_some()
    }

    /// `f(s, pair)`; −inf where the score is that.
    pub fn apply(&self, score: f64, pair: Pair) -> f64 {
        if score == f64::NEG_INFINITY { score } else { (self.value)(score, pair) }
    }

    /// The slope there; 0 where the score is −inf. `None` where there is none.
    pub fn slope(&self, score: f64, pair: Pair) -> Option<f64> {
        let slope = self.slope.as_ref()?;
        Some(if score == f64::NEG_INFINITY { 0.0 } else { slope(score, pair) })
    }
}

/// The very same functions.
impl PartialEq for ScoreMod {
    fn eq(&self, other: &Self) -> bool {
        let slopes = match (&self.slope, &other.slope) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        Arc::ptr_eq(&self.value, &other.value) && slopes
    }
}

impl fmt::Debug for ScoreMod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.has_slope() { "function of a score, with its slope" } else { "function of a score" })
    }
}
