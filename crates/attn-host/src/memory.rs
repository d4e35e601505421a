//! Looking into tensors that lie in host memory.

use std::borrow::Cow;

use attn_core::AttentionError;
use attn_cpu::View;
use burn_backend::ops::{BoolTensorOps as _, FloatTensorOps as _};
use burn_backend::tensor::{BoolTensor, FloatTensor};
use burn_backend::{Backend, Element, TensorData, try_read_sync};

/// Elements that lie in memory as the strides say.
#[derive(Debug, Clone)]
pub struct Strided<'a, T: Clone> {
    /// Memory from the tensor's first element on: the tensor's own, or a copy.
    pub data: Cow<'a, [T]>,
    /// Elements between neighbours along each axis; 0 past the last.
    pub strides: [usize; 4],
}

impl<'a, T: Clone> Strided<'a, T> {
    /// The tensor's own memory.
    ///
    /// `None` where strides run backwards, since the memory's first element is then not the tensor's, and for more than four axes.
    pub fn new(data: &'a [T], strides: &[isize]) -> Option<Self> {
        let mut own = [0; 4];
        for (axis, stride) in strides.iter().enumerate() {
            *own.get_mut(axis)? = usize::try_from(*stride).ok()?;
        }
        Some(Self { data: Cow::Borrowed(data), strides: own })
    }
}

/// An element type of both `attn-cpu` and Burn.
pub trait HostElement: attn_cpu::Element + Element + bytemuck::Pod {}
impl<T: attn_cpu::Element + Element + bytemuck::Pod> HostElement for T {}

/// How to look into the tensors of a backend. Implemented by a binding for a type of its own.
pub trait HostMemory: Send + Sync + 'static {
    /// The backend whose tensors these are.
    type Backend: Backend;

    /// The tensor's elements where they lie, or copied out of a memory that cannot be looked into; `None` if their type is not `T` or
    /// forward strides cannot describe them, so that they are copied in order.
    fn floats<T: HostElement>(tensor: &FloatTensor<Self::Backend>) -> Option<Strided<'_, T>>;

    /// The mask's bytes, 0 or 1, in the same way; `None` if forward strides cannot describe them.
    fn bools(tensor: &BoolTensor<Self::Backend>) -> Option<Strided<'_, u8>>;
}

/// A tensor's elements: as they lie, or copied in order.
pub(crate) enum Elements<'a, T: Clone> {
    AsTheyLie(Strided<'a, T>),
    Copied(Vec<T>),
}

impl<T: Copy> Elements<'_, T> {
    fn data(&self) -> &[T] {
        match self {
            Self::AsTheyLie(strided) => &strided.data,
            Self::Copied(data) => data,
        }
    }

    /// A view in the shape given, broadcast along axes where the tensor has length 1.
    pub fn view<const N: usize>(&self, shape: [usize; N], full: [usize; N]) -> Result<View<'_, T, N>, AttentionError> {
        let mut strides = match self {
            Self::AsTheyLie(strided) => std::array::from_fn(|axis| strided.strides.get(axis).copied().unwrap_or(0)),
            Self::Copied(_) => row_major(shape),
        };
        for axis in 0..N {
            if shape[axis] == 1 {
                strides[axis] = if full[axis] == 1 && axis + 1 == N { 1 } else { 0 };
            }
        }
        View::new(self.data(), full, strides).map_err(|error| failed(&error))
    }

    /// All elements of a tensor with one axis.
    pub fn to_vec(&self, len: usize) -> Vec<T> {
        match self {
            Self::AsTheyLie(strided) => {
                let stride = strided.strides[0].max(1);
                strided.data.iter().step_by(stride).take(len).copied().collect()
            }
            Self::Copied(data) => data.clone(),
        }
    }
}

fn row_major<const N: usize>(shape: [usize; N]) -> [usize; N] {
    let mut strides = [1; N];
    for axis in (1..N).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// The elements of a float tensor: as they lie.
pub(crate) fn floats<M: HostMemory, T: HostElement>(
    tensor: &FloatTensor<M::Backend>,
) -> Result<Elements<'_, T>, AttentionError> {
    elements::<M, T>(tensor, |_| true)
}

/// The elements of a float tensor of four axes, copied if its rows, of so many elements, are not contiguous.
pub(crate) fn rows<M: HostMemory, T: HostElement>(
    tensor: &FloatTensor<M::Backend>,
    elements_of_row: usize,
) -> Result<Elements<'_, T>, AttentionError> {
    elements::<M, T>(tensor, |strides| elements_of_row <= 1 || strides[3] == 1)
}

fn elements<M: HostMemory, T: HostElement>(
    tensor: &FloatTensor<M::Backend>,
    serves: impl FnOnce(&[usize; 4]) -> bool,
) -> Result<Elements<'_, T>, AttentionError> {
    match M::floats::<T>(tensor) {
        Some(strided) if serves(&strided.strides) => Ok(Elements::AsTheyLie(strided)),
        _ => copied(try_read_sync(M::Backend::float_into_data(tensor.clone()))).map(Elements::Copied),
    }
}

/// The bytes of a mask.
pub(crate) fn bools<M: HostMemory>(tensor: &BoolTensor<M::Backend>) -> Result<Elements<'_, u8>, AttentionError> {
    match M::bools(tensor) {
        Some(strided) => Ok(Elements::AsTheyLie(strided)),
        None => {
            let bools: Vec<bool> = copied(try_read_sync(M::Backend::bool_into_data(tensor.clone())))?;
            Ok(Elements::Copied(bools.into_iter().map(u8::from).collect()))
        }
    }
}

fn copied<T: Element>(
    read: Option<Result<TensorData, burn_backend::ExecutionError>>,
) -> Result<Vec<T>, AttentionError> {
    match read {
        Some(Ok(data)) if data.dtype() == T::dtype() => data.try_into_vec::<T>().map_err(|error| failed(&error)),
        Some(Ok(data)) => Ok(data.iter::<T>().collect()),
        Some(Err(error)) => Err(failed(&error)),
        None => Err(failed(&"host memory could not be read at once")),
    }
}

/// An error of the kernel itself.
pub(crate) fn failed(reason: &impl ToString) -> AttentionError {
    AttentionError::Execution { kernel: "cpu".to_string(), reason: reason.to_string() }
}
