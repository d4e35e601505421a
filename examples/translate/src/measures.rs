//! How good texts are, beside true ones; and what is made without learning.

use std::collections::HashMap;

use crate::task::Pair;

/// The share of texts that are right to the last character.
pub fn exact(pairs: &[(&str, &str)]) -> f64 {
    pairs.iter().filter(|(found, truth)| found == truth).count() as f64 / pairs.len().max(1) as f64
}

/// chrF (Popović 2015) of whole corpora, in `[0, 1]`: how much of the characters' n-grams, n from 1 to 6 and blanks left out, found texts
/// and true ones share.
///
/// ```text
/// F = (1 + β²) · P · R / (β² · P + R)        β = 2: recall counts more
/// P, R: means over n of the share of found n-grams that are true ones, and of true ones that are found
/// ```
pub fn chrf(pairs: &[(&str, &str)]) -> f64 {
    const LONGEST: usize = 6;
    const BETA_SQUARED: f64 = 4.0;
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
    for n in 1..=LONGEST {
        let (mut shared, mut found, mut wanted) = (0, 0, 0);
        for (text, truth) in pairs {
            let (text, truth) = (grams(text, n), grams(truth, n));
            shared += text.iter().map(|(gram, &count)| count.min(truth.get(gram).copied().unwrap_or(0))).sum::<usize>();
            found += text.values().sum::<usize>();
            wanted += truth.values().sum::<usize>();
        }
        if found > 0 && wanted > 0 {
            precision += shared as f64 / found as f64;
            recall += shared as f64 / wanted as f64;
            orders += 1.0;
        }
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall) / orders
}

/// How often each n characters stand together, blanks left out.
fn grams(text: &str, n: usize) -> HashMap<Vec<char>, usize> {
    let characters: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let mut counts = HashMap::new();
    characters.windows(n).for_each(|gram| *counts.entry(gram.to_vec()).or_default() += 1);
    counts
}

/// The target of the pair whose source is most like `source` by chrF; the first of several.
pub fn nearest<'a>(source: &str, pairs: &'a [Pair]) -> &'a str {
    let mut best = (-1.0, "");
    for pair in pairs {
        let likeness = chrf(&[(&pair.source, source)]);
        if likeness > best.0 {
            best = (likeness, &pair.target);
        }
    }
    best.1
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
    fn chrf_is_its_formula() {
        let near =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} in place of {expected}");
        near(chrf(&[("le mot de passe", "le mot de passe")]), 1.0);
        near(chrf(&[("abc", "xyz")]), 0.0);
        near(chrf(&[("", "xyz")]), 0.0);
        near(chrf(&[]), 0.0);
        // Of a, b, c; ab, bc; abc are found a, b; ab; nothing.
        near(chrf(&[("a bc", "abd")]), (2.0 / 3.0 + 1.0 / 2.0) / 3.0);
        // Precision (1 + 1) / 2, recall (2/4 + 1/3) / 2: recall counts four times.
        let recall = (2.0 / 4.0 + 1.0 / 3.0) / 2.0;
        near(chrf(&[("ab", "abcd")]), 5.0 * recall / (4.0 + recall));
        // Counts of a corpus are summed, and a gram is shared as often as it is in both.
        near(chrf(&[("aa", "a"), ("b", "b")]), 5.0 * (2.0 / 3.0) / (4.0 * (2.0 / 3.0) + 1.0));
    }

    #[test]
    fn the_nearest_source_gives_its_target() {
        let pair = |source: &str, target: &str| Pair { source: source.into(), target: target.into() };
        let pairs = [pair("Change user", "Modifier"), pair("Delete user", "Supprimer"), pair("Add", "Ajouter")];
        assert_eq!(nearest("Delete users", &pairs), "Supprimer");
        assert_eq!(nearest("zzz", &pairs), "Modifier");
        assert_eq!(nearest("zzz", &[]), "");
    }

    #[test]
    fn exact_is_to_the_last_character() {
        assert_eq!(exact(&[("a", "a"), ("a", "b"), ("ab", "a"), ("", "")]), 0.5);
        assert_eq!(exact(&[]), 0.0);
    }
}
