//! The kernel named `libtorch`: LibTorch's fused attention under the contract.
//!
//! ```text
//! forward:                                                       backward:
//!   added  = bias, −∞ where the mask hides                         the same parts, each with the whole output and LSE:
//!   for each group of batch entries that see the same:             dQ += …, dK, dV of its keys
//!     for each of its one or two parts:  parts.rs                  dSink = −Σ exp(sink − lse) · δ,  δ = Σ dOut·out
//!       out, lse = fused(part)           fused.rs
//!     join the two by their LSE
//!   sinks: out ·= σ(lse − sink),  lse = ln(exp lse + exp sink)
//! ```
//!
//! Three things are not as the contract has them, and are seen to here:
//!
//! - **Hidden NaN.** LibTorch multiplies hidden values by a weight of 0, so that a hidden NaN or infinity makes the result NaN. Where
//!   anything is hidden inside a part the result is tested for being finite (one sum, read back); one that is not is computed again
//!   by a kernel that skips what is hidden: `cpu`, or the composite on other devices.
//! - **Narrow types on a CPU.** For f16 and bf16 LibTorch rounds the weights to the narrow type, its exponential is good for that type
//!   alone (the LSE is off by 3·10⁻⁵), and gradients are summed up in it. The contract accumulates in f32: so it runs on f32 copies.
//! - **Large scores.** The backward recomputes weights as exp(s − lse), off by |lse| times the precision, which large keys magnify.
//!   Beyond [`LARGEST_LSE`] that kernel takes over: the composite normalises the recomputed weights anew, and so does `cpu` where a block of
//!   its keys holds all that a row sees; for longer rows it relies on the LSE, as on every backend.

use attn_core::composite::Composite;
use attn_core::{
    AttentionError, AttentionInputs, AttentionKernel, AttentionOutputs, Gradients, Pass, Problem, Upstream, Wanted,
};
use burn_backend::FloatDType;
use burn_tch::{LibTorch, LibTorchDevice, TchTensor};
use tch::{Device, Kind, TchError, Tensor};

use crate::fused::{Call, is_finite};
use crate::heads::Heads;
use crate::host::Host;
use crate::parts::{Group, Part, cut};
use crate::{mask, workspace};

/// Serves by LibTorch's fused kernels what they mean as the contract means it.
#[derive(Debug, Clone, Copy)]
pub struct Fused;

/// The largest |LSE| from which the backward recomputes weights: their relative error is then 32 times the type's precision.
const LARGEST_LSE: f64 = 32.0;

/// Its name.
const NAME: &str = "libtorch";

impl AttentionKernel<LibTorch> for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports(&self, device: &LibTorchDevice, problem: &Problem, pass: Pass) -> Result<(), String> {
        supports(device, problem, pass)
    }

    fn workspace_bytes(&self, _device: &LibTorchDevice, problem: &Problem, pass: Pass) -> u64 {
        workspace::bytes(problem, pass)
    }

    fn forward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<LibTorch>,
        lse: bool,
    ) -> Result<AttentionOutputs<LibTorch>, AttentionError> {
        let groups = served(problem, &inputs, Pass::Forward)?;
        let run = Run::new(problem, &inputs, groups).map_err(failed)?;
        let (out, found) = run.forward(lse).map_err(failed)?;
        if run.may_spread && !is_finite(&out).map_err(failed)? {
            return careful(&inputs).forward(problem, inputs, lse);
        }
        Ok(AttentionOutputs { out: TchTensor::new(out), lse: found.map(TchTensor::new) })
    }

    fn backward(
        &self,
        problem: &Problem,
        inputs: AttentionInputs<LibTorch>,
        upstream: Upstream<LibTorch>,
        wanted: Wanted,
    ) -> Result<Gradients<LibTorch>, AttentionError> {
        let groups = served(problem, &inputs, Pass::Backward)?;
        match fused_backward(problem, &inputs, groups, &upstream, wanted).map_err(failed)? {
            Some(gradients) => Ok(gradients),
            None => careful(&inputs).backward(problem, inputs, upstream, wanted),
        }
    }
}

