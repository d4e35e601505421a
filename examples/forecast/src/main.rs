//! Local attention forecasts the daily highest temperature of Seattle, a week ahead.
//!
//! `cargo xtask example forecast` fetches the data, four years of weather from the Vega data sets, and runs this. A transformer reads
//! days in a row; in each layer a day sees itself and the 13 days before, a sliding window (Beltagy et al. 2020) with ALiBi's biases by
//! distance (Press et al. 2022), and says how unusually warm each of the next 7 days will be. What is usual at each time of the year,
//! and how far days lie from it, comes from the years learned from alone.
//!
//! The last year is held out, all of it: no day of it is learned from as input or target. A forecast reads the days up to its own, as
//! anyone could have then. Forecasts are judged by the mean absolute error over 1 to 7 days ahead. What must be beaten is the seasonal
//! naive forecast, what the same date had the year before. Beside it stand what was last measured, what is usual, and what is usual
//! with the part of today's anomaly that is left on average: a hard one. The sizes and the number of steps were chosen on the year
//! before (`--year 2014`): there is little to learn from, and more of either learns it by heart.

mod augment;
mod baselines;
mod climate;
mod data;
mod model;
mod results;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use clap::Parser;
use learn::order::Order;
use learn::{Evaluation, Goal, Options, Outcome, Plan, seeded, stop, train};

use crate::baselines::{HORIZONS, damped, damping, errors, last_year, mean};
use crate::climate::Climate;
use crate::data::{COLUMNS, Weather};
use crate::model::ForecasterConfig;
use crate::results::{Results, tensor};

/// Days of a sample.
const DAYS: usize = 96;
/// Samples of a step.
const BATCH: usize = 16;

/// Learns to forecast the week's temperatures, and shows which days it read.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// The year held out; only those before it are learned from [default: the last]
    #[arg(long, value_name = "YEAR")]
    year: Option<u32>,
}

fn main() -> ExitCode {
    learn::main(|| run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    let options = &args.options;
    let (backend, device) = options.device()?;
    let weather = Weather::read(&options.data("vega")?)?;
    let year = args.year.or(weather.dates.last().map(|date| date.year)).context("vega: no days")?;
    // Days before `first` are learned from.
    let (first, end) = weather.year(year);
    ensure!(
        first >= 2 * data::SEASONS && end - first > HORIZONS,
        "vega: expected {year} and two whole years before it"
    );
    let folder = options.out("forecast")?;
    println!("{first} days to learn from, {} of {year} held out, on backend {backend}", end - first);

    let climate = Climate::of(&weather, first);
    // Every target of a sample is a day before `first`.
    let samples = first - DAYS - HORIZONS + 1;
    let steps = options.steps(Order::new(samples, BATCH, 0).steps_per_epoch(), 4, 2);
    let config = ForecasterConfig::new(COLUMNS.len(), HORIZONS);
    let plan = Plan::new(format!("forecast {year} {config:?}"), backend, options.seed, samples, BATCH, steps);

    stop::listen()?;
    let start = Instant::now();
    let training = device.clone().autodiff();
    let model = seeded(&training, options.seed, || config.init(&training))?;
    let anomalies: Vec<f32> = (0..first).map(|day| climate.anomaly(day) as f32).collect();
    let outcome = train(&plan, &training, &folder, options.fresh, model, |model, batch| {
        let starts = &batch.samples;
        let after = |day: usize| anomalies[day + 1..=day + HORIZONS].iter().copied();
        let targets: Vec<f32> = starts.iter().flat_map(|&start| start..start + DAYS).flat_map(after).collect();
        let targets = Tensor::<3>::from_data(TensorData::new(targets, [starts.len(), DAYS, HORIZONS]), &training);
        let factors = augment::factors(starts.len(), &mut batch.rng);
        let factors = Tensor::<3>::from_data(TensorData::new(factors, [starts.len(), 1, 1]), &training);
        let read = model.read(tensor(&climate, starts, DAYS, &training) * factors.clone(), false)?;
        Ok((read.forecasts - targets * factors).abs().mean().mul_scalar(climate.spread))
    })?;
    let trained = match outcome {
        Outcome::Finished(trained) => trained,
        Outcome::Stopped(_) => return Ok(ExitCode::from(stop::EXIT_CODE)),
    };

    // Every day whose next week is of that year.
    let origins: Vec<usize> = (first - 1..end - HORIZONS).collect();
    let range = [first - 1, end - HORIZONS - 1];
    let reading = results::read(&trained.model.valid(), &config, &climate, range, &device)?;
    let left = damping(&climate, first);
    let by_horizon = [
        ("attention", 0, false, errors(&weather, &origins, |origin, ahead| reading.forecast(origin, ahead))),
        (
            "last year",
            3,
            false,
            errors(&weather, &origins, |o, ahead| last_year(&weather, o + ahead).unwrap_or(f64::NAN)),
        ),
        ("last value", 2, false, errors(&weather, &origins, |origin, _| weather.target(origin))),
        ("usual", 1, false, errors(&weather, &origins, |origin, ahead| climate.usual[origin + ahead])),
        ("faded", 1, true, errors(&weather, &origins, |o, ahead| damped(&climate, &left, o, ahead))),
    ];
    let [own, naive, persistence, climatology, part] = by_horizon.each_ref().map(|(.., errors)| mean(errors));
    let metric =
        format!("mean absolute error in °C, 1 to {HORIZONS} days ahead, from {} days of {year}", origins.len());
    let evaluation = Evaluation::new(metric, Goal::Low, "local attention", own)
        .beats("the same day last year", naive)
        .beside("the last value", persistence)
        .beside("what is usual", climatology)
        .beside("usual and a part of the anomaly", part);
    let (plan, losses, weather, climate) = (&plan, &trained.losses[..], &weather, &climate);
    let (evaluation, by_horizon, origins, reading) = (&evaluation, &by_horizon[..], &origins[..], &reading);
    let all = Results { plan, evaluation, by_horizon, losses, weather, climate, origins, reading };
    let page = results::write(&folder, &all)?;
    println!("{steps} steps, {:.0} s. The page: {}", start.elapsed().as_secs_f64(), page.display());
    for (name, .., errors) in by_horizon {
        println!("{name:<10} {}", errors.map(|error| format!("{error:.2}")).join("  "));
    }
    Ok(evaluation.conclude(losses))
}
