//! Absolute positions, added to the features of a token: sinusoids and a learned table.

use attn_core::AttentionError;
use burn::config::Config;
use burn::module::{Content, DisplaySettings, Initializer, Module, ModuleDisplay, Param};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};

use super::Positions;
use super::recent::{Key, Recent};
use crate::attention::{check_devices, check_dtypes};
use crate::nn::check::{features, finite_positive, positive};
use crate::nn::parts::accumulation;

/// Sizes of a [`SinusoidalPositions`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct SinusoidalPositionsConfig {
    /// Features of a token, of any number.
    pub d_model: usize,
    /// Of the wavelengths, which run from 2π to `base · 2π`; positive.
    #[config(default = 10_000.0)]
    pub base: f64,
}

impl SinusoidalPositionsConfig {
    /// Makes the encoding. It has no parameters and lies on no device.
    ///
    /// # Errors
    /// A value error that names `d_model` or `base`.
    pub fn init(&self) -> Result<SinusoidalPositions, AttentionError> {
        let (d_model, base) = (positive("d_model", self.d_model)?, finite_positive("base", self.base)?);
        Ok(SinusoidalPositions { d_model, base, tables: Recent::default() })
    }
}

/// Sinusoidal positions (Vaswani et al. 2017): `hidden + E`.
///
/// ```text
/// E(p, 2i) = sin(p / base^(2i/d_model))        E(p, 2i + 1) = cos(p / base^(2i/d_model))
/// ```
///
/// Computed in f64 on the host for any position; the sum is f32 for f16, bf16 and f32. The table of the last positions stays on
/// the device.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct SinusoidalPositions {
    d_model: usize,
    base: f64,
    #[module(skip)]
    tables: Recent<Tensor<3>>,
}

impl SinusoidalPositions {
    /// Adds the encoding to `hidden` `[B, S, d_model]` of tokens at these positions, `[B, S]`.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `hidden` or `positions`.
    pub fn forward(&self, hidden: Tensor<3>, positions: &Positions) -> Result<Tensor<3>, AttentionError> {
        let [batch, length, d_model] = hidden.dims();
        if d_model != self.d_model {
            return Err(AttentionError::shape("hidden", format!("[_, _, {}]", self.d_model), &hidden.dims()));
        }
        check_dtypes("hidden", hidden.dtype(), &[])?;
        positions.check("positions", batch, length)?;
        if batch * length == 0 {
            return Ok(hidden);
        }
        let (dtype, device) = (accumulation(hidden.dtype()), hidden.device().without_autodiff());
        let key = Key { positions: positions.clone(), length, grown: 0, dtype, device };
        let table = self.tables.get(key, |key| self.table_of(key));
        let (narrow, wide): (FloatDType, FloatDType) = (hidden.dtype().into(), dtype.into());
        Ok(if narrow == wide { hidden + table } else { (hidden.cast(wide) + table).cast(narrow) })
    }

    /// `[rows, S, d_model]`.
    fn table_of(&self, key: &Key) -> Tensor<3> {
        let d_model = self.d_model;
        let theta: Vec<f64> =
            (0..d_model).map(|feature| self.base.powf(-((feature / 2 * 2) as f64) / d_model as f64)).collect();
        let value = |position: i64, feature: usize| {
            let angle = position as f64 * theta[feature];
            if feature.is_multiple_of(2) { angle.sin() } else { angle.cos() }
        };
        let values: Vec<f64> = key
            .positions
            .all(key.length)
            .flat_map(|position| (0..d_model).map(move |feature| (position, feature)))
            .map(|(position, feature)| value(position, feature))
            .collect();
        let data = TensorData::new(values, [key.positions.rows(), key.length, d_model]);
        Tensor::from_data(data.convert_dtype(key.dtype), (&key.device, key.dtype))
    }
}

impl ModuleDisplay for SinusoidalPositions {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content.add("d_model", &self.d_model).add("base", &self.base).optional()
    }
}

/// Sizes of a [`LearnedPositions`]; [`init`](Self::init) makes it.
#[derive(Config, Debug)]
pub struct LearnedPositionsConfig {
    /// Positions that have a row, `0 .. positions`.
    pub positions: usize,
    /// Features of a token.
    pub d_model: usize,
    /// How the table begins.
    #[config(default = "Initializer::Normal{mean:0.0, std:0.02}")]
    pub initializer: Initializer,
}

impl LearnedPositionsConfig {
    /// Makes the table on a device.
    ///
    /// # Errors
    /// A value error that names the first size without a meaning.
    pub fn init(&self, device: &Device) -> Result<LearnedPositions, AttentionError> {
        let (positions, d_model) = (positive("positions", self.positions)?, positive("d_model", self.d_model)?);
        features("positions", positions, d_model)?;
        Ok(LearnedPositions { weight: self.initializer.init([positions, d_model], device) })
    }
}

/// Learned absolute positions (Gehring et al. 2017; BERT, GPT-2, ViT): `hidden + weight[p]`.
#[derive(Module, Debug)]
pub struct LearnedPositions {
    /// `[positions, d_model]`.
    pub weight: Param<Tensor<2>>,
}

impl LearnedPositions {
    /// Adds to `hidden` `[B, S, d_model]` the rows of its tokens' positions, `[B, S]`.
    ///
    /// # Errors
    /// An [`AttentionError`] that names `hidden` or `positions`: one without a row, for example.
    pub fn forward(&self, hidden: Tensor<3>, positions: &Positions) -> Result<Tensor<3>, AttentionError> {
        let [batch, length, found] = hidden.dims();
        let weight = self.weight.val();
        let [count, d_model] = weight.dims();
        if found != d_model {
            return Err(AttentionError::shape("hidden", format!("[_, _, {d_model}]"), &hidden.dims()));
        }
        check_devices(&weight.device(), &[("hidden", Some(hidden.device()))])?;
        check_dtypes("hidden", weight.dtype(), &[("hidden", hidden.dtype())])?;
        positions.check("positions", batch, length)?;
        if batch * length == 0 {
            return Ok(hidden);
        }
        let rows: Vec<i64> = positions.all(length).collect();
        if let Some(row) = rows.iter().find(|row| !(0..count as i64).contains(row)) {
            return Err(AttentionError::value("positions", format!("positions in 0 .. {count}"), row));
        }
        let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &weight.device().without_autodiff());
        Ok(hidden + weight.select(0, rows).reshape([positions.rows(), length, d_model]))
    }
}
