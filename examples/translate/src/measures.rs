//! How good texts are, beside true ones; and what rules without learning make.

/// The share of texts that are right to the last character.
pub fn exact(pairs: &[(&str, &str)]) -> f64 {
    pairs.iter().filter(|(found, truth)| found == truth).count() as f64 / pairs.len().max(1) as f64
}

/// A date by rules such as one writes in ten minutes: a word that begins as a month does, four digits for the year, one or two for
/// the day. Empty where they find none.
pub fn rules_for_dates(text: &str) -> String {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let text = text.to_lowercase();
    let (mut year, mut month, mut day) = (None, None, None);
    let digits = |word: &str| word.chars().take_while(char::is_ascii_digit).collect::<String>();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        let named = MONTHS.iter().position(|name| word.starts_with(name));
        match digits(word) {
            number if number.len() == 4 => year = Some(number),
            number if matches!(number.len(), 1 | 2) => day = Some(number),
            _ => month = named.map(|at| at + 1).or(month),
        }
    }
    match (year, month, day) {
        (Some(year), Some(month), Some(day)) => format!("{year}-{month:02}-{day:0>2}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_named_months_and_nothing_else() {
        for text in ["3 March 1999", "WEDNESDAY, MARCH 3RD, 1999", "the 3rd of march 1999", "1999, Mar 3"] {
            assert_eq!(rules_for_dates(text), "1999-03-03", "{text}");
        }
        for text in ["03/03/1999", "19990303", "Mar 3 '99", "March 1999", ""] {
            assert_eq!(rules_for_dates(text), "", "{text}");
        }
    }

    #[test]
    fn exact_is_to_the_last_character() {
        assert_eq!(exact(&[("a", "a"), ("a", "b"), ("ab", "a"), ("", "")]), 0.5);
        assert_eq!(exact(&[]), 0.0);
    }
}
