//! Which kinds of calls the driver has taken.
//!
//! A driver refuses a kernel when it compiles it, which it does at the kernel's first launch. To ask whether it did is to wait for the
//! runtime's thread, which takes several times as long as a short call's launches. So it is asked about the first call of each kind, and
//! about those that make much. What fails in another call has left its mark on what should have been written: CubeCL launches nothing
//! that reads it, and to bring it to the host is an error. Another launch that is taken and writes the same tensor would wipe out that
//! mark, so that every call asks before such a launch.

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
        let is_known = bytes < MUCH && taken().contains(&kind);
        Launches { asked: (!is_known).then_some(kind), ..Launches::unasked(kernel, device) }
    }
}

/// The launches of a call.
#[derive(Debug)]
pub struct Launches {
    kernel: Cube,
    device: CubeDevice,
    /// The kind of the call, where the driver is asked whether it took all of it.
    asked: Option<u64>,
    /// The first refusal.
    refused: RefCell<Option<AttentionError>>,
}

impl Launches {
    /// About which the driver is not asked at their end.
    pub fn unasked(kernel: Cube, device: CubeDevice) -> Self {
        Self { kernel, device, asked: None, refused: RefCell::default() }
    }

    /// To be told before a launch writes `written`, which another one has written as well and which the launch does not read. The
    /// driver is asked about it.
    pub fn again(&self, written: &CubeTensor) {
        self.ask([written].into_iter());
    }

    /// Whether the driver took them: all, where that is to be asked, else those that it was asked about; `made` is what they have made.
    ///
    /// # Errors
    /// [`Execution`](AttentionError::Execution), with the driver's reason.
    pub fn end<'a>(self, made: impl Iterator<Item = &'a CubeTensor>) -> Result<(), AttentionError> {
        if self.asked.is_some() {
            self.ask(made);
        }
        match self.refused.into_inner() {
            Some(error) => Err(error),
            None => {
                taken().extend(self.asked);
                Ok(())
            }
        }
    }

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
    use burn_backend::{DType, Shape};
    use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;

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
        let launches = Launches { kernel: Cube::Rows, device, asked: Some(42), refused };
        assert_eq!(launches.end(std::iter::empty()), Err(error));
        assert!(!taken().contains(&42));
    }
    #[test]
    fn what_is_written_again_is_asked_about_in_any_call() {
        let Some(device) = CubeDevice::enumerate_all().into_iter().next() else {
            println!("skipped: there is no adapter");
            return;
        };
        let launches = || Launches::unasked(Cube::Rows, device.clone());
        let make = |elements| {
            empty_device_contiguous_dtype(device.client(), device.clone(), Shape::new([elements]), DType::F32)
        };
        let small = launches();
        small.again(&make(1));
        assert_eq!(small.end(std::iter::empty()), Ok(()));
        // No driver has so much.
        let Ok(huge) = std::panic::catch_unwind(|| make(1 << 42)) else {
            println!("skipped: the runtime panics where a tensor does not fit");
            return;
        };
        let refused = launches();
        refused.again(&huge);
        assert!(matches!(refused.end(std::iter::empty()), Err(AttentionError::Execution { .. })));
    }
}
