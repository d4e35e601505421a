//! A training learns, and one that was stopped, or killed, ends with the very same bits as one that was not.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Distribution, TensorData};
use rand::Rng;

use super::*;

/// A backend's random numbers are the process's own: trainings take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A folder for a training, which goes with the test.
struct Folder(PathBuf);

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn folder(name: &str) -> Folder {
    let folder = std::env::temp_dir().join(format!("attn-train-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    Folder(folder)
}

/// An encoder layer and a linear one, with dropout in both: all that could differ after a stop.
#[derive(Module, Debug)]
struct Model {
    layer: attn::nn::TransformerEncoderLayer,
    out: Linear,
    dropout: Dropout,
}

impl Model {
    fn new(device: &Device, seed: u64) -> Self {
        let made = seeded(device, seed, || {
            let layer = attn::nn::TransformerEncoderLayerConfig::new(8, 2, 16)
                .with_dropout(0.1)
                .with_attention_dropout(0.2)
                .init(device)?;
            let (out, dropout) = (LinearConfig::new(8, 1).init(device), DropoutConfig::new(0.1).init());
            Ok::<_, attn::AttentionError>(Self { layer, out, dropout })
        });
        made.unwrap()
    }
}

/// A little regression: the mean of a sample's features, with noise of the step's generator in the inputs.
fn loss(device: &Device) -> impl Fn(&Model, &mut Batch) -> Result<Tensor<1>> {
    move |model, batch| {
        let value = |sample: usize, at: usize| ((sample * 24 + at + 1) as f32 * 1.7).sin();
        let count = batch.samples.len();
        let cells = batch.samples.iter().flat_map(|&sample| (0..24).map(move |at| value(sample, at)));
        let cells: Vec<f32> = cells.map(|cell| cell + batch.rng.random_range(-0.1..0.1)).collect();
        let targets: Vec<f32> =
            batch.samples.iter().map(|&sample| (0..24).map(|at| value(sample, at)).sum::<f32>() / 24.0).collect();
        let input = Tensor::<3>::from_data(TensorData::new(cells, [count, 3, 8]), device);
        // As a layer would that draws by itself.
        let input = input.clone() + Tensor::random(input.dims(), Distribution::Normal(0.0, 0.01), device);
        let hidden = model.layer.forward(input, &attn::nn::AttentionOptions::new())?.hidden;
        let hidden: Tensor<2> = model.dropout.forward(hidden).mean_dim(1).squeeze_dim(1);
        let target = Tensor::<2>::from_data(TensorData::new(targets, [count, 1]), device);
        Ok((model.out.forward(hidden) - target).square().mean())
    }
}

fn plan(backend: &'static str) -> Plan {
    Plan { checkpoint_every: 7, ..Plan::new("a test", backend, 3, 20, 6, 30) }
}

fn bits(model: &Model) -> Vec<u32> {
    struct Read(Vec<u32>);
    impl ModuleVisitor for Read {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>().map(f32::to_bits));
        }
    }
    let mut read = Read(Vec::new());
    model.visit(&mut read);
    read.0
}

/// Trains in `folder` until `stop` steps are done, with a model as it is at first.
fn run(plan: &Plan, folder: &Path, stop: usize) -> Result<Outcome<Model>> {
    let device = attn::device(plan.backend)?.autodiff();
    // What a new process would have drawn by then is another thing: nothing may depend on it.
    device.seed(stop as u64);
    let model = Model::new(&device, plan.seed);
    train_until(plan, &device, folder, false, model, loss(&device), &|done| done == stop)
}

fn finished(outcome: Result<Outcome<Model>>) -> Trained<Model> {
    match outcome.unwrap() {
        Outcome::Finished(trained) => trained,
        Outcome::Stopped(step) => panic!("stopped after {step}"),
    }
}

/// The backends of this build with a device here on which two runs give the same bits.
fn backends() -> Vec<&'static str> {
    ["ndarray", "flex"].into_iter().filter(|name| attn::BACKENDS.contains(name)).collect()
}

