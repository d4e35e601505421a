//! The one table of backends: what a name means to cargo, what it needs here, and the command that gets it.
//!
//! A new backend is a new row of [`TABLE`]; every command reads it from there.

use std::ffi::OsString;
use std::num::NonZero;

use anyhow::Result;

use crate::{gpu, libtorch, table};

/// A row: a backend that users can choose, or a kernel path that only `verify` can demand.
pub struct Backend {
    /// The name on the command line.
    pub name: &'static str,
    /// The cargo feature that brings it, the same in every package that has backends.
    pub feature: &'static str,
    /// The package that binds it, tested with it.
    pub binding: &'static str,
    /// What it is for users.
    pub kind: Kind,
    /// What it needs, for a person.
    pub needs: &'static str,
    /// Looks for what it needs: what was found, or what is missing.
    pub look: fn() -> Result<String, String>,
    /// The command that gets what is missing.
    pub get: &'static str,
    /// Makes sure that what it needs is here, fetching it where that can be done; gives the environment that cargo and the
    /// programs then need.
    pub prepare: fn() -> Result<Environment>,
    /// Features of single packages that it needs besides, as `(package, feature)`.
    pub extra: &'static [Feature],
}

impl Backend {
    /// Whether it runs on GPUs, or on what stands in for one.
    pub fn is_gpu(&self) -> bool {
        self.binding == "attn-wgpu"
    }
}

/// Variables for the processes that are started.
pub type Environment = Vec<(&'static str, OsString)>;

/// Which commands take a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A backend of Burn: every command.
    Backend,
    /// A backend that needs a card which no machine can stand in for: every command but the continuous integration's.
    Card,
    /// One kernel on some backend's tensors: `verify` alone.
    Path,
}

/// Every backend and every kernel path.
pub const TABLE: &[Backend] = &[
    Backend {
        name: "ndarray",
        feature: "ndarray",
        binding: "attn-ndarray",
        kind: Kind::Backend,
        needs: "a CPU",
        look: cpu,
        get: "",
        prepare: nothing,
        extra: &[],
    },
    Backend {
        name: "flex",
        feature: "flex",
        binding: "attn-flex",
        kind: Kind::Backend,
        needs: "a CPU",
        look: cpu,
        get: "",
        prepare: nothing,
        extra: &[],
    },
    Backend {
        name: "tch",
        feature: "tch",
        binding: "attn-tch",
        kind: Kind::Backend,
        needs: "LibTorch 2.9.0",
        look: libtorch::look,
        get: "cargo xtask libtorch",
        prepare: libtorch::environment,
        extra: &[],
    },
    Backend {
        name: "wgpu",
        feature: "wgpu",
        binding: "attn-wgpu",
        kind: Kind::Backend,
        needs: "a driver for Vulkan, Metal or DirectX 12",
        look: gpu::look,
        get: gpu::GET,
        prepare: gpu::environment,
        extra: &[],
    },
    Backend {
        name: "cuda",
        feature: "cuda",
        binding: "attn-wgpu",
        kind: Kind::Card,
        needs: "an NVIDIA card, its driver and a CUDA toolkit",
        look: gpu::look_cuda,
        get: "NVIDIA's driver and CUDA toolkit",
        prepare: gpu::environment_cuda,
        extra: &[],
    },
    path("composite", "any backend", always),
    path("reference", "any backend", always),
    path("cpu-portable", "a CPU", always),
    path("cpu-avx2", "an x86-64 CPU with AVX2 and FMA", avx2),
    path("cpu-avx512", "an x86-64 CPU with AVX-512F", avx512),
    path("cpu-avx512-bf16", "an x86-64 CPU with AVX512-BF16", avx512_bf16),
    Backend { extra: NEON_MODEL, ..path("cpu-neon", "a 64-bit ARM CPU, or the patience for a model of one", neon) },
];

/// What commands take where no backend is named.
pub const DEFAULT: [&str; 2] = ["ndarray", "flex"];

