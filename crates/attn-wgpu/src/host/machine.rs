//! What is known of a device beyond what it says of itself.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use burn_backend::cubecl::dtype_to_storage_type;
use burn_backend::{Bytes, DType, FloatDType, Shape, try_read_sync};
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::ir::HardwareProperties;
use burn_cubecl::cubecl::ir::features::{MmaConfig, Plane};
use burn_cubecl::cubecl::server::Handle;
use burn_cubecl::cubecl::{CubeCount, CubeDim};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;

use crate::device::mma::PLANE;
use crate::device::probe::{BROADCASTS, SHUFFLES, plane_probe};

/// A device, as the cutting of problems sees it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What the runtime says.
    pub hardware: HardwareProperties,
    /// A CPU in a GPU's place, such as llvmpipe: its loads are loops over a plane's units, its arithmetic is not.
    pub is_software: bool,
    /// Units of a plane that can tell each other what they loaded, where that is cheaper than loading it again; else 0.
    pub broadcasts: usize,
    /// Units that exchange numbers with those whose number differs in a bit: the fewest of a plane; 0 where they can't.
    pub shuffles: usize,
    /// Whether a plane's units can wait for each other.
    pub syncs_planes: bool,
    /// Types whose square matrices the device multiplies and adds in f32, with the length of a side, the longest first.
    pub matrix_sizes: Vec<(FloatDType, usize)>,
    /// Types for which the device has `mma` of 16×8×16, added in f32, and `ldmatrix`, with planes of 32: registers as NVIDIA's cards
    /// have them.
    pub instructions: Vec<FloatDType>,
    /// Whether CUDA's compiler makes the kernels, which takes its instructions as text.
    pub is_cuda: bool,
    /// Whether groups of four planes multiply matrices of f16 and bf16 that lie in shared memory, which CubeCL does not say: CUDA's
    /// `wgmma`, of compute capability 9.0 and no other.
    pub multiplies_in_groups: bool,
}

impl Machine {
    /// What `device` is. The first call tries what its planes can do, where that matters and they don't say it; later ones know it.
    pub fn of(device: &CubeDevice) -> Arc<Self> {
        static KNOWN: LazyLock<Mutex<HashMap<CubeDevice, Arc<Machine>>>> = LazyLock::new(Mutex::default);
        // A machine is known whole or not at all.
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(device.clone()).or_insert_with(|| Arc::new(Self::look(device))))
    }

    fn look(device: &CubeDevice) -> Self {
        let client = device.client();
        let properties = client.properties();
        let hardware = properties.hardware.clone();
        // A browser says little of its adapter, and its programs can't wait for a probe's answer: there it is taken for a card, and none
        // is asked.
        let is_browsers = cfg!(target_family = "wasm");
        // No card stands behind it, and its planes are as wide as a CPU's vectors.
        let is_bare = properties.identity.physical.is_none() && hardware.plane_size_max <= 16;
        let is_software = is_bare && !is_browsers;
        let (least, most) = (hardware.plane_size_min, hardware.plane_size_max);
        let is_known = !is_browsers && least.is_power_of_two() && (2..=PROBED as u32).contains(&least);
        let plane = properties.features.plane;
        let found =
            if is_known && (is_software || plane.contains(Plane::Ops)) { exchanges(device, &client, least) } else { 0 };
        let if_found = |bit: u32| if found & bit == bit { least as usize } else { 0 };
        let broadcasts = if is_software && least == most { if_found(BROADCASTS) } else { 0 };
        let mut matrix_sizes: Vec<(FloatDType, usize)> =
            properties.features.matmul.cmma.iter().filter_map(square_matrix).collect();
        let matmul = &properties.features.matmul;
        let instructions = [FloatDType::F16, FloatDType::BF16]
            .into_iter()
            .filter(|&dtype| {
                let narrow = dtype_to_storage_type(dtype.into());
                (least, most) == (PLANE as u32, PLANE as u32)
                    && matmul.ldmatrix.contains(&narrow)
                    && matmul.mma.iter().any(|config| is_instruction(config, dtype))
            })
            .collect();
        matrix_sizes.sort_by_key(|&(_, size)| std::cmp::Reverse(size));
        Self {
            hardware,
            is_software,
            broadcasts,
            shuffles: if_found(SHUFFLES),
            syncs_planes: plane.contains(Plane::Sync),
            matrix_sizes,
            instructions,
            is_cuda: properties.identity.fingerprint.starts_with(CUDA),
            multiplies_in_groups: properties.identity.fingerprint == GROUPS,
        }
    }

    /// The side of the largest square matrices of `dtype` that the device multiplies and adds in f32.
    pub fn matrix_size(&self, dtype: FloatDType) -> Option<usize> {
        self.matrix_sizes.iter().find(|(of, _)| *of == dtype).map(|&(_, size)| size)
    }
}

/// The type and side of matrices that are square and of one type, and are added in f32.
fn square_matrix(config: &MmaConfig) -> Option<(FloatDType, usize)> {
    let of = [FloatDType::F16, FloatDType::BF16].into_iter().find(|&dtype| {
        let narrow = dtype_to_storage_type(dtype.into());
        config.a_type == narrow && config.b_type == narrow && config.cd_type == dtype_to_storage_type(DType::F32)
    })?;
    let side = config.m as usize;
    let is_square = config.m == config.n && config.n == config.k;
    (is_square && (8..=16).contains(&side) && side.is_power_of_two()).then_some((of, side))
}

/// Whether it is A 16×16, B 16×8 of `dtype`, added in f32.
fn is_instruction(config: &MmaConfig, dtype: FloatDType) -> bool {
    let narrow = dtype_to_storage_type(dtype.into());
    let types = config.a_type == narrow && config.b_type == narrow;
    types && config.cd_type == dtype_to_storage_type(DType::F32) && (config.m, config.n, config.k) == (16, 8, 16)
}

/// How the names begin of what CUDA compiles for.
const CUDA: &str = "ptx_sm";
/// What devices are compiled for that multiply matrices in groups of planes.
const GROUPS: &str = "ptx_sm90";

/// Units that the probe runs on.
const PROBED: usize = 64;

/// How units exchange numbers within planes of `plane`, as they lie in the cube: the bits of probe.rs. CubeCL says of no CPU device
/// that it can, though llvmpipe can; and of no card that planes are runs of units, though they are.
fn exchanges(device: &CubeDevice, client: &Client, plane: u32) -> u32 {
    let found = empty_device_contiguous_dtype(client.clone(), device.clone(), Shape::new([PROBED]), DType::U32);
    plane_probe::launch(
        client,
        CubeCount::Static(1, 1, 1),
        CubeDim::new_1d(PROBED as u32),
        found.clone().into_tensor_arg(),
        plane,
    );
    let Ok(bytes) = read(client, found.handle) else { return 0 };
    if bytes.len() < 4 * PROBED {
        return 0;
    }
    bytes.chunks_exact(4).take(PROBED).fold(BROADCASTS | SHUFFLES, |found, word| {
        found & word.iter().enumerate().fold(0, |bits, (at, &byte)| bits | u32::from(byte) << (8 * at))
    })
}

/// What lies in a buffer.
///
/// # Errors
/// The driver's reason, or that this program can't wait for it: one in a browser.
pub fn read(client: &Client, handle: Handle) -> Result<Bytes, String> {
    let read =
        try_read_sync(client.read_async(vec![handle])).ok_or("a program in a browser can't wait for a device")?;
    read.map_err(|error| error.to_string())?.pop().ok_or_else(|| "nothing was read".to_string())
}
