//! Writing on: one byte after another, drawn by its probability.

use anyhow::{Result, ensure};
use learn::order::{Purpose, generator};
use rand::Rng;

use crate::model::{LanguageModel, Reading};

/// How a text is gone on with.
#[derive(clap::Args, Debug, Clone)]
pub struct Sampling {
    /// What the model goes on from when it writes
    #[arg(long, value_name = "TEXT", default_value = "The whale ")]
    pub prompt: String,
    /// How far it dares to leave the most probable byte: each is drawn with weight p^(1 / temperature)
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub temperature: f64,
    /// How many bytes it writes
    #[arg(long, value_name = "N", default_value_t = 800)]
    pub bytes: usize,
}

impl Sampling {
    /// Whether the options make sense, before a training that takes minutes.
    ///
    /// # Errors
    /// One that names the option at fault.
    pub fn check(&self, context: usize) -> Result<()> {
        let (prompt, temperature) = (self.prompt.len(), self.temperature);
        ensure!((1..=context).contains(&prompt), "--prompt: expected 1 to {context} bytes, found {prompt}");
        ensure!(
            temperature > 0.0 && temperature.is_finite(),
            "--temperature: expected a number above 0, found {temperature}"
        );
        Ok(())
    }

    /// Goes on from the prompt. What is no UTF-8 shows as �.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), or if the model fails.
    pub fn write(&self, model: &LanguageModel, seed: u64) -> Result<String> {
        self.check(model.context())?;
        let mut random = generator(seed, Purpose::Trial, 0);
        let mut text = self.prompt.clone().into_bytes();
        let (mut reading, mut new) = (Reading::default(), text.clone());
        for _ in 0..self.bytes {
            let byte = drawn(&model.go_on(&mut reading, &new)?, self.temperature, random.random());
            text.push(byte);
            new = vec![byte];
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The byte at a point of `0..1` when bytes share it by their weights.
fn drawn(logits: &[f64], temperature: f64, point: f64) -> u8 {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| ((logit - top) / temperature).exp()).collect();
    let mut left = point * weights.iter().sum::<f64>();
    let is_reached = |weight: &f64| {
        left -= weight;
        left < 0.0
    };
    // Rounding may leave a little of the point after the last.
    weights.iter().position(is_reached).unwrap_or_else(|| weights.len().saturating_sub(1)) as u8
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::model::LanguageModelConfig;

    fn sampling(prompt: &str, temperature: f64) -> Sampling {
        Sampling { prompt: prompt.into(), temperature, bytes: 30 }
    }

    #[test]
    fn bytes_are_drawn_by_their_weights() {
        let logits = [0.0, 3.0_f64.ln(), f64::NEG_INFINITY];
        let bytes: Vec<u8> = [0.0, 0.2, 0.26, 0.99].map(|point| drawn(&logits, 1.0, point)).into();
        assert_eq!(bytes, [0, 0, 1, 1]);
        // A low temperature takes the most probable.
        assert_eq!(drawn(&logits, 0.01, 0.01), 1);
    }

    #[test]
    fn a_text_goes_on_from_its_prompt_by_seed() {
        let config = LanguageModelConfig::new(false, 8).with_d_model(8).with_heads(2).with_kv_heads(1).with_layers(1);
        let model = config.init(&Device::default()).unwrap();
        let write = |seed| sampling("Ahab ", 0.7).write(&model, seed).unwrap();
        assert!(write(1).starts_with("Ahab ") && write(1).len() >= 30);
        assert_eq!(write(1), write(1));
        assert_ne!(write(1), write(2));
    }

    #[test]
    fn options_without_a_meaning_are_named() {
        let named = |sampling: Sampling| sampling.check(8).unwrap_err().to_string();
        assert_eq!(named(sampling("", 1.0)), "--prompt: expected 1 to 8 bytes, found 0");
        assert_eq!(named(sampling("nine bytes", 1.0)), "--prompt: expected 1 to 8 bytes, found 10");
        assert!(named(sampling("a", 0.0)).starts_with("--temperature: ") && sampling("a", f64::NAN).check(8).is_err());
    }
}
