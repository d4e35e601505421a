//! A training: AdamW with warm-up and clipped gradients, with checkpoints, that resumes to the very same numbers.

#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use burn::grad_clipping::GradientClippingConfig;
use burn::lr_scheduler::LrSchedulerConfig;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::sequential::SequentialLrSchedulerConfig;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use rand::rngs::StdRng;
use serde::Serialize;
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::order::{Order, Purpose, generator, mixed};
use crate::progress::Progress;
use crate::stop;

/// Steps whose losses are read from the device together: reading makes a GPU wait.
const READ_EVERY: usize = 8;

/// The numbers of a training. All of them, with the number of parameters, say which run a checkpoint is of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The example, and what of the model or the data its command line can change.
    pub what: String,
    /// The backend's name: another rounds otherwise.
    pub backend: &'static str,
    /// What everything random follows from.
    pub seed: u64,
    /// How many samples there are to learn from.
    pub samples: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Steps in all.
    pub steps: usize,
    /// Steps in which the rate of learning rises to its height; it falls along a cosine from there to a hundredth.
    pub warm_up: usize,
    /// That height.
    pub learning_rate: f64,
    /// Decoupled weight decay (Loshchilov & Hutter 2019).
    pub weight_decay: f64,
    /// The norm to which the gradient of a parameter is clipped, each by itself, as Burn's optimisers do.
    pub clip: f64,
    /// Steps between two checkpoints.
    pub checkpoint_every: usize,
}

impl Plan {
    /// With usual numbers: a twentieth of the steps to warm up, rate 1e-3, decay 0.01, norm 1, ten checkpoints.
    pub fn new(
        what: impl Into<String>,
        backend: &'static str,
        seed: u64,
        samples: usize,
        batch: usize,
        steps: usize,
    ) -> Self {
        Self {
            what: what.into(),
            backend,
            seed,
            samples,
            batch,
            steps,
            warm_up: steps / 20,
            learning_rate: 1e-3,
            weight_decay: 0.01,
            clip: 1.0,
            checkpoint_every: steps.div_ceil(10),
        }
    }

    fn optimizer(&self) -> ModuleOptimizer {
        AdamWConfig::new()
            .with_beta_2(0.98)
            .with_epsilon(1e-8)
            .with_weight_decay(self.weight_decay as f32)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(self.clip as f32)))
            .init()
    }

    /// The rate of learning, with `done` steps behind it.
    fn schedule(&self, done: usize) -> Result<ModuleLrScheduler> {
        let (height, warm_up) = (self.learning_rate, self.warm_up.clamp(1, self.steps.max(1)));
        let rise = LinearLrSchedulerConfig::new(height / warm_up as f64, height, warm_up);
        let fall = CosineAnnealingLrSchedulerConfig::new(height, self.steps.saturating_sub(warm_up).max(1));
        let parts = vec![LrSchedulerConfig::Linear(rise), LrSchedulerConfig::Cosine(fall.with_min_lr(height / 100.0))];
        let made = SequentialLrSchedulerConfig::new(parts, vec![warm_up]).init();
        let mut schedule = made.map_err(|error| anyhow!("learning_rate {height}: {error}"))?;
        (0..done).for_each(|_| drop(schedule.step()));
        Ok(schedule)
    }
}

/// What a step learns from.
#[derive(Debug)]
pub struct Batch {
    /// The step, from 0.
    pub step: usize,
    /// The epoch, from 0.
    pub epoch: usize,
    /// Indices of samples.
    pub samples: Vec<usize>,
    /// For what the example draws in this step.
    pub rng: StdRng,
}

/// How a training ended.
#[derive(Debug)]
pub enum Outcome<M> {
    /// All steps are done.
    Finished(Trained<M>),
    /// Someone asked to stop; the checkpoint holds this many steps.
    Stopped(usize),
}

/// A model that has learned.
#[derive(Debug)]
pub struct Trained<M> {
    /// The model, still on its autodiff device.
    pub model: M,
    /// The loss of every step.
    pub losses: Vec<f32>,
}

/// Makes a module whose random weights follow from the seed: all of them now, and not at their first use.
///
/// # Errors
/// Those of `make`.
pub fn seeded<M: Module, E>(device: &Device, seed: u64, make: impl FnOnce() -> Result<M, E>) -> Result<M, E> {
    struct Touch;
    impl ModuleVisitor for Touch {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _ = param.val();
        }
    }
    device.seed(mixed(seed, Purpose::Weights, 0));
    let module = make()?;
    module.visit(&mut Touch);
    Ok(module)
}