/// The packages with one feature for each backend.
pub const WITH_FEATURES: [&str; 14] = [
    "burn-attn",
    "attn-testing",
    "attn-benches",
    "attn-example-minilm",
    "attn-example-libtorch",
    "attn-example-learn",
    "attn-example-digits",
    "attn-example-translate",
    "attn-example-sentiment",
    "attn-example-support",
    "attn-example-recommend",
    "attn-example-forecast",
    "attn-example-fuse",
    "attn-example-lm",
];

/// Those of them that are libraries alone.
const LIBRARIES: [&str; 2] = ["burn-attn", "attn-example-learn"];

/// Every package that has a program with backends.
pub fn with_programs() -> Vec<&'static str> {
    WITH_FEATURES.into_iter().filter(|name| !LIBRARIES.contains(name)).collect()
}

/// Where no CPU has NEON, its kernel runs on a model of it.
pub const NEON_MODEL: &[Feature] = if cfg!(target_arch = "aarch64") { &[] } else { &[("attn-cpu", "neon-model")] };

/// A kernel path. It runs on Flex tensors, so it needs that backend's feature.
const fn path(name: &'static str, needs: &'static str, look: fn() -> Result<String, String>) -> Backend {
    let get = "run it on such a CPU";
    let (binding, feature, kind) = ("attn-flex", "flex", Kind::Path);
    Backend { name, feature, binding, kind, needs, look, get, prepare: nothing, extra: &[] }
}

/// For clap: the name of a backend.
pub fn parse_backend(name: &str) -> Result<&'static Backend, String> {
    find(name, |row| row.kind != Kind::Path)
}

/// For clap: the name of a backend or of a kernel path.
pub fn parse_any(name: &str) -> Result<&'static Backend, String> {
    find(name, |_| true)
}

fn find(name: &str, allowed: fn(&Backend) -> bool) -> Result<&'static Backend, String> {
    let found = TABLE.iter().find(|row| row.name == name && allowed(row));
    found.ok_or_else(|| {
        let known: Vec<_> = TABLE.iter().filter(|row| allowed(row)).map(|row| row.name).collect();
        format!("the known names are {}", known.join(", "))
    })
}

