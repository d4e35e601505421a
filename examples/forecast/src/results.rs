//! What is forecast of the held-out year, and the page that shows it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use learn::curve::{self, Series};
use learn::page::{Page, lit_text};
use learn::{Evaluation, Plan, files, rollout};

use crate::baselines::{HORIZONS, errors};
use crate::climate::Climate;
use crate::data::{COLUMNS, Weather};
use crate::model::{Forecaster, ForecasterConfig};

/// Days before a forecast that the page shows.
const PAST: usize = 14;

/// What was forecast from each day of a run of days, in °C, and what was read for it.
pub struct Reading {
    first: usize,
    forecasts: Vec<Vec<f64>>,
    /// Layer by layer, head by head, by how many days ago: the mean weight.
    lags: Vec<Vec<Vec<f64>>>,
    /// How much each day read each day through all layers, days by days.
    rollout: Vec<Vec<f64>>,
}

impl Reading {
    /// The target `ahead` days after `origin`.
    pub fn forecast(&self, origin: usize, ahead: usize) -> f64 {
        self.forecasts[origin - self.first][ahead - 1]
    }
}

/// Forecasts from each day of `first..=last`, in one run over them and the days that can reach them.
///
/// # Errors
/// If the model refuses them.
pub fn read(
    model: &Forecaster,
    config: &ForecasterConfig,
    climate: &Climate,
    [first, last]: [usize; 2],
    device: &Device,
) -> Result<Reading> {
    let start = first.saturating_sub(config.reach());
    let read = model.read(tensor(climate, &[start], last + 1 - start, device), true)?;
    let anomalies: Vec<f64> = read.forecasts.try_into_data()?.iter::<f64>().collect();
    // Of days after the last known one nothing is asked.
    let usual = |day: usize| climate.usual.get(day).copied().unwrap_or(f64::NAN);
    let in_degrees = |(at, anomalies): (usize, &[f64])| -> Vec<f64> {
        let ahead = anomalies.iter().enumerate();
        ahead.map(|(ahead, anomaly)| usual(start + at + ahead + 1) + climate.spread * anomaly).collect()
    };
    let forecasts = anomalies.chunks(HORIZONS).enumerate().map(in_degrees).collect();
    let days = last + 1 - start;
    let rolled = rollout(&read.weights).map(|read| read.try_into_data()).transpose()?;
    let rolled: Vec<f64> = rolled.iter().flat_map(|data| data.iter::<f64>()).collect();
    let layers = read.weights.into_iter().map(|weights| -> Result<_> {
        let weights: Vec<f64> = weights.try_into_data()?.iter::<f64>().collect();
        Ok(weights.chunks(days * days).map(|head| by_lag(head, days, first - start, config.window)).collect())
    });
    let lags = layers.collect::<Result<_>>()?;
    Ok(Reading { first: start, forecasts, lags, rollout: rolled.chunks(days).map(<[f64]>::to_vec).collect() })
}

/// The mean weight by how many days ago, over the rows from `first` on.
fn by_lag(weights: &[f64], days: usize, first: usize, window: usize) -> Vec<f64> {
    let mean = |lag: usize| {
        let rows = first.max(lag)..days;
        let count = rows.len().max(1) as f64;
        rows.map(|day| weights[day * days + day - lag]).sum::<f64>() / count
    };
    (0..window).map(mean).collect()
}

/// Runs of `days` from each of `starts`: `[starts, days, features]`.
pub fn tensor(climate: &Climate, starts: &[usize], days: usize, device: &Device) -> Tensor<3> {
    let all = starts.iter().flat_map(|&start| start..start + days);
    let values: Vec<f32> = all.flat_map(|day| climate.anomalies[day]).map(|value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, [starts.len(), days, COLUMNS.len()]), device)
}

/// What there is to show.
pub struct Results<'a> {
    /// The numbers of the training.
    pub plan: &'a Plan,
    /// The errors.
    pub evaluation: &'a Evaluation,
    /// Name, colour, whether it is drawn as marks, and the error for each number of days ahead.
    pub by_horizon: &'a [(&'a str, usize, bool, [f64; HORIZONS])],
    /// The loss of every step.
    pub losses: &'a [f32],
    /// All days.
    pub weather: &'a Weather,
    /// What is usual.
    pub climate: &'a Climate,
    /// The days from which is forecast.
    pub origins: &'a [usize],
    /// What was forecast.
    pub reading: &'a Reading,
}

/// Writes the page and its charts; gives the page's path.
///
/// # Errors
/// If they cannot be written.
pub fn write(folder: &Path, results: &Results) -> Result<PathBuf> {
    let loss = curve::of_losses(results.losses);
    files::write_atomically(&folder.join("loss.svg"), loss.as_bytes())?;
    let path = folder.join("forecast.html");
    files::write_atomically(&path, page(results, &loss).as_bytes())?;
    Ok(std::path::absolute(&path).unwrap_or(path))
}

