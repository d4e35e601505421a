//! What devices are here.

use std::fmt;

use burn_backend::FloatDType;
use burn_cubecl::{CubeBackend, CubeDevice};

use crate::host::machine::Machine;

/// A device of one of CubeCL's runtimes, by what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Its own name.
    pub name: String,
    /// The runtime, with the language that its kernels are compiled to, such as `wgpu<wgsl>`.
    pub runtime: String,
    /// Units of a plane (a warp, a wavefront, a subgroup): the fewest and the most.
    pub plane: (u32, u32),
    /// Bytes of shared memory that a cube (a workgroup, a block) can have.
    pub shared_bytes: usize,
    /// Whether it is a CPU in a GPU's place.
    pub is_software: bool,
    /// The narrow types that its tensors can have.
    pub narrow: Vec<FloatDType>,
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.plane;
        write!(f, "{} by {}: planes of {least}", self.name, self.runtime)?;
        if most != least {
            write!(f, " to {most}")?;
        }
        write!(f, " units, {} KiB of shared memory", self.shared_bytes / 1024)?;
        for dtype in &self.narrow {
            write!(f, ", {}", name(*dtype))?;
        }
        if self.is_software { f.write_str(", software") } else { Ok(()) }
    }
}

fn name(dtype: FloatDType) -> String {
    format!("{dtype:?}").to_lowercase()
}

/// The devices that are here, of all runtimes compiled in. Starts each; in a browser the program has to have started its adapter before.
pub fn adapters() -> Vec<Adapter> {
    CubeDevice::enumerate_all().iter().map(adapter).collect()
}

fn adapter(device: &CubeDevice) -> Adapter {
    let client = device.client();
    let identity = &client.properties().identity;
    let machine = Machine::of(device);
    let Machine { hardware, is_software, .. } = machine.as_ref();
    let narrow = [FloatDType::F16, FloatDType::BF16];
    Adapter {
        name: identity.name.clone(),
        runtime: client.name().to_string(),
        plane: (hardware.plane_size_min, hardware.plane_size_max),
        shared_bytes: hardware.max_shared_memory_size,
        is_software: *is_software,
        narrow: narrow
            .into_iter()
            .filter(|dtype| <CubeBackend as burn_backend::Backend>::supports_dtype(device, (*dtype).into()))
            .collect(),
    }
}
