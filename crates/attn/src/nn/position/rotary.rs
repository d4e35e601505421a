//! Rotary positions: queries and keys turned by angles that grow with the position.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay};
use burn::tensor::{FloatDType, Tensor, TensorData};

use super::Positions;
use super::recent::{Key, Recent};
use super::scaling::{RotaryScaling, frequencies};
use crate::attention::check_dtypes;
use crate::nn::check::{finite_positive, positive};
use crate::nn::parts::accumulation;

/// Which two features of a head make a pair.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum RotaryLayout {
    /// Features `2i` and `2i + 1` (Su et al. 2021; GPT-J, Llama's own files).
    Interleaved,
    /// Features `i` and `i + R/2` (GPT-NeoX; Llama, Mistral, Qwen and most others as converted for the Transformers library).
    Half,
}

/// Sizes and choices of a [`Rotary`]; [`init`](Self::init) makes it.
///
/// The layout has no default: weights trained with one give noise with the other.
#[derive(Config, Debug)]
pub struct RotaryConfig {
    /// Features of one query or key head, D.
    pub head_dim: usize,
    /// Which features make a pair.
    pub layout: RotaryLayout,
    /// Leading features of a head that are turned, R, even; the others pass. `None`: all.
    pub rotary_dim: Option<usize>,
    /// Of the frequencies, `base^(−2i/R)`; positive.
    #[config(default = 10_000.0)]
    pub base: f64,
    /// For sequences longer than those of the training; `None`: no change.
    pub scaling: Option<RotaryScaling>,
}

impl RotaryConfig {
    /// Makes the rotation. It has no parameters and lies on no device.
    ///
    /// # Errors
    /// A value error that names the first number without a meaning.
    pub fn init(&self) -> Result<Rotary, AttentionError> {
        let head_dim = positive("head_dim", self.head_dim)?;
        let base = finite_positive("base", self.base)?;
        let rotary_dim = self.rotary_dim.unwrap_or(head_dim);
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
            let argument = if self.rotary_dim.is_some() { "rotary_dim" } else { "head_dim" };
            return Err(AttentionError::value(argument, format!("an even number in 2 ..= {head_dim}"), rotary_dim));
        }
        if let Some(scaling) = &self.scaling {
            scaling.check(base, rotary_dim)?;
        }
        let (layout, scaling) = (self.layout, self.scaling);
        Ok(Rotary { head_dim, rotary_dim, layout, base, scaling, tables: Recent::default() })
    }
}

/// Rotary position embedding (RoPE, Su et al. 2021): pair i of a head at position p is turned by the angle `p · θ_i`.
///
/// ```text
/// θ_i = base^(−2i/R), i < R/2, changed by the scaling         m = 1, or the scaling's attention factor
/// a', b' = m · (a·cos pθ_i − b·sin pθ_i),  m · (a·sin pθ_i + b·cos pθ_i)        for the pair (a, b) of features
/// ```
///
/// A query at p and a key at j turned so have a product that depends on `p − j` alone. Of D features the first R are turned.
///
/// Angles, sines and cosines are computed in f64 on the host, at any position exactly as at the first; arithmetic is f32 for f16,
/// bf16 and f32, and f64 for f64. Time and memory are in the size of the input. The tables `[rows, S, R/2]` of the last two
/// calls' positions stay on the device, so that steps over the same positions make them once. Clones share them, and so do the blocks
/// of an encoder.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct Rotary {
    head_dim: usize,
    rotary_dim: usize,
    #[module(skip)]
    layout: RotaryLayout,
    base: f64,
    #[module(skip)]
    scaling: Option<RotaryScaling>,
    #[module(skip)]
    tables: Recent<[Tensor<4>; 2]>,
}

impl Rotary {
    /// Turns the heads `[B, any, S, D]` of tokens at these positions, `[B, S]`.
    ///
    /// A scaling that grows with the sequence takes it to end with the last of these tokens; see [`within`](Self::within).
    ///
    /// # Errors
    /// An [`AttentionError`] that names `heads` or `positions`.
    pub fn forward(&self, heads: Tensor<4>, positions: &Positions) -> Result<Tensor<4>, AttentionError> {
        let [batch, _, length, _] = heads.dims();
        positions.check("positions", batch, length)?;
        self.within(heads, positions, positions.end(length))
    }

