//! Case files of the format `attn-case-1`: one attention problem each, with the answer that a float64 evaluation gives.
//!
//! `shared/cases/README.md` says what stands in them. Tensors and metadata that it does not name are ignored; a key of the spec
//! that it does not name is an error, since it would change the problem.

mod error;
mod spec;
mod tensors;

use std::path::{Path, PathBuf};

use attn_core::reference::HostInputs;
use attn_core::{Polarity, Problem};
use burn::tensor::FloatDType;
use safetensors::{Dtype, SafeTensors};

use crate::host::{Ask, Dims, HostProblem, HostUpstream};
pub use error::{CaseError, Fault};
use tensors::{Tensors, four};

/// Value of the metadata key `format`.
pub const FORMAT: &str = "attn-case-1";

/// An expected tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Its name in the file: `out`, `lse`, `weights`, `dq`, `dk`, `dv`, `dbias` or `dsinks`.
    pub name: &'static str,
    /// Lengths of its axes.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub data: Vec<f64>,
    /// Largest absolute error that is allowed.
    pub tolerance: f64,
}

/// A case: a problem, and what is expected of whoever solves it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Where it was read.
    pub path: PathBuf,
    /// Who says what is expected; empty if the file does not tell.
    pub source: String,
    /// The problem with its data.
    pub problem: HostProblem,
    /// Expected tensors, `out` first.
    pub expected: Vec<Expected>,
    /// Upstream gradient of `out`, `[B, H, Sq, E]`.
    pub grad_out: Option<Vec<f64>>,
}

impl Case {
    /// Reads a file and checks all of it: shapes, types, tolerances, and the problem against the contract.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, CaseError> {
        let fail = |fault| CaseError { path: path.to_path_buf(), fault };
        let bytes = std::fs::read(path).map_err(|error| fail(Fault::Unreadable(error.to_string())))?;
        Self::parse(path, &bytes).map_err(fail)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Fault> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| tensors::not_safetensors(bytes, &error))?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| tensors::not_safetensors(bytes, &error))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let text = |key| metadata.get(key).map(String::as_str);
        match text("format") {
            Some(FORMAT) => {}
            Some(other) => return Err(Fault::Format(other.to_string())),
            None => return Err(Fault::MissingMetadata("format")),
        }
        let (spec, tolerances) = (
            spec::spec(text("spec").ok_or(Fault::MissingMetadata("spec"))?)?,
            spec::tolerances(text("tol").ok_or(Fault::MissingMetadata("tol"))?)?,
        );
        let tensors = Tensors(file);
        let (dtype, dims) = dims(&tensors)?;
        let problem = HostProblem {
            dtype,
            dims,
            spec,
            kv_lens: kv_lens(&tensors, &dims)?,
            block_mask: None,
            score_mod: None,
            inputs: inputs(&tensors)?,
        };
        let checked = problem.problem()?;
        let mut expected = Vec::new();
        for (name, shape) in expected_shapes(&problem, &checked, &tensors)? {
            if let Some(data) = tensors.floats(name, &[Dtype::F32], Some(&shape))? {
                let tolerance = *tolerances.get(name).ok_or(Fault::MissingTolerance(name))?;
                expected.push(Expected { name, shape, data: data.values, tolerance });
            }
        }
        if !expected.iter().any(|expected| expected.name == "out") {
            return Err(Fault::MissingTensor("out"));
        }
        let grad_out = tensors.floats("grad_out", &[Dtype::F32], Some(&dims.out()))?.map(|tensor| tensor.values);
        if grad_out.is_none() && expected.iter().any(|expected| expected.name.starts_with('d')) {
            return Err(Fault::MissingTensor("grad_out"));
        }
        let source = text("source").unwrap_or_default().to_string();
        Ok(Self { path: path.to_path_buf(), source, problem, expected, grad_out })
    }

    /// The file's name without its ending.
    pub fn name(&self) -> String {
        stem(&self.path)
    }

    /// The family that the file's name tells: see [`family`].
    pub fn family(&self) -> String {
        family(&self.path)
    }

    /// What to ask for, so that every expected tensor can be compared; no gradients unless they are wanted.
    pub fn ask(&self, gradients: bool) -> Ask {
        let expects = |name| self.expected.iter().any(|expected| expected.name == name);
        let wanted = gradients && self.expected.iter().any(|expected| expected.name.starts_with('d'));
        let upstream = self.grad_out.clone().filter(|_| wanted);
        Ask {
            lse: expects("lse"),
            weights: expects("weights"),
            gradients: upstream.map(|grad_out| HostUpstream { grad_out, grad_lse: None }),
        }
    }
}

