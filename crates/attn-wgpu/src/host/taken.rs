//! Which kinds of calls the driver has taken.
//!
//! A driver refuses a kernel when it compiles it, which it does at the kernel's first launch. To ask whether it did is to wait for the
//! runtime's thread, which takes several times as long as a short call's launches. So it is asked about the first call of each kind, and
//! about those that make much. What fails in another call has left its mark on what should have been written: CubeCL launches nothing
//! that reads it, and to bring it to the host is an error. Unless another launch of that call is taken and writes the same tensor: in
//! calls that are asked about, they are asked about one by one.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use attn_core::{AttentionError, AttentionKernel, Problem};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

use crate::host::arguments::{self, width};
use crate::kernel::Cube;

/// Bytes made from which on a call is asked about in any case: they may not be had.
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
            let is_row = tensor.meta.strides().last() == Some(&1);
            (tensor.dtype, loads, is_row, tensor.required_address_type()).hash(&mut self.hasher);
        }
        self
    }

    /// The launches of such a call, which makes so many bytes.
    pub fn launches(self, bytes: u64) -> Launches {
        let Self { kernel, device, hasher } = self;
        let kind = hasher.finish();
        if bytes < MUCH && taken().contains(&kind) {
            return Launches::unasked();
        }
        Launches { asked: Some(Asked { kernel, device, kind, refused: RefCell::new(None) }) }
    }
}

/// The launches of a call.
#[derive(Debug)]
pub struct Launches {
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    kernel: Cube,
    device: CubeDevice,
    kind: u64,
    /// The first refusal.
    refused: RefCell<Option<AttentionError>>,
}

impl Launches {
    /// About which the driver is not asked.
    pub fn unasked() -> Self {
        Self { asked: None }
    }

    /// To be told of what a launch wrote before another one writes it as well: a launch that is taken wipes out the mark of one before
    /// it that was refused.
    pub fn wrote(&self, written: &CubeTensor) {
        if let Some(asked) = &self.asked {
            asked.ask([written].into_iter());
        }
    }

    /// Whether the driver took all of them, where that is to be asked; `made` is what they have made.
    ///
    /// # Errors
    /// [`Execution`](AttentionError::Execution), with the driver's reason.
    pub fn end<'a>(self, made: impl Iterator<Item = &'a CubeTensor>) -> Result<(), AttentionError> {
        let Some(asked) = self.asked else { return Ok(()) };
        asked.ask(made);
        match asked.refused.into_inner() {
            Some(error) => Err(error),
            None => {
                taken().insert(asked.kind);
                Ok(())
            }
        }
    }
}

impl Asked {
    fn ask<'a>(&self, written: impl Iterator<Item = &'a CubeTensor>) {
        if let Err(error) = self.device.client().check(written.map(|tensor| &tensor.handle)) {
            self.refused.borrow_mut().get_or_insert_with(|| AttentionError::Execution {
                kernel: AttentionKernel::<CubeBackend>::name(&self.kernel).to_string(),
                reason: error.to_string(),
            });
        }
    }
}

/// The kinds of calls that drivers have taken whole.
fn taken() -> MutexGuard<'static, HashSet<u64>> {
    static TAKEN: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);
    // A set of numbers is whole at any time.
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use attn_core::{AttentionSpec, ProblemInputs, TensorInfo};
    use burn_backend::DType;

    use super::*;

    #[test]
    fn a_kind_is_asked_about_once_and_much_always() {
        let Some(device) = CubeDevice::enumerate_all().into_iter().next() else {
            println!("skipped: there is no adapter");
            return;
        };
        let problem = |head_dim| {
            let row = TensorInfo { shape: [1, 1, 3, head_dim].into(), dtype: DType::F32 };
            let inputs = ProblemInputs::new(row.clone(), row.clone(), row);
            Problem::new(&AttentionSpec::default(), &inputs).expect("it is a problem")
        };
        // Dimensions that no other test has.
        let launches = |head_dim, lse: bool, bytes| {
            let kind = Kind::new(Cube::Rows, device.clone(), &problem(head_dim), false).with(lse);
            kind.launches(bytes)
        };
        let first = launches(1021, true, 0);
        assert!(first.asked.is_some());
        first.end(std::iter::empty()).expect("nothing was refused");
        assert!(launches(1021, true, 0).asked.is_none());
        assert!(launches(1021, true, MUCH).asked.is_some());
        assert!(launches(1021, false, 0).asked.is_some());
        assert!(launches(1019, true, 0).asked.is_some());
    }

    #[test]
    fn a_kind_that_was_refused_is_asked_about_again() {
        let Some(device) = CubeDevice::enumerate_all().into_iter().next() else {
            println!("skipped: there is no adapter");
            return;
        };
        let error = AttentionError::Execution { kernel: "cube".to_string(), reason: "refused".to_string() };
        let refused = RefCell::new(Some(error.clone()));
        let launches = Launches { asked: Some(Asked { kernel: Cube::Rows, device, kind: 42, refused }) };
        assert_eq!(launches.end(std::iter::empty()), Err(error));
        assert!(!taken().contains(&42));
    }
}
