//! The weather of Seattle, day by day: `seattle-weather.csv` of the Vega data sets.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// What is read of a day, in the file's order.
pub const COLUMNS: [&str; 4] = ["precipitation", "temp_max", "temp_min", "wind"];
/// The column that is forecast.
pub const TARGET: usize = 1;
/// Days of a year of the climate: the 29th of February counts as the 28th.
pub const SEASONS: usize = 365;

const MONTHS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// A day of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// Its year.
    pub year: u32,
    /// From 1 to 12.
    pub month: u32,
    /// From 1.
    pub day: u32,
}

impl Date {
    /// `2012/01/31`.
    fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u32> = text.split('/').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let &[year, month, day] = numbers.as_slice() else { return None };
        let is_one = year <= 9999 && (1..=12).contains(&month) && (1..=days(year, month)).contains(&day);
        is_one.then_some(Self { year, month, day })
    }

    /// The day after.
    fn next(self) -> Self {
        let Self { year, month, day } = self;
        match (day < days(year, month), month < 12) {
            (true, _) => Self { day: day + 1, ..self },
            (false, true) => Self { month: month + 1, day: 1, ..self },
            (false, false) => Self { year: year + 1, month: 1, day: 1 },
        }
    }

    /// Its place in a year of [`SEASONS`] days, from 0.
    pub fn season(self) -> usize {
        let before: u32 = MONTHS.iter().take(self.month as usize - 1).sum();
        (before + self.day.min(MONTHS[self.month as usize - 1]) - 1) as usize
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

fn days(year: u32, month: u32) -> u32 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    MONTHS[month as usize - 1] + u32::from(is_leap && month == 2)
}

/// Days in a row, none left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Weather {
    /// Of each day.
    pub dates: Vec<Date>,
    /// Its [`COLUMNS`]: mm, °C, °C, m/s.
    pub values: Vec<[f64; COLUMNS.len()]>,
}

impl Weather {
    /// Reads it from its folder.
    ///
    /// # Errors
    /// If the file is not there or not what it should be.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("seattle-weather.csv");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let expected = format!("date,{},weather", COLUMNS.join(","));
        let heading = lines.next().map_or("", |(_, line)| line);
        ensure!(heading == expected, "line 1: expected {expected}");
        let mut weather = Self { dates: Vec::new(), values: Vec::new() };
        for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
            let fields: Vec<&str> = line.split(',').collect();
            ensure!(fields.len() == COLUMNS.len() + 2, "line {number}: expected {} fields", COLUMNS.len() + 2);
            let date = Date::parse(fields[0]).with_context(|| format!("line {number}: {} is no date", fields[0]))?;
            let after = weather.dates.last().map(|date| date.next());
            ensure!(after.is_none_or(|after| after == date), "line {number}: {date} does not follow the day before");
            let mut values = [0.0; COLUMNS.len()];
            for ((value, field), name) in values.iter_mut().zip(&fields[1..]).zip(COLUMNS) {
                let number = || format!("line {number}: {name} {field} is no number");
                *value = field.parse().ok().filter(|value: &f64| value.is_finite()).with_context(number)?;
            }
            ensure!(values[0] >= 0.0, "line {number}: less than no precipitation");
            weather.dates.push(date);
            weather.values.push(values);
        }
        Ok(weather)
    }

    /// The highest temperature of a day.
    pub fn target(&self, day: usize) -> f64 {
        self.values[day][TARGET]
    }

    /// The first day of a year, and the one after its last.
    pub fn year(&self, year: u32) -> (usize, usize) {
        let days = |is_before: &dyn Fn(u32) -> bool| self.dates.partition_point(|date| is_before(date.year));
        (days(&|other| other < year), days(&|other| other <= year))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const HEADING: &str = "date,precipitation,temp_max,temp_min,wind,weather\n";

    /// Days from the first of January 2011 on, the target of each by its number.
    pub(crate) fn made(count: usize, target: impl Fn(usize) -> f64) -> Weather {
        let first = Date { year: 2011, month: 1, day: 1 };
        let dates = std::iter::successors(Some(first), |date| Some(date.next())).take(count).collect();
        Weather { dates, values: (0..count).map(|day| [1.0, target(day), 2.0, 3.0]).collect() }
    }

    #[test]
    fn lines_become_days_and_odd_ones_are_refused() {
        let text =
            format!("{HEADING}2012/02/28,0.5,12.8,5.0,4.7,rain\n2012/02/29,0,1,-2,3,sun\n2012/03/01,0,1,2,3,sun\n");
        let weather = Weather::parse(&text).unwrap();
        assert_eq!(weather.values[..2], [[0.5, 12.8, 5.0, 4.7], [0.0, 1.0, -2.0, 3.0]]);
        assert_eq!(weather.dates.iter().map(|date| date.season()).collect::<Vec<_>>(), [58, 58, 59]);
        for odd in
            ["2012/02/30,0,1,2,3,sun", "2012/03/02,0,1,2,3", "2012/03/02,0,NaN,2,3,sun", "2012/03/03,0,1,2,3,sun"]
        {
            let error = format!("{:#}", Weather::parse(&(text.clone() + odd)).unwrap_err());
            assert!(error.starts_with("line 5"), "{error}");
        }
        assert!(Weather::parse("date,wind\n").is_err() && Weather::parse("").is_err());
    }

    #[test]
    fn years_begin_and_end_where_they_do() {
        let weather = made(365 + 366 + 10, |_| 0.0);
        assert_eq!((weather.year(2011), weather.year(2012), weather.year(2013)), ((0, 365), (365, 731), (731, 741)));
        assert_eq!((weather.year(2000), weather.year(u32::MAX)), ((0, 0), (741, 741)));
        assert_eq!(weather.dates[730].to_string(), "2012-12-31");
        assert_eq!(weather.dates[730].season(), SEASONS - 1);
    }
}
