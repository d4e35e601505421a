//! Burn's own operation, `burn::tensor::module::attention`.
//!
//! It knows scale, softcap, (bottom-right) causality, a mask and a bias. Windows and lengths it can only be given as a mask, with true
//! for hidden, and ALiBi as a bias; both are made beforehand and not timed, and such a mask carries causality too.

use std::sync::Arc;

use anyhow::ensure;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;

use super::extras::{bias, hidden};
use super::{Contestant, Operands, call};
use crate::backend::Backend;
use crate::inputs::Inputs;
use crate::shapes::{Shape, Suite};

/// The most bytes of scores that a way of separate operations is tried with; it keeps a few tensors of that size at once.
const MOST_SCORES: u64 = 8 << 30;

/// Sets Burn's operation up.
pub fn enter(shape: &Shape, inputs: &Inputs, backend: Backend, operands: Arc<Operands>) -> Contestant {
    set_up(backend.peer_name(), *shape, inputs, shape.scale, backend, operands)
}

/// Sets Burn's operation up so that it takes its way of separate operations, where a backend has another one that it would take for
/// this shape. A scale that is given leads there, whatever it is.
pub fn enter_unfused(shape: &Shape, inputs: &Inputs, backend: Backend, operands: Arc<Operands>) -> Option<Contestant> {
    let name = backend.unfused_name()?;
    if shape.scale.is_some() || shape.softcap.is_some() || shape.suite == Suite::Train {
        return None;
    }
    Some(set_up(name, *shape, inputs, Some(shape.effective_scale()), backend, operands))
}

fn set_up(
    name: &'static str,
    shape: Shape,
    inputs: &Inputs,
    scale: Option<f64>,
    backend: Backend,
    operands: Arc<Operands>,
) -> Contestant {
    let device = backend.device();
    // A scale or softcap that is given leads a device to separate operations.
    let apart = backend.unfused_name().is_some() && (scale.is_some() || shape.softcap.is_some());
    let scores = if apart { shape.score_bytes() } else { 0 };
    let band = shape.window.is_some() || shape.extras.ragged;
    let (mask, bias) = (hidden(&shape, band, &device), bias(&shape, inputs, &device));
    let options = AttentionModuleOptions { scale, softcap: shape.softcap, is_causal: shape.causal && !band };
    let run = move || {
        ensure!(scores <= MOST_SCORES, "its scores would take {} GiB, more than {}", scores >> 30, MOST_SCORES >> 30);
        call(&shape, &operands, |query, key, value| {
            Ok(attention(query, key, value, mask.clone(), bias.clone(), options))
        })
    };
    Contestant { name, backend, planned: None, device, call: Box::new(run) }
}
