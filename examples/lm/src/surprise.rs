//! How surprised a model is by each byte of a text.

use std::f64::consts::LN_2;

use anyhow::Result;
use burn::tensor::Device;

use crate::model::{LanguageModel, tensor};

/// Windows that are read together.
const TOGETHER: usize = 16;

/// `−log₂ P(byte)` of each byte of `text` but the first, by windows of the model's context that overlap by half: but for the first of
/// them each counts for its last half alone, so that no byte stands with less than half a context before it.
///
/// # Errors
/// If the model fails.
pub fn bits(model: &LanguageModel, text: &[u8], device: &Device) -> Result<Vec<f64>> {
    let windows = windows(text.len(), model.context());
    let mut bits = Vec::new();
    for some in windows.chunks(TOGETHER) {
        let pieces: Vec<&[u8]> = some.iter().map(|window| &text[window.start..window.end]).collect();
        let nats: Vec<f64> = model.surprise(tensor(&pieces, device))?.try_into_data()?.iter::<f64>().collect();
        for (window, nats) in some.iter().zip(nats.chunks(nats.len() / some.len())) {
            bits.extend(nats[nats.len() - window.counted..].iter().map(|nats| nats / LN_2));
        }
    }
    Ok(bits)
}

/// The mean.
pub fn mean(bits: &[f64]) -> f64 {
    bits.iter().sum::<f64>() / bits.len().max(1) as f64
}

/// Bytes that are read at once; the last so many count.
#[derive(Debug, PartialEq)]
struct Window {
    start: usize,
    end: usize,
    counted: usize,
}

/// Windows of one length, `context` and the byte after it or all there is, that together count each byte but the first once.
fn windows(length: usize, context: usize) -> Vec<Window> {
    let long = length.min(context + 1);
    let mut windows = Vec::new();
    let mut done = 1;
    while done < length {
        let end = if done == 1 { long } else { (done + (context / 2).max(1)).min(length) };
        windows.push(Window { start: end - long, end, counted: end - done });
        done = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LanguageModelConfig;

    #[test]
    fn every_byte_but_the_first_counts_once_with_half_a_context_before_it() {
        for (length, context) in [(0, 4), (1, 4), (2, 4), (5, 4), (6, 4), (23, 4), (24, 7), (9, 1), (100, 8)] {
            let windows = windows(length, context);
            let mut done = 1;
            for window in &windows {
                assert!(window.end - window.start == length.min(context + 1) && window.end <= length);
                assert_eq!(window.end - window.counted, done);
                assert!(done == 1 || done - window.start >= context / 2, "{window:?}");
                done = window.end;
            }
            assert_eq!(done, length.max(1), "{length} {context}");
        }
    }

    #[test]
    fn bits_are_those_of_each_byte_after_those_before_it() {
        let device = Device::default();
        let config = LanguageModelConfig::new(false, 6).with_d_model(8).with_heads(2).with_kv_heads(1).with_layers(1);
        let model = config.init(&device).unwrap();
        let text = b"There she blows!";
        let bits = bits(&model, text, &device).unwrap();
        assert_eq!(bits.len(), text.len() - 1);
        // The first window counts for the bytes 1 to 6, and 7 is the first that the second counts for.
        let window = &windows(text.len(), 6)[1];
        let nats = model.surprise(tensor(&[&text[window.start..window.end]], &device)).unwrap().into_data();
        let nats: Vec<f64> = nats.iter::<f64>().collect();
        assert!((bits[6] - nats[nats.len() - window.counted] / LN_2).abs() < 1e-5);
        assert!((mean(&bits) - 8.0).abs() < 1.5, "an untrained model knows next to nothing: {bits:?}");
    }
}
