//! Files: the folder of a data set, and writing that leaves either the old file or the whole new one.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The folder of a data set where no other is named: that of the cache, where `cargo xtask data` puts it. `None` where no cache
/// folder is known.
pub fn cached(set: &str) -> Option<PathBuf> {
    let own = std::env::var_os("ATTN_CACHE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let xdg = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().map(|home| home.join(".cache"));
    let cache = own.or_else(|| Some(xdg().or_else(home)?.join("attn")))?;
    Some(cache.join("data").join(set))
}

/// Writes a file so that whoever looks sees the old one or the whole new one, also after a power cut.
///
/// # Errors
/// If the folder or the file cannot be written; nothing is left behind then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(name) = path.file_name() else { bail!("{}: expected a file name", path.display()) };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(hidden);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It may never have been made.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}
