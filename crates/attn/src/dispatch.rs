//! The way from a tensor, whose backend is known only when the program runs, to that backend's kernels.
//!
//! Burn's dispatch calls [`AttentionExtension`], generated for every backend listed there. Errors travel as values inside the
//! outcomes, since what crosses the dispatch is tensors and structs of tensors.

// Burn deprecates its NdArray and LibTorch backends, to go in 0.23; until then they are served. This file is the one place of
// this crate that names them.
#![allow(deprecated)]

use std::sync::Arc;

use attn_core::composite::{self, Selection};
use attn_core::plan::{Kernels, plan, select};
use attn_core::{AttentionError, AttentionInputs, AttentionOutputs, KernelChoice, Mask, Pass, Plan, Polarity, Problem};
#[cfg(feature = "cubecl")]
use attn_wgpu::CubeBackend;
#[cfg(feature = "flex")]
use burn::backend::Flex;
#[cfg(feature = "tch")]
use burn::backend::LibTorch;
#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
#[cfg(all(feature = "cubecl", feature = "fusion"))]
use burn::backend::fusion::Fusion;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType, TensorMetadata, backend_extension};

use crate::boxed::{BoxedBool, BoxedFloat};

/// A backend that has attention kernels.
pub trait AttentionBackend: Backend {
    /// The kernels, the preferred one first, the last one serving everything in both directions.
    fn kernels() -> Kernels<'static, Self>;
}

/// A float tensor that may be absent.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(all(feature = "cubecl", feature = "fusion")))]
pub enum MaybeFloat<B: Backend> {
    /// Not given.
    Absent,
    /// Given.
    Given(FloatTensor<B>),
}

/// An attention on its way through the dispatch; its shapes, types and devices are checked.
#[derive(Debug, Clone, ExtensionType)]
pub struct Call<B: Backend> {
    pub query: FloatTensor<B>,
    pub key: FloatTensor<B>,
    pub value: FloatTensor<B>,
    #[extension_type]
    pub mask: BoxedBool<B>,
    #[extension_type]
    pub bias: BoxedFloat<B>,
    #[extension_type]
    pub alibi_slopes: BoxedFloat<B>,
    #[extension_type]
    pub relative_bias: BoxedFloat<B>,
    #[extension_type]
    pub sinks: BoxedFloat<B>,
    pub polarity: Polarity,
    pub problem: Arc<Problem>,
    pub choice: KernelChoice,
    pub lse: bool,
}

/// What a call gives.
#[derive(Debug, Clone, ExtensionType)]
#[extension_type(fusion: cfg(all(feature = "cubecl", feature = "fusion")))]
pub enum Outcome<B: Backend> {
    /// The output, and the LSE if it was asked for.
    Done {
        out: FloatTensor<B>,
        #[extension_type]
        lse: MaybeFloat<B>,
    },
    /// What went wrong.
    Failed(AttentionError),
}

/// A plan; the query is handed back, since an outcome holds a tensor.
#[derive(Debug, Clone, ExtensionType)]
pub struct Planned<B: Backend> {
    pub query: FloatTensor<B>,
    pub plan: Result<Plan, AttentionError>,
}

