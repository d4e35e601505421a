//! The element types, the types that they accumulate in, and the kernel that each instruction set gives them.

use half::{bf16, f16};

use crate::math::Float;
use crate::schedule::{Call, run};
use crate::simd::{Load, Simd, portable, widen_bf16, widen_f16};
use crate::{CpuError, Isa, backward, simd};

/// A type of inputs and outputs: `f32`, `f64`, `half::f16` or `half::bf16`.
pub trait Element: Kernel<Wide = Self::Accum> + Copy + Default + Send + Sync + 'static {
    /// What scores, sums and the LSE are kept in: `f64` for `f64`, `f32` for the others.
    type Accum: Copy + Default + Send + Sync + PartialOrd + std::fmt::Debug + 'static;
    /// Its name: `f32`, `f64`, `f16` or `bf16`.
    const NAME: &'static str;
}

/// What the crate knows of an element type. Nobody else can implement it, so [`Element`] is closed.
pub trait Kernel: Sized {
    /// [`Element::Accum`] under the name that the kernels use.
    type Wide;
    /// Whether elements are stored as accumulators, so that the kernel may read them as they lie.
    const IS_WIDE: bool;
    /// The accumulator of the same value.
    fn widen(self) -> Self::Wide;
    /// The nearest element.
    fn narrow(x: Self::Wide) -> Self;
    /// Vector lengths in accumulators and in tiles that `isa` works with.
    fn geometry(isa: Isa) -> crate::schedule::Geometry;
    /// Runs a checked problem with the kernel compiled for `isa`, which this machine has. An error where memory has no room for the
    /// workspace; nothing is written then.
    fn run(isa: Isa, call: Call<'_, Self, Self::Wide>) -> Result<(), CpuError>;
    /// The same for a checked backward pass.
    fn backward(isa: Isa, call: backward::Call<'_, Self>) -> Result<(), CpuError>
    where
        Self: Element;
}

macro_rules! element {
    ($type:ty, $accum:ty, $name:literal, $wide:literal, $widen:expr, $narrow:expr, $pairs:ident, $avx512:ident, $avx2:ident,
     $neon:ident, $portable:ident) => {
        impl Element for $type {
            type Accum = $accum;
            const NAME: &'static str = $name;
        }

        impl Kernel for $type {
            type Wide = $accum;
            const IS_WIDE: bool = $wide;
            #[inline(always)]
            fn widen(self) -> $accum {
                $widen(self)
            }
            #[inline(always)]
            fn narrow(x: $accum) -> Self {
                $narrow(x)
            }
            fn geometry(isa: Isa) -> crate::schedule::Geometry {
                use crate::schedule::Geometry;
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512Bf16 => Geometry::of::<simd::avx512::$pairs>(),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => Geometry::of::<simd::avx512::$avx512>(),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => Geometry::of::<simd::avx2::$avx2>(),
                    #[cfg(any(target_arch = "aarch64", feature = "neon-model"))]
                    Isa::Neon => Geometry::of::<simd::neon::$neon>(),
                    _ => Geometry::of::<portable::$portable>(),
                }
            }
            fn run(isa: Isa, call: Call<'_, Self, $accum>) -> Result<(), CpuError> {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512Bf16 => run::<simd::avx512::$pairs, Self>(call),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => run::<simd::avx512::$avx512, Self>(call),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => run::<simd::avx2::$avx2, Self>(call),
                    #[cfg(any(target_arch = "aarch64", feature = "neon-model"))]
                    Isa::Neon => run::<simd::neon::$neon, Self>(call),
                    _ => run::<portable::$portable, Self>(call),
                }
            }
            fn backward(isa: Isa, call: backward::Call<'_, Self>) -> Result<(), CpuError> {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512Bf16 => backward::run::<simd::avx512::$pairs, Self>(call),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => backward::run::<simd::avx512::$avx512, Self>(call),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => backward::run::<simd::avx2::$avx2, Self>(call),
                    #[cfg(any(target_arch = "aarch64", feature = "neon-model"))]
                    Isa::Neon => backward::run::<simd::neon::$neon, Self>(call),
                    _ => backward::run::<portable::$portable, Self>(call),
                }
            }
        }
    };
}

element!(f32, f32, "f32", true, |x| x, |x| x, Avx512F32, Avx512F32, Avx2F32, NeonF32, PortableF32);
element!(f64, f64, "f64", true, |x| x, |x| x, Avx512F64, Avx512F64, Avx2F64, NeonF64, PortableF64);
element!(f16, f32, "f16", false, widen_f16, f16::from_f32, Avx512F32, Avx512F32, Avx2F32, NeonF32, PortableF32);
element!(bf16, f32, "bf16", false, widen_bf16, bf16::from_f32, Avx512Bf16, Avx512F32, Avx2F32, NeonF32, PortableF32);

/// Shorthand for the bounds of a kernel: an element type, and vectors of what it accumulates in that can load it.
pub(crate) trait Loads<T>: Simd + Load<T> + Load<<Self as Simd>::A> {}
impl<S: Simd, T> Loads<T> for S where S: Load<T> + Load<<S as Simd>::A> {}

const _: fn() = || {
    fn accumulates<T: Element>()
    where
        T::Accum: Float,
    {
    }
    accumulates::<f32>();
    accumulates::<f64>();
};
