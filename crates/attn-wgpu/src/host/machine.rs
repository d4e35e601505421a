//! What is known of a device beyond what it says of itself.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use burn_backend::{DType, Shape};
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::ir::HardwareProperties;
use burn_cubecl::cubecl::{CubeCount, CubeDim};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;

use crate::device::probe::plane_probe;

/// A device, as the cutting of problems sees it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What the runtime says.
    pub hardware: HardwareProperties,
    /// A CPU in a GPU's place, such as llvmpipe: its loads are loops over a plane's units, its arithmetic is not.
    pub is_software: bool,
    /// Units of a plane that can tell each other what they loaded, where that is cheaper than loading it again; else 0.
    pub broadcasts: usize,
}

impl Machine {
    /// What `device` is. On a software driver the first call tries whether its planes can broadcast.
    pub fn of(device: &CubeDevice) -> Self {
        let client = device.client();
        let properties = client.properties();
        let hardware = properties.hardware.clone();
        // No card stands behind it, and its planes are as wide as a CPU's vectors.
        let is_software = properties.identity.physical.is_none() && hardware.plane_size_max <= 16;
        let plane = hardware.plane_size_max;
        let fixed = plane == hardware.plane_size_min && (2..=PROBED as u32).contains(&plane);
        let broadcasts = if is_software && fixed && can_broadcast(device, &client, plane) { plane as usize } else { 0 };
        Self { hardware, is_software, broadcasts }
    }
}

/// Units that the probe runs on.
const PROBED: usize = 64;

/// Whether units broadcast within planes of `plane` as they lie in the cube: CubeCL says of no CPU device that it can, though
/// llvmpipe can. Asked once of each device.
fn can_broadcast(device: &CubeDevice, client: &Client, plane: u32) -> bool {
    static ANSWERS: LazyLock<Mutex<HashMap<String, bool>>> = LazyLock::new(Mutex::default);
    // An answer is written whole or not at all.
    let mut answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
    *answers.entry(format!("{device:?}")).or_insert_with(|| probe(device, client, plane))
}

fn probe(device: &CubeDevice, client: &Client, plane: u32) -> bool {
    let found = empty_device_contiguous_dtype(client.clone(), device.clone(), Shape::new([PROBED]), DType::U32);
    plane_probe::launch(
        client,
        CubeCount::Static(1, 1, 1),
        CubeDim::new_1d(PROBED as u32),
        found.clone().into_tensor_arg(),
        plane,
    );
    let Ok(bytes) = client.read_one(found.handle) else { return false };
    bytes.len() >= 4 * PROBED && bytes.chunks_exact(4).take(PROBED).all(|word| word == 1u32.to_ne_bytes())
}
