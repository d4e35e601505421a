//! The options that every learning example takes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;

use crate::files;

/// Flatten it into an example's own: `#[command(flatten)] options: Options`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// The backend to run on, of those compiled in [default: the first]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// A run of a minute or two, as in the continuous integration
    #[arg(long)]
    pub short: bool,
    /// How many times every sample is seen [default: the example's own]
    #[arg(long, value_name = "N", conflicts_with = "steps", value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: Option<u64>,
    /// How many steps of the optimiser are taken [default: the example's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Where the checkpoint, the pictures and the page go [default: NAME-out here]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// What everything random follows from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The folder of the data [default: the cache's, which `cargo xtask data` fills]
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Begin anew, also where the folder holds a checkpoint
    #[arg(long)]
    pub fresh: bool,
}

impl Options {
    /// The name of the chosen backend, and its device.
    ///
    /// # Errors
    /// If it was not compiled in, or has no device here.
    pub fn device(&self) -> Result<(&'static str, Device)> {
        let known = attn::BACKENDS;
        let found = known.iter().find(|known| self.backend.as_ref().is_none_or(|name| name == *known));
        let Some(found) = found else {
            match &self.backend {
                Some(name) => {
                    bail!("--backend: expected one of those compiled in ({}), found {name}", known.join(", "))
                }
                None => bail!("this program was compiled without a backend: build it with a feature such as flex"),
            }
        };
        Ok((found, attn::device(found)?))
    }

    /// The folder of the data set `set`.
    ///
    /// # Errors
    /// If there is none; the line says how to get it.
    pub fn data(&self, set: &str) -> Result<PathBuf> {
        if let Some(folder) = &self.data {
            return if folder.is_dir() {
                Ok(folder.clone())
            } else {
                bail!("--data {}: no such folder", folder.display())
            };
        }
        let found = files::cached(set).filter(|folder| folder.is_dir());
        found.with_context(|| {
            format!("the data set {set} is not in the cache: `cargo xtask data {set}` fetches it; --data FOLDER takes your own")
        })
    }

    /// The folder for what the example `name` writes, made where there is none.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn out(&self, name: &str) -> Result<PathBuf> {
        let default = || PathBuf::from(format!("{name}{}-out", if self.short { "-short" } else { "" }));
        let folder = self.out.clone().unwrap_or_else(default);
        fs::create_dir_all(&folder).with_context(|| format!("--out {}", folder.display()))?;
        Ok(folder)
    }

    /// How many steps to take: `--steps`, or `--epochs` of `steps_per_epoch`, or else the example's own number of epochs, for a whole
    /// run and a short one.
    pub fn steps(&self, steps_per_epoch: usize, whole: usize, short: usize) -> usize {
        let own = if self.short { short } else { whole };
        let epochs = self.epochs.map_or(own, |epochs| usize::try_from(epochs).unwrap_or(usize::MAX));
        let by_epochs = epochs.saturating_mul(steps_per_epoch);
        self.steps.map_or(by_epochs, |steps| usize::try_from(steps).unwrap_or(usize::MAX)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &[&str]) -> Options {
        Cli::try_parse_from([&["x"], arguments].concat()).unwrap().options
    }

    #[test]
    fn steps_come_from_steps_from_epochs_or_from_the_example() {
        assert_eq!(parse(&[]).steps(10, 5, 2), 50);
        assert_eq!(parse(&["--short"]).steps(10, 5, 2), 20);
        assert_eq!(parse(&["--short", "--epochs", "3"]).steps(10, 5, 2), 30);
        assert_eq!(parse(&["--steps", "7"]).steps(10, 5, 2), 7);
        assert!(Cli::try_parse_from(["x", "--steps", "1", "--epochs", "1"]).is_err());
        assert!(Cli::try_parse_from(["x", "--epochs", "0"]).is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = parse(&["--backend", "abacus"]).device().unwrap_err().to_string();
        assert!(error.contains("abacus") && attn::BACKENDS.iter().all(|name| error.contains(name)), "{error}");
        let error = parse(&["--data", "no/such/folder"]).data("x").unwrap_err().to_string();
        assert_eq!(error, "--data no/such/folder: no such folder");
        assert!(parse(&[]).data("no-such-set").unwrap_err().to_string().contains("cargo xtask data no-such-set"));
    }
}