fn page(results: &Results, loss: &str) -> String {
    let Results { plan, evaluation, weather, origins, .. } = results;
    let year = weather.dates[origins[origins.len() / 2]].year;
    let lead = format!(
        "Local attention forecasts the highest temperature of each of the next {HORIZONS} days in Seattle, through {year}, a year of \
         which nothing was used to learn. Each layer reads two weeks of days."
    );
    let mut page = Page::new("The week ahead", &lead);
    let of = format!("mean absolute error in °C, 1 to {HORIZONS} days ahead");
    let mut facts = vec![(evaluation.name.as_str(), evaluation.shown(evaluation.value), of)];
    for baseline in &evaluation.baselines {
        let note = if evaluation.is_better_than(baseline) { "beaten" } else { "not beaten" };
        facts.push((&baseline.name, evaluation.shown(baseline.value), note.to_string()));
    }
    let samples = format!("of {} runs of days each, seed {}, on {}", plan.batch, plan.seed, plan.backend);
    facts.push(("steps", plan.steps.to_string(), samples));
    page.facts(&facts);

    page.section(
        "The year",
        "Each day's highest temperature in °C, and what was forecast for it a day and a week before.",
    );
    page.beside(&[held_out_year(results)]);
    page.section("The error", "Left by how many days ahead; right the loss while learning, in °C.");
    page.side_by_side(&[by_horizon(results), loss.to_string()]);
    page.section(
        "Which days are read",
        "The mean weight of each head by how many days ago, over all days of the year. ALiBi makes the first head look at the \
         last days and the last head at all of its window almost alike.",
    );
    let layers = results.reading.lags.iter().enumerate().map(|(layer, heads)| by_lag_chart(layer, heads));
    page.side_by_side(&layers.collect::<Vec<_>>());
    let hint = "The fifteenth of January, April, July and October: the days before, the forecast and what came. Below, the days before \
                in °C, lit by how much they were read through all layers, by attention rollout; the last one is always read most.";
    page.section("Four weeks", hint);
    let is_shown = |day: &usize| weather.dates[*day].day == 15 && weather.dates[*day].month % 3 == 1;
    let weeks: Vec<String> = origins.iter().copied().filter(is_shown).map(|origin| week(results, origin)).collect();
    page.side_by_side(&weeks);
    page.finish()
}

fn series(name: &str, colour: usize, points: impl Iterator<Item = (f64, f64)>) -> Series {
    Series { name: name.into(), points: points.collect(), colour, is_faint: false }
}

fn held_out_year(results: &Results) -> String {
    let Results { weather, climate, origins, reading, .. } = results;
    let ahead = |ahead: usize| {
        let points = origins.iter().enumerate();
        points.map(move |(at, &origin)| ((at + ahead) as f64, reading.forecast(origin, ahead)))
    };
    let days = || origins.iter().enumerate().map(|(at, &origin)| ((at + 1) as f64, origin + 1));
    let lines = [
        series("usual", 3, days().map(|(x, day)| (x, climate.usual[day]))),
        series("it was", 1, days().map(|(x, day)| (x, weather.target(day)))),
        series("a week before", 2, ahead(HORIZONS)),
        series("a day before", 0, ahead(1)),
    ];
    curve::svg("The highest temperature, °C", "day of the year", &lines, None)
}

fn by_horizon(results: &Results) -> String {
    let line = |(name, colour, is_marks, errors): &(&str, usize, bool, [f64; HORIZONS])| {
        let points = errors.iter().enumerate().map(|(at, error)| ((at + 1) as f64, *error));
        // A mark is a short stroke and a gap after it.
        let mark = |(x, y): (f64, f64)| [(x - 0.12, y), (x + 0.12, y), (x, f64::NAN)];
        if *is_marks { series(name, *colour, points.flat_map(mark)) } else { series(name, *colour, points) }
    };
    let lines: Vec<Series> = results.by_horizon.iter().map(line).collect();
    curve::svg("Error, °C", "days ahead", &lines, None)
}

fn by_lag_chart(layer: usize, heads: &[Vec<f64>]) -> String {
    let line = |(head, weights): (usize, &Vec<f64>)| {
        series(&format!("head {}", head + 1), head, weights.iter().enumerate().map(|(lag, w)| (lag as f64, *w)))
    };
    let lines: Vec<Series> = heads.iter().enumerate().map(line).collect();
    curve::svg(&format!("Layer {}", layer + 1), "days ago", &lines, Some(0.0))
}

/// A forecast with what came before and after.
fn week(results: &Results, origin: usize) -> String {
    let Results { weather, climate, reading, .. } = results;
    let x = |day: usize| day as f64 - origin as f64;
    let days = || origin.saturating_sub(PAST - 1)..=origin + HORIZONS;
    let forecast = (1..=HORIZONS).map(|ahead| (ahead as f64, reading.forecast(origin, ahead)));
    let lines = [
        series("usual", 3, days().map(|day| (x(day), climate.usual[day]))),
        series("it was", 1, days().map(|day| (x(day), weather.target(day)))),
        series("forecast", 0, std::iter::once((0.0, weather.target(origin))).chain(forecast)),
    ];
    let date = weather.dates[origin].to_string();
    let error = errors(weather, &[origin], |origin, ahead| reading.forecast(origin, ahead)).iter().sum::<f64>();
    let title = format!("{date}: {:.1} °C off", error / HORIZONS as f64);
    let read = &reading.rollout[origin - reading.first];
    let past: Vec<usize> = (origin.saturating_sub(PAST - 1)..=origin).filter(|day| *day >= reading.first).collect();
    let weight = |day: usize| read[day - reading.first];
    // The day itself stands out in any case, by the residual connection.
    let most = past.iter().filter(|day| **day < origin).map(|&day| weight(day)).fold(f64::MIN_POSITIVE, f64::max);
    let texts: Vec<String> = past.iter().map(|&day| format!("{:.0}", weather.target(day))).collect();
    let lit = lit_text(texts.iter().map(String::as_str).zip(past.iter().map(|&day| weight(day) / most)));
    format!("{}{lit}", curve::svg(&title, "days from then", &lines, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_averaged_along_their_diagonals() {
        // Row by row; the rows from 1 on count.
        let weights = [1.0, 0.0, 0.0, 0.4, 0.6, 0.0, 0.1, 0.7, 0.2];
        let found = by_lag(&weights, 3, 1, 3);
        for (found, expected) in found.iter().zip([0.4, 0.55, 0.1]) {
            assert!((found - expected).abs() < 1e-12);
        }
    }
}
