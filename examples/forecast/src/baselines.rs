//! How forecasts are judged, and what forecasts without attention.

use crate::climate::Climate;
use crate::data::Weather;

/// Days ahead that are forecast.
pub const HORIZONS: usize = 7;

/// The mean absolute error in °C for each number of days ahead. `forecast` is asked for the target `ahead` days after `origin`, the
/// last day that is known.
pub fn errors(weather: &Weather, origins: &[usize], forecast: impl Fn(usize, usize) -> f64) -> [f64; HORIZONS] {
    std::array::from_fn(|at| {
        let error = |&origin: &usize| (forecast(origin, at + 1) - weather.target(origin + at + 1)).abs();
        origins.iter().map(error).sum::<f64>() / origins.len().max(1) as f64
    })
}

/// Their mean.
pub fn mean(errors: &[f64; HORIZONS]) -> f64 {
    errors.iter().sum::<f64>() / HORIZONS as f64
}

/// Seasonal naive: what the same date had a year before. `None` where that is not known.
pub fn last_year(weather: &Weather, day: usize) -> Option<f64> {
    let date = weather.dates[day];
    let (from, to) = weather.year(date.year.checked_sub(1)?);
    let same = (from..to).find(|&day| weather.dates[day].season() == date.season())?;
    Some(weather.target(same))
}

/// For each number of days ahead the part of today's anomaly that is left of it: least squares over pairs of the first `days`.
pub fn damping(climate: &Climate, days: usize) -> [f64; HORIZONS] {
    std::array::from_fn(|at| {
        let pairs =
            || (0..days.saturating_sub(at + 1)).map(|day| (climate.anomaly(day), climate.anomaly(day + at + 1)));
        let squares: f64 = pairs().map(|(today, _)| today * today).sum();
        pairs().map(|(today, then)| today * then).sum::<f64>() / squares.max(f64::MIN_POSITIVE)
    })
}

/// The usual, and what is left of today's anomaly.
pub fn damped(climate: &Climate, damping: &[f64; HORIZONS], origin: usize, ahead: usize) -> f64 {
    climate.usual[origin + ahead] + damping[ahead - 1] * climate.anomaly(origin) * climate.spread
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::made;

    #[test]
    fn errors_are_those_of_each_horizon() {
        let weather = made(40, |day| day as f64);
        let found = errors(&weather, &[3, 10, 20], |origin, _| weather.target(origin));
        assert_eq!(found, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(mean(&found), 4.0);
    }

    #[test]
    fn last_year_is_the_same_date_also_over_a_leap_day() {
        let weather = made(365 + 366 + 365, |day| day as f64);
        assert_eq!(last_year(&weather, 365 + 100), Some(100.0 - 1.0), "after the leap day");
        assert_eq!(last_year(&weather, 365 + 20), Some(20.0));
        assert_eq!(last_year(&weather, 365 + 59), Some(58.0), "the 29th of February has the 28th");
        assert_eq!(last_year(&weather, 365 + 366 + 364), Some(365.0 + 365.0));
        assert_eq!(last_year(&weather, 100), None);
    }

    #[test]
    fn what_falls_by_a_constant_factor_is_found_to_do_so() {
        // Impulses, each day 0.8 of the day before, of either sign in turn, that no season explains.
        let weather =
            made(1096, |day| 10.0 * 0.8f64.powi((day % 50) as i32) * if day / 50 % 2 == 0 { 1.0 } else { -1.0 });
        let found = damping(&Climate::of(&weather, 1096), 1096);
        for (at, factor) in found.iter().enumerate() {
            assert!((factor - 0.8f64.powi(at as i32 + 1)).abs() < 0.12, "{found:?}");
        }
        assert!(found.windows(2).all(|pair| pair[1] < pair[0]));
    }
}