/// The gradients, or none where another kernel must make them: the LSE has a gradient of its own, scores are too large, or something
/// hidden has spread.
fn fused_backward(
    problem: &Problem,
    inputs: &AttentionInputs<LibTorch>,
    groups: Vec<Group>,
    upstream: &Upstream<LibTorch>,
    wanted: Wanted,
) -> Result<Option<Gradients<LibTorch>>, TchError> {
    let (Some(grad_out), None) = (&upstream.grad_out, &upstream.grad_lse) else { return Ok(None) };
    // A row that sees nothing has weights exp(−∞ − lse): 0 for any finite LSE.
    let lse = &upstream.lse.tensor;
    let lse = lse.f_masked_fill(&lse.f_isneginf()?, 0.0)?;
    // Written so that NaN is too large.
    let moderate = lse.f_abs()?.f_max()?.f_double_value(&[])? <= LARGEST_LSE;
    if !moderate {
        return Ok(None);
    }
    let run = Run::new(problem, inputs, groups)?;
    let (grads, by_sinks) = run.backward(&grad_out.tensor, &upstream.out.tensor, &lse, wanted.sinks)?;
    for grad in grads.iter().filter(|_| run.may_spread) {
        if !is_finite(grad)? {
            return Ok(None);
        }
    }
    let narrow = |wanted: bool, grad: Tensor| -> Result<Option<TchTensor>, TchError> {
        wanted.then(|| Ok(TchTensor::new(grad.f_to_kind(run.kind)?))).transpose()
    };
    let [query, key, value] = grads;
    Ok(Some(Gradients {
        query: narrow(wanted.query, query)?,
        key: narrow(wanted.key, key)?,
        value: narrow(wanted.value, value)?,
        bias: None,
        alibi_slopes: None,
        relative_bias: None,
        sinks: by_sinks.map(TchTensor::new),
    }))
}

/// The kernel that takes over where LibTorch's answer would not be the contract's.
fn careful(inputs: &AttentionInputs<LibTorch>) -> &'static dyn AttentionKernel<LibTorch> {
    match inputs.query.tensor.device() {
        Device::Cpu => &Host,
        _ => &Composite,
    }
}

/// The groups of a problem that is served; an error where it is not.
fn served(problem: &Problem, inputs: &AttentionInputs<LibTorch>, pass: Pass) -> Result<Vec<Group>, AttentionError> {
    let device = inputs.query.tensor.device().into();
    let refusal = |reason| AttentionError::Unsupported { kernel: NAME.to_string(), reason };
    supports(&device, problem, pass).map_err(refusal)?;
    cut(problem).map_err(refusal)
}

fn supports(device: &LibTorchDevice, problem: &Problem, pass: Pass) -> Result<(), String> {
    let refuse = |reason: &str| Err(reason.to_string());
    if problem.is_empty() || problem.key_len == 0 || problem.value_dim == 0 {
        return refuse("an axis has length 0");
    }
    if problem.softcap.is_some() {
        return refuse("LibTorch's fused kernels know no softcap");
    }
    if problem.alibi {
        return refuse(
            "LibTorch's fused kernels know ALiBi only as a bias over all pairs, which is not linear in memory",
        );
    }
    if problem.relative_bias.is_some() {
        return refuse(
            "LibTorch's fused kernels know a bias by relative position only as one over all pairs, which is not linear in memory",
        );
    }
    if problem.score_mod.is_some() {
        return refuse("LibTorch's fused kernels know no function of the scores");
    }
    if problem.dropout.is_some() {
        return refuse("LibTorch's fused kernels drop other weights than the contract's");
    }
    if problem.block_mask.is_some() {
        return refuse(
            "LibTorch's fused kernels know masks by blocks only as a mask over all pairs, which skips nothing",
        );
    }
    if problem.head_dim != problem.value_dim {
        return refuse("LibTorch's fused kernels want values of the head dimension");
    }
    mask::check(problem)?;
    cut(problem)?;
    match (device, pass) {
        (LibTorchDevice::Cpu, Pass::Forward) => Ok(()),
        (LibTorchDevice::Cpu, Pass::Backward) => backward_on_cpu(problem),
        (LibTorchDevice::Cuda(_), Pass::Forward) => forward_on_cuda(problem),
        (LibTorchDevice::Cuda(_), Pass::Backward) => refuse("LibTorch's fused backward on CUDA is not bound"),
        _ => refuse("LibTorch has fused kernels for CPU and CUDA alone"),
    }
}

