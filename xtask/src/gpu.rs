//! What GPU backends need here: a driver that the system's loader finds.
//!
//! On Linux a Vulkan driver announces itself by a manifest, a JSON file that names its library; the loader looks for them in
//! fixed folders. On other systems the driver is part of the system.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Result, bail};

use crate::backends::Environment;
use crate::debian;

/// Debian's package of drivers, one of them for machines without a GPU.
const PACKAGE: &str = "mesa-vulkan-drivers";

/// The command that gets a driver.
pub const GET: &str = "apt-get install -y mesa-vulkan-drivers (Debian), or your GPU's Vulkan driver";

/// The Vulkan drivers here, by their manifests.
pub fn look() -> Result<String, String> {
    if !cfg!(target_os = "linux") {
        return Ok("the system's own driver".into());
    }
    let found = drivers(&folders());
    if found.is_empty() { Err("no Vulkan driver".into()) } else { Ok(found.join(", ")) }
}

/// What a program needs to start wgpu here.
pub fn environment() -> Result<Environment> {
    if let Err(missing) = look() {
        bail!("{missing}: {GET}");
    }
    // Without it every look for an adapter prints a complaint.
    let quiet = cfg!(target_os = "linux") && env::var_os("XDG_RUNTIME_DIR").is_none();
    Ok(if quiet { vec![("XDG_RUNTIME_DIR", env::temp_dir().into_os_string())] } else { Environment::new() })
}

/// NVIDIA's driver.
pub fn look_cuda() -> Result<String, String> {
    let output = Command::new("nvidia-smi").args(["--query-gpu=name,driver_version", "--format=csv,noheader"]).output();
    let cards = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let cards = cards.map(|cards| String::from_utf8_lossy(&cards).trim().replace('\n', "; "));
    cards.filter(|cards| !cards.is_empty()).ok_or_else(|| "no NVIDIA card with its driver".into())
}

/// What a program needs to use CUDA here.
pub fn environment_cuda() -> Result<Environment> {
    match look_cuda() {
        Ok(_) => Ok(Environment::new()),
        Err(missing) => bail!("{missing}"),
    }
}

/// Installs a driver where there is none and Debian's package manager is at hand: for machines that only run tests.
pub fn install() -> Result<()> {
    if look().is_err() {
        debian::install(&[PACKAGE], GET)?;
    }
    look().map(|_| ()).map_err(anyhow::Error::msg)
}

/// Where the loader looks for manifests; the user's variables replace its folders.
fn folders() -> Vec<PathBuf> {
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        if let Some(files) = env::var_os(variable) {
            return env::split_paths(&files).collect();
        }
    }
    let home = env::home_dir().map(|home| home.join(".local/share").into_os_string());
    let roots = [Some("/etc"), Some("/usr/local/etc"), Some("/usr/local/share"), Some("/usr/share")];
    let roots = roots.into_iter().flatten().map(OsString::from).chain(home);
    roots.map(|root| Path::new(&root).join("vulkan/icd.d")).collect()
}

/// The names of the manifests in some folders, or of the files themselves.
fn drivers(places: &[PathBuf]) -> Vec<String> {
    let inside = |place: &PathBuf| match fs::read_dir(place) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => vec![place.clone()],
    };
    let manifests = places.iter().flat_map(inside).filter(|path| path.is_file());
    let manifests = manifests.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let mut names: Vec<String> =
        manifests.filter_map(|path| Some(path.file_stem()?.to_string_lossy().replace(".x86_64", ""))).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_drivers_and_nothing_else_is() {
        let folder = env::temp_dir().join(format!("xtask-gpu-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in ["lvp_icd.x86_64.json", "radeon_icd.json", "README"] {
            fs::write(folder.join(name), "{}").unwrap();
        }
        let gone = folder.join("not-there");
        let single = folder.join("lvp_icd.x86_64.json");
        assert_eq!(drivers(&[folder.clone(), gone.clone()]), ["lvp_icd", "radeon_icd"]);
        assert_eq!(drivers(&[single]), ["lvp_icd"]);
        assert!(drivers(&[gone]).is_empty());
        fs::remove_dir_all(&folder).unwrap();
    }
}
