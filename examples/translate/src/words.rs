//! A text as words and signs, and back: `L'objet « %s » n'existe pas.` is `↑ l ' objet ▁«▁ %s ▁»▁ n ' existe pas .`
//!
//! Words are in small letters, behind `↑` where they begin with a capital; those with capitals inside stay as they are. `%(name)s` and
//! the like are words. A sign carries the blanks around it as `▁`; between two words is one anyway.

/// Makes the next word begin with a capital.
const CAPITAL: &str = "↑";

/// The words and signs of a text.
pub fn split(text: &str) -> Vec<String> {
    let (mut pieces, mut rest, mut is_blank): (Vec<String>, _, _) = (Vec::new(), text, false);
    while let Some(first) = rest.chars().next() {
        let length = match placeholder(rest) {
            Some(length) => length,
            None if is_of_word(first) => rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()),
            None => first.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        if first.is_whitespace() {
            match pieces.last_mut() {
                Some(last) if is_sign(last) => last.push('▁'),
                _ => is_blank = true,
            }
        } else if is_sign(piece) {
            pieces.push(format!("{}{piece}", if std::mem::take(&mut is_blank) { "▁" } else { "" }));
        } else {
            is_blank = false;
            let lower = piece.to_lowercase();
            if capitalised(&lower) == piece && lower != piece {
                pieces.extend([CAPITAL.into(), lower]);
            } else {
                pieces.push(piece.into());
            }
        }
    }
    pieces
}

/// The text of words and signs.
pub fn join<'a>(pieces: impl IntoIterator<Item = &'a str>) -> String {
    let (mut text, mut is_word, mut is_capital) = (String::new(), false, false);
    for piece in pieces {
        if piece == CAPITAL {
            is_capital = true;
        } else if is_sign(piece) {
            text.push_str(&piece.replace('▁', " "));
            is_word = false;
        } else {
            if std::mem::replace(&mut is_word, true) {
                text.push(' ');
            }
            text.push_str(&if std::mem::take(&mut is_capital) { capitalised(piece) } else { piece.into() });
        }
    }
    text.trim().into()
}

/// Whether it is a word, and not a sign.
pub fn is_word(piece: &str) -> bool {
    piece != CAPITAL && !is_sign(piece)
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_sign(piece: &str) -> bool {
    piece != CAPITAL && placeholder(piece).is_none() && !piece.chars().next().is_some_and(is_of_word)
}

fn capitalised(word: &str) -> String {
    let mut rest = word.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

/// The length of what a text begins with, if it stands for what a program puts in: `%s`, `%(name)s`, `{name}`.
fn placeholder(text: &str) -> Option<usize> {
    let of = |open: &str, close: char, more: usize| {
        let inner = text.strip_prefix(open)?;
        let end = inner.find(|c| !is_of_word(c))?;
        let length = open.len() + end + close.len_utf8() + more;
        (inner[end..].starts_with(close) && text.is_char_boundary(length)).then_some(length)
    };
    let short = (text.starts_with("%s") || text.starts_with("%d")).then_some(2);
    short.or_else(|| of("%(", ')', 1)).or_else(|| of("{", '}', 0)).filter(|&length| length <= text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_apart_and_together() {
        for (text, pieces) in [
            ("L'objet « %s » n'existe pas.", "↑ l ' objet ▁«▁ %s ▁»▁ n ' existe pas ."),
            ("Enter a valid URL", "↑ enter a valid URL"),
            ("%(num)d weeks, or {n} (more)", "%(num)d weeks ,▁ or {n} ▁( more )"),
            ("100% (of) % it", "100 %▁ ( of )▁ %▁ it"),
            ("tag: a\u{a0}b", "tag :▁ a b"),
            ("%(é", "% ( é"),
            ("", ""),
        ] {
            assert_eq!(split(text).join(" "), pieces);
            assert_eq!(join(split(text).iter().map(String::as_str)), text.replace('\u{a0}', " "));
        }
        assert!(is_word("%(name)s") && is_word("mot") && !is_word("▁(") && !is_word(CAPITAL));
    }
}
