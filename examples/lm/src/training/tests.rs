//! Trainings follow from their seed: the same on every backend and of Burn's modules but for rounding, the same to the bit after a stop.

use std::path::PathBuf;

use learn::Trained;

use super::*;

/// By how much the losses of two backends may differ in the first steps.
const APART: f32 = 1e-3;

/// Something to learn from, by a rule: no file is needed.
fn text() -> Vec<u8> {
    let words = ["the ", "whale ", "sea ", "ship ", "of ", "and ", "white ", "a "];
    (0..4000_usize).flat_map(|at| words[(at * at / 7 + at / 3) % words.len()].bytes()).collect()
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("attn-lm-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A small model, all of whose numbers but its size are those of the real one.
fn training<'a>(text: &'a [u8], backend: &'static str, of_burn: bool, steps: usize) -> Training<'a> {
    let config = LanguageModelConfig::new(of_burn, 32).with_d_model(16).with_layers(1);
    let mut training = Training::new(config, text, backend, 1, steps);
    training.plan.batch = 4;
    training
}

fn losses(training: &Training<'_>, folder: &Path) -> Vec<f32> {
    let device = attn::device(training.plan.backend).unwrap();
    match training.run(&device, folder, false).unwrap().0 {
        Outcome::Finished(Trained { losses, .. }) => losses,
        Outcome::Stopped(step) => panic!("stopped after {step}"),
    }
}

fn apart(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_losses_of_every_backend_and_of_burns_modules_agree_over_50_steps() {
    let text = text();
    let mut all = Vec::new();
    for backend in attn::BACKENDS {
        for of_burn in [false, true] {
            let name = format!("{backend}{}", if of_burn { " of Burn's modules" } else { "" });
            let folder = folder(&name);
            all.push((name, losses(&training(&text, backend, of_burn, 50), &folder)));
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
    let (first, others) = all.split_first().unwrap();
    assert!(first.1.len() == 50 && first.1[49] < 0.7 * first.1[0], "it learns: {:?}", first.1);
    for (name, losses) in others {
        let apart = apart(losses, &first.1);
        println!("{name}: {apart:.1e} from {}", first.0);
        assert!(apart < APART, "{name}: {apart} from {}: {losses:?} in place of {:?}", first.0, first.1);
    }
}

#[test]
fn a_training_that_was_cut_ends_with_the_same_losses_to_the_bit() {
    let text = text();
    for backend in ["ndarray", "flex"].into_iter().filter(|name| attn::BACKENDS.contains(name)) {
        let (straight, cut) = (folder(&format!("straight-{backend}")), folder(&format!("cut-{backend}")));
        let mut training = training(&text, backend, false, 20);
        training.plan.checkpoint_every = 6;
        let expected = losses(&training, &straight);
        // Killed in step 15, with the checkpoint of step 12: a text that is too short for what is asked of it ends the run.
        let device = attn::device(backend).unwrap().autodiff();
        let model = drawn(training.config.init(&device).unwrap(), training.plan.seed);
        let killed = train(&training.plan, &device, &cut, false, model, |model, batch| {
            anyhow::ensure!(batch.step < 14, "killed");
            Ok(model.surprise(tensor(&training.pieces(batch), &device))?.mean())
        });
        assert_eq!(killed.unwrap_err().to_string(), "killed");
        assert_eq!(learn::Checkpoint::read(&cut.join("checkpoint")).unwrap().unwrap().step, 12);
        let found = losses(&training, &cut);
        let bits = |losses: &[f32]| losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&expected), "{backend}");
        [straight, cut].into_iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
    }
}

#[test]
fn pieces_lie_in_the_text_and_have_a_context_and_a_byte() {
    let text: Vec<u8> = (0..100).collect();
    let training = Training::new(LanguageModelConfig::new(false, 32), &text, "any", 1, 10);
    assert_eq!((training.plan.samples, training.plan.batch), (3, 16));
    assert_eq!(Training::steps_per_epoch(text.len(), 32), 1);
    for step in 0..20 {
        let rng = learn::order::generator(1, learn::order::Purpose::Step, step);
        let pieces = training.pieces(&mut Batch { step: 0, epoch: 0, samples: vec![0, 1, 2], rng });
        for (at, piece) in pieces.iter().enumerate() {
            assert_eq!(piece.len(), 33);
            assert!((at * 32..(at + 1) * 32).contains(&usize::from(piece[0])));
        }
    }
}
