//! From tokens to embeddings in batches, to attention weights for the page, to a ranking.

use anyhow::Result;
use attn::Plan;
use burn::tensor::Device;
use indicatif::{ProgressBar, ProgressStyle};

use crate::model::{Batch, SentenceEncoder};
use crate::tokens::Tokens;

/// Sentences of one batch: enough to fill the machine, few enough that padding to the longest wastes little.
const BATCH: usize = 32;

/// The plan of one layer's attention in one batch.
pub struct Planned {
    /// What will serve it.
    pub plan: Plan,
    /// Sentences and tokens of the batch.
    pub dims: [usize; 2],
}

/// Embeds sentences; the rows come in their order. Batches hold sentences of like length.
///
/// # Errors
/// What the model answers.
pub fn embed(model: &SentenceEncoder, sentences: &[Tokens], device: &Device) -> Result<Vec<Vec<f32>>> {
    let progress = progress(sentences.len(), "embed");
    let mut rows = vec![Vec::new(); sentences.len()];
    for indices in batches(sentences) {
        let batch = Batch::new(&indices.iter().map(|&index| &sentences[index]).collect::<Vec<_>>(), device);
        let made = model.embed(&batch)?;
        let [_, features] = made.dims();
        let values: Vec<f32> = made.into_data().convert::<f32>().try_to_vec()?;
        for (&index, row) in indices.iter().zip(values.chunks_exact(features)) {
            rows[index] = row.to_vec();
        }
        progress.inc(indices.len() as u64);
    }
    progress.finish_and_clear();
    Ok(rows)
}

/// The plan of the largest batch.
///
/// # Errors
/// What the model answers.
pub fn plan(model: &SentenceEncoder, sentences: &[Tokens], device: &Device) -> Result<Option<Planned>> {
    let Some(indices) = batches(sentences).into_iter().next() else { return Ok(None) };
    let batch = Batch::new(&indices.iter().map(|&index| &sentences[index]).collect::<Vec<_>>(), device);
    Ok(Some(Planned { plan: model.plan(&batch)?, dims: batch.dims() }))
}

/// The weights of one sentence: `[layer][head][i][j]` in one row.
///
/// # Errors
/// What the model answers.
pub fn weights(model: &SentenceEncoder, sentence: &Tokens, device: &Device) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for layer in model.attend(&Batch::new(&[sentence], device))? {
        all.extend(layer.into_data().convert::<f32>().try_to_vec::<f32>()?);
    }
    Ok(all)
}

/// Cosine similarities of unit vectors with the query, and the order from the nearest to the farthest.
pub fn rank(query: &[f32], rows: &[Vec<f32>]) -> (Vec<f32>, Vec<usize>) {
    let similarity = |row: &Vec<f32>| row.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
    let similarities: Vec<f32> = rows.iter().map(similarity).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| similarities[b].total_cmp(&similarities[a]));
    (similarities, order)
}

/// A bar on a terminal, nothing elsewhere: there the report's plain lines are enough.
pub fn progress(len: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:>9} {bar:40} {pos}/{len} sentences {eta}");
    let bar = ProgressBar::new(len as u64).with_message(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Indices of sentences in batches, the longest sentences first.
fn batches(sentences: &[Tokens]) -> Vec<Vec<usize>> {
    let mut indices: Vec<usize> = (0..sentences.len()).collect();
    indices.sort_by_key(|&index| std::cmp::Reverse(sentences[index].ids.len()));
    indices.chunks(BATCH).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_sentence_once_the_longest_first() {
        let sentences: Vec<_> =
            (0..70).map(|i| Tokens { ids: vec![0; 1 + (i * 7) % 13], pieces: vec![], cut: 0 }).collect();
        let batches = batches(&sentences);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 6]);
        let lengths: Vec<_> = batches.concat().iter().map(|&index| sentences[index].ids.len()).collect();
        assert!(lengths.is_sorted_by(|a, b| a >= b));
        let mut all = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..70).collect::<Vec<_>>());
    }

    #[test]
    fn the_nearest_comes_first_and_equals_keep_their_order() {
        let rows = vec![vec![0.0, 1.0], vec![1.0, 0.0], vec![0.6, 0.8], vec![0.0, 1.0]];
        let (similarities, order) = rank(&[0.0, 1.0], &rows);
        assert_eq!(similarities, [1.0, 0.0, 0.8, 1.0]);
        assert_eq!(order, [0, 3, 2, 1]);
    }
}
