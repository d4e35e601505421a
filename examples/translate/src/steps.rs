//! The model as one that generates, a token of each row at a time; what searches asks nothing more of it.
//!
//! The library's own `RecurrentSteps` serves decoders whose next token follows from their output alone; one that copies needs the
//! alignment, too.

use attn::AttentionError;
use attn::nn::generate::StepModel;
use burn::tensor::{Int, Tensor};

use crate::model::{Reading, Translator};
use crate::task::padded;
use crate::text::BEGIN;

/// A [`Translator`] that generates, a token of each row at a time.
pub struct Steps<'a> {
    /// It.
    pub model: &'a Translator,
    /// The sources.
    pub reading: Reading,
    /// How many there are.
    pub rows: usize,
}

impl StepModel for Steps<'_> {
    type State = Reading;

    fn start(&self) -> Result<(Vec<usize>, Reading), AttentionError> {
        Ok((vec![BEGIN; self.rows], self.reading.clone()))
    }

    fn step(&self, tokens: &[usize], mut reading: Reading) -> Result<(Tensor<2>, Reading), AttentionError> {
        let rows: Vec<Vec<usize>> = tokens.iter().map(|&token| vec![token]).collect();
        let device = self.model.device();
        let log_probs = self.model.write(padded(&rows, 1, &device).0, &mut reading)?;
        Ok((log_probs.squeeze_dim(1), reading))
    }

    fn reorder(&self, mut reading: Reading, rows: &[usize]) -> Result<Reading, AttentionError> {
        reading.state.reorder(rows)?;
        if let Some(places) = reading.places.take() {
            let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &places.device());
            reading.places = Some(places.select(0, rows));
        }
        Ok(reading)
    }
}
