//! What a kernel is: a named way to serve problems on a backend.

use burn_backend::Backend;
use burn_backend::tensor::Device;

use crate::{AttentionError, AttentionInputs, AttentionOutputs, Gradients, Problem, Upstream, Wanted};

/// A direction through the attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Inputs to outputs.
    Forward,
    /// Gradients of outputs to gradients of inputs.
    Backward,
}

/// A way to compute attention on backend `B`.
///
/// A binding implements this for a type of its own, one for each kernel it has, and lists them in order of preference; see
/// [`plan`](crate::plan::plan). A kernel that says it supports a problem computes the whole contract for it, exactly.
pub trait AttentionKernel<B: Backend>: Send + Sync {
    /// Name by which a caller demands this kernel and by which plans speak of it.
    fn name(&self) -> &'static str;

    /// Whether this kernel serves that problem in that direction on that device.
    ///
    /// # Errors
    /// The reason why not, for a person to read.
    fn supports(&self, device: &Device<B>, problem: &Problem, pass: Pass) -> Result<(), String>;

    /// Whether it is worth choosing for a problem that it supports, where the caller does not demand it.
    ///
    /// # Errors
    /// The reason why not, for a person to read.
    fn advises(&self, _device: &Device<B>, _problem: &Problem, _pass: Pass) -> Result<(), String> {
        Ok(())
    }

    /// How it cuts the work for that device: tiles, blocks, runs of keys. For a person to read, where there is something to tell.
    fn cut(&self, _device: &Device<B>, _problem: &Problem, _pass: Pass) -> Option<String> {
        None
    }

    /// An upper bound of the bytes it allocates on that device beyond inputs and outputs.
    fn workspace_bytes(&self, device: &Device<B>, problem: &Problem, pass: Pass) -> u64;

    /// Computes the output, and the LSE if asked for.
    ///
    /// `problem` must be the one made from `inputs`.
    ///
    /// # Errors
    /// [`Unsupported`](AttentionError::Unsupported) where [`supports`](Self::supports) says no,
    /// [`Execution`](AttentionError::Execution) where the backend fails and says so by then.
    fn forward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<B>,
        lse: bool,
    ) -> Result<AttentionOutputs<B>, AttentionError>;

    /// Computes the gradients that are wanted.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn backward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<B>,
        upstream: Upstream<B>,
        wanted: Wanted,
    ) -> Result<Gradients<B>, AttentionError>;
}
