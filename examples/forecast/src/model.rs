//! The forecaster: a transformer over days in a row, each of which sees a window of days before it.

use attn::nn::{
    AlibiSlopes, AttentionOptions, NormPlacement, TransformerEncoder, TransformerEncoderConfig,
    TransformerEncoderLayerConfig,
};
use attn::{AttentionError, AttentionSpec, Selection};
use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

/// Sizes of a [`Forecaster`].
#[derive(Config, Debug)]
pub struct ForecasterConfig {
    /// Numbers of a day.
    pub features: usize,
    /// Days ahead that are forecast.
    pub horizons: usize,
    /// Days that a day sees in one layer: itself and those before.
    #[config(default = 14)]
    pub window: usize,
    /// Features of a token.
    #[config(default = 16)]
    pub d_model: usize,
    /// Heads of a layer.
    #[config(default = 4)]
    pub heads: usize,
    /// Layers.
    #[config(default = 2)]
    pub layers: usize,
    /// Probability of dropping a feature of a sublayer's output.
    #[config(default = 0.2)]
    pub dropout: f64,
}

impl ForecasterConfig {
    /// Makes the model.
    ///
    /// # Errors
    /// A value error that names the size without a meaning.
    pub fn init(&self, device: &Device) -> Result<Forecaster, AttentionError> {
        let Some(before) = self.window.checked_sub(1) else {
            return Err(AttentionError::value("window", "at least the day itself", self.window));
        };
        let layer = TransformerEncoderLayerConfig::new(self.d_model, self.heads, 2 * self.d_model)
            .with_norm(NormPlacement::Pre)
            .with_dropout(self.dropout);
        let attention = layer.attention_config().with_alibi(Some(AlibiSlopes::Geometric));
        let layer = layer.with_attention(Some(attention));
        // A norm at the end would take away how unusual a day is.
        let encoder = TransformerEncoderConfig::new(layer, self.layers).with_final_norm(Some(false));
        Ok(Forecaster {
            embedding: LinearConfig::new(self.features, self.d_model).init(device),
            encoder: encoder.init(device)?,
            head: LinearConfig::new(self.d_model, self.horizons).init(device),
            before,
        })
    }

    /// Days before a day that can reach it through all layers.
    pub fn reach(&self) -> usize {
        self.layers * self.window.saturating_sub(1)
    }
}

/// Days to what comes after each of them.
///
/// ```text
/// tokens = W · features + b                                        one a day
/// day t reads days t − window + 1 … t                              local attention, with ALiBi's biases by distance
/// forecasts of day t = W_head · encoder(tokens)[t] + b_head        of days t + 1 … t + horizons
/// ```
/// All days of a sequence are forecast from at once, in time linear in their number: the kernel skips what lies outside the window.
#[derive(Module, Debug)]
pub struct Forecaster {
    embedding: Linear,
    encoder: TransformerEncoder,
    head: Linear,
    before: usize,
}

/// What the model says after each day.
#[derive(Debug, Clone)]
pub struct Read {
    /// `[batch, days, horizons]`.
    pub forecasts: Tensor<3>,
    /// What each layer read, `[batch, heads, days, days]`; empty unless asked for.
    pub weights: Vec<Tensor<4>>,
}

impl Forecaster {
    /// `[batch, days, features]` to what comes after each day, with the weights if they are asked for.
    ///
    /// # Errors
    /// An error that names what does not fit.
    pub fn read(&self, days: Tensor<3>, with_weights: bool) -> Result<Read, AttentionError> {
        let spec = AttentionSpec::new().with_causal(true).with_window(Some(self.before), None);
        let mut options = AttentionOptions::new().spec(spec);
        if with_weights {
            options = options.with_weights(Selection::all());
        }
        let output = self.encoder.forward(self.embedding.forward(days), &options)?;
        Ok(Read { forecasts: self.head.forward(output.hidden), weights: output.weights })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    fn forecasts(model: &Forecaster, days: Tensor<3>) -> Vec<f32> {
        model.read(days, false).unwrap().forecasts.into_data().iter::<f32>().collect()
    }

    #[test]
    fn a_day_knows_the_days_of_its_reach_and_no_other() {
        let device = Device::default();
        let config = ForecasterConfig::new(3, 2).with_window(3).with_d_model(8).with_heads(2);
        let model = config.init(&device).unwrap().valid();
        let days = Tensor::<3>::random([1, 12, 3], Distribution::Default, &device);
        let other = Tensor::<3>::random([1, 1, 3], Distribution::Default, &device);
        let (before, after) =
            (forecasts(&model, days.clone()), forecasts(&model, days.slice_assign([0..1, 5..6, 0..3], other)));
        let changed: Vec<usize> = (0..12).filter(|&day| before[2 * day..][..2] != after[2 * day..][..2]).collect();
        assert_eq!((changed, config.reach()), ((5..=9).collect(), 4));
    }

    #[test]
    fn weights_lie_in_the_window() {
        let device = Device::default();
        let config = ForecasterConfig::new(3, 2).with_window(3).with_d_model(8).with_heads(2).with_layers(1);
        let days = Tensor::<3>::random([2, 6, 3], Distribution::Default, &device);
        let read = config.init(&device).unwrap().valid().read(days, true).unwrap();
        assert_eq!(read.weights[0].dims(), [2, 2, 6, 6]);
        for (at, weight) in read.weights[0].clone().into_data().iter::<f32>().enumerate() {
            let (day, read) = (at / 6 % 6, at % 6);
            assert_eq!(weight > 0.0, read <= day && day - read < 3, "day {day} read day {read} by {weight}");
        }
        assert!(config.with_window(0).init(&device).unwrap_err().to_string().contains("window"));
    }
}