/// What Burn's dispatch calls on the backend of the tensors.
#[diagnostic::on_unimplemented(
    note = "if it is `Fusion<CubeBackend>` that lacks it: Burn's feature `fusion` is on, so turn on that of burn-attn, too"
)]
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cubecl"), Autodiff)]
pub trait AttentionExtension: Backend {
    /// Plans without running.
    fn attention_plan(#[extension_type] call: Call<Self>) -> Planned<Self>;
    /// Runs.
    fn attention_forward(#[extension_type] call: Call<Self>) -> Outcome<Self>;
    /// Makes the selected weights from the LSE.
    fn attention_weights(
        #[extension_type] call: Call<Self>,
        lse: FloatTensor<Self>,
        selection: Selection,
    ) -> Outcome<Self>;
    /// Makes the selected scores.
    fn attention_scores(#[extension_type] call: Call<Self>, selection: Selection) -> Outcome<Self>;
    /// Additive scores, which no kernel makes.
    fn attention_additive_scores(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
    ) -> Outcome<Self>;
    /// `weights · value`, where a weight of 0 takes nothing.
    fn attention_apply_weights(weights: FloatTensor<Self>, value: FloatTensor<Self>) -> Outcome<Self>;
    /// Joins attention over disjoint keys.
    fn attention_merge(
        a_out: FloatTensor<Self>,
        a_lse: FloatTensor<Self>,
        b_out: FloatTensor<Self>,
        b_lse: FloatTensor<Self>,
    ) -> Outcome<Self>;
}

/// Implements the extension for a backend by its kernels.
macro_rules! serve {
    ($feature:literal, $backend:ty, $kernels:path) => {
        #[cfg(feature = $feature)]
        impl AttentionBackend for $backend {
            fn kernels() -> Kernels<'static, Self> {
                $kernels
            }
        }

        #[cfg(feature = $feature)]
        serve!($backend);
    };
    ($backend:ty) => {
        impl AttentionExtension for $backend {
            fn attention_plan(call: Call<Self>) -> Planned<Self> {
                let device = call.query.device();
                Planned { plan: plan(Self::kernels(), &device, &call.problem, &call.choice), query: call.query }
            }

            fn attention_forward(call: Call<Self>) -> Outcome<Self> {
                forward(call).into()
            }

            fn attention_weights(call: Call<Self>, lse: FloatTensor<Self>, selection: Selection) -> Outcome<Self> {
                weights(call, lse, &selection)
            }

            fn attention_scores(call: Call<Self>, selection: Selection) -> Outcome<Self> {
                scores(call, &selection)
            }

            fn attention_additive_scores(
                query: FloatTensor<Self>,
                key: FloatTensor<Self>,
                value: FloatTensor<Self>,
            ) -> Outcome<Self> {
                Outcome::single(composite::additive_scores::<Self>(query, key, value))
            }

            fn attention_apply_weights(weights: FloatTensor<Self>, value: FloatTensor<Self>) -> Outcome<Self> {
                Outcome::single(composite::apply_weights::<Self>(weights, value))
            }

            fn attention_merge(
                a_out: FloatTensor<Self>,
                a_lse: FloatTensor<Self>,
                b_out: FloatTensor<Self>,
                b_lse: FloatTensor<Self>,
            ) -> Outcome<Self> {
                merge(a_out, a_lse, b_out, b_lse)
            }
        }
    };
}

serve!("ndarray", NdArray, attn_ndarray::KERNELS);
serve!("flex", Flex, attn_flex::KERNELS);
serve!("tch", LibTorch, attn_tch::KERNELS);
serve!("cubecl", CubeBackend, attn_wgpu::KERNELS);
#[cfg(all(feature = "cubecl", feature = "fusion"))]
serve!(Fusion<CubeBackend>);

/// Runs the forward pass by the kernel that the plan names.
pub(crate) fn forward<B: AttentionBackend>(call: Call<B>) -> Result<AttentionOutputs<B>, AttentionError> {
    let (kernel, _) =
        select(B::kernels(), &call.query.device(), &call.problem, Pass::Forward, call.choice.forward.as_deref())?;
    let (problem, lse) = (call.problem.clone(), call.lse);
    kernel.forward(&problem, call.into_inputs(), lse)
}

/// Makes weights by the composite's formulas, which differentiate where the backend does.
pub(crate) fn weights<B: Backend>(call: Call<B>, lse: FloatTensor<B>, selection: &Selection) -> Outcome<B> {
    let problem = call.problem.clone();
    Outcome::single(composite::weights(&problem, &call.into_inputs(), &lse, selection))
}

/// Makes scores by the composite's formulas, likewise.
pub(crate) fn scores<B: Backend>(call: Call<B>, selection: &Selection) -> Outcome<B> {
    let problem = call.problem.clone();
    Outcome::single(composite::scores(&problem, &call.into_inputs(), selection))
}

/// Joins two partial results.
pub(crate) fn merge<B: Backend>(
    a_out: FloatTensor<B>,
    a_lse: FloatTensor<B>,
    b_out: FloatTensor<B>,
    b_lse: FloatTensor<B>,
) -> Outcome<B> {
    let part = |out, lse| AttentionOutputs { out, lse: Some(lse) };
    attn_core::merge::merge::<B>(part(a_out, a_lse), part(b_out, b_lse)).into()
}

impl<B: Backend> Call<B> {
    /// The tensors as the kernels take them. Key lengths, the block mask and the function of the scores are in the
    /// problem.
    pub(crate) fn into_inputs(self) -> AttentionInputs<B> {
        AttentionInputs {
            query: self.query,
            key: self.key,
            value: self.value,
            mask: self.mask.into_option().map(|mask| Mask::new(mask, self.polarity)),
            bias: self.bias.into_option(),
            alibi_slopes: self.alibi_slopes.into_option(),
            relative_bias: self.relative_bias.into_option(),
            sinks: self.sinks.into_option(),
            kv_lens: None,
            block_mask: None,
            score_mod: None,
        }
    }
}

impl<B: Backend> MaybeFloat<B> {
    /// From an option.
    pub(crate) fn new(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Self::Absent, Self::Given)
    }

    /// As an option.
    #[cfg(all(feature = "cubecl", feature = "fusion"))]
    pub(crate) fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Self::Given(tensor) => Some(tensor),
            Self::Absent => None,
        }
    }
}

impl<B: Backend> From<Result<AttentionOutputs<B>, AttentionError>> for Outcome<B> {
    fn from(result: Result<AttentionOutputs<B>, AttentionError>) -> Self {
        match result {
            Ok(outputs) => Self::Done { out: outputs.out, lse: MaybeFloat::new(outputs.lse) },
            Err(error) => Self::Failed(error),
        }
    }
}

impl<B: Backend> Outcome<B> {
    /// From one tensor.
    pub(crate) fn single(result: Result<FloatTensor<B>, AttentionError>) -> Self {
        result.map(|out| AttentionOutputs { out, lse: None }).into()
    }
}
