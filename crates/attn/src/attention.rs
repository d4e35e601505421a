//! The builder: one attention, its options, and what it shall give back.

use std::sync::Arc;

use attn_core::composite::Selection;
use attn_core::{
    Alignment, AttentionError, AttentionSpec, BlockMask, Dropout, KernelChoice, Mask, MaskExpr, MaskShape, Plan,
    Polarity, Problem, ProblemInputs, ScoreMod, TensorInfo, Window,
};
use burn::backend::Dispatch;
use burn::tensor::kind::Basic;
use burn::tensor::{Bool, DType, Device, Tensor};

use crate::boxed::{BoxedBool, BoxedFloat};
use crate::dispatch::{AttentionExtension, Call, MaybeFloat, Outcome};

/// One attention over tensors of any backend.
///
/// Axes: B batch, H query heads, G key/value heads (H a multiple of G), Sq/Sk query/key length, D head dimension, E value
/// dimension. Nothing is checked before [`plan`](Self::plan) or [`forward`](Self::forward).
#[derive(Debug, Clone)]
pub struct Attention {
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    spec: AttentionSpec,
    lse: bool,
    /// What most attentions do without. In boxes, since a tensor's record is 256 bytes, and handing on room for five absent ones is a good
    /// part of a call of a few microseconds.
    extras: Option<Box<Extras>>,
}

#[derive(Debug, Clone, Default)]
struct Extras {
    mask: Option<Box<Mask<Tensor<4, Bool>>>>,
    bias: Option<Box<Tensor<4>>>,
    alibi_slopes: Option<Box<Tensor<1>>>,
    relative_bias: Option<Box<Tensor<2>>>,
    sinks: Option<Box<Tensor<1>>>,
    kv_lens: Option<Vec<usize>>,
    sparse: Option<Sparse>,
    score_mod: Option<ScoreMod>,
    choice: KernelChoice,
    weights: Option<Selection>,
}

/// What an attention gives.
#[derive(Debug, Clone)]
pub struct AttentionOutput {
    /// `[B, H, Sq, E]`, in the inputs' element type.
    pub out: Tensor<4>,
    /// `[B, H, Sq]`, the natural-log LSE of the scores, in f32 (f64 for f64); there if it was asked for.
    pub lse: Option<Tensor<3>>,
    /// `[B, selected heads, selected rows, Sk]`, in f32 (f64 for f64); there if they were asked for.
    pub weights: Option<Tensor<4>>,
}

