//! What is usual at each time of the year, from the years learned from alone.

use crate::data::{COLUMNS, SEASONS, TARGET, Weather};

/// Days before and after that count for a day of the climate.
const AROUND: usize = 10;

/// What the model reads of a day: how unusual its columns are, and where in the year it stands.
pub const FEATURES: usize = COLUMNS.len() + 2;

/// The mean of each column at each day of the year, and how far days lie from it.
#[derive(Debug, Clone)]
pub struct Climate {
    means: Vec<[f64; COLUMNS.len()]>,
    spreads: [f64; COLUMNS.len()],
}

impl Climate {
    /// Of the first `days`. Every time of the year must be among them.
    pub fn of(weather: &Weather, days: usize) -> Self {
        let (mut sums, mut counts) = (vec![[0.0; COLUMNS.len()]; SEASONS], vec![0.0; SEASONS]);
        for day in 0..days {
            let season = weather.dates[day].season();
            for near in 0..=2 * AROUND {
                let at = (season + SEASONS + near - AROUND) % SEASONS;
                counts[at] += 1.0;
                sums[at].iter_mut().zip(measured(weather, day)).for_each(|(sum, value)| *sum += value);
            }
        }
        let means = sums.iter().zip(counts).map(|(sum, count)| sum.map(|sum| sum / f64::max(count, 1.0))).collect();
        let mut climate = Self { means, spreads: [1.0; COLUMNS.len()] };
        let mut squares = [0.0; COLUMNS.len()];
        for day in 0..days {
            squares
                .iter_mut()
                .zip(climate.anomalies(weather, day))
                .for_each(|(sum, anomaly)| *sum += anomaly * anomaly);
        }
        climate.spreads = squares.map(|sum: f64| (sum / days.max(1) as f64).sqrt().max(1e-6));
        climate
    }

    /// The usual target at a time of the year.
    pub fn usual(&self, season: usize) -> f64 {
        self.means[season][TARGET]
    }

    /// °C of one spread of the target.
    pub fn spread(&self) -> f64 {
        self.spreads[TARGET]
    }

    /// How far the columns of a day lie from what is usual, in spreads.
    pub fn anomalies(&self, weather: &Weather, day: usize) -> [f64; COLUMNS.len()] {
        let (values, means) = (measured(weather, day), self.means[weather.dates[day].season()]);
        std::array::from_fn(|column| (values[column] - means[column]) / self.spreads[column])
    }

    /// What the model reads of a day.
    pub fn features(&self, weather: &Weather, day: usize) -> [f64; FEATURES] {
        let angle = std::f64::consts::TAU * weather.dates[day].season() as f64 / SEASONS as f64;
        let anomalies = self.anomalies(weather, day);
        std::array::from_fn(|at| match at.checked_sub(COLUMNS.len()) {
            None => anomalies[at],
            Some(0) => angle.sin(),
            Some(_) => angle.cos(),
        })
    }
}

/// The columns of a day; of rain the logarithm, as a day with twice as much is no other weather.
fn measured(weather: &Weather, day: usize) -> [f64; COLUMNS.len()] {
    let [rain, rest @ ..] = weather.values[day];
    let [most, least, wind] = rest;
    [rain.ln_1p(), most, least, wind]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tests::made;

    #[test]
    fn the_usual_is_a_mean_of_days_around_and_of_earlier_years_alone() {
        // The number of the day in its year, 0 to 364, and nonsense in the third year.
        let weather = made(365 + 366 + 200, |day| if day < 731 { (day % 365) as f64 } else { 1e9 });
        let climate = Climate::of(&weather, 731);
        // The second year of these is a leap year, a day ahead of the first from March on.
        assert!((climate.usual(30) - 30.0).abs() < 1e-9, "{}", climate.usual(30));
        assert!((climate.usual(200) - 200.5).abs() < 0.05, "{}", climate.usual(200));
        assert!(climate.spread() < 100.0);
        // Around New Year both ends count.
        assert!(climate.usual(0) > 100.0 && climate.usual(364) < 260.0);
        let shifted = Climate::of(&made(931, |day| if day < 731 { (day % 365) as f64 } else { -1e9 }), 731);
        assert_eq!((shifted.means, shifted.spreads), (climate.means, climate.spreads));
    }

    #[test]
    fn anomalies_have_the_spread_one_where_they_were_measured() {
        let weather = made(731, |day| (day % 7) as f64);
        let climate = Climate::of(&weather, 731);
        let squares: f64 = (0..731).map(|day| climate.anomalies(&weather, day)[TARGET].powi(2)).sum();
        assert!((squares / 731.0 - 1.0).abs() < 1e-9);
        let features = climate.features(&weather, 91);
        assert!((features[4] - 1.0).abs() < 1e-3 && features[5].abs() < 1e-2, "a quarter of the year");
    }
}