fn backward_on_cpu(problem: &Problem) -> Result<(), String> {
    if problem.bias.is_some() {
        return Err("LibTorch's fused backward gives no gradient of a bias".to_string());
    }
    Ok(())
}

fn forward_on_cuda(problem: &Problem) -> Result<(), String> {
    if problem.mask.is_some() || problem.bias.is_some() {
        return Err("LibTorch's CUDA kernels want masks and biases expanded".to_string());
    }
    if problem.dtype == FloatDType::F64 {
        return Err("LibTorch's CUDA kernels know no f64".to_string());
    }
    if !problem.head_dim.is_multiple_of(8) {
        return Err("LibTorch's CUDA kernels want a head dimension that is a multiple of 8".to_string());
    }
    // The CUDA kernels take the largest score before the scale.
    if problem.scale <= 0.0 {
        return Err("LibTorch's CUDA kernels want a positive scale".to_string());
    }
    Ok(())
}

/// One problem on its tensors, in the type that LibTorch computes in.
struct Run<'a> {
    problem: &'a Problem,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Option<&'a Tensor>,
    added: Option<Tensor>,
    groups: Vec<Group>,
    /// Type of the problem's tensors.
    kind: Kind,
    /// Whether anything is hidden inside a part, where LibTorch multiplies it by a weight of 0.
    may_spread: bool,
}

impl<'a> Run<'a> {
    fn new(problem: &'a Problem, inputs: &'a AttentionInputs<LibTorch>, groups: Vec<Group>) -> Result<Self, TchError> {
        let kind = inputs.query.tensor.f_kind()?;
        let on_cpu = inputs.query.tensor.device() == Device::Cpu;
        let computed_in = if on_cpu && kind != Kind::Double { Kind::Float } else { kind };
        let of = |tensor: &TchTensor| tensor.tensor.f_to_kind(computed_in);
        let (query, key, value) = (of(&inputs.query)?, of(&inputs.key)?, of(&inputs.value)?);
        let added = mask::added(inputs)?.map(|added| added.f_to_kind(computed_in)).transpose()?;
        let may_spread = added.is_some() || groups.iter().flat_map(|group| &group.parts).any(|part| part.causal);
        let sinks = inputs.sinks.as_ref().map(|sinks| &sinks.tensor);
        let mut run = Self { problem, query, key, value, sinks, added, groups: Vec::new(), kind, may_spread };
        run.groups = groups.into_iter().flat_map(|group| run.viewable(group)).collect();
        Ok(run)
    }

    /// A group as it is, or its entries one by one where the heads could not be viewed together.
    fn viewable(&self, group: Group) -> Vec<Group> {
        let Problem { heads, kv_heads, .. } = *self.problem;
        let layout = Heads::of(heads, kv_heads, group.rows.len());
        let masked = self.added.as_ref().is_some_and(|added| added.size()[..2] != [1, 1]);
        let together = layout.is_view(&self.query, heads as i64)
            && layout.is_view(&self.key, kv_heads as i64)
            && layout.is_view(&self.value, kv_heads as i64);
        match layout {
            Heads::Batch { .. } if masked || !together => group.singly().collect(),
            _ => vec![group],
        }
    }

    fn wide(&self) -> Kind {
        if self.problem.accumulation() == FloatDType::F64 { Kind::Double } else { Kind::Float }
    }

    /// Whether one group is the whole problem, so that its results need not be copied into place.
    fn whole(&self) -> Option<&Group> {
        let all = |group: &&Group| group.batch == (0..self.problem.batch) && group.rows == (0..self.problem.query_len);
        self.groups.first().filter(all)
    }

