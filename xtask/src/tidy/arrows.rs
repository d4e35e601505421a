//! Who may use whom: the arrows of the architecture, read from what cargo says of the manifests.
//!
//! ```text
//! attn → bindings → attn-core        attn-ndarray, attn-flex, attn-tch → attn-host → attn-core, attn-cpu        attn-wgpu → attn-core
//! ```
//! A binding never uses another binding. The contract, the reference and the oracles use no kernel.

use super::{Finding, Source};
use crate::metadata::Package;

/// What a package may use of this workspace, and of Burn. Dev-dependencies count too: a test that leans on a kernel is an
/// arrow like any other.
struct Rule {
    package: &'static str,
    workspace: &'static [&'static str],
    burn: Burn,
}

/// Which of Burn's crates a package may use.
#[derive(Clone, Copy)]
enum Burn {
    Any,
    Only(&'static [&'static str]),
}

const CORE: &str = "attn-core";
const CPU: &str = "attn-cpu";
/// What the bindings of tensors in the host's memory share.
const HOST: &str = "attn-host";
/// What the learning examples share.
const LEARN: &str = "attn-example-learn";
const NONE: Burn = Burn::Only(&[]);
const PRIMITIVES: Burn = Burn::Only(&["burn-backend", "burn-std"]);

/// A package without a rule is a finding: whoever adds one draws its arrows here and in ARCHITECTURE.md.
const RULES: [Rule; 23] = [
    Rule { package: CORE, workspace: &[], burn: PRIMITIVES },
    Rule { package: CPU, workspace: &[], burn: NONE },
    Rule { package: HOST, workspace: &[CORE, CPU], burn: PRIMITIVES },
    Rule {
        package: "attn-ndarray",
        workspace: &[CORE, CPU, HOST],
        burn: Burn::Only(&["burn-backend", "burn-std", "burn-ndarray"]),
    },
    Rule {
        package: "attn-flex",
        workspace: &[CORE, CPU, HOST],
        burn: Burn::Only(&["burn-backend", "burn-std", "burn-flex"]),
    },
    Rule { package: "attn-tch", workspace: &[CORE, HOST], burn: Burn::Only(&["burn-backend", "burn-std", "burn-tch"]) },
    Rule { package: "attn-wgpu", workspace: &[CORE], burn: Burn::Only(&["burn-backend", "burn-std", "burn-cubecl"]) },
    Rule {
        package: "burn-attn",
        workspace: &[CORE, "attn-ndarray", "attn-flex", "attn-tch", "attn-wgpu", "attn-testing"],
        burn: Burn::Any,
    },
    Rule { package: "attn-testing", workspace: &[CORE, "burn-attn"], burn: Burn::Any },
    Rule { package: "attn-benches", workspace: &[CORE, CPU, "attn-tch", "burn-attn", "attn-testing"], burn: Burn::Any },
    Rule { package: "attn-example-minilm", workspace: &["burn-attn"], burn: Burn::Any },
    Rule { package: "attn-example-libtorch", workspace: &["burn-attn"], burn: Burn::Any },
    Rule { package: "attn-example-browser", workspace: &[CORE, "burn-attn"], burn: Burn::Any },
    Rule { package: LEARN, workspace: &["burn-attn"], burn: Burn::Any },
    Rule { package: "attn-example-digits", workspace: &["burn-attn", LEARN], burn: Burn::Any },
    Rule { package: "attn-example-translate", workspace: &["burn-attn", LEARN], burn: Burn::Any },
    Rule { package: "attn-example-sentiment", workspace: &["burn-attn", LEARN], burn: Burn::Any },
    Rule { package: "attn-example-support", workspace: &["burn-attn", LEARN], burn: Burn::Any },
    Rule { package: "attn-example-recommend", workspace: &["burn-attn", LEARN], burn: Burn::Any },
    Rule { package: "attn-example-forecast", workspace: &["burn-attn", LEARN], burn: Burn::Any },
    Rule { package: "attn-example-fuse", workspace: &["burn-attn", LEARN], burn: Burn::Any },
    Rule { package: "attn-example-lm", workspace: &["burn-attn", LEARN], burn: Burn::Any },
    Rule { package: "xtask", workspace: &[], burn: NONE },
];

/// Every arrow that no rule allows.
pub fn check(packages: &[Package], sources: &[Source]) -> Vec<Finding> {
    packages.iter().flat_map(|package| check_package(package, packages, sources)).collect()
}

