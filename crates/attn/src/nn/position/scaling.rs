//! Frequencies of rotary positions, and how they are scaled for sequences longer than those of the training.

use std::f64::consts::TAU;

use attn_core::AttentionError;
use burn::config::Config;

/// How rotary frequencies `θ_i = base^(−2i/R)`, i < R/2, are changed for sequences longer than those of the training.
///
/// `s` is `factor`, `L` the `original_length`: the positions that the model was trained on.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum RotaryScaling {
    /// Position interpolation (Chen et al. 2023): `θ_i / s`.
    Linear {
        /// `s`, positive.
        factor: f64,
    },
    /// NTK-aware scaling: `base · s^(R/(R−2))` in place of `base`, so that the fastest pair is kept and the slowest divided by `s`.
    Ntk {
        /// `s`, positive.
        factor: f64,
    },
    /// NTK-aware scaling that grows with the sequence: with `l` positions, `base · (s·l/L − (s − 1))^(R/(R−2))` once `l > L`.
    ///
    /// Frequencies follow the length, so keys rotated at one length do not fit queries rotated at another: a cache must hold keys
    /// that are not rotated yet, or the length be fixed by [`Rotary::within`](super::Rotary::within).
    DynamicNtk {
        /// `s`, at least 1.
        factor: f64,
        /// `L`.
        original_length: usize,
    },
    /// YaRN (Peng et al. 2023), as in the authors' code: pairs that turn often keep their frequency, pairs that turn seldom are
    /// interpolated, and a ramp over the index of the pair lies between.
    ///
    /// ```text
    /// d(r)    = R · ln(L / (2π·r)) / (2 · ln base)                    the pair that turns r times within L, a real number
    /// low     = max(⌊d(beta_fast)⌋, 0)    high = min(⌈d(beta_slow)⌉, R − 1)       rounded if `truncate`
    /// ramp_i  = clamp((i − low) / (high − low), 0, 1)
    /// θ'_i    = θ_i · (1 − ramp_i) + θ_i / s · ramp_i
    /// ```
    Yarn {
        /// `s`, positive.
        factor: f64,
        /// `L`.
        original_length: usize,
        /// Turns above which a frequency is kept; 32 in the paper.
        beta_fast: f64,
        /// Turns below which a frequency is interpolated; 1 in the paper.
        beta_slow: f64,
        /// Multiplies rotated queries and keys, so scores by its square; `None`: `0.1 · ln s + 1`, and 1 for `s ≤ 1`.
        attention_factor: Option<f64>,
        /// Whether the ends of the ramp are whole numbers.
        truncate: bool,
    },
    /// By frequency, as in Llama 3.1 (2024). With the wavelength `λ_i = 2π/θ_i`:
    ///
    /// ```text
    /// λ_i < L / high_freq_factor:   θ_i                  λ_i > L / low_freq_factor:   θ_i / s
    /// between:   t = (L/λ_i − low_freq_factor) / (high_freq_factor − low_freq_factor)       (1 − t)·θ_i/s + t·θ_i
    /// ```
    Llama3 {
        /// `s`, positive; 8 in Llama 3.1.
        factor: f64,
        /// 1 in Llama 3.1.
        low_freq_factor: f64,
        /// Above `low_freq_factor`; 4 in Llama 3.1.
        high_freq_factor: f64,
        /// `L`; 8192 in Llama 3.1.
        original_length: usize,
    },
}

impl RotaryScaling {
    /// YaRN with the paper's numbers.
    pub fn yarn(factor: f64, original_length: usize) -> Self {
        let (beta_fast, beta_slow) = (32.0, 1.0);
        Self::Yarn { factor, original_length, beta_fast, beta_slow, attention_factor: None, truncate: true }
    }