    fn forward(&self, wants_lse: bool) -> Result<(Tensor, Option<Tensor>), TchError> {
        let with_lse = wants_lse || self.sinks.is_some();
        let (out, lse) = match self.whole() {
            Some(group) => self.group(group, with_lse)?,
            None => self.assembled(with_lse)?,
        };
        let (out, lse) = match (self.sinks, lse) {
            (Some(sinks), Some(lse)) => {
                let (out, lse) = self.with_sinks(sinks, out, &lse)?;
                (out, Some(lse))
            }
            (_, lse) => (out, lse),
        };
        Ok((out.f_to_kind(self.kind)?, lse.filter(|_| wants_lse)))
    }

    /// The groups' results in their places, 0 and −∞ elsewhere.
    fn assembled(&self, with_lse: bool) -> Result<(Tensor, Option<Tensor>), TchError> {
        let Problem { batch, heads, query_len, value_dim, .. } = *self.problem;
        let axes = [batch, heads, query_len, value_dim].map(|axis| axis as i64);
        let (kind, device) = (self.query.f_kind()?, self.query.device());
        let out = Tensor::f_zeros(axes, (kind, device))?;
        let lse = match with_lse {
            true => Some(Tensor::f_full(&axes[..3], f64::NEG_INFINITY, (self.wide(), device))?),
            false => None,
        };
        for group in self.groups.iter().filter(|group| !group.parts.is_empty()) {
            let (part, part_lse) = self.group(group, with_lse)?;
            place(&out, group).and_then(|mut to| to.f_copy_(&part))?;
            if let (Some(lse), Some(part_lse)) = (&lse, part_lse) {
                place(lse, group).and_then(|mut to| to.f_copy_(&part_lse))?;
            }
        }
        Ok((out, lse))
    }

    fn group(&self, group: &Group, with_lse: bool) -> Result<(Tensor, Option<Tensor>), TchError> {
        let several = group.parts.len() > 1;
        let mut joined: Option<(Tensor, Option<Tensor>)> = None;
        for part in &group.parts {
            let found = self.with_call(group, part, |call| call.forward(with_lse || several))?;
            joined = Some(match joined {
                None => found,
                Some(before) => join(before, found)?,
            });
        }
        joined.ok_or_else(|| TchError::Shape("a group without parts".to_string()))
    }

