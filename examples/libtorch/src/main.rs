//! What Burn's own attention answers on each backend, what it should answer, and what ours does: one masked problem and one
//! causal one with more keys than queries. `docs/libtorch.md` tells the story.

mod formula;

use anyhow::{Context, Result};
use attn::{Attention, Mask};
use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor, TensorData};

use formula::{Problem, Seen};

fn main() -> Result<()> {
    let masked = Problem { queries: 5, keys: 70, dim: 16, seen: Seen::FirstKeys(40) };
    let causal = Problem { queries: 5, keys: 70, dim: 16, seen: Seen::Causal };
    println!("largest error of an output element beside the elements' root mean square; 5 queries, 70 keys, f32\n");
    println!("{:<10} {:>24} {:>8} {:>12} {:>12}", "backend", "problem", "rms", "Burn's op", "ours");
    for name in attn::BACKENDS {
        let device = attn::device(name)?;
        for (problem, what) in [(&masked, "30 of 70 keys hidden"), (&causal, "causal, bottom-right")] {
            let expected = problem.answer();
            let error = |found: Tensor<4>| -> Result<f64> {
                let found: Vec<f64> = found.try_into_data()?.iter::<f64>().collect();
                anyhow::ensure!(found.len() == expected.len(), "{} elements came", found.len());
                Ok(found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
            };
            let burns = error(burns_answer(problem, &device))?;
            let ours = error(our_answer(problem, &device).with_context(|| format!("ours on {name}"))?)?;
            let rms = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
            println!("{name:<10} {what:>24} {rms:>8.3} {burns:>12.1e} {ours:>12.1e}");
        }
    }
    Ok(())
}

/// Query, key and value as tensors.
fn tensors(problem: &Problem, device: &Device) -> [Tensor<4>; 3] {
    let tensor = |data: Vec<f64>, rows: usize| {
        let data: Vec<f32> = data.into_iter().map(|x| x as f32).collect();
        Tensor::<4>::from_data(TensorData::new(data, [1, 1, rows, problem.dim]), device)
    };
    let [query, key, value] = problem.inputs();
    [tensor(query, problem.queries), tensor(key, problem.keys), tensor(value, problem.keys)]
}

/// The mask, `true` where `seen` says what is asked.
fn mask(problem: &Problem, device: &Device, hidden: bool) -> Tensor<4, Bool> {
    let pairs = (0..problem.queries).flat_map(|i| (0..problem.keys).map(move |j| (i, j)));
    let truth: Vec<bool> = pairs.map(|(i, j)| problem.sees(i, j) != hidden).collect();
    Tensor::from_data(TensorData::new(truth, [1, 1, problem.queries, problem.keys]), device)
}

/// What `burn::tensor::module::attention` answers. Its documentation: in the mask `true` means hidden, causality ends at the last key.
fn burns_answer(problem: &Problem, device: &Device) -> Tensor<4> {
    let [query, key, value] = tensors(problem, device);
    let causal = matches!(problem.seen, Seen::Causal);
    let hidden = (!causal).then(|| mask(problem, device, true));
    let options = AttentionModuleOptions { is_causal: causal, ..Default::default() };
    burn_attention(query, key, value, hidden, None, options)
}

/// What ours answers.
fn our_answer(problem: &Problem, device: &Device) -> Result<Tensor<4>> {
    let [query, key, value] = tensors(problem, device);
    let attention = Attention::new(query, key, value);
    let attention = match problem.seen {
        Seen::Causal => attention.causal(true),
        Seen::FirstKeys(_) => attention.mask(Mask::hide(mask(problem, device, true))),
    };
    Ok(attention.forward()?.out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_agrees_with_the_formula_on_every_backend() {
        for name in attn::BACKENDS {
            let device = attn::device(name).unwrap();
            for seen in [Seen::FirstKeys(40), Seen::Causal] {
                let problem = Problem { queries: 5, keys: 70, dim: 16, seen };
                let found: Vec<f64> = our_answer(&problem, &device).unwrap().into_data().iter::<f64>().collect();
                let worst = found.iter().zip(problem.answer()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(found.len() == 80 && worst < 1e-6, "{name}: {worst}");
            }
        }
    }
}
