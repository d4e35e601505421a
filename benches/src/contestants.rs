//! Those that are timed: our attention and Burn's own operation, behind one face.

use std::sync::Arc;

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor};

use crate::backend::{Backend, Memory, hand_over};
use crate::inputs::Inputs;
use crate::shapes::{Dtype, Shape, Suite};

mod burn_op;
mod extras;
mod operands;
mod ours;
#[cfg(feature = "tch")]
mod torch_sdpa;

pub use operands::{Operands, copies};

/// What a call gives: the output, and in training the gradients of query, key and value after it.
pub type Outcome = Vec<Tensor<4>>;

/// What a plan says of a shape.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The kernel that will serve; in training that of the forward and that of the backward pass.
    pub kernel: String,
    /// Bytes beyond inputs and results; in training the larger of the two passes, without what the graph keeps.
    pub workspace_bytes: u64,
}

/// One implementation on one backend, set up for one shape.
pub struct Contestant {
    /// What the report calls it: `ours`, or the peer's name.
    pub name: &'static str,
    /// Where it runs.
    pub backend: Backend,
    /// What the implementation says beforehand, if it does.
    pub planned: Option<Planned>,
    device: Device,
    call: Box<dyn Fn() -> Result<Outcome> + Send + Sync>,
}

impl Contestant {
    /// Runs once and waits until the device is done.
    pub fn run(&self) -> Result<Outcome> {
        let outcome = (self.call)()?;
        self.wait()?;
        Ok(outcome)
    }

    /// Hands one call to the device, without waiting for it; on a CPU this is the call itself.
    pub fn submit(&self) -> Result<Outcome> {
        let outcome = (self.call)()?;
        hand_over(&self.device)?;
        Ok(outcome)
    }

    /// Waits until the device has done what it was handed.
    pub fn wait(&self) -> Result<()> {
        self.device.sync().with_context(|| format!("waiting for {} on {}", self.name, self.backend))
    }

    /// Reads one number of each tensor. A device's launch that failed shows there alone: waiting does not tell.
    ///
    /// # Errors
    /// Where a launch failed.
    pub fn confirm(&self, outcome: &Outcome) -> Result<()> {
        for tensor in outcome {
            let number = tensor.clone().slice([0..1, 0..1, 0..1, 0..1]);
            number.try_into_vec_as::<f32>().with_context(|| format!("{} on {} failed", self.name, self.backend))?;
        }
        Ok(())
    }

    /// Whether its calls queue on a device, so that many can be handed over before one waits.
    pub fn queues(&self) -> bool {
        self.backend.memory() == Memory::Device
    }

    /// Hands memory that the device keeps for later calls back, so that it serves other sizes.
    pub fn tidy_up(&self) {
        if self.queues() {
            self.device.memory_cleanup();
        }
    }

    /// Whether this is our attention.
    pub fn is_ours(&self) -> bool {
        self.name == OURS
    }
}

/// What the report calls our attention.
pub const OURS: &str = "ours";

/// What it calls ours on the same numbers in f32, which stands beside ours in a half type where memory is the limit: half the bytes should take
/// half the time, whatever memory gives while both are timed.
pub const OURS_IN_F32: &str = "ours-f32";

/// Whose operations are peers of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Those of the backends on which ours runs, of every CPU backend of this build, and LibTorch's own.
    Everywhere,
    /// Those of the backends on which ours runs: what a card does in milliseconds takes a CPU minutes.
    Near,
    /// Those of [`Near`](Self::Near), and LibTorch's own.
    Fastest,
}

/// Everyone who can do `shape`: ours on each of `backends`, then the peers, then [`OURS_IN_F32`] in decode of half types on the first of the
/// backends in host memory.
///
/// Ours and the peer on one backend read the very same tensors.
pub fn enter(shape: &Shape, inputs: &Inputs, backends: &[Backend], which: Peers) -> Result<Vec<Contestant>> {
    let everywhere = which == Peers::Everywhere;
    let mut ours = Vec::new();
    let mut peers = Vec::new();
    for &backend in Backend::ALL {
        let chosen = backends.contains(&backend) && backend.has_dtype(shape.dtype);
        // Burn's operation on a GPU is no one's peer on a CPU.
        let near = chosen || (everywhere && backend.memory() != Memory::Device);
        let peer = near && backend.peer_lacks(shape).is_none();
        #[cfg(feature = "tch")]
        let sdpa = backend == Backend::LibTorch
            && (chosen || everywhere || which == Peers::Fastest)
            && backend.has_dtype(shape.dtype)
            && torch_sdpa::can(shape);
        #[cfg(not(feature = "tch"))]
        let sdpa = false;
        if !chosen && !peer && !sdpa {
            continue;
        }
        let operands = Arc::new(Operands::new(shape, inputs, backend));
        if chosen {
            ours.push(ours::enter(shape, inputs, backend, Arc::clone(&operands))?);
        }
        #[cfg(feature = "tch")]
        if sdpa {
            peers.push(torch_sdpa::enter(shape, inputs, Arc::clone(&operands)));
        }
        if peer {
            peers.extend(burn_op::enter_unfused(shape, inputs, backend, Arc::clone(&operands)));
            peers.push(burn_op::enter(shape, inputs, backend, operands));
        }
    }
    if shape.suite == Suite::Decode && shape.dtype != Dtype::F32 {
        let in_host_memory = |contestant: &&Contestant| contestant.backend.memory() != Memory::Device;
        if let Some(backend) = ours.iter().find(in_host_memory).map(|contestant| contestant.backend) {
            let wide = Shape { dtype: Dtype::F32, ..*shape };
            let operands = Arc::new(Operands::new(&wide, inputs, backend));
            peers.push(Contestant { name: OURS_IN_F32, ..ours::enter(&wide, inputs, backend, operands)? });
        }
    }
    ours.append(&mut peers);
    Ok(ours)
}

/// Forward, and in training backward too: what both kinds of contestant do around their own attention.
fn call(
    shape: &Shape,
    operands: &Operands,
    attention: impl Fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Result<Tensor<4>>,
) -> Result<Outcome> {
    let (query, key, value) = operands.next();
    match shape.suite {
        Suite::Prefill | Suite::Decode | Suite::Sweep => Ok(vec![attention(query, key, value)?]),
        Suite::Train => {
            let out = attention(query.clone(), key.clone(), value.clone())?;
            let loss = (out.clone() * operands.grad_out()?).sum();
            let mut gradients = loss.backward();
            let mut outcome = vec![out.inner()];
            for (name, leaf) in [("query", query), ("key", key), ("value", value)] {
                let gradient =
                    leaf.grad_remove(&mut gradients).with_context(|| format!("no gradient of the {name} came back"))?;
                outcome.push(gradient);
            }
            Ok(outcome)
        }
    }
}
