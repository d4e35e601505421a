//! Takes what is kept out of a package: a zip, or a `.tar.gz`, or a `.tar.gz` in one of them.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::Path;

use flate2::read::GzDecoder;

use super::{FetchError, Form, Kept, Package, Source, at, write};

impl Kept<'_> {
    /// Where a file of the archive goes, if it is kept.
    fn target(&self, path: &str) -> Option<String> {
        match self {
            Self::File { from, to } => (path == *from).then(|| (*to).to_owned()),
            Self::Folder { from, to } => {
                let rest = path.strip_prefix(from)?;
                if rest.is_empty() || rest.ends_with('/') || rest.ends_with(".py") {
                    return None;
                }
                Some(format!("{to}{rest}"))
            }
            Self::Inside { .. } => None,
        }
    }

    /// Where the files go that are named one by one.
    pub(super) fn targets(&self) -> Vec<&str> {
        match self {
            Self::File { to, .. } => vec![to],
            Self::Folder { .. } => vec![],
            Self::Inside { keep, .. } => keep.iter().flat_map(Kept::targets).collect(),
        }
    }

    fn from(&self) -> &str {
        match self {
            Self::File { from, .. } | Self::Folder { from, .. } => from,
            Self::Inside { archive, .. } => archive,
        }
    }
}

/// How the files of an archive are put together.
#[derive(Clone, Copy)]
enum Kind {
    Zip,
    TarGz,
}

/// Hears of a file: its path, its length, its contents.
type See<'a> = dyn FnMut(&str, u64, &mut dyn Read) -> Result<(), FetchError> + 'a;

/// Takes what is kept out of a package; gives the lines of its sums.
pub(super) fn unpack(path: &Path, package: &Package, into: &Path, source: &dyn Source) -> Result<String, FetchError> {
    let kind = match package.form {
        Form::Wheel => Kind::Zip,
        Form::Sdist | Form::Npm => Kind::TarGz,
    };
    let open = || File::open(path).map(BufReader::new).map_err(at(path));
    let mut total = 0;
    kept_files(kind, open()?, package.requirement, package.keep, &mut |_, size, _| {
        total += size;
        Ok(())
    })?;
    let (mut sums, mut done) = (String::new(), 0);
    kept_files(kind, open()?, package.requirement, package.keep, &mut |to, _, contents| {
        sums += &write(contents, into, to, |bytes| {
            done += bytes;
            source.unpacked(done, total);
        })?;
        Ok(())
    })?;
    Ok(sums)
}

/// Shows `see` every kept file by where it goes. `name`: that of the archive, for errors.
fn kept_files(
    kind: Kind,
    archive: impl Read + Seek,
    name: &str,
    keep: &[Kept],
    see: &mut See,
) -> Result<(), FetchError> {
    let mut met = vec![false; keep.len()];
    let mut look = |path: &str, size: u64, contents: &mut dyn Read| {
        for (kept, met) in keep.iter().zip(&mut met) {
            if let Kept::Inside { archive, keep } = kept {
                if path == *archive {
                    let mut bytes = Vec::new();
                    contents.read_to_end(&mut bytes).map_err(inside(path))?;
                    kept_files(Kind::TarGz, Cursor::new(bytes), path, keep, see)?;
                    *met = true;
                }
            } else if let Some(to) = kept.target(path) {
                see(&to, size, contents)?;
                *met = true;
            }
        }
        Ok(())
    };
    match kind {
        Kind::Zip => walk_zip(archive, name, &mut look)?,
        Kind::TarGz => walk_tar(archive, name, &mut look)?,
    }
    match keep.iter().zip(met).find(|(_, met)| !met) {
        Some((kept, _)) => Err(inside(kept.from())(io::ErrorKind::NotFound.into())),
        None => Ok(()),
    }
}

fn walk_zip(archive: impl Read + Seek, name: &str, see: &mut See) -> Result<(), FetchError> {
    let mut archive = zip::ZipArchive::new(archive).map_err(io::Error::from).map_err(inside(name))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(io::Error::from).map_err(inside(name))?;
        let path = entry.name().map_err(io::Error::from).map_err(inside(name))?.into_owned();
        let size = entry.size();
        see(&path, size, &mut entry)?;
    }
    Ok(())
}

fn walk_tar(archive: impl Read, name: &str, see: &mut See) -> Result<(), FetchError> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    for entry in archive.entries().map_err(inside(name))? {
        let mut entry = entry.map_err(inside(name))?;
        if entry.header().entry_type().is_file() {
            let path = entry.path().map_err(inside(name))?.to_string_lossy().into_owned();
            let size = entry.size();
            see(&path, size, &mut entry)?;
        }
    }
    Ok(())
}

/// Says where in the package something is amiss.
fn inside(path: &str) -> impl Fn(io::Error) -> FetchError + use<> {
    let path = path.to_owned();
    move |source| FetchError::Archive { path: path.clone(), source }
}
