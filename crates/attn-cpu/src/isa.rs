//! The instruction sets that the kernel is built for, and which of them this machine has.

/// An instruction set that the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512F with BF16's dot products: bf16 problems multiply pairs of bf16 with sums in f32, for
    /// which weights are rounded to bf16. Other types are computed as with [`Isa::Avx512`].
    Avx512Bf16,
    /// AVX-512F: vectors of 16 f32 or 8 f64.
    Avx512,
    /// AVX2 with FMA and F16C: vectors of 8 f32 or 4 f64.
    Avx2,
    /// NEON of AArch64: vectors of 4 f32 or 2 f64. With the feature `neon-model` its kernel runs on other CPUs too, slowly,
    /// on instructions modelled in plain Rust: for tests.
    Neon,
    /// Plain Rust that the compiler vectorises for the target's base instruction set. Always there.
    Portable,
}

impl Isa {
    /// The fastest instruction set of this machine; never one that is modelled.
    pub fn detect() -> Isa {
        [Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Neon]
            .into_iter()
            .find(|isa| isa.is_available() && !isa.is_modelled())
            .unwrap_or(Isa::Portable)
    }

    /// Every instruction set that can run on this machine, fastest first (a modelled one apart). [`Isa::Portable`] is always the last.
    pub fn available() -> Vec<Isa> {
        [Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable]
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => {
                std::arch::is_x86_feature_detected!("avx512bf16")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && Isa::Avx512.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => std::arch::is_x86_feature_detected!("avx512f") && Isa::Avx2.is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(all(not(target_arch = "aarch64"), feature = "neon-model"))]
            Isa::Neon => true,
            Isa::Portable => true,
            #[allow(unreachable_patterns, reason = "which arms stand above depends on the target")]
            _ => false,
        }
    }

    /// Whether it is another machine's, modelled here in plain Rust (feature `neon-model`).
    pub fn is_modelled(self) -> bool {
        self == Isa::Neon && cfg!(all(not(target_arch = "aarch64"), feature = "neon-model"))
    }

    /// Its name in lower case: `avx512-bf16`, `avx512`, `avx2`, `neon` or `portable`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }
}
