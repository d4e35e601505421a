//! The checks of text: module comments, lengths, `unsafe`, primitive types, host names, home folders.

use super::{Finding, Source, lexer};

/// Longer files say why they are.
const MOST_LINES: usize = 500;
/// How a long file's reason begins.
const REASON: &str = "//! Long because";

/// Where `unsafe` is: the kernels, and the benchmarks, which count allocations and measure the machine's peaks.
const UNSAFE_IN: [&str; 2] = ["crates/attn-cpu/", "benches/src/"];

/// Burn's primitive tensor types, each with the one folder that may name it.
const PRIMITIVES: [(&str, &str); 4] = [
    ("NdArrayTensor", "crates/attn-ndarray/"),
    ("FlexTensor", "crates/attn-flex/"),
    ("CubeTensor", "crates/attn-wgpu/"),
    ("TchTensor", "crates/attn-tch/"),
];

/// Hosts of package registries: whose they are is the user's own setting. Spelled in two halves, so as not to find itself.
const HOSTS: [&str; 8] = [
    concat!("crates", ".io"),
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("deb", ".debian.org"),
    concat!("hugging", "face.co"),
    concat!("arti", "factory"),
    concat!("conda", ".org"),
];
/// Cargo itself writes the registry's address there.
const HOSTS_ALLOWED_IN: &str = "Cargo.lock";

/// Where people's home folders are.
const HOMES: [&str; 3] = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/")];

/// Every finding in these files.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().flat_map(check_file).collect()
}

fn check_file(source: &Source) -> Vec<Finding> {
    let mut findings = hosts_and_homes(source);
    if source.path.ends_with(".rs") {
        findings.extend(module_comment(source));
        findings.extend(length(source));
        findings.extend(kept_words(source));
    }
    findings
}

/// A Rust file opens with what it is.
fn module_comment(source: &Source) -> Option<Finding> {
    let opens = source.text.starts_with("//!");
    (!opens).then(|| Finding::new(&source.path, 1, "the file does not open with a //! comment that says what it is"))
}

/// A long Rust file says why it is long.
fn length(source: &Source) -> Option<Finding> {
    let lines = source.text.lines().count();
    let reasoned = source.text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.starts_with(REASON));
    let text = || format!("{lines} lines are more than {MOST_LINES}: divide the file, or say `{REASON} …` in its head");
    (lines > MOST_LINES && !reasoned).then(|| Finding::new(&source.path, MOST_LINES + 1, text()))
}

/// Words of code that belong to some folders alone.
fn kept_words(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let allows = |folder: &str| source.path.starts_with(folder);
    for (at, line) in lexer::code(&source.text).lines().enumerate() {
        let mut find = |text: String| findings.push(Finding::new(&source.path, at + 1, text));
        if has_word(line, "unsafe") && !UNSAFE_IN.into_iter().any(allows) {
            find(format!("unsafe code belongs in {} alone", UNSAFE_IN.join(", ")));
        }
        for (name, folder) in PRIMITIVES {
            if has_word(line, name) && !allows(folder) {
                find(format!("{name} is a primitive type of Burn: only {folder} names it"));
            }
        }
    }
    findings
}

/// Whether `word` stands in `line` by itself, and not as part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name))
}

/// Whose registry and whose machine it is does not belong into the tree, in prose neither.
fn hosts_and_homes(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        let mut find = |text: String| findings.push(Finding::new(&source.path, at + 1, text));
        let host = HOSTS.into_iter().find(|host| line.contains(host) && source.path != HOSTS_ALLOWED_IN);
        if let Some(host) = host {
            find(format!("{host} is the host of a registry: leave it to the user's settings"));
        }
        if let Some(home) = HOMES.into_iter().find(|home| has_path(line, home)) {
            find(format!("an absolute path under {home} is some machine's own"));
        }
    }
    findings
}

/// Whether an absolute path begins with `start`: `a/home/b` and `…io/home/` are other things.
fn has_path(line: &str, start: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || "._-~/}".contains(c);
    line.match_indices(start).any(|(at, _)| {
        !line[..at].ends_with(goes_on) && line[at + start.len()..].starts_with(|c: char| c.is_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines and texts of what is found in one made-up file.
    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        let source = Source { path: path.into(), text: text.into() };
        check(&[source]).into_iter().map(|finding| (finding.line, finding.text)).collect()
    }

    /// Asserts one finding, on `line`, that speaks of `about`.
    fn assert_one(path: &str, text: &str, line: usize, about: &str) {
        let found = found(path, text);
        assert!(matches!(&found[..], [(at, text)] if *at == line && text.contains(about)), "{path}: {found:?}");
    }

    #[test]
    fn a_file_without_a_module_comment_is_found() {
        assert_one("a.rs", "// a\nfn a() {}\n", 1, "//!");
        assert_one("a.rs", "", 1, "//!");
        assert_eq!(found("a.rs", "//! A.\nfn a() {}\n"), []);
        assert_eq!(found("a.toml", "a = 1\n"), []);
    }

    #[test]
    fn a_long_file_without_its_reason_is_found() {
        let body = "\n".repeat(MOST_LINES);
        assert_one("a.rs", &format!("//! A.\n{body}"), MOST_LINES + 1, "501 lines");
        assert_eq!(found("a.rs", &format!("//! A.{body}")), []);
        assert_eq!(found("a.rs", &format!("//! A.\n//! Long because it is a table.\n{body}")), []);
        assert_one("a.rs", &format!("//! A.\n\n//! Long because the head is over.\n{body}"), MOST_LINES + 1, "lines");
    }

    #[test]
    fn unsafe_outside_kernels_is_found() {
        let text = "//! A.\nfn a() {\n    unsafe { b() }\n}\n";
        assert_one("crates/attn/src/a.rs", text, 3, "unsafe");
        assert_eq!(found("crates/attn-cpu/src/a.rs", text), []);
        let prose = "//! unsafe\n#![forbid(unsafe_code)]\n// unsafe\nconst A: &str = \"unsafe\";\n";
        assert_eq!(found("crates/attn/src/a.rs", prose), []);
    }

    #[test]
    fn a_primitive_type_outside_its_binding_is_found() {
        let text = "//! A.\nuse burn_flex::FlexTensor;\n";
        assert_one("crates/attn-ndarray/src/a.rs", text, 2, "FlexTensor");
        assert_eq!(found("crates/attn-flex/src/a.rs", text), []);
        assert_eq!(found("crates/attn/src/a.rs", "//! FlexTensor\nstruct MyFlexTensor;\nstruct FlexTensors;\n"), []);
    }

    #[test]
    fn hosts_of_registries_are_found_but_in_the_lock_file() {
        let text = format!("a = 1\nb = \"https://{}/x\"\n", HOSTS[0]);
        assert_one("a.toml", &text, 2, HOSTS[0]);
        assert_one("crates/a/Cargo.lock", &text, 2, HOSTS[0]);
        assert_eq!(found("Cargo.lock", &text), []);
    }

    #[test]
    fn home_folders_are_found() {
        for home in HOMES {
            assert_one("README.md", &format!("see {home}someone/x\n"), 1, home);
            assert_one("a.sh", &format!("cd \"{home}someone\"\n"), 1, home);
            assert_eq!(found("README.md", &format!("docs{home}page, ${{HOME}}{home}x, {home}\n")), []);
        }
    }
}
