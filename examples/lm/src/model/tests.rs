//! The model sees no byte before its time, goes on from a cache as it reads a whole, and is the same one made of Burn's modules.

use burn::module::ModuleVisitor;
use burn::module::Param;
use burn::tensor::Tolerance;

use super::*;
use crate::weights::drawn;

const TEXT: &[u8] = b"Call me Ishmael.";

fn config(of_burn: bool) -> LanguageModelConfig {
    LanguageModelConfig::new(of_burn, 24).with_d_model(16).with_layers(2)
}

fn model(of_burn: bool, device: &Device) -> LanguageModel {
    drawn(config(of_burn).init(device).unwrap(), 1)
}

/// The backends of this build, each with its device.
fn devices() -> impl Iterator<Item = Device> {
    attn::BACKENDS.iter().map(|backend| attn::device(backend).unwrap())
}

fn numbers(logits: Tensor<3>) -> Vec<f32> {
    logits.into_data().iter::<f32>().collect()
}

#[test]
fn a_later_byte_changes_no_earlier_logits() {
    for device in devices() {
        for of_burn in [false, true] {
            let model = model(of_burn, &device);
            let mut other = TEXT.to_vec();
            other[9] = b'X';
            let both = [TEXT, &other].map(|text| numbers(model.logits(tensor(&[text], &device)).unwrap()));
            let same = both[0].iter().zip(&both[1]).take_while(|(a, b)| a == b).count();
            assert_eq!(same / TOKENS, 9, "the first that may differ is the one that reads it");
        }
    }
}

#[test]
fn going_on_gives_what_a_whole_reading_gives() {
    for device in devices() {
        for of_burn in [false, true] {
            let model = model(of_burn, &device);
            let whole = numbers(model.logits(tensor(&[TEXT], &device)).unwrap());
            let mut reading = Reading::default();
            let mut done = 0;
            for new in [&TEXT[..5], &TEXT[5..6], &TEXT[6..9], &TEXT[9..]] {
                done += new.len();
                let found = model.go_on(&mut reading, new).unwrap();
                let expected = &whole[(done - 1) * TOKENS..done * TOKENS];
                // Logits of about 1, of sums of 16 and 64 products in f32.
                let worst = found.iter().zip(expected).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-5, "{worst}");
            }
        }
    }
}

#[test]
fn a_text_that_outgrows_the_context_begins_anew_with_its_last_half() {
    let device = Device::default();
    let model = model(false, &device);
    let text = [TEXT, TEXT].concat();
    let mut reading = Reading::default();
    model.go_on(&mut reading, &text[..24]).unwrap();
    let found = model.go_on(&mut reading, &text[24..25]).unwrap();
    let whole = numbers(model.logits(tensor(&[&text[13..25]], &device)).unwrap());
    let worst = found.iter().zip(&whole[11 * TOKENS..]).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-5, "{worst}");
    // So it can be gone on with for ever.
    (0..40).for_each(|_| assert_eq!(model.go_on(&mut reading, b"a").unwrap().len(), TOKENS));
}

#[test]
fn burns_modules_make_the_same_model() {
    for device in devices() {
        let both = [false, true].map(|of_burn| model(of_burn, &device));
        assert_eq!(both[0].num_params(), both[1].num_params());
        let [ours, burns] = both.map(|model| model.logits(tensor(&[TEXT, TEXT], &device)).unwrap().into_data());
        // Burn's rotation has angles in f32, ours in f64: at position 15 they differ by 15 · 2⁻²⁴, and a score by little more.
        ours.assert_approx_eq::<f32>(&burns, Tolerance::absolute(1e-5));
    }
}

#[test]
fn burns_modules_have_the_same_gradients() {
    /// Of every matrix: the norms stand elsewhere in Burn's blocks.
    struct Gradients<'a>(&'a burn::tensor::Gradients, Vec<Vec<f32>>);
    impl ModuleVisitor for Gradients<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D == 2 {
                let gradient = param.val().grad(self.0).expect("it is a parameter");
                self.1.push(gradient.into_data().iter::<f32>().collect());
            }
        }
    }
    for (backend, device) in attn::BACKENDS.iter().zip(devices().map(Device::autodiff)) {
        // The gradient of Burn's GELU is the tanh approximation's elsewhere, whose slope is off by 0.0009 at most.
        let most = if ["flex", "tch"].contains(backend) { 1e-4 } else { 2e-3 };
        let [ours, burns] = [false, true].map(|of_burn| {
            let model = model(of_burn, &device);
            let gradients = model.surprise(tensor(&[TEXT], &device)).unwrap().mean().backward();
            let mut found = Gradients(&gradients, Vec::new());
            model.visit(&mut found);
            found.1
        });
        assert_eq!(ours.len(), 2 + 2 * 6);
        for (ours, burns) in ours.iter().zip(&burns) {
            assert_eq!(ours.len(), burns.len());
            let largest = burns.iter().fold(0.0_f32, |most, gradient| most.max(gradient.abs()));
            let worst = ours.iter().zip(burns).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < most * largest, "{backend}: {worst} of {largest}");
        }
    }
}

#[test]
fn surprise_is_that_at_the_byte_that_came() {
    let device = Device::default();
    let model = model(false, &device);
    let logits = numbers(model.logits(tensor(&[&TEXT[..TEXT.len() - 1]], &device)).unwrap());
    let found: Vec<f64> = model.surprise(tensor(&[TEXT], &device)).unwrap().into_data().iter::<f64>().collect();
    for (at, found) in found.iter().enumerate() {
        let row: Vec<f64> = logits[at * TOKENS..(at + 1) * TOKENS].iter().map(|logit| f64::from(*logit)).collect();
        let expected = row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[usize::from(TEXT[at + 1])];
        assert!((found - expected).abs() < 1e-5, "{found} in place of {expected}");
    }
    let error = model.surprise(tensor(&[b"a"], &device)).unwrap_err().to_string();
    assert!(error.contains("text"), "{error}");
}

#[test]
fn weights_are_causal_rows_that_sum_to_one() {
    let device = Device::default();
    let blocks = model(false, &device).weights(&TEXT[..6]).unwrap();
    assert!(blocks.len() == 2 && blocks.iter().all(|heads| heads.len() == 4));
    for (at, row) in blocks.iter().flatten().flat_map(|rows| rows.iter().enumerate()) {
        assert!(row.len() == 6 && row[at + 1..].iter().all(|weight| *weight == 0.0), "{row:?}");
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{row:?}");
    }
    assert!(model(true, &device).weights(TEXT).unwrap().is_empty());
}

#[test]
fn sizes_without_a_meaning_are_named() {
    for of_burn in [false, true] {
        let error = config(of_burn).with_kv_heads(3).init(&Device::default()).unwrap_err().to_string();
        assert!(error.contains("kv_heads"), "{error}");
        assert!(config(of_burn).with_heads(0).init(&Device::default()).is_err());
    }
}
