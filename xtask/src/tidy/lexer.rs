//! Blanks the comments, strings and characters of Rust source, so that what is left is code.
//!
//! Every blanked character becomes a space and newlines stay, so that lines keep their numbers.

/// The code of `source`, its comments and literals blanked.
pub fn code(source: &str) -> String {
    let mut rest = source;
    let mut out = String::with_capacity(source.len());
    while let Some(first) = rest.chars().next() {
        let after_word = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let skipped = skipped_len(rest, after_word);
        if skipped > 0 {
            out.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// How many bytes of a comment or literal `rest` begins with; 0 where it begins with code.
fn skipped_len(rest: &str, after_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_len(rest);
    }
    if !after_word && let Some(len) = raw_string_len(rest) {
        return len;
    }
    match rest.as_bytes()[0] {
        b'"' => quoted_len(rest, '"'),
        b'\'' => char_len(rest),
        _ => 0,
    }
}

/// A block comment, nested ones included.
fn block_comment_len(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `br"…"`, `cr"…"`.
fn raw_string_len(rest: &str) -> Option<usize> {
    let start = rest.strip_prefix("br").or_else(|| rest.strip_prefix("cr")).or_else(|| rest.strip_prefix('r'))?;
    let hashes = start.len() - start.trim_start_matches('#').len();
    let inside = start[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let before = rest.len() - inside.len();
    Some(inside.find(&end).map_or(rest.len(), |at| before + at + end.len()))
}

/// A literal up to its unescaped closing quote.
fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// A character literal; 0 for a lifetime.
fn char_len(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted_len(rest, '\''),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::code;

    /// What is left, with blanks squeezed.
    fn left(source: &str) -> String {
        code(source).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_go() {
        assert_eq!(left("a // b \"\nc /* d /* e */ f */ g /// h\n//! i\nj"), "a c g j");
    }

    #[test]
    fn strings_go() {
        assert_eq!(left(r#"a "b \" c" d b"e" f"#), "a d b f");
        assert_eq!(left("a r\"b\\\" c r#\"d \" e\"# f br##\"g\"# h\"## i"), "a c f i");
    }

    #[test]
    fn characters_go_and_lifetimes_stay() {
        assert_eq!(left(r"a '\'' b '\u{41}' 'x' '\\' c <'life> &'static str"), "a b c <'life> &'static str");
        assert_eq!(left("m!('\"') unsafe"), "m!( ) unsafe");
    }

    #[test]
    fn words_that_end_in_r_are_no_raw_strings() {
        assert_eq!(left("str\"x\" for"), "str for");
    }

    #[test]
    fn lines_keep_their_numbers() {
        let source = "/* a\nb */ c\n\"d\ne\" f\n";
        assert_eq!(code(source).lines().map(str::trim).collect::<Vec<_>>(), ["", "c", "", "f"]);
    }

    #[test]
    fn what_is_not_closed_goes_to_the_end() {
        assert_eq!(left("a /* b"), "a");
        assert_eq!(left("a \"b"), "a");
        assert_eq!(left("a r#\"b\""), "a");
    }
}
