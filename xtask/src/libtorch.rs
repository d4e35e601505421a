//! `cargo xtask libtorch`: LibTorch for the backend `tch`, in the cache that outlives the checkout.
//!
//! It comes from the wheels of PyTorch: the libraries and headers, none of the Python. For CPUs three libraries and two that
//! they load are enough, half a gigabyte; the set for CUDA takes 7 GB. The build of the crate `torch-sys` asks for a `libtorch.so`;
//! where there are only the CPU's libraries, that is a linker script that names them.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};

use crate::backends::Environment;
use crate::fetch::{Asset, FetchError, Form, Kept, Package, Store};
use crate::registry::Registry;
use crate::workspace;

/// Which set.
#[derive(clap::Args)]
pub struct Args {
    /// The set with CUDA's libraries: 3.6 GB to fetch, 7 GB on the disk
    #[arg(long)]
    cuda: bool,
}

/// The release, which `torch-sys` is made for.
const VERSION: &str = "2.9.0";

/// The wheels are for Python 3.11 and Linux on x86-64, whatever Python fetches them.
const OPTIONS: &[&str] = &[
    "--python-version=3.11",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux_2_27_x86_64",
    "--platform=manylinux_2_17_x86_64",
    "--platform=manylinux2014_x86_64",
    "--platform=manylinux_2_12_x86_64",
    "--platform=manylinux2010_x86_64",
];

