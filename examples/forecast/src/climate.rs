//! What is usual at each time of the year, from the years learned from alone.

use std::f64::consts::TAU;

use crate::data::{COLUMNS, SEASONS, TARGET, Weather};

/// Waves that make up the course of a year: one of a year's length and one of half.
const WAVES: usize = 2;

/// The numbers of a day.
type Row = [f64; COLUMNS.len()];

/// What is usual on each day, and how unusual each is.
///
/// ```text
/// usual(s) = a_0 + Σ_{k = 1, 2} a_k · cos(2π·k·s/365) + b_k · sin(2π·k·s/365)        s the time of the year
/// anomaly = (value − usual) / spread
/// ```
/// For a day learned from its own year does not count, so that its anomalies are what they will be in a year that is not known. For
/// other days all years learned from count.
#[derive(Debug, Clone, PartialEq)]
pub struct Climate {
    /// The usual target of each day, °C.
    pub usual: Vec<f64>,
    /// How far each day's columns lie from what is usual, in spreads.
    pub anomalies: Vec<Row>,
    /// °C of one spread of the target.
    pub spread: f64,
}

impl Climate {
    /// Learned from the first `days`.
    pub fn of(weather: &Weather, days: usize) -> Self {
        let of_all = course(weather, 0..days);
        let mut usual: Vec<Row> = Vec::with_capacity(weather.dates.len());
        while usual.len() < weather.dates.len() {
            let (from, to) = weather.year(weather.dates[usual.len()].year);
            let of_others = course(weather, (0..days).filter(|day| !(from..to).contains(day)));
            let known = if from < days { &of_others } else { &of_all };
            usual.extend((from..to).map(|day| known[weather.dates[day].season()]));
        }
        let apart = |day: usize| -> Row {
            let measured = measured(weather, day);
            std::array::from_fn(|column| measured[column] - usual[day][column])
        };
        let spreads: Row = std::array::from_fn(|column| {
            let squares: f64 = (0..days).map(|day| apart(day)[column].powi(2)).sum();
            (squares / days.max(1) as f64).sqrt().max(1e-6)
        });
        let anomaly = |day| {
            let apart = apart(day);
            std::array::from_fn(|column| apart[column] / spreads[column])
        };
        Self {
            anomalies: (0..weather.dates.len()).map(anomaly).collect(),
            usual: usual.iter().map(|row| row[TARGET]).collect(),
            spread: spreads[TARGET],
        }
    }

    /// How unusual the target of a day is, in spreads.
    pub fn anomaly(&self, day: usize) -> f64 {
        self.anomalies[day][TARGET]
    }
}

/// The usual course of a year, from some days: the mean of each time of the year, smoothed to a few waves.
fn course(weather: &Weather, days: impl Iterator<Item = usize>) -> Vec<Row> {
    let (mut sums, mut counts) = (vec![[0.0; COLUMNS.len()]; SEASONS], vec![0.0; SEASONS]);
    for day in days {
        let season = weather.dates[day].season();
        counts[season] += 1.0;
        sums[season].iter_mut().zip(measured(weather, day)).for_each(|(sum, value)| *sum += value);
    }
    let seasons = counts.iter().filter(|count| **count > 0.0).count().max(1) as f64;
    let waves: Vec<Row> = (0..=2 * WAVES)
        .map(|wave| {
            let parts = sums.iter().zip(&counts).enumerate().filter(|(_, (_, count))| **count > 0.0);
            parts.fold([0.0; COLUMNS.len()], |total, (season, (sum, count))| {
                std::array::from_fn(|column| total[column] + sum[column] / count * height(wave, season) / seasons)
            })
        })
        .collect();
    let at = |season| -> Row {
        // The mean square of a wave is a half.
        let part = |wave: usize| height(wave, season) * if wave == 0 { 1.0 } else { 2.0 };
        std::array::from_fn(|column| (0..=2 * WAVES).map(|wave| waves[wave][column] * part(wave)).sum())
    };
    (0..SEASONS).map(at).collect()
}

/// Of wave 0, a level, and then of cosine and sine in turn.
fn height(wave: usize, season: usize) -> f64 {
    let angle = TAU * wave.div_ceil(2) as f64 * season as f64 / SEASONS as f64;
    if wave > 0 && wave.is_multiple_of(2) { angle.sin() } else { angle.cos() }
}

/// The columns of a day; of rain the logarithm, since a little more on a dry day tells more than on a wet one.
fn measured(weather: &Weather, day: usize) -> Row {
    let [rain, most, least, wind] = weather.values[day];
    [rain.ln_1p(), most, least, wind]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::made;

    /// A mean of 10 and two waves.
    fn waves(weather: &Weather, day: usize) -> f64 {
        let angle = TAU * weather.dates[day].season() as f64 / SEASONS as f64;
        10.0 + 3.0 * angle.cos() - 2.0 * angle.sin() + (2.0 * angle).sin()
    }

    #[test]
    fn waves_are_found_and_what_is_faster_is_not() {
        let calendar = made(1096, |_| 0.0);
        let weather = made(1096, |day| waves(&calendar, day) + if day % 2 == 0 { 0.5 } else { -0.5 });
        let climate = Climate::of(&weather, 731);
        for day in 0..1096 {
            assert!((climate.usual[day] - waves(&calendar, day)).abs() < 0.02, "day {day}");
        }
        assert!((climate.spread - 0.5).abs() < 0.02, "{}", climate.spread);
        assert!((climate.anomaly(800) - 1.0).abs() < 0.1 && (climate.anomaly(801) + 1.0).abs() < 0.1);
    }

    #[test]
    fn a_day_says_nothing_of_what_is_usual_in_its_own_year_or_before_it() {
        let weather = made(1096 + 100, |day| (day % 11) as f64);
        let climate = Climate::of(&weather, 731);
        let changed = |day: usize| {
            let mut other = weather.clone();
            other.values[day][TARGET] += 1000.0;
            let other = Climate::of(&other, 731);
            [0..365, 365..731, 731..1196].map(|mut days| days.any(|at| other.usual[at] != climate.usual[at]))
        };
        assert_eq!(changed(100), [false, true, true]);
        assert_eq!(changed(500), [true, false, true]);
        assert_eq!((changed(731), changed(1100)), ([false; 3], [false; 3]), "held out");
    }
}
