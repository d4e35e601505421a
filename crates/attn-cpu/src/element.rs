//! The element types and the types that they accumulate in.

use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A type of inputs and outputs: `f32`, `f64`, `half::f16` or `half::bf16`.
pub trait Element: Copy + Default + Send + Sync + sealed::Sealed + 'static {
    /// What scores, sums and the LSE are kept in: `f64` for `f64`, `f32` for the others.
    type Accum: Copy + Default + Send + Sync + PartialOrd + std::fmt::Debug + 'static;
    /// Its name: `f32`, `f64`, `f16` or `bf16`.
    const NAME: &'static str;
    #[doc(hidden)]
    fn wide(self) -> f64;
    #[doc(hidden)]
    fn narrow(x: f64) -> Self;
    #[doc(hidden)]
    fn accum(x: f64) -> Self::Accum;
}

macro_rules! element {
    ($type:ty, $accum:ty, $name:literal, $wide:expr, $narrow:expr) => {
        impl Element for $type {
            type Accum = $accum;
            const NAME: &'static str = $name;
            fn wide(self) -> f64 {
                $wide(self)
            }
            fn narrow(x: f64) -> Self {
                $narrow(x)
            }
            fn accum(x: f64) -> $accum {
                x as $accum
            }
        }
    };
}

element!(f32, f32, "f32", f64::from, |x| x as f32);
element!(f64, f64, "f64", |x| x, |x| x);
element!(f16, f32, "f16", f16::to_f64, f16::from_f64);
element!(bf16, f32, "bf16", bf16::to_f64, bf16::from_f64);
