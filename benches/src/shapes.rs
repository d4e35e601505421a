//! The shapes that are timed, and what a shape's useful work is.
//!
//! One list serves the harness (`attn-bench`) and the criterion benches, so that their figures speak of the same problems.
//! Work is counted on visible pairs only: a pair (query i, key j) that causality or a window hides is no work, whoever
//! computes it. With p = i + Sk − Sq the absolute position of query i (bottom-right alignment), key j is visible when
//! j ≤ p (causal) and p − left ≤ j ≤ p + right (window). Where batch entries have lengths of their own, theirs stand for Sk. What a
//! mask hides counts as work: nobody knows it beforehand.

use std::fmt;
use std::ops::Range;

use half::{bf16, f16};

mod card;
mod extras;
mod suites;
mod sweep;

pub use card::card;
pub use extras::{BiasKind, Extras, MaskKind};
pub use suites::suite;
pub use sweep::{SEED, SWEEP, sweep};

/// A family of shapes with one unit of account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// Many queries at once: bound by arithmetic, told in GFLOP/s.
    Prefill,
    /// A few queries against a long cache: bound by memory, told in GB/s of keys and values.
    Decode,
    /// Forward and backward: bound by arithmetic, told in GFLOP/s.
    Train,
    /// Forward of random shapes with all options, told in GFLOP/s and by the faster of the peers.
    Sweep,
}

impl Suite {
    /// Every suite, in the order in which they run.
    pub const ALL: [Self; 4] = [Self::Prefill, Self::Decode, Self::Train, Self::Sweep];

    /// The name on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Train => "train",
            Self::Sweep => "sweep",
        }
    }

    /// The unit in which a speed of this suite is told.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Prefill | Self::Train | Self::Sweep => "GFLOP/s",
            Self::Decode => "GB/s",
        }
    }
}

/// The element type of query, key, value and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16: 8 significant bits.
    Bf16,
    /// IEEE half precision: 11 significant bits.
    F16,
}

impl Dtype {
    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The unit roundoff 2⁻ᵖ of p significant bits: the largest relative error of rounding to this type.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Self::F32 => 2f64.powi(-24),
            Self::Bf16 => 2f64.powi(-8),
            Self::F16 => 2f64.powi(-11),
        }
    }

    /// The nearest value of this type.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
        }
    }
}

/// A window of keys around each query's position p: p − left ≤ j ≤ p + right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Keys seen before p.
    pub left: usize,
    /// Keys seen after p.
    pub right: usize,
}

/// One attention problem to be timed. Query [B, H, Sq, D], key [B, G, Sk, D], value [B, G, Sk, E], output [B, H, Sq, E].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// The suite that it belongs to, which says what is timed: forward, or forward and backward.
    pub suite: Suite,
    /// Element type.
    pub dtype: Dtype,
    /// B.
    pub batch: usize,
    /// H, a multiple of `kv_heads`.
    pub heads: usize,
    /// G.
    pub kv_heads: usize,
    /// Sq.
    pub query_len: usize,
    /// Sk.
    pub key_len: usize,
    /// D, of query and key, and of value unless [`Extras::value_dim`] says otherwise.
    pub head_dim: usize,
    /// Whether keys after a query's position are hidden.
    pub causal: bool,
    /// The window, if any.
    pub window: Option<Window>,
    /// The factor of q·k, 1/√D if none.
    pub scale: Option<f64>,
    /// c in c · tanh(score / c), if any.
    pub softcap: Option<f64>,
    /// Options with numbers of their own.
    pub extras: Extras,
}

impl Shape {
    /// batch, heads, length (of queries and keys), dim: a shape with no options, in f32.
    pub fn square(suite: Suite, [batch, heads, length, head_dim]: [usize; 4]) -> Self {
        Self {
            suite,
            dtype: Dtype::F32,
            batch,
            heads,
            kv_heads: heads,
            query_len: length,
            key_len: length,
            head_dim,
            causal: false,
            window: None,
            scale: None,
            softcap: None,
            extras: Extras::default(),
        }
    }

    /// The factor of q·k.
    pub fn effective_scale(&self) -> f64 {
        self.scale.unwrap_or_else(|| 1.0 / (self.head_dim as f64).sqrt())
    }

    /// The keys that causality, window and lengths leave query `i` of a batch entry; always one run of keys, empty where it sees none.
    pub fn visible_keys(&self, batch: usize, i: usize) -> Range<usize> {
        let position = self.position(batch, i);
        let mut low = 0;
        let mut high = self.keys_of(batch) as i64 - 1;
        if self.causal {
            high = high.min(position);
        }
        if let Some(window) = self.window {
            low = low.max(position - window.left as i64);
            high = high.min(position + window.right as i64);
        }
        let start = low.max(0);
        start as usize..(high + 1).max(start) as usize
    }