const CPU: Asset<'static> = Asset {
    folder: "libtorch-2.9.0-cpu",
    packages: &[
        torch(&[
            HEADERS,
            library("torch/lib/libc10.so", "lib/libc10.so"),
            library("torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
            library("torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
        ]),
        nvidia(
            "nvidia-cuda-runtime-cu12==12.8.90",
            954_765,
            "adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90",
            &[library("nvidia/cuda_runtime/lib/libcudart.so.12", "lib/libcudart.so.12")],
        ),
        nvidia(
            "nvidia-cuda-cupti-cu12==12.8.90",
            10_248_621,
            "ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182",
            &[library("nvidia/cuda_cupti/lib/libcupti.so.12", "lib/libcupti.so.12")],
        ),
    ],
    texts: &[("build-version", VERSION), ("lib/libtorch.so", "INPUT(-ltorch_cpu)\n")],
};

const CUDA: Asset<'static> = Asset {
    folder: "libtorch-2.9.0-cuda",
    packages: &[
        torch(&[
            HEADERS,
            library("torch/lib/libc10.so", "lib/libc10.so"),
            library("torch/lib/libc10_cuda.so", "lib/libc10_cuda.so"),
            library("torch/lib/libcaffe2_nvrtc.so", "lib/libcaffe2_nvrtc.so"),
            library("torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
            library("torch/lib/libtorch.so", "lib/libtorch.so"),
            library("torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
            library("torch/lib/libtorch_cuda.so", "lib/libtorch_cuda.so"),
            library("torch/lib/libtorch_cuda_linalg.so", "lib/libtorch_cuda_linalg.so"),
            library("torch/lib/libtorch_nvshmem.so", "lib/libtorch_nvshmem.so"),
        ]),
        nvidia(
            "nvidia-cuda-runtime-cu12==12.8.90",
            954_765,
            "adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90",
            &[libraries("nvidia/cuda_runtime/lib/")],
        ),
        nvidia(
            "nvidia-cuda-cupti-cu12==12.8.90",
            10_248_621,
            "ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182",
            &[libraries("nvidia/cuda_cupti/lib/")],
        ),
        nvidia(
            "nvidia-cuda-nvrtc-cu12==12.8.93",
            88_040_029,
            "a7756528852ef889772a84c6cd89d41dfa74667e24cca16bb31f8f061e3e9994",
            &[libraries("nvidia/cuda_nvrtc/lib/")],
        ),
        nvidia(
            "nvidia-cudnn-cu12==9.10.2.21",
            706_758_467,
            "949452be657fa16687d0930933f032835951ef0892b37d2d53824d1a84dc97a8",
            &[libraries("nvidia/cudnn/lib/")],
        ),
        nvidia(
            "nvidia-cublas-cu12==12.8.4.1",
            594_346_921,
            "8ac4e771d5a348c551b2a426eda6193c19aa630236b418086020df5ba9667142",
            &[libraries("nvidia/cublas/lib/")],
        ),
        nvidia(
            "nvidia-cufft-cu12==11.3.3.83",
            193_118_695,
            "4d2dd21ec0b88cf61b62e6b43564355e5222e4a3fb394cac0db101f2dd0d4f74",
            &[libraries("nvidia/cufft/lib/")],
        ),
        nvidia(
            "nvidia-curand-cu12==10.3.9.90",
            63_619_976,
            "b32331d4f4df5d6eefa0554c565b626c7216f87a06a4f56fab27c3b68a830ec9",
            &[libraries("nvidia/curand/lib/")],
        ),
        nvidia(
            "nvidia-cusolver-cu12==11.7.3.90",
            267_506_905,
            "4376c11ad263152bd50ea295c05370360776f8c3427b30991df774f9fb26c450",
            &[libraries("nvidia/cusolver/lib/")],
        ),
        nvidia(
            "nvidia-cusparse-cu12==12.5.8.93",
            288_216_466,
            "1ec05d76bbbd8b61b06a80e1eaf8cf4959c3d4ce8e711b65ebd0443bb0ebb13b",
            &[libraries("nvidia/cusparse/lib/")],
        ),
        nvidia(
            "nvidia-cusparselt-cu12==0.7.1",
            287_193_691,
            "f1bb701d6b930d5a7cea44c19ceb973311500847f81b634d802b7b539dc55623",
            &[libraries("nvidia/cusparselt/lib/")],
        ),
        nvidia(
            "nvidia-nccl-cu12==2.27.5",
            322_348_229,
            "ad730cf15cb5d25fe849c6e6ca9eb5b76db16a80f13f425ac68d8e2e55624457",
            &[libraries("nvidia/nccl/lib/")],
        ),
        nvidia(
            "nvidia-nvshmem-cu12==3.3.20",
            124_657_145,
            "d00f26d3f9b2e3c3065be895e3059d6479ea5c638a3f38c9fec49b1b9dd7c1e5",
            &[libraries("nvidia/nvshmem/lib/")],
        ),
        nvidia(
            "nvidia-nvtx-cu12==12.8.90",
            89_954,
            "5b17e2001cc0d751a5bc2c6ec6d26ad95913324a4adb86788c944f8ce9ba441f",
            &[libraries("nvidia/nvtx/lib/")],
        ),
        nvidia(
            "nvidia-nvjitlink-cu12==12.8.93",
            39_254_836,
            "81ff63371a7ebd6e6451970684f916be2eab07321b73c9d244dc2b4da7f73b88",
            &[libraries("nvidia/nvjitlink/lib/")],
        ),
        nvidia(
            "nvidia-cufile-cu12==1.13.1.3",
            1_197_834,
            "1d069003be650e131b21c932ec3d8969c1715379251f8d23a1860554b1cb24fc",
            &[libraries("nvidia/cufile/lib/")],
        ),
    ],
    texts: &[("build-version", VERSION)],
};

const HEADERS: Kept<'static> = Kept::Folder { from: "torch/include/", to: "include/" };

const fn torch(keep: &'static [Kept<'static>]) -> Package<'static> {
    nvidia("torch==2.9.0", 899_815_990, "51de31219c97c51cf4bf2be94d622e3deb5dcc526c6dc00e97c17eaec0fc1d67", keep)
}

const fn nvidia(
    requirement: &'static str,
    bytes: u64,
    sha256: &'static str,
    keep: &'static [Kept<'static>],
) -> Package<'static> {
    Package { requirement, form: Form::Wheel, options: OPTIONS, bytes, sha256, keep }
}

const fn library(from: &'static str, to: &'static str) -> Kept<'static> {
    Kept::File { from, to }
}

