//! Dates as people write them, and as ISO 8601 does. The data are made: every day of sixty years, in every format.

use anyhow::Result;
use jiff::ToSpan;
use jiff::civil::Date;
use learn::order::{Purpose, generator};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::measures::{exact, rules_for_dates};
use crate::task::{Pair, Recipe, Task};
use crate::text::Vocabulary;

/// Sixty years from here, so that two digits of a year mean one of them.
const FIRST: Date = Date::constant(1970, 1, 1);
const LAST: Date = Date::constant(2029, 12, 31);
/// Days held out, with all that is written of them.
const HELD_OUT: usize = 2000;

/// Formats, as `strftime` has them; `~` stands for the ending of an ordinal: 1st, 2nd, 3rd, 4th.
const FORMATS: [&str; 20] = [
    "%-d %B %Y",
    "%-d~ %B %Y",
    "%B %-d, %Y",
    "%B %-d~, %Y",
    "%A, %B %-d~, %Y",
    "%A %-d %B %Y",
    "the %-d~ of %B %Y",
    "%-d %b %Y",
    "%b %-d %Y",
    "%a %-d %b %Y",
    "%Y, %B %-d",
    "%d-%b-%y",
    "%b %-d '%y",
    "%-d. %-m. %Y",
    "%d.%m.%y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%m/%d/%y",
    "%Y/%m/%d",
    "%Y%m%d",
];

/// To learn dates: all days but the held-out ones, each time in a format that is drawn.
///
/// # Errors
/// If the calendar ends before its time.
pub fn task(seed: u64) -> Result<Task> {
    let (learned, days) = split(seed)?;
    let mut rng = generator(seed, Purpose::HeldOut, 1);
    let kind: Vec<usize> = days.iter().map(|&day| drawn(day, &mut rng)).collect();
    let held: Vec<Pair> = days.iter().zip(&kind).map(|(&day, &format)| pair(day, format, &mut rng)).collect();
    let by_rules: Vec<String> = held.iter().map(|pair| rules_for_dates(&pair.source)).collect();
    let by_rules: Vec<_> = by_rules.iter().zip(&held).map(|(found, pair)| (found.as_str(), &*pair.target)).collect();
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    Ok(Task {
        name: "dates",
        about: format!("{} days in {} formats", learned.len(), FORMATS.len()),
        title: "How it reads a date",
        lead: "A recurrent network reads dates as people write them, character by character, and writes them as ISO 8601 does. It never \
               saw these days while learning, in no format.",
        marks: "▁ is a blank, ↵ the end.",
        source: Vocabulary::characters([letters, "0123456789 ,.-/'"]),
        target: Vocabulary::characters(["0123456789-"]),
        // "Wednesday, September 30th, 2020" and "2020-09-30", with their ends.
        longest: (32, 11),
        samples: learned.len(),
        pair: Box::new(move |at, rng| pair(learned[at], drawn(learned[at], rng), rng)),
        metric: format!("exact match on {} days never seen while learning, in no format", held.len()),
        baselines: vec![("rules for named months and four digits of year".into(), exact(&by_rules), true)],
        shortest_drawn: 10,
        held,
        kind,
        kinds: FORMATS.map(|format| written(Date::constant(1999, 3, 31), format)).to_vec(),
        measure: exact,
        promise: Some(0.99),
        recipe: Recipe { batch: 64, epochs: (2, 1), rate: 1e-2, d_hidden: 64, dropout: 0.0, copies: false, beams: 1 },
    })
}

/// Days to learn from, and days held out.
fn split(seed: u64) -> Result<(Vec<Date>, Vec<Date>)> {
    let mut days: Vec<Date> = FIRST.series(1.day()).take_while(|&day| day <= LAST).collect();
    days.shuffle(&mut generator(seed, Purpose::HeldOut, 0));
    let learned = days.split_off(HELD_OUT.min(days.len()));
    Ok((learned, days))
}

/// A format that says which day it is: with the month as a number before or after the day only where one of both can be the month.
fn drawn(day: Date, rng: &mut StdRng) -> usize {
    loop {
        let format = rng.random_range(0..FORMATS.len());
        if is_clear(day, FORMATS[format]) {
            return format;
        }
    }
}

fn is_clear(day: Date, format: &str) -> bool {
    let either = format.contains("%d/%m") || format.contains("%m/%d/");
    !either || day.day() > 12 || day.day() == day.month()
}

/// A day in a format, now and then in small letters or in capitals, and in ISO 8601.
fn pair(day: Date, format: usize, rng: &mut StdRng) -> Pair {
    let text = written(day, FORMATS[format]);
    let source = match rng.random_range(0..5) {
        0 => text.to_lowercase(),
        1 => text.to_uppercase(),
        _ => text,
    };
    Pair { source, target: day.to_string() }
}

fn written(day: Date, format: &str) -> String {
    let ordinal = match (day.day() % 10, day.day()) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    day.strftime(format).to_string().replace('~', ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::UNKNOWN;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn days_are_written_as_people_do() {
        let found = FORMATS.map(|format| written(Date::constant(1999, 3, 3), format));
        for wanted in
            ["3 March 1999", "Wednesday, March 3rd, 1999", "Mar 3 1999", "03-Mar-99", "03/03/1999", "19990303"]
        {
            assert!(found.iter().any(|found| found == wanted), "{wanted}");
        }
        let ordinals =
            [1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 31].map(|day| written(Date::constant(2024, 1, day), "%-d~"));
        assert_eq!(ordinals, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "31st"]);
    }

    #[test]
    fn no_text_means_two_days() {
        let mut means = HashMap::new();
        let (learned, held) = split(1).unwrap();
        for &day in learned.iter().chain(&held) {
            for format in FORMATS.iter().filter(|format| is_clear(day, format)) {
                let text = written(day, format).to_lowercase();
                assert_eq!(*means.entry(text.clone()).or_insert(day), day, "{text}");
            }
        }
        assert!(!is_clear(Date::constant(2001, 2, 3), "%m/%d/%y") && is_clear(Date::constant(2001, 2, 13), "%m/%d/%y"));
    }

    #[test]
    fn held_out_days_are_seen_in_no_format_and_every_character_is_known() {
        let task = task(3).unwrap();
        let held: HashSet<&str> = task.held.iter().map(|pair| &*pair.target).collect();
        assert_eq!((held.len(), task.samples), (HELD_OUT, 21915 - HELD_OUT));
        let mut rng = generator(9, Purpose::Step, 0);
        for at in 0..task.samples {
            let pair = (task.pair)(at, &mut rng);
            assert!(!held.contains(&*pair.target), "{}", pair.target);
            let (source, target) = (task.source.read(&pair.source).0, task.target.read(&pair.target).0);
            assert!(source.len() <= task.longest.0 && target.len() == task.longest.1);
            assert!(!source.contains(&UNKNOWN) && !target.contains(&UNKNOWN));
        }
        // Another seed holds out others.
        assert_ne!(split(3).unwrap().1, split(4).unwrap().1);
    }
}
