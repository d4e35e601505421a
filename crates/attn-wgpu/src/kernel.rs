//! The kernel named `cube`.

use attn_core::{
    AttentionError, AttentionInputs, AttentionKernel, AttentionOutputs, Gradients, Pass, Problem, Upstream, Wanted,
};
use burn_backend::FloatDType;
use burn_cubecl::{CubeBackend, CubeDevice};

use crate::host::arguments::LARGEST;
use crate::host::launch::{self, Operands};
use crate::host::tiles::Tiles;

/// Fused attention on any device of CubeCL's runtimes.
#[derive(Debug, Clone, Copy)]
pub struct Cube;

/// Its name.
const NAME: &str = "cube";

impl AttentionKernel<CubeBackend> for Cube {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports(&self, device: &CubeDevice, problem: &Problem, pass: Pass) -> Result<(), String> {
        supports(device, problem, pass)
    }

    fn workspace_bytes(&self, device: &CubeDevice, problem: &Problem, _pass: Pass) -> u64 {
        let client = device.client();
        let tiles = Tiles::of(problem, &client.properties().hardware);
        let bands = problem.batch as u64 * 16;
        if tiles.splits == 1 || problem.is_empty() {
            return bands;
        }
        let rows = (problem.batch * problem.heads * problem.query_len) as u64;
        bands + 4 * tiles.splits as u64 * rows * (problem.value_dim as u64 + 1)
    }

    fn forward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<CubeBackend>,
        lse: bool,
    ) -> Result<AttentionOutputs<CubeBackend>, AttentionError> {
        let device = inputs.query.device.clone();
        supports(&device, problem, Pass::Forward).map_err(refusal)?;
        let client = device.client();
        let tiles = Tiles::of(problem, &client.properties().hardware);
        let operands = Operands::new(problem, inputs);
        let (out, found) = launch::forward(problem, &operands, &tiles, lse);
        // A launch that the driver refused has left its mark on what it should have written.
        client
            .check([&out.handle].into_iter().chain(found.iter().map(|found| &found.handle)))
            .map_err(|error| AttentionError::Execution { kernel: NAME.to_string(), reason: error.to_string() })?;
        Ok(AttentionOutputs { out, lse: found })
    }

    fn backward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<CubeBackend>,
        _upstream: Upstream<CubeBackend>,
        _wanted: Wanted,
    ) -> Result<Gradients<CubeBackend>, AttentionError> {
        supports(&inputs.query.device, problem, Pass::Backward)
            .and_then(|()| Err(NO_BACKWARD.to_string()))
            .map_err(refusal)
    }
}

const NO_BACKWARD: &str = "it has no backward pass";

fn refusal(reason: String) -> AttentionError {
    AttentionError::Unsupported { kernel: NAME.to_string(), reason }
}

fn supports(device: &CubeDevice, problem: &Problem, pass: Pass) -> Result<(), String> {
    let refuse = |reason: &str| Err(reason.to_string());
    if pass == Pass::Backward {
        return refuse(NO_BACKWARD);
    }
    if problem.is_empty() || problem.key_len == 0 || problem.value_dim == 0 {
        return refuse("an axis has length 0");
    }
    if problem.dtype == FloatDType::F64 {
        return refuse("it accumulates in f32, and f64 is to be accumulated in f64");
    }
    if problem.query_len as i64 >= LARGEST || problem.key_len as i64 >= LARGEST {
        return Err(format!("lengths of {LARGEST} and more"));
    }
    if problem.alibi && problem.bands.iter().any(|band| band.offset.abs() >= LARGEST) {
        return Err(format!("ALiBi at positions of {LARGEST} and more"));
    }
    let most = device.client().properties().hardware.max_bindings;
    let needed = bindings(problem);
    if needed > most {
        return Err(format!("it binds {needed} buffers, the device takes {most}"));
    }
    Ok(())
}

/// Buffers of a launch with the LSE: query, key, value, bands, output, LSE, shapes, and what else is given.
fn bindings(problem: &Problem) -> u32 {
    let given = [problem.mask.is_some(), problem.bias.is_some(), problem.alibi, problem.sinks];
    7 + given.into_iter().map(u32::from).sum::<u32>()
}