/// What the caller named, or the default where nothing was named.
pub fn or_default(named: &[&'static Backend]) -> Vec<&'static Backend> {
    if named.is_empty() { TABLE.iter().filter(|row| DEFAULT.contains(&row.name)).collect() } else { named.to_vec() }
}

/// Makes sure that what `chosen` need is here; gives the environment that cargo and the programs then need.
pub fn prepare(chosen: &[&Backend]) -> Result<Environment> {
    let mut environment = Environment::new();
    for backend in chosen {
        environment.extend((backend.prepare)()?);
    }
    Ok(environment)
}

/// A feature of one package.
pub type Feature = (&'static str, &'static str);

/// What cargo is told to build `packages` for `chosen`: each package, and the features of those that have backends, with `extra`
/// ones of single packages besides.
pub fn selection(packages: &[&'static str], chosen: &[&Backend], extra: &[Feature]) -> Vec<String> {
    let extra = once(chosen.iter().flat_map(|row| row.extra).chain(extra).copied());
    let packages = once(packages.iter().copied().chain(extra.iter().map(|(package, _)| *package)));
    let mut words: Vec<String> = packages.iter().map(|package| format!("--package={package}")).collect();
    words.extend(["--no-default-features".into(), features(&packages, chosen, &extra)]);
    words
}

/// `--features` for `chosen` in each of `packages` that has backends, and the `extra` ones.
pub fn features(packages: &[&'static str], chosen: &[&Backend], extra: &[Feature]) -> String {
    let names = once(chosen.iter().map(|row| row.feature));
    let with_backends = packages.iter().filter(|package| WITH_FEATURES.contains(package));
    let pairs = with_backends.flat_map(|package| names.iter().map(move |name| (*package, *name)));
    let all = pairs.chain(extra.iter().copied()).map(|(package, feature)| format!("{package}/{feature}"));
    format!("--features={}", all.collect::<Vec<_>>().join(","))
}

/// The packages that bind `chosen`, each once.
pub fn bindings(chosen: &[&Backend]) -> Vec<&'static str> {
    once(chosen.iter().map(|row| row.binding))
}

/// `--backend NAME` for each of `chosen`.
pub fn arguments(chosen: &[&Backend]) -> Vec<&'static str> {
    chosen.iter().flat_map(|row| ["--backend", row.name]).collect()
}

fn once<T: PartialEq>(names: impl Iterator<Item = T>) -> Vec<T> {
    let mut kept = Vec::new();
    for name in names {
        if !kept.contains(&name) {
            kept.push(name);
        }
    }
    kept
}

/// For `doctor`: each row with what was found or what is missing, and the command that gets it.
pub fn report() -> String {
    let rows = TABLE.iter().map(|row| {
        let (ready, found, get) = match (row.look)() {
            Ok(found) => ("yes", found, ""),
            Err(missing) => ("no", missing, row.get),
        };
        let by = if row.kind == Kind::Path { "verify" } else { "every command" };
        [row.name.into(), ready.into(), by.into(), row.needs.into(), found, get.into()]
    });
    table::text(["backend", "runs here", "taken by", "needs", "found", "to get it"], rows)
}

/// How many threads the machine runs at once.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

fn nothing() -> Result<Environment> {
    Ok(Environment::new())
}

fn always() -> Result<String, String> {
    Ok("nothing more".into())
}

fn cpu() -> Result<String, String> {
    Ok(format!("{} threads", threads()))
}

fn avx512() -> Result<String, String> {
    cpu_features(&[("avx512f", avx512f_detected())])
}

fn avx512_bf16() -> Result<String, String> {
    cpu_features(&[("avx512f", avx512f_detected()), ("avx512bf16", avx512bf16_detected())])
}

fn avx2() -> Result<String, String> {
    cpu_features(&[("avx2", avx2_detected()), ("fma", fma_detected())])
}

fn neon() -> Result<String, String> {
    Ok(if cfg!(target_arch = "aarch64") { "neon" } else { "NEON modelled in plain Rust" }.into())
}

fn cpu_features(features: &[(&str, bool)]) -> Result<String, String> {
    let missing: Vec<_> = features.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        let names: Vec<_> = features.iter().map(|(name, _)| *name).collect();
        return Ok(names.join(", "));
    }
    Err(format!("this CPU lacks {}", missing.join(", ")))
}

#[cfg(target_arch = "x86_64")]
fn avx512f_detected() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

#[cfg(target_arch = "x86_64")]
fn avx512bf16_detected() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512bw")
}

#[cfg(target_arch = "x86_64")]
fn avx2_detected() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(target_arch = "x86_64")]
fn fma_detected() -> bool {
    std::arch::is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn avx512f_detected() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn avx512bf16_detected() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn avx2_detected() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn fma_detected() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_default_is_known() {
        for (at, row) in TABLE.iter().enumerate() {
            assert!(TABLE[..at].iter().all(|other| other.name != row.name), "{} stands twice", row.name);
        }
        assert_eq!(or_default(&[]).len(), DEFAULT.len());
        assert!(DEFAULT.iter().all(|name| parse_backend(name).is_ok()));
    }

    #[test]
    fn features_and_arguments_follow_the_choice() {
        let chosen = [parse_any("flex").unwrap(), parse_any("composite").unwrap(), parse_any("ndarray").unwrap()];
        assert_eq!(features(&["attn-cpu", "burn-attn"], &chosen, &[]), "--features=burn-attn/flex,burn-attn/ndarray");
        assert_eq!(bindings(&chosen), ["attn-flex", "attn-ndarray"]);
        assert_eq!(arguments(&chosen), ["--backend", "flex", "--backend", "composite", "--backend", "ndarray"]);
    }

    #[test]
    fn a_missing_feature_is_named() {
        assert_eq!(cpu_features(&[("avx2", true), ("fma", false)]), Err("this CPU lacks fma".into()));
        assert_eq!(cpu_features(&[("avx2", true), ("fma", true)]), Ok("avx2, fma".into()));
    }

    #[test]
    fn doctor_lists_every_row() {
        let report = report();
        assert!(TABLE.iter().all(|row| report.lines().any(|line| line.starts_with(row.name))), "{report}");
    }
}