impl Attention {
    /// Plain attention of `query` `[B, H, Sq, D]` over `key` `[B, G, Sk, D]` and `value` `[B, G, Sk, E]`.
    pub fn new(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Self {
        Self { query, key, value, spec: AttentionSpec::default(), lse: false, extras: None }
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Takes scale, softcap, causal, window, alignment and dropout from a spec.
    pub fn spec(mut self, spec: AttentionSpec) -> Self {
        self.spec = spec;
        self
    }

    /// Factor of `q·k`, in place of `1/√D`.
    pub fn scale(mut self, scale: f64) -> Self {
        self.spec.scale = Some(scale);
        self
    }

    /// Caps scores at ±softcap by `softcap · tanh(score / softcap)`.
    pub fn softcap(mut self, softcap: f64) -> Self {
        self.spec.softcap = Some(softcap);
        self
    }

    /// Hides keys after the query's position.
    pub fn causal(mut self, causal: bool) -> Self {
        self.spec.causal = causal;
        self
    }

    /// Shows only keys `left` before to `right` after the query's position; `None` leaves a side open.
    pub fn window(mut self, left: Option<usize>, right: Option<usize>) -> Self {
        self.spec.window = Window { left, right };
        self
    }

    /// Where query 0 stands among the keys.
    pub fn alignment(mut self, alignment: Alignment) -> Self {
        self.spec.alignment = alignment;
        self
    }

    /// Drops each weight with a probability in `[0, 1)`, and scales the others by `1 / (1 − probability)`. The seed tells which: the same
    /// on every backend, in the backward pass too. The LSE and the weights asked for are those before. See [`Dropout`].
    pub fn dropout(mut self, probability: f64, seed: u64) -> Self {
        self.spec.dropout = Some(Dropout::new(probability, seed));
        self
    }

    /// Hides what the mask hides; broadcastable to `[B, H, Sq, Sk]`.
    pub fn mask(mut self, mask: Mask<Tensor<4, Bool>>) -> Self {
        self.extras().mask = Some(Box::new(mask));
        self
    }

    /// Adds to the scores; broadcastable to `[B, H, Sq, Sk]`; `−inf` hides.
    pub fn bias(mut self, bias: Tensor<4>) -> Self {
        self.extras().bias = Some(Box::new(bias));
        self
    }

    /// `score −= slope · |j − p|`, one slope a head, `[H]` (ALiBi).
    pub fn alibi_slopes(mut self, slopes: Tensor<1>) -> Self {
        self.extras().alibi_slopes = Some(Box::new(slopes));
        self
    }

    /// `score += table[h, R + clamp(j − p, −R, R)]`, a number for each distance of key and query up to R either way, `[H or 1,
    /// 2·R + 1]`; `−inf` hides. Linear in memory, its gradient too, where a [`bias`](Self::bias) would hold every pair.
    ///
    /// Any penalty by distance is one such table (Shaw et al. 2018 in its bias form); T5's buckets are (Raffel et al. 2020), since
    /// they are the same for all distances from a greatest one on. See [`nn::RelativeBias`](crate::nn::RelativeBias).
    pub fn relative_bias(mut self, table: Tensor<2>) -> Self {
        self.extras().relative_bias = Some(Box::new(table));
        self
    }

    /// One extra logit a head, `[H]`, that takes weight and gives no value.
    pub fn sinks(mut self, sinks: Tensor<1>) -> Self {
        self.extras().sinks = Some(Box::new(sinks));
        self
    }

    /// Number of keys of each batch entry, `[B]`: keys at and past it are hidden, and bottom-right alignment ends there.
    pub fn kv_lens(mut self, kv_lens: impl Into<Vec<usize>>) -> Self {
        self.extras().kv_lens = Some(kv_lens.into());
        self
    }

    /// Shows what the expression shows, and skips the blocks of the scores in which it shows nothing. It is compiled in each call of
    /// [`plan`](Self::plan) and [`forward`](Self::forward), against this attention's lengths, alignment and key lengths; to compile
    /// once for many calls, use [`block_mask`](Self::block_mask), in whose place it stands.
    pub fn mask_expr(mut self, expr: MaskExpr) -> Self {
        self.extras().sparse = Some(Sparse::Expr(expr));
        self
    }

    /// Shows what the mask shows, `[B or 1, H or 1, Sq, Sk]`, and skips its empty blocks. With [`mask`](Self::mask), causal or a
    /// window too, a pair is seen where all show it. Stands in place of [`mask_expr`](Self::mask_expr).
    pub fn block_mask(mut self, mask: impl Into<Arc<BlockMask>>) -> Self {
        self.extras().sparse = Some(Sparse::Blocks(mask.into()));
        self
    }

    /// Sends each score through a function, after softcap, ALiBi and biases and before anything is hidden. It runs on the host: in the
    /// kernel on CPU backends, by way of the host and slowly on others. To differentiate, it needs its slope.
    pub fn score_mod(mut self, function: ScoreMod) -> Self {
        self.extras().score_mod = Some(function);
        self
    }

    /// Asks for the LSE.
    pub fn with_lse(mut self) -> Self {
        self.lse = true;
        self
    }

    /// Asks for the weights of the selected heads and rows, before any dropout. They are made from the LSE after the forward pass.
    pub fn with_weights(mut self, selection: Selection) -> Self {
        self.extras().weights = Some(selection);
        self
    }

    /// Demands a kernel for the forward pass, by the name that plans give it; where it cannot serve, that is an error.
    pub fn kernel(mut self, name: impl Into<String>) -> Self {
        self.extras().choice.forward = Some(name.into());
        self
    }

    /// Demands a kernel for the backward pass.
    pub fn backward_kernel(mut self, name: impl Into<String>) -> Self {
        self.extras().choice.backward = Some(name.into());
        self
    }

    /// Tells which kernels will serve this attention, why, and at what cost. Nothing runs.
    ///
    /// # Errors
    /// What [`forward`](Self::forward) would answer to the same inputs.
    pub fn plan(&self) -> Result<Plan, AttentionError> {
        let problem = self.problem()?;
        <Dispatch as AttentionExtension>::attention_plan(self.clone().into_call(problem)).plan
    }

    /// Computes the attention.
    ///
    /// # Errors
    /// An [`AttentionError`] that names the argument at fault, a demanded kernel that cannot serve, or a failure of the backend.
    pub fn forward(self) -> Result<AttentionOutput, AttentionError> {
        let problem = self.problem()?;
        let (wants_lse, selection) = (self.lse, self.extras.as_ref().and_then(|extras| extras.weights.clone()));
        let call = self.into_call(problem);
        let Some(selection) = selection else {
            let (out, lse) = finished(<Dispatch as AttentionExtension>::attention_forward(call))?;
            return Ok(AttentionOutput { out, lse, weights: None });
        };
        selection.check(&call.problem)?;
        let call = Call { lse: true, ..call };
        let (out, lse) = finished(<Dispatch as AttentionExtension>::attention_forward(call.clone()))?;
        let weights = match &lse {
            Some(lse) => {
                let lse = lse.clone().into_dispatch();
                Some(finished(<Dispatch as AttentionExtension>::attention_weights(call, lse, selection))?.0)
            }
            None => None,
        };
        Ok(AttentionOutput { out, lse: lse.filter(|_| wants_lse), weights })
    }

    /// The scores that the softmax would take, after softcap, ALiBi and biases, `−inf` where hidden: `[B, selected heads,
    /// selected rows, Sk]` in f32 (f64 for f64). Sinks are no part of them, and the values are not looked at.
    ///
    /// No kernel makes them: it is their whole point to have none in memory. They come from the composite's formulas,
    /// in the memory and time of the selection, and are differentiable by everything that went in. Where something may
    /// be hidden, one number is read back for the query and one for the key, to see whether they are finite.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and a demanded kernel is refused.
    pub fn scores(self, selection: Selection) -> Result<Tensor<4>, AttentionError> {
        let problem = self.problem()?;
        selection.check(&problem)?;
        let choice = self.extras.as_ref().map(|extras| &extras.choice);
        if let Some(kernel) = choice.and_then(|choice| choice.forward.as_ref().or(choice.backward.as_ref())) {
            let reason = "scores are made by the composite's formulas alone".to_string();
            return Err(AttentionError::Unsupported { kernel: kernel.clone(), reason });
        }
        Ok(finished(<Dispatch as AttentionExtension>::attention_scores(self.into_call(problem), selection))?.0)
    }

    fn into_call(self, problem: Problem) -> Call<Dispatch> {
        let extras = self.extras.map_or_else(Extras::default, |extras| *extras);
        Call {
            query: self.query.into_dispatch(),
            key: self.key.into_dispatch(),
            value: self.value.into_dispatch(),
            polarity: extras.mask.as_deref().map_or(Polarity::Keep, Mask::polarity),
            mask: BoxedBool::bools(extras.mask.map(|mask| mask.into_parts().0.into_dispatch())),
            bias: BoxedFloat::float(extras.bias.map(|tensor| tensor.into_dispatch())),
            alibi_slopes: BoxedFloat::float(extras.alibi_slopes.map(|tensor| tensor.into_dispatch())),
            relative_bias: BoxedFloat::float(extras.relative_bias.map(|tensor| tensor.into_dispatch())),
            sinks: BoxedFloat::float(extras.sinks.map(|tensor| tensor.into_dispatch())),
            problem: Arc::new(problem),
            choice: extras.choice,
            lse: self.lse,
        }
    }

    fn problem(&self) -> Result<Problem, AttentionError> {
        let devices = [("key", Some(self.key.device())), ("value", Some(self.value.device()))];
        let plain = ProblemInputs::new(info(&self.query), info(&self.key), info(&self.value));
        match &self.extras {
            None => {
                check_devices(&self.query.device(), &devices)?;
                Problem::new(&self.spec, &plain)
            }
            Some(extras) => {
                let [key, value] = devices;
                extras.check_devices(&self.query.device(), key, value)?;
                sparse_problem(&self.spec, extras.inputs(plain), extras.sparse.as_ref())
            }
        }
    }
}

impl Extras {
    fn check_devices(&self, device: &Device, key: Found, value: Found) -> Result<(), AttentionError> {
        check_devices(
            device,
            &[
                key,
                value,
                ("mask", self.mask.as_ref().map(|mask| mask.tensor().device())),
                ("bias", self.bias.as_deref().map(Tensor::device)),
                ("alibi_slopes", self.alibi_slopes.as_deref().map(Tensor::device)),
                ("relative_bias", self.relative_bias.as_deref().map(Tensor::device)),
                ("sinks", self.sinks.as_deref().map(Tensor::device)),
            ],
        )
    }

    fn inputs<'a>(&'a self, plain: ProblemInputs<'a>) -> ProblemInputs<'a> {
        ProblemInputs {
            mask: self.mask.as_ref().map(|mask| info(mask.tensor())),
            bias: self.bias.as_deref().map(info),
            alibi_slopes: self.alibi_slopes.as_deref().map(info),
            relative_bias: self.relative_bias.as_deref().map(info),
            sinks: self.sinks.as_deref().map(info),
            kv_lens: self.kv_lens.as_deref(),
            score_mod: self.score_mod.as_ref(),
            ..plain
        }
    }
}

/// Shape and element type.
pub(crate) fn info<const D: usize, K: Basic>(tensor: &Tensor<D, K>) -> TensorInfo {
    TensorInfo { shape: tensor.shape(), dtype: tensor.dtype() }
}

/// A mask by blocks, or what it is compiled from.
#[derive(Debug, Clone)]
pub(crate) enum Sparse {
    Blocks(Arc<BlockMask>),
    Expr(MaskExpr),
}

/// The problem of the inputs and a mask by blocks. The inputs are checked before anything is compiled for them.
pub(crate) fn sparse_problem(
    spec: &AttentionSpec,
    inputs: ProblemInputs<'_>,
    sparse: Option<&Sparse>,
) -> Result<Problem, AttentionError> {
    let problem = Problem::new(spec, &inputs)?;
    let mask = match sparse {
        None => return Ok(problem),
        Some(Sparse::Blocks(mask)) => mask.clone(),
        Some(Sparse::Expr(expr)) => {
            let shape = MaskShape {
                batch: problem.batch,
                heads: problem.heads,
                query_len: problem.query_len,
                key_len: problem.key_len,
                alignment: spec.alignment,
                kv_lens: inputs.kv_lens.map(<[usize]>::to_vec),
            };
            Arc::new(expr.compile(&shape)?)
        }
    };
    Problem::new(spec, &ProblemInputs { block_mask: Some(&mask), ..inputs })
}

/// An argument, and where it lies if it is there.
type Found = (&'static str, Option<Device>);

/// Every argument must lie on the query's device and, where autodiff is on for both, use its checkpointing strategy.
pub(crate) fn check_devices(expected: &Device, found: &[Found]) -> Result<(), AttentionError> {
    let mut strategy = expected.gradient_checkpointing_strategy();
    for (argument, device) in found {
        let Some(device) = device else { continue };
        let other = device.gradient_checkpointing_strategy();
        let conflict = matches!((strategy, other), (Some(a), Some(b)) if a != b);
        if device != expected || conflict {
            return Err(AttentionError::Device {
                argument,
                expected: format!("{expected:?}"),
                found: format!("{device:?}"),
            });
        }
        strategy = strategy.or(other);
    }
    Ok(())
}

/// Float types, all the same.
pub(crate) fn check_dtypes(
    name: &'static str,
    expected: DType,
    found: &[(&'static str, DType)],
) -> Result<(), AttentionError> {
    let error = |argument, expected: &str, found: DType| AttentionError::DType {
        argument,
        expected: expected.to_string(),
        found: found.name().to_string(),
    };
    if !matches!(expected, DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
        return Err(error(name, "f64, f32, f16 or bf16", expected));
    }
    match found.iter().find(|(_, dtype)| *dtype != expected) {
        Some((argument, dtype)) => Err(error(argument, expected.name(), *dtype)),
        None => Ok(()),
    }
}

/// The tensors of an outcome.
pub(crate) fn finished<const N: usize>(
    outcome: Outcome<Dispatch>,
) -> Result<(Tensor<N>, Option<Tensor<3>>), AttentionError> {
    match outcome {
        Outcome::Done { out, lse } => {
            let lse = match lse {
                MaybeFloat::Given(lse) => Some(Tensor::from_dispatch(lse)),
                MaybeFloat::Absent => None,
            };
            Ok((Tensor::from_dispatch(out), lse))
        }
        Outcome::Failed(error) => Err(error),
    }
}