    /// Visible (query, key) pairs of one head, of all batch entries; what a mask hides is among them.
    pub fn visible_pairs(&self) -> u64 {
        let of = |batch| (0..self.query_len).map(|i| self.visible_keys(batch, i).len() as u64).sum::<u64>();
        if self.extras.ragged { (0..self.batch).map(of).sum() } else { self.batch as u64 * of(0) }
    }

    /// Floating-point operations of useful work: forward 2·H·(D + E) a visible pair (a multiplication and an addition for
    /// each of q·k and p·v); forward and backward 3.5 times that (five products of that size beside the forward's two).
    pub fn flops(&self) -> f64 {
        let a_pair = 2 * self.heads * (self.head_dim + self.value_dim());
        let forward = a_pair as f64 * self.visible_pairs() as f64;
        match self.suite {
            Suite::Prefill | Suite::Decode | Suite::Sweep => forward,
            Suite::Train => 3.5 * forward,
        }
    }

    /// Bytes of keys and values that some query sees: what a forward pass has to read at least.
    pub fn kv_bytes(&self) -> u64 {
        let a_key = self.kv_heads * (self.head_dim + self.value_dim()) * self.dtype.size();
        let seen = |batch| {
            (0..self.query_len).fold(0..0, |seen: Range<usize>, i| {
                let keys = self.visible_keys(batch, i);
                match (seen.is_empty(), keys.is_empty()) {
                    (true, _) => keys,
                    (_, true) => seen,
                    _ => seen.start.min(keys.start)..seen.end.max(keys.end),
                }
            })
        };
        (0..self.batch).map(|batch| (seen(batch).len() * a_key) as u64).sum()
    }

    /// Bytes of all scores, [B, H, Sq, Sk], in the shape's type: what separate operations write to memory.
    pub fn score_bytes(&self) -> u64 {
        (self.batch * self.heads * self.query_len * self.key_len * self.dtype.size()) as u64
    }

    /// The axes of the query, the key, the value and the output.
    pub fn dims(&self) -> [[usize; 4]; 4] {
        let query = [self.batch, self.heads, self.query_len, self.head_dim];
        let key = [self.batch, self.kv_heads, self.key_len, self.head_dim];
        let of_values = |[b, h, s, _]: [usize; 4]| [b, h, s, self.value_dim()];
        [query, key, of_values(key), of_values(query)]
    }

    /// Elements of the query, the key, the value and the output.
    pub fn elements(&self) -> [usize; 4] {
        self.dims().map(|dims| dims.iter().product())
    }

    /// Bytes of what a call returns: the output, and in training the gradients of query, key and value.
    pub fn output_bytes(&self) -> u64 {
        let [query, key, value, out] = self.elements();
        let elements = match self.suite {
            Suite::Prefill | Suite::Decode | Suite::Sweep => out,
            Suite::Train => out + query + key + value,
        };
        (elements * self.dtype.size()) as u64
    }

    /// The options beyond the lengths, in words: "causal", "window 255,0", …; empty if none.
    pub fn options(&self) -> String {
        let mut words = Vec::new();
        if self.causal {
            words.push("causal".to_string());
        }
        if let Some(Window { left, right }) = self.window {
            words.push(format!("window {left},{right}"));
        }
        if let Some(scale) = self.scale {
            words.push(format!("scale {scale}"));
        }
        if let Some(softcap) = self.softcap {
            words.push(format!("softcap {softcap}"));
        }
        words.extend(self.extra_words());
        words.join(" ")
    }

    /// The sizes: batch×heads×length×dim, with the key/value heads, the key length and the dim of values where they differ.
    pub fn sizes(&self) -> String {
        let heads = if self.heads == self.kv_heads {
            self.heads.to_string()
        } else {
            format!("{}/{}", self.heads, self.kv_heads)
        };
        let length = if self.query_len == self.key_len {
            self.query_len.to_string()
        } else {
            format!("{}:{}", self.query_len, self.key_len)
        };
        let dim = match self.extras.value_dim {
            Some(value_dim) if value_dim != self.head_dim => format!("{}:{value_dim}", self.head_dim),
            _ => self.head_dim.to_string(),
        };
        format!("{}×{heads}×{length}×{dim}", self.batch)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.sizes(), self.dtype.name())?;
        match self.options() {
            options if options.is_empty() => Ok(()),
            options => write!(f, " {options}"),
        }
    }
}

#[cfg(test)]
mod tests;
