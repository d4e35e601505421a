//! Which kinds of calls the driver has taken.
//!
//! A driver refuses a kernel when it compiles it, which it does at the kernel's first launch. To ask whether it did is to wait for the
//! runtime's thread, which takes several times as long as a short call's launches. So it is asked about the first call of each kind, and
//! about those that make so much that the wait is lost in them. What fails in another call has left its mark on what should have been
//! written: CubeCL launches nothing that reads it, and to bring it to the host is an error.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex, PoisonError};

use attn_core::{AttentionError, AttentionKernel, Problem};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

use crate::host::arguments::{self, width};
use crate::kernel::Cube;

/// Bytes made from which on a call is asked about in any case: at a card's speed they take longer than the question.
const MUCH: u64 = 1 << 24;
/// The widest load of any kernel, in elements.
const WIDEST: usize = 8;

/// All that the kernels of a call are compiled for.
#[derive(Debug)]
pub struct Kind {
    kernel: Cube,
    device: CubeDevice,
    hasher: DefaultHasher,
}

impl Kind {
    /// What a call of `problem` by `kernel` on `device` always depends on; `keep` tells what is true in the mask.
    pub fn new(kernel: Cube, device: CubeDevice, problem: &Problem, keep: bool) -> Self {
        let mut hasher = DefaultHasher::new();
        let Problem { head_dim, value_dim, sinks, .. } = *problem;
        let numbers = (head_dim, value_dim, sinks, arguments::is_above_0(problem), arguments::has_bands(problem));
        (kernel, &device, arguments::options(problem, keep), numbers).hash(&mut hasher);
        Self { kernel, device, hasher }
    }

    /// What else it depends on.
    pub fn with(mut self, what: impl Hash) -> Self {
        what.hash(&mut self.hasher);
        self
    }

    /// The tensors that are there, how they may be loaded and counted.
    pub fn of<'a>(mut self, tensors: impl Iterator<Item = &'a CubeTensor>) -> Self {
        for tensor in tensors {
            let dim = tensor.meta.shape().last().copied().unwrap_or(1);
            let loads = width(&[tensor], dim, WIDEST);
            (tensor.dtype, loads, tensor.required_address_type()).hash(&mut self.hasher);
        }
        self
    }

    /// Whether the driver took the launches that have made `made`, where that is to be asked.
    ///
    /// # Errors
    /// [`Execution`](AttentionError::Execution), with the driver's reason.
    pub fn check<'a>(self, made: impl Iterator<Item = &'a CubeTensor> + Clone) -> Result<(), AttentionError> {
        static TAKEN: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);
        // A set of numbers is whole at any time.
        let taken = || TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let Self { kernel, device, hasher } = self;
        let kind = hasher.finish();
        let bytes: u64 = made.clone().map(|tensor| tensor.handle.size()).sum();
        if bytes < MUCH && taken().contains(&kind) {
            return Ok(());
        }
        device.client().check(made.map(|tensor| &tensor.handle)).map_err(|error| AttentionError::Execution {
            kernel: AttentionKernel::<CubeBackend>::name(&kernel).to_string(),
            reason: error.to_string(),
        })?;
        taken().insert(kind);
        Ok(())
    }
}