    /// The numbers of Llama 3.1.
    pub fn llama3() -> Self {
        Self::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_length: 8192 }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// A value error that names the number, or `base` or `rotary_dim` where the scaling has no meaning with it.
    pub(super) fn check(&self, base: f64, rotary_dim: usize) -> Result<(), AttentionError> {
        use super::super::check::finite_positive;
        let length = |length| super::super::check::positive("original_length", length).map(|_| ());
        let pairs = || match rotary_dim {
            2 => Err(AttentionError::value("rotary_dim", "at least 4 for a scaling of the base", rotary_dim)),
            _ => Ok(()),
        };
        let ordered = |argument, low: f64, high: f64| match low < high {
            true => Ok(()),
            false => Err(AttentionError::value(argument, format!("below {high}"), low)),
        };
        match *self {
            Self::Linear { factor } => finite_positive("factor", factor).map(|_| ()),
            Self::Ntk { factor } => finite_positive("factor", factor).and_then(|_| pairs()),
            Self::DynamicNtk { factor, original_length } => match finite_positive("factor", factor)? {
                factor if factor < 1.0 => Err(AttentionError::value("factor", "at least 1", factor)),
                _ => length(original_length).and_then(|()| pairs()),
            },
            Self::Yarn { factor, original_length, beta_fast, beta_slow, attention_factor, .. } => {
                finite_positive("factor", factor)?;
                length(original_length)?;
                finite_positive("beta_slow", beta_slow)?;
                finite_positive("beta_fast", beta_fast)?;
                ordered("beta_slow", beta_slow, beta_fast)?;
                attention_factor.map_or(Ok(1.0), |factor| finite_positive("attention_factor", factor))?;
                if base > 1.0 { Ok(()) } else { Err(AttentionError::value("base", "above 1 for YaRN", base)) }
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_length } => {
                finite_positive("factor", factor)?;
                length(original_length)?;
                finite_positive("low_freq_factor", low_freq_factor)?;
                finite_positive("high_freq_factor", high_freq_factor)?;
                ordered("low_freq_factor", low_freq_factor, high_freq_factor)
            }
        }
    }

    /// What rotated queries and keys are multiplied by.
    pub(super) fn attention_factor(&self) -> f64 {
        match *self {
            Self::Yarn { attention_factor: Some(given), .. } => given,
            Self::Yarn { factor, .. } if factor > 1.0 => 0.1 * factor.ln() + 1.0,
            _ => 1.0,
        }
    }

    /// Whether the frequencies depend on the length of the sequence.
    pub(super) fn grows(&self) -> bool {
        matches!(self, Self::DynamicNtk { .. })
    }

    /// The R/2 frequencies for a sequence of `length` positions. The numbers must have been checked.
    pub(super) fn frequencies(&self, base: f64, rotary_dim: usize, length: usize) -> Vec<f64> {
        let of = |base| frequencies(base, rotary_dim);
        let exponent = rotary_dim as f64 / (rotary_dim as f64 - 2.0);
        match *self {
            Self::Linear { factor } => of(base).map(|theta| theta / factor).collect(),
            Self::Ntk { factor } => of(base * factor.powf(exponent)).collect(),
            Self::DynamicNtk { factor, original_length } => {
                // Up to the original length the stretch is 1, and the base what it was.
                let stretch = factor * length.max(original_length) as f64 / original_length as f64 - (factor - 1.0);
                of(base * stretch.powf(exponent)).collect()
            }
            Self::Yarn { factor, original_length, beta_fast, beta_slow, truncate, .. } => {
                let pair =
                    |turns: f64| rotary_dim as f64 * (original_length as f64 / (turns * TAU)).ln() / (2.0 * base.ln());
                let (low, high) = (pair(beta_fast), pair(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(rotary_dim as f64 - 1.0));
                // Where the ramp has no width it is a step just above `low`.
                let high = if high == low { high + 0.001 } else { high };
                let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                of(base).enumerate().map(|(i, theta)| theta * (1.0 - ramp(i)) + theta / factor * ramp(i)).collect()
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_length } => {
                let scaled = |theta: f64| {
                    // Turns within the original length, L/λ.
                    let turns = original_length as f64 * theta / TAU;
                    let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    (1.0 - kept) * theta / factor + kept * theta
                };
                of(base).map(scaled).collect()
            }
        }
    }
}

/// `θ_i = base^(−2i/R)`, i < R/2.
pub(super) fn frequencies(base: f64, rotary_dim: usize) -> impl Iterator<Item = f64> {
    (0..rotary_dim / 2).map(move |i| base.powf(-2.0 * i as f64 / rotary_dim as f64))
}