    /// Runs `f` with the call of a part.
    fn with_call<R>(
        &self,
        group: &Group,
        part: &Part,
        f: impl FnOnce(&Call<'_>) -> Result<R, TchError>,
    ) -> Result<R, TchError> {
        let keys = |tensor: &Tensor| {
            let entries = tensor.f_narrow(0, group.batch.start as i64, group.batch.len() as i64)?;
            entries.f_narrow(2, part.keys.start as i64, part.keys.len() as i64)
        };
        let (query, key, value) = (place(&self.query, group)?, keys(&self.key)?, keys(&self.value)?);
        let added = self.added.as_ref().map(|added| {
            let entries = mask::narrowed(added, 0, group.batch.start, group.batch.len())?;
            let rows = mask::narrowed(&entries, 2, group.rows.start, group.rows.len())?;
            mask::narrowed(&rows, 3, part.keys.start, part.keys.len())
        });
        let added = added.transpose()?;
        f(&Call {
            query: &query,
            key: &key,
            value: &value,
            added: added.as_ref(),
            causal: part.causal,
            scale: self.problem.scale,
            heads: Heads::of(self.problem.heads, self.problem.kv_heads, group.rows.len()),
        })
    }

    /// Lets each head's sink take its weight: `out · σ(lse − sink)`, and its place in the LSE.
    fn with_sinks(&self, sinks: &Tensor, out: Tensor, lse: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let sinks = self.per_head(sinks)?;
        let share = lse.f_sub(&sinks)?.f_sigmoid()?.f_unsqueeze(3)?;
        Ok((out.f_mul(&share)?, lse.f_logaddexp(&sinks)?))
    }

    /// `[H]` as `[1, H, 1]` in the accumulation type.
    fn per_head(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        tensor.f_to_kind(self.wide())?.f_reshape([1, self.problem.heads as i64, 1])
    }

    /// Gradients by query, key and value, and by the sinks if wanted, from the output's gradient, the output and the LSE (finite).
    fn backward(
        &self,
        grad_out: &Tensor,
        out: &Tensor,
        lse: &Tensor,
        wants_sinks: bool,
    ) -> Result<([Tensor; 3], Option<Tensor>), TchError> {
        let computed_in = self.query.f_kind()?;
        let (grad_out, out) = (&grad_out.f_to_kind(computed_in)?, &out.f_to_kind(computed_in)?);
        let by_sinks = match self.sinks.filter(|_| wants_sinks) {
            Some(sinks) => Some(self.sinks_gradient(sinks, grad_out, out, lse)?),
            None => None,
        };
        let part_gradients = |group: &Group, part: &Part| {
            let (grad_out, out, lse) = (place(grad_out, group)?, place(out, group)?, place(lse, group)?);
            self.with_call(group, part, |call| call.backward(&grad_out, &out, &lse))
        };
        if let Some((group, [part])) = self.whole().map(|group| (group, &group.parts[..]))
            && part.keys == (0..self.problem.key_len)
        {
            return Ok((part_gradients(group, part)?, by_sinks));
        }
        let zeros = |like: &Tensor| Tensor::f_zeros(like.size(), (like.f_kind()?, like.device()));
        let sums = [zeros(&self.query)?, zeros(&self.key)?, zeros(&self.value)?];
        for group in &self.groups {
            for part in &group.parts {
                let [by_query, by_key, by_value] = part_gradients(group, part)?;
                let _ = place(&sums[0], group)?.f_add_(&by_query)?;
                for (sum, grad) in sums[1..].iter().zip([by_key, by_value]) {
                    let entries = sum.f_narrow(0, group.batch.start as i64, group.batch.len() as i64)?;
                    let mut keys = entries.f_narrow(2, part.keys.start as i64, part.keys.len() as i64)?;
                    keys.f_copy_(&grad)?;
                }
            }
        }
        Ok((sums, by_sinks))
    }

    /// `dSink_h = −Σ exp(sink − lse) · δ`, `δ = Σ dOut·out`, over batch and rows.
    fn sinks_gradient(
        &self,
        sinks: &Tensor,
        grad_out: &Tensor,
        out: &Tensor,
        lse: &Tensor,
    ) -> Result<Tensor, TchError> {
        let wide = self.wide();
        let delta = grad_out.f_mul(out)?.f_sum_dim_intlist(&[3][..], false, wide)?;
        let weight = self.per_head(sinks)?.f_sub(lse)?.f_exp()?;
        let sum = weight.f_mul(&delta)?.f_sum_dim_intlist(&[0, 2][..], false, wide)?;
        sum.f_neg()?.f_to_kind(sinks.f_kind()?)
    }
}

/// The batch entries and rows of a group, in a tensor `[B, H, Sq, …]`.
fn place(tensor: &Tensor, group: &Group) -> Result<Tensor, TchError> {
    let entries = tensor.f_narrow(0, group.batch.start as i64, group.batch.len() as i64)?;
    entries.f_narrow(2, group.rows.start as i64, group.rows.len() as i64)
}

/// Joins attention over disjoint keys by their LSE.
fn join(a: (Tensor, Option<Tensor>), b: (Tensor, Option<Tensor>)) -> Result<(Tensor, Option<Tensor>), TchError> {
    let ((a, Some(a_lse)), (b, Some(b_lse))) = (a, b) else {
        return Err(TchError::Shape("a part without its LSE".to_string()));
    };
    let lse = a_lse.f_logaddexp(&b_lse)?;
    // A row that neither sees is −∞ in all three: measured from 0, its shares are 0.
    let from = lse.f_masked_fill(&lse.f_isneginf()?, 0.0)?;
    let kind = a.f_kind()?;
    let share = |out: &Tensor, part: &Tensor| {
        out.f_to_kind(part.f_kind()?)?.f_mul(&part.f_sub(&from)?.f_exp()?.f_unsqueeze(3)?)
    };
    let out = share(&a, &a_lse)?.f_add_(&share(&b, &b_lse)?)?.f_to_kind(kind)?;
    Ok((out, Some(lse)))
}

fn failed(error: TchError) -> AttentionError {
    // LibTorch's messages carry its C++ stack after the first line.
    let reason = error.to_string().lines().next().unwrap_or_default().to_string();
    AttentionError::Execution { kernel: NAME.to_string(), reason }
}