const fn libraries(from: &'static str) -> Kept<'static> {
    Kept::Folder { from, to: "lib/" }
}

/// Fetches the set that is asked for, unless it is there, and says where it lies.
pub fn run(args: &Args) -> Result<ExitCode> {
    let folder = ensure(if args.cuda { &CUDA } else { &CPU })?;
    println!("LibTorch {VERSION} is complete in {}", folder.display());
    if let Some(own) = own() {
        println!("LIBTORCH is set, so that commands with --backend tch use {} instead", own.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What cargo and the programs need to find LibTorch: the user's own where `LIBTORCH` is set, else the cache's, which is fetched
/// now if it is not there.
///
/// # Errors
/// One line that says what is missing and how to get it.
pub fn environment() -> Result<Environment> {
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        // The build asks Python then, and so must whoever runs what it built.
        return Ok(Environment::new());
    }
    if let Some(own) = own() {
        let lib = own.join("lib");
        if !lib.is_dir() {
            bail!("LIBTORCH is {}, and there is no folder lib in it", own.display());
        }
        return Ok(vec![loader(&lib)]);
    }
    let folder = match cached()? {
        Some(folder) => folder,
        None => {
            eprintln!("LibTorch {VERSION} is not in the cache: fetching it once (0.9 GB; 0.5 GB stay)");
            ensure(&CPU)?
        }
    };
    Ok(vec![("LIBTORCH", folder.clone().into()), loader(&folder.join("lib"))])
}

/// For `doctor`: where LibTorch lies, or that it does not.
pub fn look() -> Result<String, String> {
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some() {
        return Ok("the PyTorch of this Python, as LIBTORCH_USE_PYTORCH says".into());
    }
    if let Some(own) = own() {
        let found = format!("{} (from LIBTORCH)", own.display());
        return if own.join("lib").is_dir() { Ok(found) } else { Err(format!("no folder lib in {found}")) };
    }
    match cached() {
        Ok(Some(folder)) => Ok(folder.display().to_string()),
        Ok(None) => Err("not fetched yet".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The user's own LibTorch.
fn own() -> Option<PathBuf> {
    env::var_os("LIBTORCH").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The cache's LibTorch: the set with CUDA where it was fetched, else that for CPUs.
fn cached() -> Result<Option<PathBuf>> {
    let store = store()?;
    let there = [CUDA, CPU].into_iter().find(|asset| store.looks_complete(asset));
    Ok(there.map(|asset| store.folder(&asset)))
}

fn store() -> Result<Store> {
    Ok(Store::new(workspace::cache()?.join("libtorch")))
}

fn ensure(asset: &Asset<'static>) -> Result<PathBuf> {
    const HINT: &str =
        "cargo xtask libtorch fetches it where there is a network; LIBTORCH takes the folder of one of your own";
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("LibTorch {VERSION} is fetched for Linux on x86-64 alone; LIBTORCH takes the folder of one of your own");
    }
    store()?.ensure(asset, &Registry::new("LibTorch")).map_err(|error| match error {
        FetchError::Download(why) => anyhow!("LibTorch {VERSION} could not be fetched ({why}); {HINT}"),
        other => anyhow!(other),
    })
}

/// The variable by which programs find shared libraries, with `lib` before what it holds.
fn loader(lib: &Path) -> (&'static str, OsString) {
    let name = if cfg!(target_os = "macos") {
        "DYLD_FALLBACK_LIBRARY_PATH"
    } else if cfg!(windows) {
        "PATH"
    } else {
        "LD_LIBRARY_PATH"
    };
    let before = env::var_os(name).unwrap_or_default();
    let paths = std::iter::once(lib.to_owned()).chain(env::split_paths(&before).filter(|path| path != lib));
    // A path with a separator in it cannot be said to the loader at all.
    (name, env::join_paths(paths).unwrap_or_else(|_| lib.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_looks_there_first_and_once() {
        let (_, value) = loader(Path::new("/a/lib"));
        let paths: Vec<_> = env::split_paths(&value).collect();
        assert_eq!(paths[0], Path::new("/a/lib"));
        assert_eq!(paths.iter().filter(|path| *path == Path::new("/a/lib")).count(), 1);
    }

    #[test]
    fn both_sets_have_what_the_build_asks_for() {
        for asset in [&CPU, &CUDA] {
            let texts = asset.texts.iter().map(|(to, _)| *to);
            let files = asset.packages.iter().flat_map(|package| package.keep).filter_map(|kept| match kept {
                Kept::File { to, .. } => Some(*to),
                Kept::Folder { .. } | Kept::Inside { .. } => None,
            });
            let all: Vec<_> = texts.chain(files).collect();
            for name in ["build-version", "lib/libtorch.so", "lib/libtorch_cpu.so", "lib/libc10.so"] {
                assert_eq!(all.iter().filter(|file| **file == name).count(), 1, "{}: {name}", asset.folder);
            }
            assert!(asset.packages.iter().all(|package| package.sha256.len() == 64 && package.bytes > 0));
        }
    }
}
