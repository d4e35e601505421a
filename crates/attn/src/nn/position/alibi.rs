//! The slopes of ALiBi.

use attn_core::AttentionError;
use burn::config::Config;

/// The slopes that a layer subtracts by, `score −= slope · |j − p|` (ALiBi, Press et al. 2022).
#[derive(Config, Debug, PartialEq)]
pub enum AlibiSlopes {
    /// The geometric sequence of the paper, [`alibi_slopes`].
    Geometric,
    /// One slope a query head, as a pruned layer keeps them.
    Given {
        /// `[H]`, finite.
        slopes: Vec<f64>,
    },
}

impl AlibiSlopes {
    /// One slope a head.
    ///
    /// # Errors
    /// Names `alibi` where there is not one finite slope a head.
    pub(in crate::nn) fn of(&self, heads: usize) -> Result<Vec<f64>, AttentionError> {
        match self {
            Self::Geometric => Ok(alibi_slopes(heads)),
            Self::Given { slopes } if slopes.len() != heads => {
                Err(AttentionError::shape("alibi", format!("[{heads}] (heads)"), &[slopes.len()]))
            }
            Self::Given { slopes } => match slopes.iter().find(|slope| !slope.is_finite()) {
                Some(slope) => Err(AttentionError::value("alibi", "finite slopes", slope)),
                None => Ok(slopes.clone()),
            },
        }
    }
}

/// The slopes of Press et al. 2022 for any number of heads.
///
/// ```text
/// heads n a power of two:   m_h = 2^(−8·h/n),  h = 1 … n
/// otherwise, p the greatest power of two below n:   the p slopes of p heads, then the first n − p of every other slope,
///                                                   beginning with the first, of 2·p heads
/// ```
pub fn alibi_slopes(heads: usize) -> Vec<f64> {
    let of_power = |n: usize| (1..=n).map(move |h| (-8.0 * h as f64 / n as f64).exp2());
    let Some(log) = heads.checked_ilog2() else { return Vec::new() };
    let power = 1 << log;
    // 2·power stays below 2·heads; where that does not fit, no vector of slopes does.
    let between = of_power(power * 2).step_by(2).take(heads - power);
    of_power(power).chain(between).collect()
}
