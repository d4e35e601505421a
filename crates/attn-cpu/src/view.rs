//! A strided view of a slice: shape and strides in elements, checked once against the data.

use crate::CpuError;

/// `data` read as an array of `N` axes, where element `[i0, i1, …]` is `data[i0·strides[0] + i1·strides[1] + …]`.
///
/// Strides count elements. A stride of 0 broadcasts its axis.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T, const N: usize> {
    data: &'a [T],
    shape: [usize; N],
    strides: [usize; N],
}

impl<'a, T, const N: usize> View<'a, T, N> {
    /// Views `data` with the given shape and strides (both in elements).
    ///
    /// # Errors
    /// [`CpuError::Length`] when the last element that the shape and strides reach lies outside `data`. A shape with a
    /// zero-length axis reaches nothing.
    pub fn new(data: &'a [T], shape: [usize; N], strides: [usize; N]) -> Result<Self, CpuError> {
        let needed = reach(&shape, &strides);
        match needed {
            Some(needed) if needed <= data.len() => Ok(Self { data, shape, strides }),
            _ => Err(CpuError::Length {
                argument: "view",
                expected: match needed {
                    Some(needed) => {
                        format!("at least {needed} (shape {shape:?}, strides {strides:?})")
                    }
                    None => format!("more than {} (shape {shape:?}, strides {strides:?})", usize::MAX),
                },
                found: data.len(),
            }),
        }
    }

    /// Views `data` as a contiguous array of that shape, the last axis fastest.
    ///
    /// # Errors
    /// [`CpuError::Length`] when `data` has fewer elements than the shape.
    pub fn contiguous(data: &'a [T], shape: [usize; N]) -> Result<Self, CpuError> {
        let mut strides = [0; N];
        let mut step = 1_usize;
        for axis in (0..N).rev() {
            strides[axis] = step;
            step = step.saturating_mul(shape[axis]);
        }
        Self::new(data, shape, strides)
    }

    /// The length of each axis.
    pub fn shape(&self) -> [usize; N] {
        self.shape
    }

    /// The distance in elements between neighbours on each axis.
    pub fn strides(&self) -> [usize; N] {
        self.strides
    }

    /// The slice that the view reads.
    pub fn data(&self) -> &'a [T] {
        self.data
    }
}

/// One past the furthest element reached, or `None` where that overflows. Zero for an empty shape.
fn reach(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let mut last = 0_usize;
    for (&length, &stride) in shape.iter().zip(strides) {
        last = last.checked_add((length - 1).checked_mul(stride)?)?;
    }
    last.checked_add(1)
}