#[test]
fn a_stopped_training_ends_with_the_same_bits_as_a_straight_one() {
    let _turn = turn();
    for backend in backends() {
        let (straight, stopped) = (folder("straight"), folder("stopped"));
        let expected = finished(run(&plan(backend), &straight, usize::MAX));
        assert!(expected.losses.len() == 30 && expected.losses[29] < expected.losses[0], "{:?}", expected.losses);
        for stop in [1, 4, 13, 29] {
            assert!(matches!(run(&plan(backend), &stopped, stop).unwrap(), Outcome::Stopped(step) if step == stop));
        }
        let found = finished(run(&plan(backend), &stopped, usize::MAX));
        let all = |losses: &[f32]| losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
        assert_eq!(all(&found.losses), all(&expected.losses), "{backend}");
        assert_eq!(bits(&found.model), bits(&expected.model), "{backend}");
        // Another seed is another training; and the finished one is there to be used again.
        let other = finished(run(&Plan { seed: 4, ..plan(backend) }, &folder("other"), usize::MAX));
        assert_ne!(bits(&other.model), bits(&expected.model), "{backend}");
        assert_eq!(bits(&finished(run(&plan(backend), &straight, usize::MAX)).model), bits(&expected.model));
    }
}

#[test]
fn a_killed_training_goes_on_from_its_last_checkpoint() {
    let _turn = turn();
    let Some(backend) = backends().first().copied() else { return };
    let expected = finished(run(&plan(backend), &folder("whole"), usize::MAX));
    let folder = folder("killed");
    // Killed in step 18: the error ends it without a word to the harness. The checkpoint of step 14 stands.
    let device = attn::device(backend).unwrap().autodiff();
    let plain = loss(&device);
    let dying = |model: &Model, batch: &mut Batch| if batch.step == 17 { bail!("killed") } else { plain(model, batch) };
    let model = Model::new(&device, 3);
    let died = train_until(&plan(backend), &device, &folder, false, model, dying, &|_| false);
    assert_eq!(died.unwrap_err().to_string(), "killed");
    assert_eq!(Checkpoint::read(&folder.join("checkpoint")).unwrap().unwrap().step, 14);
    let found = finished(run(&plan(backend), &folder, usize::MAX));
    assert_eq!(bits(&found.model), bits(&expected.model));
}

#[test]
fn a_checkpoint_of_another_run_is_refused_and_fresh_begins_anew() {
    let _turn = turn();
    let Some(backend) = backends().first().copied() else { return };
    let folder = folder("another");
    run(&plan(backend), &folder, 5).unwrap();
    let error = run(&Plan { batch: 7, ..plan(backend) }, &folder, 6).unwrap_err().to_string();
    assert!(error.contains("another run (batch: 6 there, 7 here); --fresh"), "{error}");
    let device = attn::device(backend).unwrap().autodiff();
    let model = Model::new(&device, 3);
    let other = Plan { batch: 7, ..plan(backend) };
    let outcome = train_until(&other, &device, &folder, true, model, loss(&device), &|done| done == 2);
    assert!(matches!(outcome.unwrap(), Outcome::Stopped(2)));
}

#[test]
fn a_loss_that_is_no_number_ends_the_training() {
    let _turn = turn();
    let Some(backend) = backends().first().copied() else { return };
    let device = attn::device(backend).unwrap().autodiff();
    let plain = loss(&device);
    let breaking = |model: &Model, batch: &mut Batch| {
        let factor = if batch.step == 9 { f32::NAN } else { 1.0 };
        Ok(plain(model, batch)?.mul_scalar(factor))
    };
    let error =
        train_until(&plan(backend), &device, &folder("nan"), false, Model::new(&device, 3), breaking, &|_| false);
    assert_eq!(error.unwrap_err().to_string(), "the loss of step 10 is NaN");
}

#[test]
fn the_rate_of_learning_rises_to_its_height_and_falls_to_a_hundredth() {
    let plan = Plan { steps: 100, warm_up: 10, learning_rate: 0.5, ..plan("any") };
    let rates = |done| {
        let mut schedule = plan.schedule(done).unwrap();
        (done..100).map(|_| schedule.step().base()).collect::<Vec<f64>>()
    };
    let all = rates(0);
    assert!((all[0] - 0.05).abs() < 1e-12 && all.windows(2).take(9).all(|pair| pair[0] < pair[1]), "{all:?}");
    assert!((all[10] - 0.5).abs() < 1e-12 && all[10..].windows(2).all(|pair| pair[0] > pair[1]), "{all:?}");
    assert!((all[99] - 0.005).abs() < 1e-3);
    assert_eq!(rates(37), all[37..]);
    for steps in [1, 2, 3] {
        assert!(Plan { steps, warm_up: 10, ..plan.clone() }.schedule(0).is_ok());
    }
}
