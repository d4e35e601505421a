//! Files in and out: the sentences of a text file, and writing that leaves either the old file or the whole new one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The sentences of a text, one a line, and how many blank lines were passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentences {
    /// In the order of the file.
    pub lines: Vec<String>,
    /// Lines with nothing but blanks: they make no row.
    pub blank: usize,
}

/// Reads a file of sentences, one a line, in UTF-8.
///
/// # Errors
/// If the file cannot be read, is not UTF-8 (the line is named), or holds no sentence.
pub fn read_sentences(path: &Path) -> Result<Sentences> {
    let name = path.display();
    let bytes = fs::read(path).with_context(|| format!("--sentences {name}"))?;
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
            bail!("--sentences {name}: line {line} is not UTF-8");
        }
    };
    let sentences = split(text);
    if sentences.lines.is_empty() {
        bail!("--sentences {name}: expected at least one sentence, one a line; found none");
    }
    Ok(sentences)
}

/// Splits a text at line ends. A byte-order mark and blanks around a line are no part of it.
pub fn split(text: &str) -> Sentences {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (lines, blank): (Vec<_>, Vec<_>) = text.lines().map(str::trim).partition(|line| !line.is_empty());
    Sentences { lines: lines.into_iter().map(str::to_string).collect(), blank: blank.len() }
}

/// Writes a file so that whoever looks sees the old one or the whole new one.
///
/// # Errors
/// If the folder or the file cannot be written; nothing is left behind then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(name) = path.file_name() else { bail!("{}: expected a file name", path.display()) };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let temporary: PathBuf = path.with_file_name(hidden);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It may never have been made.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("attn-minilm-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn blank_lines_make_no_row_and_are_counted() {
        let sentences = split("\u{feff}one\r\n\n   \n two \n\tthree");
        assert_eq!(sentences, Sentences { lines: vec!["one".into(), "two".into(), "three".into()], blank: 2 });
        assert_eq!(split(""), Sentences { lines: vec![], blank: 0 });
    }

    #[test]
    fn the_bundled_text_holds_sentences_and_no_blank_line() {
        let sentences = split(crate::BUNDLED);
        assert_eq!((sentences.lines.len(), sentences.blank), (20, 0));
    }

    #[test]
    fn a_text_without_sentences_or_not_utf8_or_absent_is_one_line_that_says_so() {
        let folder = folder("read");
        let path = folder.join("s.txt");
        let error = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            format!("{:#}", read_sentences(&path).unwrap_err())
        };
        assert!(error(b"\n  \n").ends_with("s.txt: expected at least one sentence, one a line; found none"));
        assert!(error(b"fine\nna\xefve\n").ends_with("s.txt: line 2 is not UTF-8"));
        fs::remove_file(&path).unwrap();
        let absent = format!("{:#}", read_sentences(&path).unwrap_err());
        assert!(absent.contains("s.txt") && !absent.contains('\n'), "{absent}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_write_replaces_the_whole_file_or_leaves_nothing() {
        let folder = folder("write");
        let path = folder.join("out.bin");
        write_atomically(&path, b"a longer first text").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        // A folder stands where the file should go: an error, and no temporary file stays.
        fs::create_dir(folder.join("taken")).unwrap();
        fs::write(folder.join("taken/inside"), b"").unwrap();
        assert!(write_atomically(&folder.join("taken"), b"x").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        assert!(write_atomically(&folder.join("no/such/folder.bin"), b"x").is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
