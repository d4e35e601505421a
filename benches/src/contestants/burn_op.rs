//! Burn's own operation, `burn::tensor::module::attention`.
//!
//! It knows scale, softcap and (bottom-right) causality. A window it can only be given as a mask, [1, 1, Sq, Sk] with true
//! for hidden; the mask is made beforehand and not timed, and carries causality too.

use std::sync::Arc;

use anyhow::ensure;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::{Contestant, Operands, call};
use crate::backend::Backend;
use crate::shapes::{Shape, Suite};

/// The most bytes of scores that a way of separate operations is tried with; it keeps a few tensors of that size at once.
const MOST_SCORES: u64 = 8 << 30;

/// Sets Burn's operation up.
pub fn enter(shape: &Shape, backend: Backend, operands: Arc<Operands>) -> Contestant {
    set_up(backend.peer_name(), *shape, shape.scale, backend, operands)
}

/// Sets Burn's operation up so that it takes its way of separate operations, where a backend has another one that it would take for
/// this shape. A scale that is given leads there, whatever it is.
pub fn enter_unfused(shape: &Shape, backend: Backend, operands: Arc<Operands>) -> Option<Contestant> {
    let name = backend.unfused_name()?;
    if shape.scale.is_some() || shape.softcap.is_some() || shape.suite == Suite::Train {
        return None;
    }
    Some(set_up(name, *shape, Some(shape.effective_scale()), backend, operands))
}

fn set_up(
    name: &'static str,
    shape: Shape,
    scale: Option<f64>,
    backend: Backend,
    operands: Arc<Operands>,
) -> Contestant {
    let device = backend.device();
    // A scale or softcap that is given leads a device to separate operations.
    let apart = backend.unfused_name().is_some() && (scale.is_some() || shape.softcap.is_some());
    let scores = if apart { shape.score_bytes() } else { 0 };
    let mask = shape.window.map(|_| hidden(&shape, &device));
    let options = AttentionModuleOptions { scale, softcap: shape.softcap, is_causal: shape.causal && mask.is_none() };
    let run = move || {
        ensure!(scores <= MOST_SCORES, "its scores would take {} GiB, more than {}", scores >> 30, MOST_SCORES >> 30);
        call(&shape, &operands, |query, key, value| Ok(attention(query, key, value, mask.clone(), None, options)))
    };
    Contestant { name, backend, planned: None, device, call: Box::new(run) }
}

/// The mask of what the shape hides, on the device that the operands are on.
fn hidden(shape: &Shape, device: &Device) -> Tensor<4, Bool> {
    let device = match shape.suite {
        Suite::Train => device.clone().autodiff(),
        Suite::Prefill | Suite::Decode => device.clone(),
    };
    let mut mask = Vec::with_capacity(shape.query_len * shape.key_len);
    for i in 0..shape.query_len {
        let keys = shape.visible_keys(i);
        mask.extend((0..shape.key_len).map(|j| !keys.contains(&j)));
    }
    let data = TensorData::new(mask, [1, 1, shape.query_len, shape.key_len]);
    Tensor::from_data(data, &device)
}
