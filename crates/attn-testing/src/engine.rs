//! Who answers problems: Burn's backends, single kernel paths on them, and the reference.

use attn::Attention;
use attn_core::reference;
use burn::tensor::{Device, FloatDType, Tensor};

use crate::bound::Products;
use crate::host::{Answer, Ask, HostProblem};
use crate::run::{self, Layouts, Target};

/// Someone who answers problems.
#[derive(Debug, Clone)]
pub struct Engine {
    name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// The reference, f64 on the host.
    Reference,
    /// The public face on tensors of a device.
    Tensors(Target),
}

/// The engines that run where none is named.
pub const DEFAULT: [&str; 2] = ["ndarray", "flex"];

/// Every engine's name.
pub const NAMES: [&str; 12] = [
    "ndarray",
    "flex",
    "tch",
    "wgpu",
    "cuda",
    "composite",
    "reference",
    "cpu-avx512-bf16",
    "cpu-avx512",
    "cpu-avx2",
    "cpu-neon",
    "cpu-portable",
];

/// The kernel that multiplies pairs of bf16, which `cpu` is where it can be.
const PAIRS: &str = "cpu-avx512-bf16";

impl Engine {
    /// The engine of that name.
    ///
    /// # Errors
    /// Says which names there are, or which feature this program was built without.
    pub fn named(name: &str) -> Result<Self, String> {
        let Some(name) = NAMES.into_iter().find(|known| *known == name) else {
            return Err(format!("no backend {name:?}; there are {}", NAMES.join(", ")));
        };
        let kind = match name {
            "reference" => Kind::Reference,
            "ndarray" => Kind::Tensors(Target::new(ndarray().ok_or_else(|| not_built(name, "ndarray"))?)),
            "flex" => Kind::Tensors(Target::new(flex().ok_or_else(|| not_built(name, "flex"))?)),
            "tch" => Kind::Tensors(Target::new(tch().ok_or_else(|| not_built(name, "tch"))?)),
            "wgpu" | "cuda" => Kind::Tensors(Target::new(attn::device(name).map_err(|error| error.to_string())?)),
            kernel => {
                let mut target = Target::new(flex().ok_or_else(|| not_built(name, "flex"))?);
                target.forward = Some(kernel);
                target.backward = Some(kernel);
                Kind::Tensors(target)
            }
        };
        Ok(Self { name, kind })
    }

    /// Every engine that this program was built with and this machine can run.
    pub fn available() -> Vec<Self> {
        let named = NAMES.into_iter().filter_map(|name| Self::named(name).ok());
        named.filter(|engine| engine.unavailable().is_none()).collect()
    }

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Why it cannot run on this machine at all: what the kernel that it demands answers to the smallest problem.
    pub fn unavailable(&self) -> Option<String> {
        let Kind::Tensors(Target { device, forward: Some(kernel), .. }) = &self.kind else { return None };
        let one = || Tensor::<4>::zeros([1, 1, 1, 1], device);
        Attention::new(one(), one(), one()).kernel(*kernel).plan().err().map(|error| error.to_string())
    }

    /// How it multiplies weights with values of that type: what a bound of its errors has to know.
    pub fn products(&self, dtype: FloatDType) -> Products {
        let pairs = || Self::named(PAIRS).is_ok_and(|engine| engine.unavailable().is_none());
        match self.name {
            PAIRS | "ndarray" | "flex" | "tch" if dtype == FloatDType::BF16 && pairs() => Products::Rounded,
            // Of its kernels, that by groups of planes.
            "cuda" if dtype == FloatDType::BF16 => Products::Paired,
            _ => Products::Wide,
        }
    }

    /// Whether it has tensors of that type. The reference takes any, since it widens them.
    pub fn has_dtype(&self, dtype: FloatDType) -> bool {
        match &self.kind {
            Kind::Reference => true,
            Kind::Tensors(target) => target.device.supports_dtype(dtype),
        }
    }

    /// The device whose tensors it takes; none for the reference.
    pub fn device(&self) -> Option<&Device> {
        match &self.kind {
            Kind::Reference => None,
            Kind::Tensors(target) => Some(&target.device),
        }
    }

    /// The answer, from tensors laid out plainly.
    ///
    /// # Errors
    /// What went wrong, in words. May panic where a backend does.
    pub fn answer(&self, problem: &HostProblem, ask: &Ask) -> Result<Answer, String> {
        self.answer_from(problem, ask, Layouts::default())
    }

    /// The answer, from tensors that lie in memory as said.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn answer_from(&self, problem: &HostProblem, ask: &Ask, layouts: Layouts) -> Result<Answer, String> {
        match &self.kind {
            Kind::Reference => refer(problem, ask),
            Kind::Tensors(target) => run::answer(target, problem, ask, layouts),
        }
    }
}

/// The reference's answer.
///
/// # Errors
/// The contract's, in words.
pub fn refer(host: &HostProblem, ask: &Ask) -> Result<Answer, String> {
    let words = |error: attn_core::AttentionError| error.to_string();
    let problem = host.problem().map_err(words)?;
    let outputs = reference::forward(&problem, &host.inputs).map_err(words)?;
    let gradients = ask
        .gradients
        .as_ref()
        .map(|upstream| reference::backward(&problem, &host.inputs, &upstream.grad_out, upstream.grad_lse.as_deref()));
    Ok(Answer {
        out: outputs.out,
        lse: ask.lse.then_some(outputs.lse),
        weights: ask.weights.then_some(outputs.weights),
        gradients: gradients.transpose().map_err(words)?,
    })
}

fn not_built(name: &str, feature: &str) -> String {
    format!("backend {name:?} is not in this program: build attn-testing with --features {feature}")
}

#[cfg(feature = "ndarray")]
fn ndarray() -> Option<Device> {
    // Burn drops NdArray in its next release; until then it is judged. The one place here that names it.
    #[allow(deprecated)]
    Some(Device::ndarray())
}

#[cfg(not(feature = "ndarray"))]
fn ndarray() -> Option<Device> {
    None
}

#[cfg(feature = "flex")]
fn flex() -> Option<Device> {
    Some(Device::flex())
}

#[cfg(not(feature = "flex"))]
fn flex() -> Option<Device> {
    None
}

#[cfg(feature = "tch")]
fn tch() -> Option<Device> {
    // As NdArray.
    #[allow(deprecated)]
    Some(Device::libtorch())
}

#[cfg(not(feature = "tch"))]
fn tch() -> Option<Device> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = Engine::named("cudnn").map(|engine| engine.name()).expect_err("there is no such backend");
        assert!(error.contains("cudnn") && error.contains("cpu-portable"), "{error}");
    }

    #[test]
    fn every_name_is_its_own() {
        for engine in Engine::available() {
            assert!(NAMES.contains(&engine.name()));
        }
        assert!(DEFAULT.iter().all(|name| NAMES.contains(name)));
    }
}