/// The family of a case file: its name up to the last `-NNN`; a name without such an end is a family of its own.
pub fn family(path: &Path) -> String {
    let stem = stem(path);
    match stem.rsplit_once('-') {
        Some((family, number)) if !family.is_empty() && is_number(number) => family.to_string(),
        _ => stem,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Element type and lengths, from `q`, `k` and `v`. Whether they fit each other is for the contract to say.
fn dims(tensors: &Tensors<'_>) -> Result<(FloatDType, Dims), Fault> {
    let inputs = [Dtype::F32, Dtype::F16, Dtype::BF16];
    let dtype = tensors.dtype("q", &inputs)?;
    let [query, key, value] = ["q", "k", "v"].map(|name| {
        tensors.dtype(name, &[dtype])?;
        four(name, tensors.shape(name)?)
    });
    let ([batch, heads, query_len, head_dim], key, [.., value_dim]) = (query?, key?, value?);
    let dims = Dims { batch, heads, kv_heads: key[1], query_len, key_len: key[2], head_dim, value_dim };
    tensors.expect_shape("k", &dims.key())?;
    tensors.expect_shape("v", &dims.value())?;
    let dtype = match dtype {
        Dtype::F16 => FloatDType::F16,
        Dtype::BF16 => FloatDType::BF16,
        _ => FloatDType::F32,
    };
    Ok((dtype, dims))
}

fn inputs(tensors: &Tensors<'_>) -> Result<HostInputs, Fault> {
    let same = [tensors.dtype("q", &[Dtype::F32, Dtype::F16, Dtype::BF16])?];
    let required = |name| tensors.floats(name, &same, None)?.ok_or(Fault::MissingTensor(name));
    let vector = |name| Ok::<_, Fault>(tensors.floats(name, &same, None)?.map(|tensor| tensor.values));
    let bias = tensors.floats("bias", &same, None)?.map(|bias| bias.broadcast("bias")).transpose()?;
    let mask = tensors.keep_mask()?.map(|mask| (mask, Polarity::Keep));
    Ok(HostInputs {
        query: required("q")?.values,
        key: required("k")?.values,
        value: required("v")?.values,
        mask,
        bias,
        alibi_slopes: vector("alibi_slopes")?,
        relative_bias: None,
        sinks: vector("sinks")?,
    })
}

fn kv_lens(tensors: &Tensors<'_>, dims: &Dims) -> Result<Option<Vec<usize>>, Fault> {
    let Some(lens) = tensors.integers("kv_lens", &[dims.batch])? else { return Ok(None) };
    let length = |len: i32| {
        usize::try_from(len).map_err(|_| Fault::Value {
            name: "kv_lens",
            expected: "lengths of at least 0".to_string(),
            found: len.to_string(),
        })
    };
    lens.into_iter().map(length).collect::<Result<_, _>>().map(Some)
}

fn expected_shapes(
    host: &HostProblem,
    problem: &Problem,
    tensors: &Tensors<'_>,
) -> Result<Vec<(&'static str, Vec<usize>)>, Fault> {
    let dims = &host.dims;
    let mut shapes = vec![
        ("out", dims.out().to_vec()),
        ("lse", dims.rows().to_vec()),
        ("weights", dims.scores().to_vec()),
        ("dq", dims.query().to_vec()),
        ("dk", dims.key().to_vec()),
        ("dv", dims.value().to_vec()),
    ];
    if problem.bias.is_some() {
        // As it stands in the file, where it may have fewer than four axes.
        shapes.push(("dbias", tensors.shape("bias")?));
    }
    shapes.extend(problem.sinks.then(|| ("dsinks", vec![dims.heads])));
    Ok(shapes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_end_before_the_last_number() {
        let of = |name: &str| family(Path::new(name));
        assert_eq!(of("a/b/low_float16-070.safetensors"), "low_float16");
        assert_eq!(of("torch-sdpa-12.safetensors"), "torch-sdpa");
        assert_eq!(of("plain.safetensors"), "plain");
        assert_eq!(of("plain-a1.safetensors"), "plain-a1");
        assert_eq!(of("-001.safetensors"), "-001");
        assert_eq!(of("dir/"), "dir");
    }
}