/// Trains `model`, which lies on the autodiff device `device`, to lower `loss`, a tensor of one element.
///
/// The checkpoint lies in `folder`. Where there is one of this very run, the training goes on from there, unless `fresh`. It ends
/// early, with a checkpoint, once [`stop::is_asked`].
///
/// # Errors
/// Those of `loss`; if a loss is not finite; if the checkpoint cannot be written, or is one of another run.
pub fn train<M: Module>(
    plan: &Plan,
    device: &Device,
    folder: &Path,
    fresh: bool,
    model: M,
    loss: impl FnMut(&M, &mut Batch) -> Result<Tensor<1>>,
) -> Result<Outcome<M>> {
    train_until(plan, device, folder, fresh, model, loss, &|_| stop::is_asked())
}

/// [`train`] that stops where `is_asked` says so of the number of steps done.
fn train_until<M: Module>(
    plan: &Plan,
    device: &Device,
    folder: &Path,
    fresh: bool,
    model: M,
    mut loss: impl FnMut(&M, &mut Batch) -> Result<Tensor<1>>,
    is_asked: &dyn Fn(usize) -> bool,
) -> Result<Outcome<M>> {
    let path = folder.join("checkpoint");
    let mut run = serde_json::to_value(plan)?;
    run["parameters"] = model.num_params().into();
    let run = run.to_string();
    let (mut model, mut optimizer, mut losses) = begin(plan, &run, &path, fresh, model)?;
    let mut schedule = plan.schedule(losses.len())?;
    let mut order = Order::new(plan.samples, plan.batch, plan.seed);
    let mut progress = Progress::new(plan.steps, losses.len());
    let mut unread = Vec::new();
    for step in losses.len()..plan.steps {
        let (epoch, samples) = order.batch(step);
        let rng = generator(plan.seed, Purpose::Step, step as u64);
        device.seed(mixed(plan.seed, Purpose::Backend, step as u64));
        attn::seed(mixed(plan.seed, Purpose::Backend, step as u64));
        let lost = loss(&model, &mut Batch { step, epoch, samples: samples.to_vec(), rng })?;
        let gradients = GradientsParams::from_grads(lost.backward(), &model);
        model = optimizer.step(schedule.step(), model, gradients);
        unread.push(lost.detach());

        let (done, asked) = (step + 1, is_asked(step + 1));
        let is_due = asked || done == plan.steps || done.is_multiple_of(plan.checkpoint_every.max(1));
        if is_due || unread.len() == READ_EVERY {
            read(&mut unread, &mut losses)?;
            let recent = &losses[losses.len().saturating_sub(2 * READ_EVERY)..];
            progress.show(done, epoch, recent.iter().sum::<f32>() / recent.len() as f32);
        }
        if is_due {
            Checkpoint::of(&run, &losses, &model, &optimizer)?.write(&path)?;
        }
        if asked && done < plan.steps {
            progress.finish();
            eprintln!("stopped after step {done} of {}; the same command goes on from there", plan.steps);
            return Ok(Outcome::Stopped(done));
        }
    }
    progress.finish();
    Ok(Outcome::Finished(Trained { model, losses }))
}

/// Model, optimiser and losses from the checkpoint of this run, or as they are at first.
fn begin<M: Module>(
    plan: &Plan,
    run: &str,
    path: &Path,
    fresh: bool,
    model: M,
) -> Result<(M, ModuleOptimizer, Vec<f32>)> {
    if fresh && path.exists() {
        fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    let Some(checkpoint) = Checkpoint::read(path)? else { return Ok((model, plan.optimizer(), Vec::new())) };
    let place = path.display();
    if checkpoint.run != run {
        let differs = differences(&checkpoint.run, run);
        bail!("{place} is of another run ({differs}); --fresh begins anew there, --out takes another folder");
    }
    let restored = checkpoint.restore(model, plan.optimizer()).with_context(|| place.to_string())?;
    match checkpoint.step == plan.steps {
        true => eprintln!("all {} steps are done: {place} (--fresh begins anew)", plan.steps),
        false => eprintln!("going on after step {} of {}: {place} (--fresh begins anew)", checkpoint.step, plan.steps),
    }
    Ok((restored.0, restored.1, checkpoint.losses))
}

/// What two runs differ in, for a person.
fn differences(there: &str, here: &str) -> String {
    let [there, here]: [Value; 2] = [there, here].map(|text| serde_json::from_str(text).unwrap_or_default());
    if !there.is_object() {
        return "of another release of this program".into();
    }
    let keys = here.as_object().into_iter().flat_map(|here| here.keys());
    let differing = keys.filter(|key| there[*key] != here[*key]);
    differing.map(|key| format!("{key}: {} there, {} here", there[key], here[key])).collect::<Vec<_>>().join("; ")
}

/// Reads what was put off.
fn read(unread: &mut Vec<Tensor<1>>, losses: &mut Vec<f32>) -> Result<()> {
    for loss in unread.drain(..) {
        let value: f32 = loss.try_into_data()?.iter::<f32>().next().context("the loss has no element")?;
        if !value.is_finite() {
            bail!("the loss of step {} is {value}", losses.len() + 1);
        }
        losses.push(value);
    }
    Ok(())
}