    /// [`forward`](Self::forward) within a sequence of `length` positions, which may be more than those of `heads`. Queries and keys
    /// of one attention must share it where the scaling is [`DynamicNtk`](RotaryScaling::DynamicNtk); to others it does not matter.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn within(&self, heads: Tensor<4>, positions: &Positions, length: usize) -> Result<Tensor<4>, AttentionError> {
        let [batch, count, tokens, head_dim] = heads.dims();
        if head_dim != self.head_dim {
            return Err(AttentionError::shape("heads", format!("[_, _, _, {}]", self.head_dim), &heads.dims()));
        }
        check_dtypes("heads", heads.dtype(), &[])?;
        positions.check("positions", batch, tokens)?;
        if batch * count * tokens == 0 {
            return Ok(heads);
        }
        let key = Key {
            positions: positions.clone(),
            length: tokens,
            grown: if self.scaling.is_some_and(|scaling| scaling.grows()) { length } else { 0 },
            dtype: accumulation(heads.dtype()),
            device: heads.device().without_autodiff(),
        };
        let tables = self.tables.get(key, |key| self.tables_of(key));
        Ok(self.turned(heads, tables))
    }

    /// The frequencies `θ_i` for a sequence of `length` positions, i < R/2.
    pub fn frequencies(&self, length: usize) -> Vec<f64> {
        match &self.scaling {
            Some(scaling) => scaling.frequencies(self.base, self.rotary_dim, length),
            None => frequencies(self.base, self.rotary_dim).collect(),
        }
    }

    /// What turned features are multiplied by, `m`: YaRN's attention factor, else 1.
    pub fn attention_factor(&self) -> f64 {
        self.scaling.map_or(1.0, |scaling| scaling.attention_factor())
    }

    /// Features of one head, D.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// `m·cos` and `m·sin`, `[rows, 1, S, R/2]`.
    fn tables_of(&self, key: &Key) -> [Tensor<4>; 2] {
        let (theta, factor) = (self.frequencies(key.grown), self.attention_factor());
        let shape = [key.positions.rows(), 1, key.length, theta.len()];
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in key.positions.all(key.length) {
            for theta in &theta {
                let (s, c) = (position as f64 * theta).sin_cos();
                cos.push(c * factor);
                sin.push(s * factor);
            }
        }
        [cos, sin].map(|values| {
            Tensor::from_data(TensorData::new(values, shape).convert_dtype(key.dtype), (&key.device, key.dtype))
        })
    }

    /// Turns by the tables, in their element type.
    fn turned(&self, heads: Tensor<4>, [cos, sin]: [Tensor<4>; 2]) -> Tensor<4> {
        let ([batch, count, tokens, head_dim], turning) = (heads.dims(), self.rotary_dim);
        let (narrow, wide): (FloatDType, FloatDType) = (heads.dtype().into(), cos.dtype().into());
        let passing = (turning < head_dim).then(|| heads.clone().narrow(3, turning, head_dim - turning));
        let turning_heads = if turning < head_dim { heads.narrow(3, 0, turning) } else { heads };
        let turning_heads = if narrow == wide { turning_heads } else { turning_heads.cast(wide) };
        let half = turning / 2;
        let (a, b) = match self.layout {
            RotaryLayout::Half => (turning_heads.clone().narrow(3, 0, half), turning_heads.narrow(3, half, half)),
            RotaryLayout::Interleaved => {
                let pairs: Tensor<5> = turning_heads.reshape([batch, count, tokens, half, 2]);
                let side = |side| pairs.clone().narrow(4, side, 1).reshape([batch, count, tokens, half]);
                (side(0), side(1))
            }
        };
        let turned = vec![
            a.clone() * cos.clone() - b.clone() * sin.clone(), //
            a * sin + b * cos,
        ];
        let turned = match self.layout {
            RotaryLayout::Half => Tensor::cat(turned, 3),
            RotaryLayout::Interleaved => Tensor::stack::<5>(turned, 4).reshape([batch, count, tokens, turning]),
        };
        let turned = if narrow == wide { turned } else { turned.cast(narrow) };
        match passing {
            Some(passing) => Tensor::cat(vec![turned, passing], 3),
            None => turned,
        }
    }
}

impl ModuleDisplay for Rotary {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add("head_dim", &self.head_dim)
            .add("rotary_dim", &self.rotary_dim)
            .add("base", &self.base)
            .add_debug_attribute("layout", &self.layout)
            .add_debug_attribute("scaling", &self.scaling)
            .optional()
    }
}
