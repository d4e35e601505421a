//! What cargo knows of this workspace: its packages, what each uses, whether it is published.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::workspace;

/// The part of `cargo metadata` that is used here.
#[derive(Deserialize)]
pub struct Metadata {
    /// The packages of the workspace, without those they depend on.
    pub packages: Vec<Package>,
    /// Where cargo builds.
    pub target_directory: PathBuf,
    workspace_root: String,
}

/// A package of the workspace.
#[derive(Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its manifest's path from the root, with `/`.
    pub manifest_path: String,
    /// `None`: to any registry; `publish = false` gives an empty list.
    pub publish: Option<Vec<String>>,
    /// What it depends on, of every kind, optional or not.
    pub dependencies: Vec<Dependency>,
}

/// A dependency by its package name.
#[derive(Deserialize)]
pub struct Dependency {
    /// The name.
    pub name: String,
}

impl Package {
    /// Whether it may be published.
    pub fn is_published(&self) -> bool {
        self.publish.as_ref().is_none_or(|registries| !registries.is_empty())
    }
}

impl Metadata {
    /// Asks cargo.
    pub fn read() -> Result<Self> {
        let mut cargo = workspace::cargo("metadata");
        let output = cargo.args(["--no-deps", "--format-version", "1"]).stderr(Stdio::inherit()).output();
        let output = output.context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", output.status);
        }
        let mut metadata: Self =
            serde_json::from_slice(&output.stdout).context("cargo metadata says something unknown")?;
        for package in &mut metadata.packages {
            if let Some(path) = package.manifest_path.strip_prefix(&metadata.workspace_root) {
                package.manifest_path = path.trim_start_matches(['/', '\\']).replace('\\', "/");
            }
        }
        Ok(metadata)
    }
}
