//! Norms of query and key heads.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Content, DisplaySettings, Initializer, Module, ModuleDisplay, Param};
use burn::tensor::{Device, FloatDType, Tensor};

use crate::nn::check;
use crate::nn::parts::accumulation;

/// How query and key heads are normalised, over their D features `x`.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum QkNormKind {
    /// `x / √(mean(x²) + ε) · γ` (Zhang & Sennrich 2019; Qwen 3, Gemma 3), `γ [D]` each for queries and keys.
    Rms,
    /// `(x − mean(x)) / √(var(x) + ε) · γ [+ β]` (Dehghani et al. 2023), `γ, β [D]` each.
    Layer,
    /// `x / √(Σx² + ε)`, cosines in place of products (Henry et al. 2020). One learned factor `γ [1]`, on the queries, takes the
    /// place of `1/√D`; the paper begins at `log₂(L² − L)` for sequences of `L` tokens.
    L2,
}

/// Normalisation of queries and keys.
#[derive(Config, Debug)]
pub struct QkNormConfig {
    /// How.
    pub kind: QkNormKind,
    /// Under the root; finite and not negative.
    #[config(default = 1e-6)]
    pub epsilon: f64,
    /// What every `γ` begins as; finite.
    #[config(default = 1.0)]
    pub gain: f64,
    /// Whether [`QkNormKind::Layer`] has a `β`; the others have none.
    #[config(default = false)]
    pub bias: bool,
}

impl QkNormConfig {
    /// The norms of queries and keys.
    ///
    /// # Errors
    /// Names the number without a meaning.
    pub(super) fn init(&self, head_dim: usize, device: &Device) -> Result<(HeadNorm, HeadNorm), AttentionError> {
        let epsilon = check::epsilon("epsilon", self.epsilon)?;
        if !self.gain.is_finite() {
            return Err(AttentionError::value("gain", "a finite number", self.gain));
        }
        if self.bias && self.kind != QkNormKind::Layer {
            return Err(AttentionError::value("bias", "false for a norm that is not a layer norm", true));
        }
        let gains = if self.kind == QkNormKind::L2 { 1 } else { head_dim };
        let gamma = || Initializer::Constant { value: self.gain }.init([gains], device);
        let norm = |gamma| {
            let beta = self.bias.then(|| Initializer::Zeros.init([head_dim], device));
            HeadNorm { gamma, beta, kind: self.kind, epsilon }
        };
        Ok((norm(Some(gamma())), norm((self.kind != QkNormKind::L2).then(gamma))))
    }

    /// The scale of scores where the layer's config gives none.
    pub(super) fn scale(&self) -> Option<f64> {
        (self.kind == QkNormKind::L2).then_some(1.0)
    }
}

/// A norm over the features of each head, its learned gain shared by the heads; see [`QkNormKind`] for the formulas.
///
/// Arithmetic is f32 for f16, bf16 and f32, and f64 for f64.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct HeadNorm {
    /// `γ`, `[D]`, or `[1]` for the queries of [`QkNormKind::L2`].
    pub gamma: Option<Param<Tensor<1>>>,
    /// `β [D]`.
    pub beta: Option<Param<Tensor<1>>>,
    #[module(skip)]
    kind: QkNormKind,
    epsilon: f64,
}

impl HeadNorm {
    /// Checks the parameters against the layer's. `arguments`: the names of `γ` and `β`.
    pub(super) fn check(
        &self,
        [gamma, beta]: [&'static str; 2],
        head_dim: usize,
        weight: &Tensor<2>,
    ) -> Result<(), AttentionError> {
        let gains = if self.kind == QkNormKind::L2 { 1 } else { head_dim };
        self.gamma.iter().try_for_each(|param| check::parameter(gamma, param, [gains], weight))?;
        self.beta.iter().try_for_each(|param| check::parameter(beta, param, [head_dim], weight))
    }

    /// Normalises `[B, heads, S, D]`.
    pub(super) fn forward(&self, heads: Tensor<4>) -> Tensor<4> {
        if heads.shape().num_elements() == 0 {
            return heads;
        }
        let (narrow, wide): (FloatDType, FloatDType) = (heads.dtype().into(), accumulation(heads.dtype()).into());
        let cast = |tensor: Tensor<4>| if narrow == wide { tensor } else { tensor.cast(wide) };
        let x = cast(heads);
        let x = match self.kind {
            QkNormKind::Layer => x.clone() - x.mean_dim(3),
            QkNormKind::Rms | QkNormKind::L2 => x,
        };
        let squares = x.clone() * x.clone();
        let squares = match self.kind {
            QkNormKind::L2 => squares.sum_dim(3),
            QkNormKind::Rms | QkNormKind::Layer => squares.mean_dim(3),
        };
        let x = x / (squares + self.epsilon).sqrt();
        let along = |param: &Param<Tensor<1>>| {
            let [length] = param.shape().dims();
            cast(param.val().reshape([1, 1, 1, length]))
        };
        let x = self.gamma.iter().fold(x, |x, gamma| x * along(gamma));
        let x = self.beta.iter().fold(x, |x, beta| x + along(beta));
        if narrow == wide { x } else { x.cast(narrow) }
    }
}

impl ModuleDisplay for HeadNorm {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content.add_debug_attribute("kind", &self.kind).add("epsilon", &self.epsilon).optional()
    }
}
