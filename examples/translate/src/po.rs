//! Catalogues of gettext: `msgid "…"`, `msgstr "…"`, and what belongs to them.

use anyhow::{Context, Result, bail};

use crate::task::Pair;

/// An entry, as it is in the file.
#[derive(Default)]
struct Entry {
    is_fuzzy: bool,
    /// Keyword and text.
    fields: Vec<(String, String)>,
}

impl Entry {
    fn field(&self, keyword: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == keyword).map(|(_, text)| &**text).filter(|text| !text.is_empty())
    }

    fn is_begun(&self) -> bool {
        !self.fields.is_empty()
    }

    /// The message and its plural; none if it is the header, not translated, or to be looked at again by its translator (fuzzy).
    fn pairs(&self) -> Vec<Pair> {
        let numbers = [("msgid", "msgstr[0]"), ("msgid_plural", "msgstr[1]")];
        let either = if self.field("msgid_plural").is_some() { &numbers[..] } else { &[("msgid", "msgstr")] };
        let pair = |&(source, target): &(&str, &str)| {
            Some(Pair { source: self.field(source)?.into(), target: self.field(target)?.into() })
        };
        if self.is_fuzzy || self.field("msgid").is_none() {
            Vec::new()
        } else {
            either.iter().filter_map(pair).collect()
        }
    }
}

/// The translated messages of a catalogue, each with its plural if it has one. Obsolete ones (`#~`) are left out.
///
/// # Errors
/// If a line is none of a catalogue; the error names it.
pub fn messages(text: &str) -> Result<Vec<Vec<Pair>>> {
    let (mut entries, mut entry) = (Vec::new(), Entry::default());
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let is_string = line.starts_with('"');
        let begins = line.starts_with('#') || line.starts_with("msgctxt ") || line.starts_with("msgid ");
        let is_translated = entry.fields.iter().any(|(keyword, _)| keyword.starts_with("msgstr"));
        if (line.is_empty() && entry.is_begun()) || (begins && is_translated) {
            entries.push(std::mem::take(&mut entry));
        }
        if let Some(flags) = line.strip_prefix("#,") {
            entry.is_fuzzy |= flags.split(',').any(|flag| flag.trim() == "fuzzy");
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = || format!("line {}: expected a keyword and a text in quotes, found {line}", at + 1);
        let (keyword, quoted) = if is_string { ("", line) } else { line.split_once(' ').with_context(place)? };
        let text = unquoted(quoted.trim()).with_context(place)?;
        match (keyword, entry.fields.last_mut()) {
            ("", Some((_, begun))) => begun.push_str(&text),
            ("msgctxt" | "msgid" | "msgid_plural", _) => entry.fields.push((keyword.into(), text)),
            (keyword, _) if keyword.starts_with("msgstr") => entry.fields.push((keyword.into(), text)),
            _ => bail!(place()),
        }
    }
    entries.push(entry);
    Ok(entries.iter().map(Entry::pairs).filter(|pairs| !pairs.is_empty()).collect())
}

/// A text in quotes, as it is meant.
fn unquoted(text: &str) -> Option<String> {
    let mut rest = text.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut plain = String::new();
    while let Some(character) = rest.next() {
        plain.push(match character {
            '\\' => match rest.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            },
            '"' => return None,
            other => other,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Vec<(String, String)>> {
        let pairs = |pairs: Vec<Pair>| pairs.into_iter().map(|pair| (pair.source, pair.target)).collect();
        messages(text).unwrap().into_iter().map(pairs).collect()
    }

    fn pair(source: &str, target: &str) -> (String, String) {
        (source.into(), target.into())
    }

    #[test]
    fn messages_are_read_and_others_are_left_out() {
        let header = "# a comment\nmsgid \"\"\nmsgstr \"\"\n\"Language: fr\\n\"\n\n";
        let split = "#, python-format\nmsgid \"\"\n\"a \\\"b\\\" \"\n\"c\\n\"\nmsgstr \"d\"\n";
        let plural = "msgctxt \"unit\"\nmsgid \"one\"\nmsgid_plural \"many\"\nmsgstr[0] \"un\"\nmsgstr[1] \"des\"\n";
        let fuzzy = "#, python-format, fuzzy\nmsgid \"f\"\nmsgstr \"g\"\n\n";
        let rest =
            "#~ msgid \"old\"\n#~ msgstr \"vieux\"\n\nmsgid \"empty\"\nmsgstr \"\"\n\nmsgid \"last\"\nmsgstr \"fin\"";
        let all = found(&[header, split, plural, fuzzy, rest].concat());
        let expected =
            [vec![pair("a \"b\" c\n", "d")], vec![pair("one", "un"), pair("many", "des")], vec![pair("last", "fin")]];
        assert_eq!(all, expected);
    }

    #[test]
    fn other_lines_are_named() {
        for (text, line) in [
            ("msgid \"a\"\nmsgstr \"b", "line 2"),
            ("\"a\"", "line 1"),
            ("\n\nhello", "line 3"),
            ("msgid \"a\"b\"", "line 1"),
            ("other \"a\"", "line 1"),
            ("msgid \"a\\\"", "line 1"),
        ] {
            let error = format!("{:#}", messages(text).unwrap_err());
            assert!(error.starts_with(line), "{text}: {error}");
        }
    }
}