fn check_package(package: &Package, all: &[Package], sources: &[Source]) -> Vec<Finding> {
    let manifest = &package.manifest_path;
    let Some(rule) = RULES.iter().find(|rule| rule.package == package.name) else {
        return vec![Finding::new(manifest, 1, format!("{} has no rule of what it may use", package.name))];
    };
    let text = sources.iter().find(|source| &source.path == manifest).map_or("", |source| source.text.as_str());
    let refused = package.dependencies.iter().filter_map(|used| {
        let why = refusal(rule, &used.name, all)?;
        Some(Finding::new(manifest, line_of(text, &used.name), format!("{} uses {}: {why}", package.name, used.name)))
    });
    refused.collect()
}

/// Why `rule` does not allow `used`, where it doesn't.
fn refusal(rule: &Rule, used: &str, all: &[Package]) -> Option<String> {
    if all.iter().any(|package| package.name == used) {
        let allowed = rule.workspace.contains(&used);
        return (!allowed).then(|| format!("of this workspace it may use {}", list(rule.workspace)));
    }
    let is_burns = used == "burn" || used.starts_with("burn-");
    match rule.burn {
        Burn::Only(names) if is_burns && !names.contains(&used) => Some(format!("of Burn it may use {}", list(names))),
        _ => None,
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

/// The line of a manifest that begins with a dependency's key; line 1 where the key is another name.
fn line_of(manifest: &str, name: &str) -> usize {
    // The workspace calls the package `burn-attn` by its library's name.
    let keys = [name, if name == "burn-attn" { "attn" } else { name }];
    let is_key = |line: &str| {
        keys.iter().any(|key| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', ' ', '='])))
    };
    manifest.lines().position(is_key).map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Dependency, Metadata};

    /// A made-up workspace of every known package, in which `user` alone has dependencies.
    fn found(user: &str, used: &[&str]) -> Vec<Finding> {
        let package = |name: &str| Package {
            name: name.into(),
            manifest_path: format!("crates/{name}/Cargo.toml"),
            publish: None,
            dependencies: if name == user {
                used.iter().map(|name| Dependency { name: (*name).into() }).collect()
            } else {
                vec![]
            },
        };
        let mut packages: Vec<_> = RULES.iter().map(|rule| package(rule.package)).collect();
        if RULES.iter().all(|rule| rule.package != user) {
            packages.push(package(user));
        }
        let lines: String = used.iter().map(|name| format!("{name}.workspace = true\n")).collect();
        let manifest = Source { path: format!("crates/{user}/Cargo.toml"), text: format!("[dependencies]\n{lines}") };
        check(&packages, &[manifest])
    }

    #[test]
    fn the_drawn_arrows_are_allowed() {
        for rule in &RULES {
            assert_eq!(found(rule.package, rule.workspace), []);
        }
        assert_eq!(found(CORE, &["burn-backend", "burn-std", "thiserror"]), []);
        assert_eq!(found(CPU, &["rayon", "half", "proptest"]), []);
    }

    #[test]
    fn every_other_arrow_is_found_on_its_line() {
        let refused = [
            (CORE, "burn"),
            (CORE, "burn-ndarray"),
            (CORE, CPU),
            (CORE, "attn-testing"),
            (CPU, "burn-std"),
            (CPU, CORE),
            (HOST, "burn-flex"),
            (HOST, "attn-flex"),
            ("attn-ndarray", "attn-flex"),
            ("attn-flex", "attn-ndarray"),
            ("attn-flex", "burn-ndarray"),
            ("attn-flex", "burn-attn"),
            ("burn-attn", CPU),
            ("attn-testing", CPU),
            ("attn-example-minilm", CORE),
            ("xtask", "burn"),
            ("xtask", "burn-attn"),
        ];
        for (user, used) in refused {
            let findings = found(user, &["anyhow", used]);
            assert_eq!(findings.len(), 1, "{user} uses {used}: {findings:?}");
            assert_eq!((findings[0].path.as_str(), findings[0].line), (&*format!("crates/{user}/Cargo.toml"), 3));
            assert!(findings[0].text.contains(user) && findings[0].text.contains(used));
        }
    }

    #[test]
    fn a_package_without_a_rule_is_found() {
        assert!(found("attn-new", &[])[0].text.contains("no rule"));
    }

    #[test]
    fn a_renamed_key_is_found_too() {
        assert_eq!(
            line_of("[dependencies]\nattn-core.workspace = true\nattn = { workspace = true }\n", "burn-attn"),
            3
        );
    }

    #[test]
    fn this_workspace_keeps_to_its_arrows() {
        assert_eq!(check(&Metadata::read().unwrap().packages, &[]), []);
    }
}
